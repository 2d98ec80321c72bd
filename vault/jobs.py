"""Jobs: long work that shows how far it is, can be stopped, and goes on where a killed process left it.

A job is a row. Whoever runs it holds a lease on it and renews that with every report; one that falls silent
loses the job to another process, which goes on from the last reported place. At most one job of a kind is
queued or running, so work of one kind never meets itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, case, func, insert, select, update

from vault import clock
from vault.access.authorise import require
from vault.access.policy import RULES, Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, ServiceDatabase
from vault.errors import JobEnded, JobUnderWay, NotFound
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import jobs


class JobKind(StrEnum):
    """What a job does."""

    REWRAP = "rewrap"
    SHRED = "shred"
    DRILL = "drill"
    RECOVERY = "recovery"
    SCRUB = "scrub"
    VERIFY = "verify"
    RESYNC_A = "resync-a"
    RESYNC_B = "resync-b"


STARTED_BY: Final = {
    JobKind.REWRAP: Action.KEY_REWRAP,
    JobKind.SHRED: Action.KEY_SHRED,
    JobKind.DRILL: Action.KEY_DRILL,
    JobKind.RECOVERY: Action.KEY_REGISTER_RECOVERY,
    JobKind.SCRUB: Action.SITE_MANAGE,
    JobKind.VERIFY: Action.SITE_MANAGE,
    JobKind.RESYNC_A: Action.SITE_MANAGE,
    JobKind.RESYNC_B: Action.SITE_MANAGE,
}
"""What somebody who starts a job of this kind needs. The service's own schedule needs nothing."""


class UndeclaredJob(Exception):
    """A kind of job names no permission; the service must not start."""


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Job:
    """A job as its watchers see it.

    Attributes:
        done, total: in the kind's own unit; `total` is None until it is known.
        rate: units per second since it was started or resumed; None unless it is running.
        seconds_left: at that rate.
        result: the kind's own facts, once it is done.
        error: why it waits or failed.
    """

    id: UUID
    kind: JobKind
    state: JobState
    done: int
    total: int | None
    rate: float | None
    seconds_left: float | None
    result: Mapping[str, Any] | None
    error: str | None
    stop_requested: bool
    created_at: datetime
    created_by: UUID | None
    finished_at: datetime | None


class Jobs:
    """The jobs of this vault, for those who ask for them; `jobrun` is for those who run them."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def start(self, actor: Actor | None, kind: JobKind) -> Job:
        """Queue a job; a worker takes it within a second.

        Args:
            actor: None when the service's own schedule asks.

        Raises:
            NotAllowed, StepUpNeeded.
            JobUnderWay: one of this kind is queued or running.
        """
        try:
            with self._database.transaction() as connection:
                return start(connection, actor, kind)
        except DuplicateRow:
            raise JobUnderWay from None

    def view(self, actor: Actor, job_id: UUID) -> Job:
        """One job. Raises: NotAllowed, NotFound."""
        require(actor.caller, Action.JOB_LIST)
        rows = self._database.execute(select(jobs).where(jobs.c.id == job_id), {})
        if not rows:
            raise NotFound("job")
        return _job(rows[0])

    def list(self, actor: Actor, request: PageRequest) -> Page[Job]:
        """A page of jobs, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.JOB_LIST)
        with self._database.transaction() as connection:
            return _JOBS.fetch(connection, select(jobs), request)

    def newest(self, kind: JobKind) -> Job | None:
        """The job of a kind that was started last; None if there was none. For the service itself."""
        query = select(jobs).where(jobs.c.kind == kind).order_by(jobs.c.created_at.desc()).limit(1)
        rows = self._database.execute(query, {})
        return _job(rows[0]) if rows else None

    def stop(self, actor: Actor, job_id: UUID) -> Job:
        """Have a job end at its next step. Idempotent.

        Raises:
            NotAllowed, NotFound.
            JobEnded: it is done or failed.
        """
        require(actor.caller, Action.JOB_STOP)
        queued = jobs.c.state == JobState.QUEUED.value
        values = {
            "stop_requested": True,
            "state": case((queued, JobState.STOPPED.value), else_=jobs.c.state),
        }
        stoppable = (JobState.QUEUED, JobState.RUNNING, JobState.STOPPED)
        return self._change(actor, job_id, stoppable, values, EventType.JOB_STOP_REQUESTED)

    def resume(self, actor: Actor, job_id: UUID) -> Job:
        """Let a stopped or failed job go on from where it was.

        Raises:
            NotAllowed, NotFound.
            JobEnded: it is not stopped and did not fail.
            JobUnderWay: another one of its kind is queued or running.
        """
        require(actor.caller, Action.JOB_STOP)
        values = {
            "state": JobState.QUEUED.value,
            "stop_requested": False,
            "error": None,
            "finished_at": None,
            "due_at": func.now(),
        }
        resumable = (JobState.STOPPED, JobState.FAILED)
        return self._change(actor, job_id, resumable, values, EventType.JOB_STARTED)

    def _change(
        self,
        actor: Actor,
        job_id: UUID,
        allowed: tuple[JobState, ...],
        values: dict[str, Any],
        event: EventType,
    ) -> Job:
        try:
            with self._database.transaction() as connection:
                known = connection.execute(
                    select(jobs.c.state).where(jobs.c.id == job_id).with_for_update()
                ).scalar_one_or_none()
                if known is None:
                    raise NotFound("job")
                if known not in allowed:
                    raise JobEnded(known)
                row = connection.execute(
                    update(jobs).where(jobs.c.id == job_id).values(values).returning(jobs)
                ).one()
                _record(connection, event, actor, row)
        except DuplicateRow:
            raise JobUnderWay from None
        return _job(row)


def refuse_undeclared_jobs(kinds: Iterable[JobKind], declared: Mapping[JobKind, Action]) -> None:
    """Return if every kind of job says what starting it needs.

    Raises:
        UndeclaredJob: one does not; the service must not start.
    """
    for kind in kinds:
        if declared.get(kind) not in RULES:
            raise UndeclaredJob(f"the job '{kind}' declares no permission")


def start(connection: Connection, actor: Actor | None, kind: JobKind) -> Job:
    """Queue a job in the caller's transaction.

    Raises:
        NotAllowed, StepUpNeeded.
        DuplicateRow: one of this kind is under way.
    """
    if actor is not None:
        require(actor.caller, STARTED_BY[kind])
    values = {
        "id": uuid4(),
        "kind": kind.value,
        "created_by": actor.caller.principal_id if actor else None,
    }
    row = connection.execute(insert(jobs).values(values).returning(jobs)).one()
    _record(connection, EventType.JOB_STARTED, actor, row)
    return _job(row)


def _record(connection: Connection, kind: EventType, actor: Actor | None, row: Row[Any]) -> None:
    detail = {"job": str(row.id), "kind": row.kind}
    record(connection, AccessEvent(kind, actor, detail=detail))


def _job(row: Row[Any]) -> Job:
    rate = _rate(row)
    left = row.total - row.done if rate and row.total is not None else None
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        state=JobState(row.state),
        done=row.done,
        total=row.total,
        rate=rate,
        seconds_left=None if left is None or rate is None else max(left, 0) / rate,
        result=row.result,
        error=row.error,
        stop_requested=row.stop_requested,
        created_at=row.created_at,
        created_by=row.created_by,
        finished_at=row.finished_at,
    )


def _rate(row: Row[Any]) -> float | None:
    if row.state != JobState.RUNNING:
        return None
    seconds = (clock.now() - row.resumed_at).total_seconds()
    return (row.done - row.resumed_done) / seconds if seconds > 0 else None


_JOBS = Listing(
    name="jobs",
    sort_key=(jobs.c.created_at, jobs.c.id),
    kinds=(datetime, UUID),
    place=lambda job: (job.created_at, job.id),
    shape=_job,
)
