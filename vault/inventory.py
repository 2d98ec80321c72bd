"""What should be where: the objects of all versions, as PostgreSQL knows them, for those who go and look.

Walks are in the order of object ids, which is the order of keys in a store's listing, or newest first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, func, select, text, tuple_

from vault.database import ServiceDatabase
from vault.journal import Reason, enqueue_copies, enqueue_deletes
from vault.tables import tombstones, uploads, versions

BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """One object, and what is known of its copy at a site.

    Attributes:
        is_counted: the copy there counts as safe, so it has to be there.
    """

    object_id: UUID
    size_bytes: int
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, and what its bytes must be."""

    object_id: UUID
    document_id: UUID
    version: int
    size_bytes: int
    sha256: bytes
    created_at: datetime


class Inventory:
    """The objects of this vault."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def now(self) -> datetime:
        """PostgreSQL's clock, by which all moments here are meant. Raises: DatabaseUnavailable."""
        return self._database.now()

    def count(self) -> int:
        """How many objects each site should have. Raises: DatabaseUnavailable."""
        return int(self._database.execute(select(func.count()).select_from(versions), {})[0][0])

    def expected_at(self, site: str, after: UUID | None = None) -> Iterator[list[Expected]]:
        """All objects in batches, by id, with the state of their copies at `site`."""
        last = after or UUID(int=0)
        while True:
            values = {"site": site, "after": last, "limit": BATCH}
            rows = self._database.execute(_EXPECTED, values)
            if not rows:
                return
            yield [Expected(row.object_id, row.size_bytes, row.is_counted) for row in rows]
            last = rows[-1].object_id

    def by_id(self, after: UUID | None = None) -> Iterator[list[Stored]]:
        """All objects in batches, by id."""
        last = after or UUID(int=0)
        query = _STORED.order_by(versions.c.object_id).limit(BATCH)
        while rows := self._database.execute(query.where(versions.c.object_id > last), {}):
            yield [_stored(row) for row in rows]
            last = rows[-1].object_id

    def newest_first(self, before: tuple[datetime, UUID] | None = None) -> Iterator[list[Stored]]:
        """All objects in batches, the newest first."""
        place = (versions.c.created_at, versions.c.object_id)
        query = _STORED.order_by(*(column.desc() for column in place)).limit(BATCH)
        while True:
            rest = query if before is None else query.where(tuple_(*place) < tuple_(*before))
            rows = self._database.execute(rest, {})
            if not rows:
                return
            yield [_stored(row) for row in rows]
            before = (rows[-1].created_at, rows[-1].object_id)

    def of_document(self, document_id: UUID) -> list[Stored]:
        """The objects of one document, by version."""
        query = _STORED.where(versions.c.document_id == document_id)
        return [
            _stored(row) for row in self._database.execute(query.order_by(versions.c.number), {})
        ]

    def unread_since(self, site: str, moment: datetime, limit: int) -> list[Stored]:
        """Objects whose copy at `site` was not read back since `moment`, longest ago first.

        Those that were never read come before them; copies that are known to be lost are left out.
        """
        values = {"site": site, "moment": moment, "limit": limit}
        return [_stored(row) for row in self._database.execute(_UNREAD, values)]

    def verified(self, site: str, object_ids: Sequence[UUID], since: datetime) -> None:
        """Copies at `site` were read back and hashed: they count, and their incidents end.

        Args:
            since: when the first look began, by `now`. What was found lost after it stays so.
        """
        if object_ids:
            values = {"site": site, "object_ids": list(object_ids), "since": since}
            self._database.execute(_VERIFIED, values)

    def lost(self, site: str, object_ids: Sequence[UUID]) -> None:
        """Copies at `site` are not there: they count no more. For a whole site; incidents are others'."""
        if object_ids:
            self._database.execute(_LOST, {"site": site, "object_ids": list(object_ids)})

    def have_copied(self, site: str, object_ids: Sequence[UUID], reason: Reason) -> None:
        """See that copies to `site` are under way."""
        if object_ids:
            with self._database.transaction() as connection:
                enqueue_copies(connection, site, object_ids, reason)

    def judge_extras(self, site: str, extras: Sequence[tuple[UUID, int]]) -> Extras:
        """What objects are that lie at a site and that no row of `expected_at` named.

        Deleted ones that rose again are deleted once more; those that nothing explains are remembered.

        Args:
            extras: ids and sizes in bytes.
        """
        sizes = dict(extras)
        with self._database.transaction() as connection:

            def known_in(column: Any) -> set[UUID]:
                return set(connection.execute(select(column).where(column.in_(sizes))).scalars())

            # In the order of an object's life: one that moves on meanwhile is met at its next place.
            explained = known_in(uploads.c.object_id) | known_in(versions.c.object_id)
            risen = known_in(tombstones.c.object_id)
            unknown = set(sizes) - risen - explained
            enqueue_deletes(connection, sorted(risen), [site], reason=Reason.SWEEP)
            if unknown:
                connection.execute(
                    _REMEMBER_ORPHANS,
                    [
                        {"object_id": object_id, "site": site, "size_bytes": sizes[object_id]}
                        for object_id in sorted(unknown)
                    ],
                )
        return Extras(risen, unknown)

    def unread_count(self, site: str, moment: datetime) -> int:
        """How many copies at `site` were not read back since then."""
        values = {"site": site, "moment": moment}
        return int(self._database.execute(_UNREAD_COUNT, values)[0][0])

    def forget_orphans(self, site: str, seen_since: datetime) -> None:
        """Those that a whole pass since then did not meet again are gone."""
        self._database.execute(_FORGET_ORPHANS, {"site": site, "since": seen_since})


@dataclass(frozen=True)
class Extras:
    """What `judge_extras` found.

    Attributes:
        risen: were deleted before, and are deleted again.
        unknown: nothing in the database explains them.
    """

    risen: set[UUID]
    unknown: set[UUID]


def _stored(row: Row[Any]) -> Stored:
    return Stored(
        object_id=row.object_id,
        document_id=row.document_id,
        version=row.number,
        size_bytes=row.ciphertext_size_bytes,
        sha256=bytes(row.ciphertext_sha256),
        created_at=row.created_at,
    )


_STORED = select(
    versions.c.object_id,
    versions.c.document_id,
    versions.c.number,
    versions.c.ciphertext_size_bytes,
    versions.c.ciphertext_sha256,
    versions.c.created_at,
)

_EXPECTED = text(
    """
    SELECT v.object_id, v.ciphertext_size_bytes AS size_bytes,
           (v.site = :site OR r.verified_at IS NOT NULL) AND r.lost_at IS NULL AS is_counted
    FROM versions v
    -- The place is named twice: a merge join would otherwise begin at the site's first replica.
    LEFT JOIN replicas r ON r.object_id = v.object_id AND r.site = :site AND r.object_id > :after
    WHERE v.object_id > :after ORDER BY v.object_id LIMIT :limit"""
)

_IS_UNREAD = """
    FROM versions v LEFT JOIN replicas r ON r.object_id = v.object_id AND r.site = :site
    WHERE (v.site = :site OR r.verified_at IS NOT NULL) AND r.lost_at IS NULL
      AND (r.verified_at IS NULL OR r.verified_at < :moment)"""

_UNREAD = text(
    f"""
    SELECT v.object_id, v.document_id, v.number, v.ciphertext_size_bytes, v.ciphertext_sha256,
           v.created_at {_IS_UNREAD}
    ORDER BY r.verified_at NULLS FIRST LIMIT :limit"""
)

_UNREAD_COUNT = text(f"SELECT count(*) {_IS_UNREAD}")

_VERIFIED = text(
    """
    WITH found AS (
        SELECT object_id FROM versions WHERE object_id = ANY(CAST(:object_ids AS uuid[]))
        FOR KEY SHARE),
    counted AS (
        INSERT INTO replicas AS r (object_id, site, verified_at)
        SELECT object_id, :site, CAST(:since AS timestamptz) FROM found
        ON CONFLICT (object_id, site) DO UPDATE SET verified_at = :since, lost_at = NULL
            WHERE r.lost_at IS NULL OR r.lost_at < :since
        RETURNING object_id),
    settled AS (
        DELETE FROM journal j USING counted found
        WHERE j.object_id = found.object_id AND j.site = :site AND j.operation = 'copy'
          AND (j.lease IS NULL OR j.due_at < now())),
    -- What could not be copied for want of a good source can be now.
    unparked AS (
        UPDATE journal j SET parked_at = NULL, attempts = 1, due_at = now()
        FROM counted found WHERE j.object_id = found.object_id AND j.site <> :site
                     AND j.operation = 'copy' AND j.parked_at IS NOT NULL)
    UPDATE incidents i SET resolved_at = now(), resolution = 'found whole'
    FROM counted found WHERE i.object_id = found.object_id AND i.site = :site AND i.resolved_at IS NULL"""
)

_LOST = text(
    """
    WITH found AS (
        SELECT object_id FROM versions WHERE object_id = ANY(CAST(:object_ids AS uuid[]))
        FOR KEY SHARE),
    repeated AS (
        -- A copy under way may have been read back before the site lost it: it must not count.
        UPDATE journal SET lease = NULL, due_at = now()
        WHERE object_id = ANY(CAST(:object_ids AS uuid[])) AND site = :site
          AND operation = 'copy' AND lease IS NOT NULL)
    INSERT INTO replicas (object_id, site, lost_at)
    SELECT object_id, :site, now() FROM found
    ON CONFLICT (object_id, site) DO UPDATE SET verified_at = NULL, lost_at = now()"""
)

_REMEMBER_ORPHANS = text(
    """
    INSERT INTO orphans (object_id, site, size_bytes) VALUES (:object_id, :site, :size_bytes)
    ON CONFLICT (object_id, site) DO UPDATE SET last_seen_at = now()"""
)

_FORGET_ORPHANS = text(
    """
    WITH gone AS (
        DELETE FROM orphans WHERE site = :site AND last_seen_at < :since RETURNING object_id)
    UPDATE incidents i SET resolved_at = now(), resolution = 'gone'
    FROM gone WHERE i.object_id = gone.object_id AND i.site = :site AND i.kind = 'unexpected'
                AND i.resolved_at IS NULL"""
)
