"""The journal: what still has to happen to an object at a site.

A row is written in the transaction that makes the work necessary and deleted when the work is done and
checked; `replication` works it off. Nothing is dropped: a row that fails comes due again, later each time,
and is *parked* after `MAX_ATTEMPTS`, with its reason and an incident, until somebody asks for it again. A
site that is away costs no attempts: its rows wait, untouched, until it answers.

A claimed row is leased. Whoever was silent for longer than the lease finds it in other hands, and can settle
nothing any more; the same holds for a process of a site that was fenced.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.errors import SiteFenced
from vault.siteepoch import MAY_WRITE, SiteEpoch
from vault.tables import incidents, journal, replicas, tombstones, topology

LEASE: Final = timedelta(seconds=60)
"""How long a claimed row stays with a worker that says nothing; `renew` starts it anew."""

MAX_DELAY: Final = timedelta(minutes=5)
MAX_ATTEMPTS: Final = 12
"""Tries before a row is parked: about half an hour of them, with the site answering each time."""

TRIED: Final = 1
"""Tries that work begins with again: what was tried before may have come to the site, so the next is not the
first."""

MAX_ERROR_LENGTH: Final = 500


class Operation(StrEnum):
    """What is to be done with an object at a site."""

    COPY = "copy"
    DELETE = "delete"


class Reason(StrEnum):
    """Why it is to be done."""

    UPLOAD = "upload"
    DEBT = "debt"
    REPAIR = "repair"
    RESYNC = "resync"
    PURGE = "purge"
    SWEEP = "sweep"


@dataclass(frozen=True)
class Task:
    """One claimed row.

    Attributes:
        lease: whoever holds it may settle the row.
        size_bytes, sha256: for a copy, what the object must be; None once its version is gone.
        locked_until: for a copy, until when the object is locked at the store.
        upload_id: a multipart upload that an earlier try left open.
    """

    id: int
    lease: UUID
    object_id: UUID
    site: str
    operation: Operation
    reason: Reason
    size_bytes: int
    sha256: bytes | None
    locked_until: datetime | None
    upload_id: str | None
    attempts: int


@dataclass(frozen=True)
class Settled:
    """A copy that was read back and now counts.

    Attributes:
        seconds: since it became necessary, by PostgreSQL's clock.
    """

    site: str
    reason: Reason
    seconds: float


@dataclass(frozen=True)
class Backlog:
    """Rows of one kind of work at one site."""

    site: str
    operation: Operation
    reason: Reason
    waiting: int
    parked: int
    size_bytes: int
    oldest_at: datetime


@dataclass(frozen=True)
class Bulk:
    """What one claim may hold: at most `rows`, none of them larger than `size_bytes`."""

    rows: int
    size_bytes: int


ENQUEUE_COPIES = """
    INSERT INTO journal (object_id, site, operation, epoch, reason, size_bytes)
    SELECT :object_id, site, 'copy', :site_epoch, :copy_reason, :ciphertext_size_bytes
    FROM unnest(CAST(:peer_sites AS text[])) AS site"""
"""For statements that store a version; feed it from a CTE with a further FROM."""

_NEWEST_EPOCH = select(topology.c.epoch).scalar_subquery()


def enqueue_deletes(
    connection: Connection,
    object_ids: Sequence[UUID],
    sites: Sequence[str],
    *,
    reason: Reason = Reason.PURGE,
    not_before: datetime | None = None,
) -> None:
    """Have objects removed at every site, and never come back; copies that are still due are dropped.

    What was found wrong with copies there is over: nobody needs them any more.

    Args:
        not_before: when the lock of the last of them ends at the stores.
    """
    if not object_ids:
        return
    _forget_copies(connection, object_ids, sites)
    connection.execute(
        insert(tombstones)
        .values([{"object_id": object_id} for object_id in object_ids])
        .on_conflict_do_nothing()
    )
    due_at = func.greatest(func.now(), not_before) if not_before else func.now()
    rows = [
        {
            "object_id": object_id,
            "site": site,
            "operation": Operation.DELETE,
            "epoch": _NEWEST_EPOCH,
            "reason": reason,
            "due_at": due_at,
        }
        for object_id in object_ids
        for site in sites
    ]
    added = insert(journal).values(rows)
    # One that is under way may have met the store before what is to be removed came there.
    connection.execute(
        added.on_conflict_do_update(
            constraint="uq_journal_object_id", set_={"lease": None, "due_at": added.excluded.due_at}
        )
    )


def _forget_copies(
    connection: Connection, object_ids: Sequence[UUID], sites: Sequence[str]
) -> None:
    """Copies that are due, those that count, and what was found wrong with them."""
    connection.execute(
        delete(journal).where(
            journal.c.object_id.in_(object_ids), journal.c.operation == Operation.COPY
        )
    )
    connection.execute(delete(replicas).where(replicas.c.object_id.in_(object_ids)))
    connection.execute(
        update(incidents)
        .where(incidents.c.object_id.in_(object_ids), incidents.c.site.in_(sites))
        .where(incidents.c.resolved_at.is_(None))
        .values(resolved_at=func.now(), resolution="removed")
    )


def enqueue_copies(
    connection: Connection, site: str, object_ids: Sequence[UUID], reason: Reason
) -> int:
    """Have stored objects copied to `site`, the newest first; how many rows that made.

    A repair is done before bulk work. What is under way already, or parked, is left as it is.
    """
    values = {
        "site": site,
        "object_ids": list(object_ids),
        "reason": reason.value,
        "priority": int(reason is Reason.RESYNC),
    }
    return connection.execute(_ENQUEUE_STORED, values).rowcount


class Journal:
    """The journal as its workers see it."""

    def __init__(self, database: ServiceDatabase, epoch: SiteEpoch) -> None:
        self._database = database
        self._epoch = epoch

    def is_due(self, sites: Sequence[str]) -> bool:
        """Whether a claim at these sites, which answer, may find something. Cheap: for asking all the time.

        Where this process's epoch is over it adopts the one in force, if its site serves.

        Raises: DatabaseUnavailable.
        """
        values = {
            "sites": list(sites),
            "copies": len(sites) > 1,
            **self._epoch.parameters(),
        }
        row = self._database.execute(_IS_DUE, values)[0]
        if not row.may_write:
            with suppress(SiteFenced):
                self._epoch.require()
        return bool(row.is_due and row.may_write)

    def claim(self, site: str, *, copies: bool, bulk: Bulk) -> list[Task]:
        """Rows of one site that are due, longest due first, leased to the caller for `LEASE`.

        Args:
            copies: whether a site to copy from answers; if not, only deletes are claimed.

        Raises:
            DatabaseUnavailable.
            SiteFenced: this process's site was failed over; nothing is claimed.
        """
        values = {
            "site": site,
            "copies": copies,
            "rows": bulk.rows,
            "largest": bulk.size_bytes,
            "lease": uuid4(),
            "lease_time": LEASE,
            **self._epoch.parameters(),
        }
        rows = self._database.execute(_CLAIM, values)
        if not rows:
            self._epoch.require()
        return [_task(row) for row in rows]

    def renew(self, task: Task, *, upload_id: str | None) -> bool:
        """Keep a row that takes long, and note the upload to go on with; False when it is lost."""
        renewed = self._mine(task).values(due_at=func.now() + literal(LEASE), upload_id=upload_id)
        return bool(self._database.execute(renewed.returning(journal.c.id), {}))

    def copied(self, done: Sequence[tuple[Task, str | None]]) -> list[Settled]:
        """Copies were read back and hashed: count the replicas, that of the source too.

        Late copies of what was purged meanwhile are removed. A row in other hands is left to them.

        Args:
            done: each task with the site that it was copied from, None if the copy was whole already.

        Returns: those that count now.
        """
        if not done:
            return []
        values = {
            **_ids(task for task, _ in done),
            "sources": [source for _, source in done],
            **self._epoch.parameters(),
        }
        settled = {row.id: _settled(row) for row in self._database.execute(_COPIED, values)}
        late = [task for task, _ in done if task.id not in settled]
        if late:
            with self._database.transaction() as connection:
                _remove_late(connection, late)
        return list(settled.values())

    def given_up(self, tasks: Sequence[Task]) -> None:
        """Copies that may have landed all the same: what was purged meanwhile is removed."""
        if tasks:
            with self._database.transaction() as connection:
                _remove_late(connection, tasks)

    def deleted(self, tasks: Sequence[Task]) -> None:
        """The objects are gone from their sites, and with them what was found wrong with them."""
        if tasks:
            self._database.execute(_DELETED, _ids(tasks))

    def failed(self, task: Task, error: str) -> bool:
        """Come back later, about twice as late each time; True if that was the last try: it is parked."""
        rows = self._database.execute(
            _FAILED,
            {
                "id": task.id,
                "lease": task.lease,
                "error": error[:MAX_ERROR_LENGTH],
                "max_attempts": MAX_ATTEMPTS,
                "max_seconds": MAX_DELAY.total_seconds(),
            },
        )
        return bool(rows) and rows[0].parked_at is not None

    def put_back(self, tasks: Sequence[Task], *, were_begun: bool = False) -> None:
        """They are due again at once, and it costs no try: it is not their fault.

        Args:
            were_begun: something of them may have come to the site; the next try is not the first.
        """
        if tasks:
            self._database.execute(_PUT_BACK, {**_ids(tasks), "least": int(were_begun)})

    def put_off(self, task: Task, until: datetime) -> None:
        """The store keeps the object until then, come what may.

        By its own clock: one that seems past is asked about again after a while, not at once.
        """
        due_at = func.greatest(until, func.now() + literal(MAX_DELAY))
        mine = self._mine(task).values(due_at=due_at, lease=None, attempts=0)
        self._database.execute(mine, {})

    def retry_parked(self, actor: Actor) -> int:
        """Have parked rows tried again from now on; how many there were.

        Raises: NotAllowed, DatabaseUnavailable.
        """
        require(actor.caller, Action.SITE_MANAGE)
        released = (
            update(journal)
            .where(journal.c.parked_at.is_not(None))
            .values(parked_at=None, attempts=TRIED, due_at=func.now(), lease=None)
        )
        with self._database.transaction() as connection:
            count = len(connection.execute(released.returning(journal.c.id)).fetchall())
            detail = {"rows": count}
            record(connection, AccessEvent(EventType.PARKED_RETRIED, actor, detail=detail))
        return count

    def take_over_all(self) -> None:
        """End all leases. Only where no other worker can be alive. Raises: DatabaseUnavailable."""
        leased = journal.c.lease.is_not(None)
        self._database.execute(
            update(journal).where(leased).values(lease=None, due_at=func.now()), {}
        )

    def waiting(self, site: str, reason: Reason) -> int:
        """How many rows of a site wait for one reason, without those that are parked."""
        query = select(func.count()).where(
            journal.c.site == site, journal.c.reason == reason, journal.c.parked_at.is_(None)
        )
        return int(self._database.execute(query, {})[0][0])

    def backlog(self) -> list[Backlog]:
        """What waits, by site, operation and reason. Raises: DatabaseUnavailable."""
        return [
            Backlog(
                row.site,
                Operation(row.operation),
                Reason(row.reason),
                row.waiting,
                row.parked,
                int(row.size_bytes),
                row.oldest_at,
            )
            for row in self._database.execute(_BACKLOG, {})
        ]

    def _mine(self, task: Task) -> Any:
        return update(journal).where(journal.c.id == task.id, journal.c.lease == task.lease)


def _ids(tasks: Any) -> dict[str, Any]:
    found = list(tasks)
    return {"ids": [task.id for task in found], "leases": [task.lease for task in found]}


def _remove_late(connection: Connection, tasks: Sequence[Task]) -> None:
    """Copies whose object was purged while they were on their way must not stay."""
    ids = [task.object_id for task in tasks]
    gone = set(
        connection.execute(
            select(tombstones.c.object_id).where(tombstones.c.object_id.in_(ids))
        ).scalars()
    )
    for task in tasks:
        if task.object_id in gone:
            enqueue_deletes(connection, [task.object_id], [task.site])


def _settled(row: Any) -> Settled:
    return Settled(row.site, Reason(row.reason), max(0.0, float(row.seconds)))


def _task(row: Any) -> Task:
    return Task(
        id=row.id,
        lease=row.lease,
        object_id=row.object_id,
        site=row.site,
        operation=Operation(row.operation),
        reason=Reason(row.reason),
        size_bytes=row.size_bytes,
        sha256=None if row.ciphertext_sha256 is None else bytes(row.ciphertext_sha256),
        locked_until=row.locked_until,
        upload_id=row.upload_id,
        attempts=row.attempts,
    )


_RELAXED: Final = "relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))"
"""Waits for no disk and no standby: a claim or a settlement that a crash undoes is work done once more."""

_IS_DUE = text(
    f"""
    SELECT EXISTS ({MAY_WRITE}) AS may_write, EXISTS (
        SELECT FROM journal
        WHERE site = ANY(CAST(:sites AS text[])) AND parked_at IS NULL AND due_at <= now()
          AND (operation = 'delete' OR :copies)) AS is_due"""  # noqa: S608 (made of constants)
)

_CLAIM = text(
    f"""
    WITH {_RELAXED}, due AS MATERIALIZED (
        SELECT id, object_id FROM journal
        WHERE site = :site AND parked_at IS NULL AND due_at <= now()
          AND (operation = 'delete' OR :copies) AND size_bytes <= :largest
          AND EXISTS ({MAY_WRITE})
        ORDER BY priority, due_at LIMIT :rows FOR UPDATE SKIP LOCKED)
    UPDATE journal j SET lease = :lease, due_at = now() + :lease_time, attempts = attempts + 1
    FROM due LEFT JOIN versions v ON v.object_id = due.object_id CROSS JOIN relaxed
    WHERE j.id = due.id
    RETURNING j.*, v.ciphertext_sha256, v.locked_until"""  # noqa: S608 (made of constants)
)

_MINE = """
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:leases AS uuid[])) AS mine (id, lease)"""

_COPIED = text(
    f"""
    WITH {_RELAXED}, done AS (
        DELETE FROM journal j
        USING unnest(CAST(:ids AS bigint[]), CAST(:leases AS uuid[]), CAST(:sources AS text[]))
            AS mine (id, lease, source), relaxed
        WHERE j.id = mine.id AND j.lease = mine.lease
          AND EXISTS ({MAY_WRITE})
        RETURNING j.id, j.object_id, j.site, mine.source, j.reason,
                  extract(epoch FROM now() - j.created_at) AS seconds),
    counted AS (
        INSERT INTO replicas (object_id, site, verified_at)
        SELECT object_id, site, now() FROM done
        ON CONFLICT (object_id, site) DO UPDATE SET verified_at = now(), lost_at = NULL),
    proven AS (
        -- What was read there was right; but it may have been lost since.
        INSERT INTO replicas AS r (object_id, site, verified_at)
        SELECT object_id, source, now() FROM done WHERE source IS NOT NULL
        ON CONFLICT (object_id, site) DO UPDATE SET verified_at = now() WHERE r.lost_at IS NULL),
    repaired AS (
        UPDATE incidents i SET resolved_at = now(), resolution = 'repaired'
        FROM done WHERE i.object_id = done.object_id AND i.site = done.site AND i.resolved_at IS NULL)
    SELECT id, site, reason, seconds FROM done"""  # noqa: S608 (made of constants)
)

_DELETED = text(
    f"""
    WITH done AS (
        DELETE FROM journal j USING ({_MINE}) mine
        WHERE j.id = mine.id AND j.lease = mine.lease RETURNING j.object_id, j.site)
    UPDATE incidents i SET resolved_at = now(), resolution = 'removed'
    FROM done WHERE i.object_id = done.object_id AND i.site = done.site AND i.resolved_at IS NULL"""  # noqa: S608
)

_PUT_BACK = text(
    f"""
    UPDATE journal j SET due_at = now(), lease = NULL, attempts = greatest(attempts - 1, :least)
    FROM ({_MINE}) mine WHERE j.id = mine.id AND j.lease = mine.lease"""  # noqa: S608
)

_FAILED = text(
    """
    UPDATE journal
    SET last_error = :error, lease = NULL,
        parked_at = CASE WHEN attempts >= :max_attempts THEN now() END,
        due_at = now() + least(power(2, least(attempts, 20)), :max_seconds)
                         * (0.5 + random()) * interval '1 second'
    WHERE id = :id AND lease = :lease
    RETURNING parked_at"""
)

_ENQUEUE_STORED = text(
    """
    INSERT INTO journal (object_id, site, operation, epoch, reason, priority, size_bytes, due_at)
    SELECT v.object_id, :site, 'copy', t.epoch, :reason, :priority, v.ciphertext_size_bytes,
           -- Long due, and the newest the longest: they are worked off in this order.
           timestamptz 'epoch' + (now() - v.created_at)
    FROM versions v, topology t
    WHERE v.object_id = ANY(CAST(:object_ids AS uuid[])) AND NOT EXISTS (
        SELECT FROM journal j
        WHERE j.object_id = v.object_id AND j.site = :site AND j.operation = 'copy')
    ON CONFLICT DO NOTHING"""
)

_BACKLOG = text(
    """
    SELECT site, operation, reason, count(*) FILTER (WHERE parked_at IS NULL) AS waiting,
           count(*) FILTER (WHERE parked_at IS NOT NULL) AS parked,
           sum(size_bytes) AS size_bytes, min(created_at) AS oldest_at
    FROM journal GROUP BY site, operation, reason ORDER BY site, operation, reason"""
)
