"""Two sites: what each still owes, what it was found to lack, and which processes may write.

A journal row is one piece of work, once for each site epoch; it is leased, and parked rather than given up. A
tombstone outlives the object that was removed, so that a late copy does not rise again.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and tables."""
    for part in (COLUMNS, JOURNAL, TABLES, JOB_KINDS, CONTENT, GRANTS):
        op.execute(part)


COLUMNS = """
ALTER TABLE classes
    ADD if_peer_away TEXT NOT NULL DEFAULT 'refuse'
        CONSTRAINT ck_classes_if_peer_away CHECK (if_peer_away IN ('refuse', 'degrade')),
    ADD worm_days INTEGER CONSTRAINT ck_classes_worm CHECK (worm_days > 0);
COMMENT ON COLUMN classes.worm_days IS 'object lock at both sites; NULL: none';
ALTER TABLE versions ADD locked_until TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN versions.locked_until IS 'object lock at the stores; NULL: none';
ALTER TABLE replicas
    ALTER verified_at DROP NOT NULL,
    ADD lost_at TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN replicas.lost_at IS 'when it was found missing or wrong; NULL once repaired';
CREATE INDEX ix_replicas_verified ON replicas (verified_at);
CREATE INDEX ix_replicas_lost ON replicas (lost_at) WHERE lost_at IS NOT NULL;
"""

JOURNAL = """
DELETE FROM journal j USING journal other
WHERE j.object_id = other.object_id AND j.site = other.site AND j.operation = other.operation AND j.id > other.id;
ALTER TABLE journal
    ADD epoch INTEGER NOT NULL DEFAULT 1,
    ADD reason TEXT NOT NULL DEFAULT 'upload'
        CONSTRAINT ck_journal_reason CHECK (reason IN ('upload', 'debt', 'repair', 'resync', 'purge', 'sweep')),
    ADD priority SMALLINT NOT NULL DEFAULT 0,
    ADD size_bytes BIGINT NOT NULL DEFAULT 0,
    ADD lease UUID,
    ADD upload_id TEXT,
    ADD parked_at TIMESTAMP WITH TIME ZONE,
    ADD CONSTRAINT uq_journal_object_id UNIQUE (object_id, site, operation, epoch);
UPDATE journal SET reason = 'purge' WHERE operation = 'delete';
UPDATE journal j SET size_bytes = v.ciphertext_size_bytes FROM versions v WHERE v.object_id = j.object_id;
ALTER TABLE journal ALTER epoch DROP DEFAULT, ALTER reason DROP DEFAULT;
COMMENT ON COLUMN journal.epoch IS 'the site epoch in which it became necessary';
COMMENT ON COLUMN journal.due_at IS 'leased: when the lease ends';
COMMENT ON COLUMN journal.lease IS 'drawn by whoever works on it; another''s ends this one''s rights';
COMMENT ON COLUMN journal.upload_id IS 'a multipart upload to go on with';
COMMENT ON COLUMN journal.priority IS '0: new work; 1: bulk, which new work overtakes';
DROP INDEX ix_journal_due;
CREATE INDEX ix_journal_due ON journal (site, priority, due_at) WHERE parked_at IS NULL;
"""

TABLES = """
CREATE TABLE sites (
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 1,
    is_fenced BOOLEAN NOT NULL DEFAULT false,
    marker UUID,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_sites PRIMARY KEY (name)
);
COMMENT ON COLUMN sites.epoch IS 'the site epoch of its last fencing or admission; processes of another are refused';
COMMENT ON COLUMN sites.marker IS 'stands in an object at the site, so that an emptied one is known';

CREATE TABLE topology (
    singleton SMALLINT NOT NULL CONSTRAINT ck_topology_one_row CHECK (singleton = 1),
    epoch INTEGER NOT NULL DEFAULT 1,
    system_identifier TEXT,
    timeline INTEGER,
    sweep_held_since TIMESTAMP WITH TIME ZONE,
    sweep_held_why TEXT
        CONSTRAINT ck_topology_why CHECK (sweep_held_why IN ('database', 'failover')),
    CONSTRAINT pk_topology PRIMARY KEY (singleton)
);
COMMENT ON COLUMN topology.epoch IS 'the newest site epoch';
COMMENT ON COLUMN topology.timeline IS 'of PostgreSQL: another one means a promotion or a restore';
COMMENT ON COLUMN topology.sweep_held_since IS 'nothing is swept until a person confirms';

CREATE TABLE tombstones (
    object_id UUID NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_tombstones PRIMARY KEY (object_id)
);

CREATE TABLE incidents (
    id UUID NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    kind TEXT NOT NULL CONSTRAINT ck_incidents_kind
        CHECK (kind IN ('missing', 'damaged', 'unexpected', 'emptied', 'parked')),
    site TEXT NOT NULL,
    object_id UUID,
    document_id UUID,
    version INTEGER,
    found_by TEXT NOT NULL CONSTRAINT ck_incidents_found_by
        CHECK (found_by IN ('read', 'copy', 'scrub', 'verify', 'watch')),
    resolved_at TIMESTAMP WITH TIME ZONE,
    resolution TEXT,
    CONSTRAINT pk_incidents PRIMARY KEY (id)
);
CREATE INDEX ix_incidents_page ON incidents (at DESC, id DESC);
CREATE UNIQUE INDEX ix_incidents_open ON incidents (object_id, site, kind) WHERE resolved_at IS NULL;

CREATE TABLE orphans (
    object_id UUID NOT NULL,
    site TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    first_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_orphans PRIMARY KEY (object_id, site)
);
CREATE INDEX ix_orphans_page ON orphans (first_seen_at DESC, object_id DESC, site DESC);
"""

JOB_KINDS = """
ALTER TABLE jobs DROP CONSTRAINT ck_jobs_kind;
ALTER TABLE jobs ADD CONSTRAINT ck_jobs_kind CHECK (
    kind IN ('rewrap', 'shred', 'drill', 'recovery', 'scrub', 'verify', 'resync-a', 'resync-b'));
"""

CONTENT = """
INSERT INTO sites (name) VALUES ('a'), ('b');
INSERT INTO topology (singleton) VALUES (1);
"""

GRANTS = """
GRANT SELECT, UPDATE ON sites, topology TO strongroom_service;
GRANT SELECT, INSERT ON tombstones TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (resolved_at, resolution) ON incidents TO strongroom_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON orphans TO strongroom_service;
"""
