"""Sweep: objects of uploads that ended without a commit.

A row is taken by compare-and-set, from `open` (its process is dead) or `abandoned` to `swept`, so a commit
and a sweep never both have it. A swept object is deleted at once and a second time a day later: a process
that was only stopped, not dead, may have stored it in between.

After a restore or a failover nothing is taken until a person confirms (`sweephold`): the rows may then be
older than the objects, and what looks like an upload that never ended may be somebody's only copy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, exists, func, literal, select, text, update

from vault.database import ServiceDatabase
from vault.journal import Reason, enqueue_deletes
from vault.objects.keys import object_key
from vault.objects.store import ObjectLocked, ObjectStore, StoreError
from vault.sweephold import MAY_SWEEP
from vault.tables import processes, uploads

SECOND_LOOK_AFTER: Final = timedelta(hours=24)

MAX_FAILURES: Final = 3
"""After so many a round is over: a site is away, and each further one would wait for it."""

_log = logging.getLogger(__name__)

_TAKE = text(
    f"""
    UPDATE uploads SET state = 'swept', swept_at = now()
    WHERE object_id IN (
        SELECT u.object_id FROM uploads u JOIN processes p ON p.id = u.process_id
        WHERE (u.state = 'abandoned' OR u.state = 'open' AND p.alive_until < now())
          AND EXISTS ({MAY_SWEEP})
        LIMIT :limit FOR UPDATE OF u SKIP LOCKED)
    RETURNING object_id"""  # noqa: S608 (made of constants)
)


class Sweep:
    """Clears up after dead and failed uploads."""

    def __init__(self, database: ServiceDatabase, stores: Mapping[str, ObjectStore]) -> None:
        self._database = database
        self._stores = stores

    def run(self, limit: int = 1000) -> int:
        """One round; how many upload rows were taken. Raises: DatabaseUnavailable."""
        taken = [row.object_id for row in self._database.execute(_TAKE, {"limit": limit})]
        seen_before = self._due_again(limit)
        cleared = self._clear_all([*taken, *seen_before])
        for object_id in set(taken) - cleared:
            self._look_again_soon(object_id)
        self._forget(cleared & set(seen_before))
        self._forget_dead_processes()
        return len(taken)

    def _clear_all(self, object_ids: Sequence[UUID]) -> set[UUID]:
        """Those that are gone at every site. A site that is away is not waited for once for each."""
        cleared: set[UUID] = set()
        failures = 0
        for object_id in object_ids:
            try:
                self._clear(object_id)
            except ObjectLocked as exc:
                self._leave_to_journal(object_id, exc.until)
            except StoreError:
                _log.warning("a swept object could not be deleted yet")
                failures += 1
            else:
                cleared.add(object_id)
            if failures == MAX_FAILURES:
                break
        return cleared

    def _clear(self, object_id: UUID) -> None:
        """At every site: the upload may have been on its way to both. Raises: StoreError."""
        key = object_key(object_id)
        for store in self._stores.values():
            for left in store.pending(key):
                store.abort_pending(left.key, left.upload_id)
            store.delete(key)

    def _leave_to_journal(self, object_id: UUID, until: datetime | None) -> None:
        """A lock may last for years; its end is worth a look, and not each round."""
        with self._database.transaction() as connection:
            enqueue_deletes(
                connection,
                [object_id],
                sorted(self._stores),
                reason=Reason.SWEEP,
                not_before=until,
            )
            connection.execute(delete(uploads).where(uploads.c.object_id == object_id))

    def _look_again_soon(self, object_id: UUID) -> None:
        self._database.execute(
            update(uploads)
            .where(uploads.c.object_id == object_id)
            .values(swept_at=func.now() - literal(SECOND_LOOK_AFTER)),
            {},
        )

    def _due_again(self, limit: int) -> list[UUID]:
        due = uploads.c.swept_at < func.now() - literal(SECOND_LOOK_AFTER)
        rows = self._database.execute(select(uploads.c.object_id).where(due).limit(limit), {})
        return [row.object_id for row in rows]

    def _forget(self, object_ids: set[UUID]) -> None:
        gone = uploads.c.object_id.in_(object_ids)
        self._database.execute(delete(uploads).where(gone), {})

    def _forget_dead_processes(self) -> None:
        has_uploads = exists().where(uploads.c.process_id == processes.c.id)
        self._database.execute(
            delete(processes).where(processes.c.alive_until < func.now(), ~has_uploads), {}
        )
