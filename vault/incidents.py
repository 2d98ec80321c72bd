"""Incidents: what was found wrong with a copy, by whom, and what came of it.

A copy that is missing or wrong is remembered in one transaction with what follows from it: the replica no
longer counts, and its repair from the other site stands in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.journal import Reason, enqueue_copies
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import incidents, replicas, versions


class IncidentKind(StrEnum):
    """What was found."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNEXPECTED = "unexpected"
    EMPTIED = "emptied"
    PARKED = "parked"


class FoundBy(StrEnum):
    """What found it."""

    READ = "read"
    COPY = "copy"
    SCRUB = "scrub"
    VERIFY = "verify"
    WATCH = "watch"


class Loss(StrEnum):
    """What the report of a lost copy came to."""

    NEW = "new"
    KNOWN = "known"
    GONE = "gone"


@dataclass(frozen=True)
class Incident:
    """One finding.

    Attributes:
        object_id, document_id, version: None where it is about a whole site.
        resolved_at: None while it is open.
        resolution: how it ended, a word or two.
    """

    id: UUID
    at: datetime
    kind: IncidentKind
    site: str
    object_id: UUID | None
    document_id: UUID | None
    version: int | None
    found_by: FoundBy
    resolved_at: datetime | None
    resolution: str | None


class Incidents:
    """The incidents of this vault."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def replica_lost(
        self, object_id: UUID, site: str, kind: IncidentKind, found_by: FoundBy
    ) -> Loss:
        """A copy is missing or wrong: it counts no more, and is to be repaired from the other site.

        Idempotent while the incident is open. A copy that never counted is no incident: one is still due.

        Returns:
            NEW: it counted up to now. KNOWN: it did not. GONE: the version was purged meanwhile.

        Raises:
            DatabaseUnavailable: nothing was remembered.
        """
        with self._database.transaction() as connection:
            row = connection.execute(
                select(versions)
                .where(versions.c.object_id == object_id)
                .with_for_update(read=True, key_share=True)  # no purge until this is committed
            ).one_or_none()
            if row is None:
                return Loss.GONE
            if not _counts(connection, row, site):
                return Loss.KNOWN
            about = {"object_id": object_id, "document_id": row.document_id, "version": row.number}
            _open(connection, kind, site, found_by, **about)
            _mark_lost(connection, object_id, site)
            enqueue_copies(connection, site, [object_id], Reason.REPAIR)
            detail = {"site": site, "kind": kind.value, "found_by": found_by.value}
            event = AccessEvent(EventType.REPLICA_LOST, None, row.document_id, row.number, detail)
            record(connection, event)
        return Loss.NEW

    def site_emptied(self, site: str) -> bool:
        """A site no longer holds what tells it is ours; False if that is known already."""
        with self._database.transaction() as connection:
            known = connection.execute(
                select(incidents.c.id).where(
                    incidents.c.kind == IncidentKind.EMPTIED,
                    incidents.c.site == site,
                    incidents.c.resolved_at.is_(None),
                )
            ).first()
            if known is None:
                _open(connection, IncidentKind.EMPTIED, site, FoundBy.WATCH)
        return known is None

    def object_found(
        self, site: str, object_id: UUID, kind: IncidentKind, found_by: FoundBy
    ) -> bool:
        """Something else about an object, that has a version or not; False if it is known already."""
        with self._database.transaction() as connection:
            row = connection.execute(
                select(versions).where(versions.c.object_id == object_id)
            ).one_or_none()
            return _open(
                connection,
                kind,
                site,
                found_by,
                object_id=object_id,
                document_id=row.document_id if row else None,
                version=row.number if row else None,
            )

    def resolve(
        self, site: str, resolution: str, *, kind: IncidentKind, object_id: UUID | None = None
    ) -> None:
        """End the open incidents of a kind, of one object or of the site. Idempotent."""
        of_object = (
            incidents.c.object_id.is_(None)
            if object_id is None
            else incidents.c.object_id == object_id
        )
        self._database.execute(
            update(incidents)
            .where(incidents.c.site == site, incidents.c.kind == kind)
            .where(of_object, incidents.c.resolved_at.is_(None))
            .values(resolved_at=func.now(), resolution=resolution),
            {},
        )

    def list(
        self,
        actor: Actor,
        request: PageRequest,
        *,
        open_only: bool = False,
        document_id: UUID | None = None,
    ) -> Page[Incident]:
        """A page of incidents, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.SITE_LIST)
        query = select(incidents)
        if open_only:
            query = query.where(incidents.c.resolved_at.is_(None))
        if document_id is not None:
            query = query.where(incidents.c.document_id == document_id)
        filters = {"open": str(open_only), "document": str(document_id)}
        with self._database.transaction() as connection:
            page = _INCIDENTS.fetch(connection, query, request, filters)
            record(connection, AccessEvent(EventType.INCIDENTS_LISTED, actor))
        return page


def _open(
    connection: Connection, kind: IncidentKind, site: str, found_by: FoundBy, **about: Any
) -> bool:
    """Add an incident unless the same is open; whether it is new."""
    values = {"id": uuid4(), "kind": kind.value, "site": site, "found_by": found_by.value, **about}
    added = insert(incidents).values(values).on_conflict_do_nothing().returning(incidents.c.id)
    return connection.execute(added).first() is not None


def _counts(connection: Connection, version: Row[Any], site: str) -> bool:
    """Whether a version's copy at the site was taken for safe up to now; locks the replica's row."""
    replica = connection.execute(
        select(replicas)
        .where(replicas.c.object_id == version.object_id, replicas.c.site == site)
        .with_for_update()
    ).one_or_none()
    if replica is None:
        return bool(version.site == site)
    return replica.lost_at is None and (version.site == site or replica.verified_at is not None)


def _mark_lost(connection: Connection, object_id: UUID, site: str) -> None:
    added = insert(replicas).values(object_id=object_id, site=site, lost_at=func.now())
    connection.execute(
        added.on_conflict_do_update(
            index_elements=[replicas.c.object_id, replicas.c.site],
            set_={"lost_at": func.now(), "verified_at": None},
        )
    )


def _incident(row: Row[Any]) -> Incident:
    return Incident(
        id=row.id,
        at=row.at,
        kind=IncidentKind(row.kind),
        site=row.site,
        object_id=row.object_id,
        document_id=row.document_id,
        version=row.version,
        found_by=FoundBy(row.found_by),
        resolved_at=row.resolved_at,
        resolution=row.resolution,
    )


_INCIDENTS = Listing(
    name="incidents",
    sort_key=(incidents.c.at, incidents.c.id),
    kinds=(datetime, UUID),
    place=lambda incident: (incident.at, incident.id),
    shape=_incident,
)
