"""Orphans: objects at a site that nothing in the database explains.

Every object of ours begins with an upload row, which goes only when a version takes its place, or after the
sweep. So an object without either comes from elsewhere, or from a database that is older than its objects:
nothing of them is removed unless a person asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, literal, select, text

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.errors import SweepHeld
from vault.journal import Reason, enqueue_deletes
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.sweephold import MAY_SWEEP
from vault.tables import orphans, topology, uploads, versions

GRACE: Final = timedelta(days=1)
"""How long one has to be known before it may be removed."""

LIMIT: Final = 1000


@dataclass(frozen=True)
class Orphan:
    """One of them."""

    object_id: UUID
    site: str
    size_bytes: int
    first_seen_at: datetime


class Orphans:
    """The orphans of this vault's sites."""

    def __init__(self, database: ServiceDatabase, sites: list[str]) -> None:
        self._database = database
        self._sites = sites

    def list(self, actor: Actor, request: PageRequest) -> Page[Orphan]:
        """A page of them, those seen last first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.SITE_LIST)
        with self._database.transaction() as connection:
            page = _ORPHANS.fetch(connection, select(orphans), request)
            record(connection, AccessEvent(EventType.ORPHANS_LISTED, actor))
        return page

    def remove(self, actor: Actor, *, grace: timedelta = GRACE) -> int:
        """Have those removed that were known for longer than the grace; how many.

        One that a version or an upload row explains by now is kept, and forgotten here.

        Raises:
            NotAllowed, DatabaseUnavailable.
            SweepHeld: the database may be older than what it does not know.
        """
        require(actor.caller, Action.SITE_MANAGE)
        removed = 0
        while (batch := self._remove_some(actor, grace)) is not None:
            removed += batch
        return removed

    def _remove_some(self, actor: Actor, grace: timedelta) -> int | None:
        """One batch: how many of it were removed; None when none is left."""
        old = orphans.c.first_seen_at < func.now() - literal(grace)
        with self._database.transaction() as connection:
            _refuse_while_held(connection)
            taken = connection.execute(
                delete(orphans)
                .where(orphans.c.object_id.in_(select(orphans.c.object_id).where(old).limit(LIMIT)))
                .returning(orphans.c.object_id)
            ).scalars()
            ids = set(taken)
            if not ids:
                return None
            for column in (uploads.c.object_id, versions.c.object_id):
                ids -= set(connection.execute(select(column).where(column.in_(ids))).scalars())
            enqueue_deletes(connection, sorted(ids), self._sites, reason=Reason.SWEEP)
            if ids:
                detail = {"removed": len(ids)}
                record(connection, AccessEvent(EventType.ORPHANS_REMOVED, actor, detail=detail))
        return len(ids)


def _refuse_while_held(connection: Connection) -> None:
    connection.execute(select(topology.c.singleton).with_for_update(read=True))
    if not connection.execute(_MAY_SWEEP).scalar_one():
        raise SweepHeld


def _orphan(row: Row[Any]) -> Orphan:
    return Orphan(row.object_id, row.site, row.size_bytes, row.first_seen_at)


_MAY_SWEEP = text(f"SELECT EXISTS ({MAY_SWEEP})")

_ORPHANS = Listing(
    name="orphans",
    sort_key=(orphans.c.first_seen_at, orphans.c.object_id, orphans.c.site),
    kinds=(datetime, UUID, str),
    place=lambda orphan: (orphan.first_seen_at, orphan.object_id, orphan.site),
    shape=_orphan,
)
