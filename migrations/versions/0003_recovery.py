"""Recovery: data keys sealed a second time, for an offline key.

A blob refers to the recovery epoch whose key seals it, so the database itself refuses to end an epoch that
still has blobs, or to store one under an epoch that is over.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    for part in (TABLES, JOB_KIND, GRANTS):
        op.execute(part)


TABLES = """
CREATE TABLE recovery_keys (
    id TEXT NOT NULL,
    public_key BYTEA NOT NULL,
    registered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    registered_by UUID NOT NULL,
    CONSTRAINT pk_recovery_keys PRIMARY KEY (id)
);

CREATE TABLE recovery_epochs (
    number INTEGER NOT NULL,
    epoch_key_id UUID NOT NULL,
    recovery_key_id TEXT NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_recovery_epochs PRIMARY KEY (number),
    CONSTRAINT fk_recovery_epochs_recovery_key_id FOREIGN KEY(recovery_key_id)
        REFERENCES recovery_keys (id)
);
COMMENT ON TABLE recovery_epochs IS 'those that recovery blobs may be sealed under';
COMMENT ON COLUMN recovery_epochs.epoch_key_id IS 'names its objects; never the key itself';

CREATE TABLE recovery_blobs (
    document_id UUID NOT NULL,
    number INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    blob BYTEA NOT NULL,
    CONSTRAINT pk_recovery_blobs PRIMARY KEY (document_id, number),
    CONSTRAINT fk_recovery_blobs_epoch FOREIGN KEY(epoch) REFERENCES recovery_epochs (number),
    CONSTRAINT fk_recovery_blobs_document_id FOREIGN KEY(document_id, number)
        REFERENCES versions (document_id, number) ON DELETE CASCADE
);
COMMENT ON COLUMN recovery_blobs.blob IS 'keymgmt.recovery';
"""

JOB_KIND = """
ALTER TABLE jobs DROP CONSTRAINT ck_jobs_kind;
ALTER TABLE jobs ADD CONSTRAINT ck_jobs_kind
    CHECK (kind IN ('rewrap', 'shred', 'drill', 'recovery'));
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (registered_at, registered_by) ON recovery_keys TO strongroom_service;
GRANT SELECT, INSERT, DELETE ON recovery_epochs TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (blob, epoch) ON recovery_blobs TO strongroom_service;
"""
