"""Row-level security: the second wall, behind the service's own policy (vault/context.py, docs/access.md).

A process of the release before sets no context and sees no document any more: stop it before this runs.

Each value of the context is read in a subquery, which PostgreSQL evaluates once for a statement and not for
each row; `nullif`, because after a transaction that had one the setting is empty, not absent.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Close every table that belongs to a department, and open it to whom it belongs."""
    for table, opened in OPENED.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        # FORCE binds the owner too; without this a migration's UPDATE would change no row, in silence.
        op.execute(
            f"CREATE POLICY owner ON {table} TO strongroom_owner USING (true) WITH CHECK (true)"
        )
        for policy, rule in opened.items():
            op.execute(f"CREATE POLICY {policy} ON {table} {rule}")


def _setting(name: str) -> str:
    return f"(SELECT nullif(current_setting('strongroom.{name}', true), ''))"


EVERYWHERE = f"(SELECT {_setting('departments')} = '*')"

SERVICE = f"TO strongroom_service USING ((SELECT {_setting('context')} = 'service'))"

OF_DEPARTMENT = (
    f"TO strongroom_service USING (department = {_setting('departments')} OR {EVERYWHERE})"
)


def _of_document(table: str, *, or_new: bool = False) -> str:
    """A row is there if its document is; or if its document is the one that this statement makes."""
    visible = f"{EVERYWHERE} OR EXISTS (SELECT FROM documents d WHERE d.id = {table}.document_id)"
    if or_new:
        visible += f" OR document_id = {_setting('new_document')}::uuid"
    return f"TO strongroom_service USING ({visible})"


OF_PRINCIPAL = f"TO strongroom_service USING (principal_id = {_setting('principal')}::uuid)"

OPENED = {
    "documents": {"department": OF_DEPARTMENT},
    "versions": {"department": _of_document("versions", or_new=True)},
    "document_changes": {"department": _of_document("document_changes")},
    "holds": {"department": _of_document("holds")},
    "recovery_blobs": {
        # An upload writes them; only work on keys reads them.
        "department": _of_document("recovery_blobs", or_new=True).replace(
            "TO strongroom_service USING", "FOR INSERT TO strongroom_service WITH CHECK"
        ),
        "service": SERVICE,
    },
    "idempotency_keys": {"principal": OF_PRINCIPAL, "service": SERVICE},
    "released_versions": {"service": SERVICE},
    "incidents": {"service": SERVICE},
    "orphans": {"service": SERVICE},
    "tombstones": {"service": SERVICE},
    "access_events": {
        # Whoever acts leaves an event, also one who sees nothing; reading them is another matter.
        "anybody": "FOR INSERT TO strongroom_service WITH CHECK (true)",
        "service": SERVICE.replace("TO", "FOR SELECT TO", 1),
        "sequencer": "FOR SELECT TO strongroom_sequencer USING (true)",
    },
}
