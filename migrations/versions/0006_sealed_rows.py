"""Sealed rows: principals and API keys bear a MAC, and what does not bear it is a finding.

The rows that are there are sealed by the first start of the service, which holds the seal key; SQL cannot.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables."""
    for part in (COLUMNS, TABLES, GRANTS):
        op.execute(part)


COLUMNS = """
ALTER TABLE principals
    ADD authority_epoch INTEGER DEFAULT 1 NOT NULL,
    ADD seal BYTEA,
    ADD seal_key_id TEXT;
ALTER TABLE api_keys
    ADD authority_epoch INTEGER DEFAULT 1 NOT NULL,
    ADD seal BYTEA,
    ADD seal_key_id TEXT;
COMMENT ON COLUMN principals.authority_epoch IS 'rises when a key is revoked or its principal disabled';
COMMENT ON COLUMN api_keys.authority_epoch IS 'rises when a key is revoked or its principal disabled';
"""

TABLES = """
CREATE TABLE seal_keys (
    id TEXT NOT NULL,
    wrapped_key TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_seal_keys PRIMARY KEY (id)
);
CREATE UNIQUE INDEX ix_seal_keys_in_use ON seal_keys ((true)) WHERE retired_at IS NULL;
COMMENT ON COLUMN seal_keys.wrapped_key IS 'under the KEK authority';
COMMENT ON COLUMN seal_keys.retired_at IS 'checks only, until every row moved to the one in use';

CREATE TABLE findings (
    id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    kind TEXT NOT NULL CONSTRAINT ck_findings_kind CHECK (kind IN ('seal-broken')),
    subject TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    state_sha256 BYTEA NOT NULL,
    found_by TEXT NOT NULL CONSTRAINT ck_findings_found_by CHECK (found_by IN ('api', 'worker')),
    CONSTRAINT pk_findings PRIMARY KEY (id),
    CONSTRAINT uq_findings_kind_subject_subject_id_state_sha256 UNIQUE (kind, subject, subject_id, state_sha256)
);
CREATE INDEX ix_findings_page ON findings (at DESC, id DESC);
COMMENT ON COLUMN findings.subject IS 'the table of the row it is about';
COMMENT ON COLUMN findings.state_sha256 IS 'of the row as it was found';
"""

GRANTS = """
GRANT UPDATE (authority_epoch, seal, seal_key_id) ON principals, api_keys TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (wrapped_key, retired_at), DELETE ON seal_keys TO strongroom_service;
GRANT SELECT, INSERT ON findings TO strongroom_service;
"""
