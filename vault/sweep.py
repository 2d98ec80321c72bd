"""Sweep: objects of uploads that ended without a commit.

A row is taken by compare-and-set, from `open` (its process is dead) or `abandoned` to `swept`, so a commit
and a sweep never both have it. A swept object is deleted at once and a second time a day later: a process
that was only stopped, not dead, may have stored it in between.

After a restore or a failover nothing is taken until a person confirms (`sweephold`): the rows may then be
older than the objects, and what looks like an upload that never ended may be somebody's only copy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import delete, exists, func, literal, select, text, update

from vault.database import Database
from vault.objects.keys import object_key
from vault.objects.store import ObjectStore, StoreError
from vault.tables import processes, uploads

SECOND_LOOK_AFTER: Final = timedelta(hours=24)

_log = logging.getLogger(__name__)

_TAKE = text(
    """
    UPDATE uploads SET state = 'swept', swept_at = now()
    WHERE object_id IN (
        SELECT u.object_id FROM uploads u JOIN processes p ON p.id = u.process_id
        WHERE (u.state = 'abandoned' OR u.state = 'open' AND p.alive_until < now())
          AND NOT EXISTS (SELECT FROM topology WHERE sweep_held_since IS NOT NULL)
        LIMIT :limit FOR UPDATE OF u SKIP LOCKED)
    RETURNING object_id"""
)


class Sweep:
    """Clears up after dead and failed uploads."""

    def __init__(self, database: Database, stores: Mapping[str, ObjectStore]) -> None:
        self._database = database
        self._stores = stores

    def run(self, limit: int = 1000) -> int:
        """One round; how many upload rows were taken. Raises: DatabaseUnavailable."""
        taken = self._database.execute(_TAKE, {"limit": limit})
        for row in taken:
            if not self._clear(row.object_id):
                self._look_again_soon(row.object_id)
        self._look_again(limit)
        self._forget_dead_processes()
        return len(taken)

    def _clear(self, object_id: UUID) -> bool:
        """At every site: the upload may have been on its way to both."""
        key = object_key(object_id)
        try:
            for store in self._stores.values():
                for left in store.pending(key):
                    store.abort_pending(left.key, left.upload_id)
                store.delete(key)
        except StoreError:
            _log.warning("a swept object could not be deleted yet")
            return False
        return True

    def _look_again_soon(self, object_id: UUID) -> None:
        self._database.execute(
            update(uploads)
            .where(uploads.c.object_id == object_id)
            .values(swept_at=func.now() - literal(SECOND_LOOK_AFTER)),
            {},
        )

    def _look_again(self, limit: int) -> None:
        rows = self._database.execute(
            select(uploads.c.object_id)
            .where(uploads.c.swept_at < func.now() - literal(SECOND_LOOK_AFTER))
            .limit(limit),
            {},
        )
        for row in rows:
            if self._clear(row.object_id):
                self._database.execute(
                    delete(uploads).where(uploads.c.object_id == row.object_id), {}
                )

    def _forget_dead_processes(self) -> None:
        has_uploads = exists().where(uploads.c.process_id == processes.c.id)
        self._database.execute(
            delete(processes).where(processes.c.alive_until < func.now(), ~has_uploads), {}
        )
