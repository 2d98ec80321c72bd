"""Keys: their versions, signing keys, jobs, shred epochs.

A version of a document refers to the KEK version that its data key is wrapped under, so the database itself
refuses to let one go that is in use, or to store a row under one that is gone.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables, and what existing rows are wrapped under."""
    for part in (TABLES, KEK_VERSIONS, GRANTS):
        op.execute(part)


TABLES = """
CREATE TABLE jobs (
    id UUID NOT NULL,
    kind TEXT NOT NULL CONSTRAINT ck_jobs_kind CHECK (kind IN ('rewrap', 'shred', 'drill')),
    state TEXT DEFAULT 'queued' NOT NULL
        CONSTRAINT ck_jobs_state CHECK (state IN ('queued', 'running', 'done', 'failed', 'stopped')),
    done BIGINT DEFAULT 0 NOT NULL,
    total BIGINT,
    place JSONB DEFAULT '{}' NOT NULL,
    result JSONB,
    error TEXT,
    stop_requested BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by UUID,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    lease UUID,
    resumed_at TIMESTAMP WITH TIME ZONE,
    resumed_done BIGINT DEFAULT 0 NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_jobs PRIMARY KEY (id)
);
CREATE INDEX ix_jobs_page ON jobs (created_at DESC, id DESC);
CREATE UNIQUE INDEX ix_jobs_one_at_a_time ON jobs (kind) WHERE state IN ('queued', 'running');
COMMENT ON COLUMN jobs.place IS 'where to go on after a stop or a kill';
COMMENT ON COLUMN jobs.due_at IS 'queued: when to start; running: when the lease ends';
COMMENT ON COLUMN jobs.lease IS 'drawn by whoever runs it; another''s ends this one''s rights';

CREATE TABLE kek_versions (
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_kek_versions PRIMARY KEY (version)
);
COMMENT ON TABLE kek_versions IS 'of the KEK documents: those that rows may be wrapped under';

CREATE TABLE shred_epochs (
    number INTEGER NOT NULL,
    kek_version INTEGER NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    certificate JSONB,
    CONSTRAINT pk_shred_epochs PRIMARY KEY (number)
);
COMMENT ON COLUMN shred_epochs.kek_version IS 'what the survivors are wrapped under; all before died';

CREATE TABLE released_versions (
    id UUID NOT NULL,
    document_id UUID NOT NULL,
    number INTEGER NOT NULL,
    kek_version INTEGER NOT NULL,
    released_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    epoch INTEGER,
    CONSTRAINT pk_released_versions PRIMARY KEY (id),
    CONSTRAINT fk_released_versions_epoch FOREIGN KEY(epoch) REFERENCES shred_epochs (number)
);
CREATE INDEX ix_released_versions_waiting ON released_versions (kek_version) WHERE epoch IS NULL;
CREATE INDEX ix_released_versions_epoch ON released_versions (epoch);
COMMENT ON TABLE released_versions IS 'purged; old copies of their wrapped keys open until an epoch';

CREATE TABLE signing_keys (
    id TEXT NOT NULL,
    public_key BYTEA NOT NULL,
    sealed_seed TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_signing_keys PRIMARY KEY (id)
);
CREATE UNIQUE INDEX ix_signing_keys_in_use ON signing_keys ((true)) WHERE retired_at IS NULL;
"""

KEK_VERSIONS = """
ALTER TABLE versions ADD COLUMN kek_version INTEGER
    GENERATED ALWAYS AS (CAST(substr(split_part(wrapped_key, ':', 2), 2) AS INTEGER)) STORED NOT NULL;
INSERT INTO kek_versions (version) VALUES (1);
INSERT INTO kek_versions (version) SELECT DISTINCT kek_version FROM versions ON CONFLICT DO NOTHING;
ALTER TABLE versions ADD CONSTRAINT fk_versions_kek_version
    FOREIGN KEY(kek_version) REFERENCES kek_versions (version);
"""

GRANTS = """
GRANT UPDATE (wrapped_key) ON versions TO strongroom_service;
GRANT SELECT, INSERT, UPDATE ON jobs TO strongroom_service;
GRANT SELECT, INSERT, DELETE ON kek_versions TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (finished_at, certificate) ON shred_epochs TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (epoch) ON released_versions TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (sealed_seed, retired_at) ON signing_keys TO strongroom_service;
"""
