"""Approvals, and the grants that they give.

Nobody decides over their own request: three constraints say so, for principals, for natural persons, and for
whom a deputy stands in for.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables, close them, and open them to their department and to who asked."""
    for part in (TABLES, GRANTS):
        op.execute(part)
    for table, principal in (("approvals", "requested_by"), ("grants", "principal_id")):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY owner ON {table} TO strongroom_owner USING (true) WITH CHECK (true)"
        )
        op.execute(f"CREATE POLICY department ON {table} {OPENED.format(principal=principal)}")


def _setting(name: str) -> str:
    return f"(SELECT nullif(current_setting('strongroom.{name}', true), ''))"


OPENED = f"""TO strongroom_service USING (
    department = ANY ((SELECT string_to_array({_setting("departments")}, ','))::text[])
    OR (SELECT {_setting("departments")} = '*')
    OR department IS NULL AND (SELECT {_setting("context")} IS NOT NULL)
    OR {{principal}} = {_setting("principal")}::uuid)"""

TABLES = """
CREATE TABLE approvals (
    id UUID NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    department TEXT,
    purpose TEXT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT,
    uses INTEGER NOT NULL CONSTRAINT ck_approvals_uses CHECK (uses BETWEEN 1 AND 100),
    lasts_seconds INTEGER NOT NULL,
    requested_by UUID NOT NULL,
    requested_person UUID,
    requested_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    decide_before TIMESTAMP WITH TIME ZONE NOT NULL,
    escalated_at TIMESTAMP WITH TIME ZONE,
    state TEXT NOT NULL CONSTRAINT ck_approvals_state
        CHECK (state IN ('requested', 'approved', 'denied', 'withdrawn', 'expired')),
    decided_by UUID,
    decided_person UUID,
    decided_for UUID,
    decided_at TIMESTAMP WITH TIME ZONE,
    comment TEXT,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_approvals PRIMARY KEY (id),
    CONSTRAINT fk_approvals_requested_by FOREIGN KEY (requested_by) REFERENCES principals (id),
    CONSTRAINT fk_approvals_decided_by FOREIGN KEY (decided_by) REFERENCES principals (id),
    CONSTRAINT ck_approvals_own CHECK (decided_by <> requested_by),
    CONSTRAINT ck_approvals_same_person CHECK (decided_person <> requested_person),
    CONSTRAINT ck_approvals_own_deputy CHECK (decided_for <> requested_person),
    CONSTRAINT ck_approvals_decided CHECK (
        (state IN ('approved', 'denied')) = (decided_person IS NOT NULL))
);
CREATE INDEX ix_approvals_page ON approvals (requested_at DESC, id DESC);
CREATE INDEX ix_approvals_open ON approvals (decide_before) WHERE state = 'requested';
COMMENT ON COLUMN approvals.action IS 'vault.access.policy.Action';
COMMENT ON COLUMN approvals.target IS 'canonical JSON';
COMMENT ON COLUMN approvals.department IS 'owns the target; NULL: the vault';
COMMENT ON COLUMN approvals.decided_for IS 'the person in whose place a deputy decided';

CREATE TABLE grants (
    id UUID NOT NULL,
    approval_id UUID NOT NULL,
    principal_id UUID NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    department TEXT,
    granted_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    max_uses INTEGER NOT NULL,
    remaining INTEGER NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    seal BYTEA,
    seal_key_id TEXT,
    CONSTRAINT pk_grants PRIMARY KEY (id),
    CONSTRAINT fk_grants_approval_id FOREIGN KEY (approval_id) REFERENCES approvals (id),
    CONSTRAINT fk_grants_principal_id FOREIGN KEY (principal_id) REFERENCES principals (id),
    CONSTRAINT uq_grants_approval_id UNIQUE (approval_id),
    CONSTRAINT ck_grants_remaining CHECK (remaining BETWEEN 0 AND max_uses)
);
CREATE INDEX ix_grants_usable ON grants (principal_id, action);
CREATE INDEX ix_grants_page ON grants (granted_at DESC, id DESC);
COMMENT ON TABLE grants IS 'what approvals gave';
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE (escalated_at, state, decided_by, decided_person, decided_for, decided_at, comment,
    seal, seal_key_id) ON approvals TO strongroom_service;
GRANT SELECT, INSERT, UPDATE (remaining, revoked_at, seal, seal_key_id) ON grants TO strongroom_service;
"""
