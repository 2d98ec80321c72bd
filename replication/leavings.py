"""Leavings: multipart uploads at a site that nobody will go on with.

Those of uploads that may still commit, or that the sweep sees to, and those that a journal row goes on
with, are left alone; so is whatever began less than a day ago.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import select

from vault.database import ServiceDatabase
from vault.objects.health import SiteHealth
from vault.objects.keys import PREFIX, object_id_of
from vault.objects.store import PendingUpload
from vault.tables import journal, uploads

GRACE: Final = timedelta(days=1)


@dataclass(frozen=True)
class Leavings:
    """The leavings at the sites of one vault."""

    database: ServiceDatabase
    health: SiteHealth
    grace: timedelta = GRACE

    def clear(self, site: str) -> int:
        """Drop them; how many there were. Raises: StoreError, DatabaseUnavailable."""
        store, oldest = self.health.stores[site], self.database.now() - self.grace
        pending = [each for each in store.pending(PREFIX) if each.started_at < oldest]
        wanted = self._wanted(pending)
        dropped = [each for each in pending if object_id_of(each.key) not in wanted]
        for each in dropped:
            store.abort_pending(each.key, each.upload_id)
        return len(dropped)

    def _wanted(self, pending: Sequence[PendingUpload]) -> set[UUID]:
        ids = [found for each in pending if (found := object_id_of(each.key)) is not None]
        queries = (
            select(uploads.c.object_id).where(uploads.c.object_id.in_(ids)),
            select(journal.c.object_id).where(
                journal.c.object_id.in_(ids), journal.c.upload_id.is_not(None)
            ),
        )
        return {row.object_id for query in queries for row in self.database.execute(query, {})}
