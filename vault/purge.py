"""Purge: what has lain in the bin long enough, and was kept long enough, goes for good.

Rows before objects: once the wrapped keys are gone and the deletes stand in the journal, no read can find
the document, and the objects follow at every site. What stays is a tombstone without a name, and the
access events; copies of the wrapped keys in backups die with the next shred epoch (`shred`).
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from vault.accesslog.event import AccessEvent, EventType, record
from vault.database import ServiceDatabase
from vault.documents import is_held
from vault.errors import NotFound
from vault.journal import enqueue_deletes
from vault.model import DocumentState
from vault.records import lock_document
from vault.tables import (
    classes,
    document_changes,
    documents,
    holds,
    idempotency_keys,
    released_versions,
    versions,
)

_log = logging.getLogger(__name__)


class Purge:
    """Works off the bin. Any number of processes may do so at a time."""

    def __init__(self, database: ServiceDatabase, sites: list[str]) -> None:
        self._database = database
        self._sites = sites

    def run(self, now: datetime, limit: int = 1000) -> int:
        """Purge what is due at `now`, at most `limit` documents; how many went.

        Raises:
            DatabaseUnavailable: those before it are gone, the others wait.
        """
        return sum(self._purge(document_id, now) for document_id in self._candidates(now, limit))

    def finish_shredded(self, oldest_kept: int) -> int:
        """In a restored copy: let go of what was shredded since the copy was made; how many documents.

        Args:
            oldest_kept: the lowest version of the KEK `documents` whose key material exists.

        Raises:
            DatabaseUnavailable: repeat it.
        """
        shut = select(versions.c.document_id).where(versions.c.kek_version < oldest_kept).distinct()
        rows = self._database.execute(shut, {})
        for row in rows:
            with self._database.transaction() as connection:
                detail = {"shredded": True}
                record(
                    connection,
                    AccessEvent(EventType.DOCUMENT_PURGED, None, row.document_id, detail=detail),
                )
                self._remove(connection, row.document_id)
        return len(rows)

    def _candidates(self, now: datetime, limit: int) -> list[UUID]:
        bin_ends = documents.c.binned_at + _days(classes.c.bin_days)
        retention_ends = versions.c.created_at + _days(classes.c.retention_days)
        held = exists().where(holds.c.document_id == documents.c.id, holds.c.released_at.is_(None))
        newest = (versions.c.document_id == documents.c.id) & (
            versions.c.number == documents.c.newest_version
        )
        rows = self._database.execute(
            select(documents.c.id)
            .join(classes, classes.c.name == documents.c.class_name)
            .join(versions, newest)
            .where(documents.c.state == DocumentState.BINNED.value)
            .where(func.greatest(bin_ends, retention_ends) <= now, ~held)
            .order_by(documents.c.binned_at)
            .limit(limit),
            {},
        )
        return [row.id for row in rows]

    def _purge(self, document_id: UUID, now: datetime) -> bool:
        """Judge the document again under its lock, then let it go."""
        with self._database.transaction() as connection:
            try:
                document = lock_document(connection, document_id)
            except NotFound:
                return False
            if document.purge_after is None or document.purge_after > now:
                return False
            if is_held(connection, document_id):
                _log.info("a hold keeps a document in the bin")
                return False
            event = AccessEvent(EventType.DOCUMENT_PURGED, None, document_id)
            record(connection, event)
            self._remove(connection, document_id)
        return True

    def _remove(self, connection: Connection, document_id: UUID) -> None:
        removed = connection.execute(
            delete(versions).where(versions.c.document_id == document_id).returning(versions)
        ).fetchall()
        connection.execute(insert(released_versions), [_released(row) for row in removed])
        locks = [row.locked_until for row in removed if row.locked_until is not None]
        enqueue_deletes(
            connection,
            [row.object_id for row in removed],
            self._sites,
            not_before=max(locks, default=None),
        )
        for table in (document_changes, idempotency_keys):
            connection.execute(delete(table).where(table.c.document_id == document_id))
        connection.execute(
            update(documents)
            .where(documents.c.id == document_id)
            .values(state=DocumentState.PURGED.value, name="", purged_at=func.now())
        )


def _released(row: Row[Any]) -> dict[str, Any]:
    """What a shred epoch has to know of it: its wrapped key lives on in dumps and WAL."""
    return {
        "id": row.id,
        "document_id": row.document_id,
        "number": row.number,
        "kek_version": row.kek_version,
    }


def _days(count: ColumnElement[int]) -> ColumnElement[timedelta]:
    return func.make_interval(0, 0, 0, count)
