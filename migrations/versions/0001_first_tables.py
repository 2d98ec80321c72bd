"""The first tables, the roles' grants, the vault's id and the built-in class.

Roles come before: `migrations/roles.sql` on a server of your own, the launcher on the embedded one.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make everything; the owner runs it, service and sequencer get what they need and no more."""
    for part in (TABLES, CONTENT, GRANTS):
        op.execute(part)


TABLES = """
CREATE TABLE access_events (
    id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    type TEXT NOT NULL,
    principal_id UUID,
    api_key_id TEXT,
    request_id TEXT,
    document_id UUID,
    version INTEGER,
    detail JSONB NOT NULL,
    CONSTRAINT pk_access_events PRIMARY KEY (id)
);
COMMENT ON COLUMN access_events.type IS 'vault.accesslog.event.EventType';

CREATE TABLE classes (
    name TEXT NOT NULL,
    media_types TEXT[] NOT NULL,
    max_size_bytes BIGINT NOT NULL,
    durability TEXT NOT NULL CONSTRAINT ck_classes_durability CHECK (durability IN ('sync', 'async')),
    retention_days INTEGER NOT NULL CONSTRAINT ck_classes_retention CHECK (retention_days >= 0),
    bin_days INTEGER NOT NULL CONSTRAINT ck_classes_bin CHECK (bin_days >= 0),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_classes PRIMARY KEY (name)
);
COMMENT ON COLUMN classes.media_types IS 'empty: every type';

CREATE TABLE journal (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    object_id UUID NOT NULL,
    site TEXT NOT NULL,
    operation TEXT NOT NULL CONSTRAINT ck_journal_operation CHECK (operation IN ('copy', 'delete')),
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_error TEXT,
    CONSTRAINT pk_journal PRIMARY KEY (id)
);
CREATE INDEX ix_journal_due ON journal (due_at);

CREATE TABLE principals (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    department TEXT,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    disabled_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_principals PRIMARY KEY (id),
    CONSTRAINT uq_principals_name UNIQUE (name)
);
COMMENT ON COLUMN principals.department IS 'NULL: none; *: every department';

CREATE TABLE processes (
    id UUID NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    alive_until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_processes PRIMARY KEY (id)
);

CREATE TABLE replicas (
    object_id UUID NOT NULL,
    site TEXT NOT NULL,
    verified_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_replicas PRIMARY KEY (object_id, site)
);
COMMENT ON COLUMN replicas.verified_at IS 'when its bytes were read back and hashed';

CREATE TABLE vault_identity (
    singleton SMALLSERIAL NOT NULL CONSTRAINT ck_vault_identity_one_row CHECK (singleton = 1),
    vault_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_vault_identity PRIMARY KEY (singleton),
    CONSTRAINT uq_vault_identity_vault_id UNIQUE (vault_id)
);

CREATE TABLE api_keys (
    id TEXT NOT NULL,
    principal_id UUID NOT NULL,
    secret_sha256 BYTEA NOT NULL,
    scopes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT fk_api_keys_principal_id FOREIGN KEY(principal_id) REFERENCES principals (id)
);
CREATE INDEX ix_api_keys_principal_id ON api_keys (principal_id);

CREATE TABLE documents (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    department TEXT NOT NULL,
    state TEXT NOT NULL CONSTRAINT ck_documents_state CHECK (state IN ('live', 'binned', 'purged')),
    revision INTEGER NOT NULL,
    newest_version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by UUID NOT NULL,
    binned_at TIMESTAMP WITH TIME ZONE,
    purged_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_documents PRIMARY KEY (id),
    CONSTRAINT fk_documents_class FOREIGN KEY(class) REFERENCES classes (name)
);
CREATE INDEX ix_documents_name_trigrams ON documents USING gin (name gin_trgm_ops);
CREATE INDEX ix_documents_page ON documents (state, created_at DESC, id DESC);
CREATE INDEX ix_documents_page_class_name ON documents (class, state, created_at DESC, id DESC);
CREATE INDEX ix_documents_page_department ON documents (department, state, created_at DESC, id DESC);
CREATE INDEX ix_documents_page_department_class_name ON documents (department, class, state, created_at DESC, id DESC);
COMMENT ON COLUMN documents.revision IS 'counts changes of metadata, from 1';

CREATE TABLE uploads (
    object_id UUID NOT NULL,
    process_id UUID NOT NULL,
    site TEXT NOT NULL,
    state TEXT NOT NULL CONSTRAINT ck_uploads_state CHECK (state IN ('open', 'abandoned', 'swept')),
    swept_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_uploads PRIMARY KEY (object_id),
    CONSTRAINT fk_uploads_process_id FOREIGN KEY(process_id) REFERENCES processes (id)
);
CREATE INDEX ix_uploads_process_id ON uploads (process_id);

CREATE TABLE document_changes (
    document_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    field TEXT NOT NULL,
    before TEXT,
    after TEXT,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    changed_by UUID NOT NULL,
    CONSTRAINT pk_document_changes PRIMARY KEY (document_id, revision, field),
    CONSTRAINT fk_document_changes_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
    CONSTRAINT fk_document_changes_changed_by FOREIGN KEY(changed_by) REFERENCES principals (id)
);

CREATE TABLE holds (
    id UUID NOT NULL,
    document_id UUID NOT NULL,
    reason TEXT NOT NULL,
    placed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    placed_by UUID NOT NULL,
    released_at TIMESTAMP WITH TIME ZONE,
    released_by UUID,
    CONSTRAINT pk_holds PRIMARY KEY (id),
    CONSTRAINT fk_holds_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
    CONSTRAINT fk_holds_placed_by FOREIGN KEY(placed_by) REFERENCES principals (id),
    CONSTRAINT fk_holds_released_by FOREIGN KEY(released_by) REFERENCES principals (id)
);
CREATE INDEX ix_holds_in_force ON holds (document_id) WHERE released_at IS NULL;
CREATE INDEX ix_holds_page ON holds (placed_at DESC, id DESC);

CREATE TABLE idempotency_keys (
    principal_id UUID NOT NULL,
    route TEXT NOT NULL,
    key_sha256 BYTEA NOT NULL,
    object_id UUID NOT NULL,
    document_id UUID,
    fingerprint BYTEA,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_idempotency_keys PRIMARY KEY (principal_id, route, key_sha256),
    CONSTRAINT fk_idempotency_keys_principal_id FOREIGN KEY(principal_id) REFERENCES principals (id),
    CONSTRAINT fk_idempotency_keys_document_id FOREIGN KEY(document_id) REFERENCES documents (id)
);
CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at);
CREATE INDEX ix_idempotency_keys_document_id ON idempotency_keys (document_id);
COMMENT ON COLUMN idempotency_keys.object_id IS 'whose upload row tells if it still runs';

CREATE TABLE versions (
    document_id UUID NOT NULL,
    number INTEGER NOT NULL,
    id UUID NOT NULL,
    object_id UUID NOT NULL,
    site TEXT NOT NULL,
    format SMALLINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    ciphertext_size_bytes BIGINT NOT NULL,
    ciphertext_sha256 BYTEA NOT NULL,
    media_type TEXT NOT NULL,
    claimed_media_type TEXT,
    wrapped_key TEXT NOT NULL,
    key_commitment BYTEA NOT NULL,
    receipt UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_by UUID NOT NULL,
    CONSTRAINT pk_versions PRIMARY KEY (document_id, number),
    CONSTRAINT fk_versions_document_id FOREIGN KEY(document_id) REFERENCES documents (id),
    CONSTRAINT uq_versions_object_id UNIQUE (object_id)
);
COMMENT ON COLUMN versions.site IS 'where the upload stored it first';
COMMENT ON COLUMN versions.format IS 'keymgmt.stream.ObjectFormat';
COMMENT ON COLUMN versions.receipt IS 'the access event that recorded it';
"""

CONTENT = """
INSERT INTO vault_identity (singleton, vault_id) VALUES (1, gen_random_uuid());
INSERT INTO classes (name, media_types, max_size_bytes, durability, retention_days, bin_days)
VALUES ('general', '{}', 83884799960, 'async', 1825, 30);
"""

GRANTS = """
GRANT USAGE ON SCHEMA public TO strongroom_service, strongroom_sequencer;

-- Append only: not even the service changes what was recorded.
GRANT SELECT, INSERT ON access_events, classes TO strongroom_service;
GRANT SELECT ON vault_identity, alembic_version TO strongroom_service;

GRANT SELECT, INSERT, UPDATE (disabled_at) ON principals TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (revoked_at, last_used_at) ON api_keys TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (released_at, released_by) ON holds TO strongroom_service;
GRANT SELECT, INSERT, UPDATE ON documents TO strongroom_service;
GRANT SELECT, INSERT, DELETE ON versions, document_changes TO strongroom_service;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON uploads, processes, idempotency_keys, journal, replicas TO strongroom_service;

GRANT SELECT ON access_events, alembic_version TO strongroom_sequencer;
"""
