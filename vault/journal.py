"""The journal: what still has to happen to an object at a site.

A row is written in the transaction that makes the work necessary and deleted when the work is done and
checked; `replication` works it off. Nothing is dropped: a row that fails comes due again, later each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from vault.database import Database
from vault.tables import journal, replicas, versions

LEASE: Final = timedelta(minutes=10)
"""How long a claimed row stays with its worker; a dead worker's rows come due again after it."""

MAX_DELAY: Final = timedelta(minutes=5)


class Operation(StrEnum):
    """What is to be done with an object at a site."""

    COPY = "copy"
    DELETE = "delete"


@dataclass(frozen=True)
class Task:
    """One claimed row.

    Attributes:
        source: for a copy, the site that has the object.
        size_bytes, sha256: for a copy, what the object must be.
    """

    id: int
    object_id: UUID
    site: str
    operation: Operation
    source: str | None
    size_bytes: int | None
    sha256: bytes | None


ENQUEUE_COPIES = """
    INSERT INTO journal (object_id, site, operation)
    SELECT :object_id, site, 'copy' FROM unnest(CAST(:peer_sites AS text[])) AS site"""
"""For statements that store a version; feed it from a CTE with a further FROM."""


def enqueue_deletes(connection: Connection, object_ids: list[UUID], sites: list[str]) -> None:
    """Have objects removed at every site; copies of them that are still due are dropped."""
    connection.execute(
        delete(journal).where(
            journal.c.object_id.in_(object_ids), journal.c.operation == Operation.COPY
        )
    )
    connection.execute(delete(replicas).where(replicas.c.object_id.in_(object_ids)))
    connection.execute(
        insert(journal),
        [
            {"object_id": object_id, "site": site, "operation": Operation.DELETE}
            for object_id in object_ids
            for site in sites
        ],
    )


class Journal:
    """The journal as its workers see it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self) -> Task | None:
        """The row that is longest due, leased to the caller for `LEASE`; None when none is."""
        with self._database.transaction() as connection:
            row = connection.execute(
                select(journal)
                .where(journal.c.due_at <= func.now())
                .order_by(journal.c.due_at)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).one_or_none()
            if row is None:
                return None
            connection.execute(
                update(journal)
                .where(journal.c.id == row.id)
                .values(due_at=func.now() + literal(LEASE), attempts=journal.c.attempts + 1)
            )
            version = connection.execute(
                select(
                    versions.c.site, versions.c.ciphertext_size_bytes, versions.c.ciphertext_sha256
                ).where(versions.c.object_id == row.object_id)
            ).one_or_none()
        return Task(
            id=row.id,
            object_id=row.object_id,
            site=row.site,
            operation=Operation(row.operation),
            source=version.site if version else None,
            size_bytes=version.ciphertext_size_bytes if version else None,
            sha256=version.ciphertext_sha256 if version else None,
        )

    def copied(self, task: Task) -> None:
        """The copy was read back and hashed: count the replica.

        When the document was purged meanwhile, its row here is gone; then the late copy is removed.
        """
        with self._database.transaction() as connection:
            done = connection.execute(delete(journal).where(journal.c.id == task.id))
            if done.rowcount:
                connection.execute(
                    upsert(replicas)
                    .values(object_id=task.object_id, site=task.site, verified_at=func.now())
                    .on_conflict_do_update(
                        index_elements=[replicas.c.object_id, replicas.c.site],
                        set_={"verified_at": func.now()},
                    )
                )
            else:
                enqueue_deletes(connection, [task.object_id], [task.site])

    def deleted(self, task: Task) -> None:
        """The object is gone from the site."""
        self._database.execute(delete(journal).where(journal.c.id == task.id), {})

    def failed(self, task: Task, error: str) -> None:
        """Come back later, twice as late each time up to `MAX_DELAY`."""
        seconds = func.least(
            func.power(2, func.least(journal.c.attempts, 20)), MAX_DELAY.total_seconds()
        )
        delay = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        self._database.execute(
            update(journal)
            .where(journal.c.id == task.id)
            .values(due_at=func.now() + delay, last_error=error),
            {},
        )

    def backlog(self) -> dict[tuple[str, str], int]:
        """How many rows wait, by (site, operation)."""
        rows = self._database.execute(
            select(journal.c.site, journal.c.operation, func.count().label("waiting")).group_by(
                journal.c.site, journal.c.operation
            ),
            {},
        )
        return {(row.site, row.operation): row.waiting for row in rows}
