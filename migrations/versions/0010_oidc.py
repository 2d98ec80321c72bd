"""Sign-in at an OpenID provider: whose identities are whose, and sign-ins that were begun."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    for part in (TABLES, GRANTS):
        op.execute(part)


TABLES = """
CREATE TABLE oidc_identities (
    id UUID NOT NULL,
    principal_id UUID NOT NULL,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    linked_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    linked_by UUID NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    authority_epoch INTEGER DEFAULT 1 NOT NULL,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_oidc_identities PRIMARY KEY (id),
    CONSTRAINT fk_oidc_identities_principal_id FOREIGN KEY (principal_id) REFERENCES principals (id),
    CONSTRAINT fk_oidc_identities_linked_by FOREIGN KEY (linked_by) REFERENCES principals (id)
);
CREATE UNIQUE INDEX ix_oidc_identities_once ON oidc_identities (issuer, subject) WHERE revoked_at IS NULL;
CREATE INDEX ix_oidc_identities_page ON oidc_identities (principal_id, linked_at DESC, id DESC);
COMMENT ON COLUMN oidc_identities.authority_epoch IS 'rises with every change of the principal''s authority';

CREATE TABLE oidc_sign_ins (
    state_sha256 BYTEA NOT NULL,
    browser_sha256 BYTEA NOT NULL,
    nonce TEXT NOT NULL,
    code_verifier TEXT NOT NULL,
    step_up_session UUID,
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_oidc_sign_ins PRIMARY KEY (state_sha256)
);
CREATE INDEX ix_oidc_sign_ins_began ON oidc_sign_ins (began_at);
COMMENT ON TABLE oidc_sign_ins IS 'begun, and not come back from the provider yet';
COMMENT ON COLUMN oidc_sign_ins.step_up_session IS 'asks for a step-up; NULL: a sign-in';
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (revoked_at, authority_epoch, seal, seal_key_id) ON oidc_identities
    TO strongroom_service;
GRANT SELECT, INSERT (state_sha256, browser_sha256, nonce, code_verifier, step_up_session), DELETE
    ON oidc_sign_ins TO strongroom_service;
"""
