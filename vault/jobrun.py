"""Running jobs: claim one, do its work under a lease, say how it ended.

What a job has done so far is in its row, so a process that dies loses at most what it did since its last
report, and all work must bear being done twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Row, func, literal, select, update

from keymgmt.errors import KeyServiceUnavailable
from vault.accesslog.event import AccessEvent, EventType, record
from vault.database import ServiceDatabase
from vault.errors import Unavailable, VaultError
from vault.jobs import JobKind, JobState
from vault.objects.store import StoreError
from vault.tables import jobs

LEASE: Final = timedelta(seconds=60)
"""How long a job may go without a report before another process takes it over."""

KEEP_EVERY: Final = LEASE / 6

RETRY_AFTER: Final = timedelta(seconds=10)
"""How long a job waits for a dependency that is away."""

_log = logging.getLogger(__name__)


class JobStopped(Exception):
    """Somebody asked the job to stop; it can be resumed."""


class JobLost(Exception):
    """Another process runs the job by now: touch nothing any more."""


class JobFailed(VaultError):
    """The job met what it cannot get past; the message tells an operator what, and what to do."""


class JobRun:
    """One job in this process's hands.

    Attributes:
        place: what the work last reported; empty at the start.
    """

    def __init__(self, database: ServiceDatabase, row: Row[Any], stopping: threading.Event) -> None:
        self._database = database
        self._stopping = stopping
        self._id = row.id
        self._lease = row.lease
        self._renewed = time.monotonic()
        self.kind = JobKind(row.kind)
        self.place: dict[str, Any] = dict(row.place)
        self.done: int = row.done

    def report(self, *, done: int, total: int | None, place: Mapping[str, Any]) -> None:
        """Renew the lease and store how far the work is; call it at least every few seconds.

        Raises:
            JobStopped: end now, everything reported is kept.
            JobLost: end now; another process has taken over, or may: this one is stopping.
        """
        self.place, self.done = dict(place), done
        self._renew({"done": done, "total": total, "place": self.place})

    def keep(self) -> None:
        """Renew the lease if the last time is a while ago: for steps that take long. Raises: as `report`."""
        self._hand_over_if_stopping()
        if time.monotonic() - self._renewed > KEEP_EVERY.total_seconds():
            self._renew({})

    def end(
        self,
        state: JobState,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Say how it ended, for good or until it is resumed. Raises: JobLost."""
        detail = {"job": str(self._id), "kind": self.kind.value, "state": state.value}
        with self._database.transaction() as connection:
            ended = connection.execute(
                self._mine({"state": state, "result": result, "error": error, "lease": None})
                .values(finished_at=func.now())
                .returning(jobs.c.id)
            ).one_or_none()
            if ended is None:
                raise JobLost
            record(connection, AccessEvent(EventType.JOB_ENDED, None, detail=detail))

    def put_back(self, error: str) -> None:
        """Let it wait for a dependency that is away. Raises: JobLost."""
        due_at = func.now() + literal(RETRY_AFTER)
        self._write({"state": JobState.QUEUED, "error": error, "due_at": due_at, "lease": None})

    def _renew(self, values: Mapping[str, Any]) -> None:
        stop_requested = self._write({**values, "due_at": func.now() + literal(LEASE)})
        self._renewed = time.monotonic()
        if stop_requested:
            raise JobStopped
        self._hand_over_if_stopping()

    def _hand_over_if_stopping(self) -> None:
        """This process ends: what it reported last is where another one, or its successor, goes on."""
        if self._stopping.is_set():
            self._write({"state": JobState.QUEUED, "due_at": func.now(), "lease": None})
            raise JobLost

    def _write(self, values: Mapping[str, Any]) -> bool:
        rows = self._database.execute(self._mine(values).returning(jobs.c.stop_requested), {})
        if not rows:
            raise JobLost
        return bool(rows[0].stop_requested)

    def _mine(self, values: Mapping[str, Any]) -> Any:
        mine = (jobs.c.id == self._id) & (jobs.c.lease == self._lease)
        return update(jobs).where(mine).values(**values)


Work = Callable[[JobRun], Mapping[str, Any]]
"""Does a job from its `place` on, reporting as it goes; what it returns is the job's result.

Raises:
    JobStopped, JobLost: out of `JobRun.report`.
    JobFailed: it cannot go on.
    Unavailable, StoreError, KeyServiceUnavailable: a dependency is away; it is tried again later.
"""


class JobRunner:
    """Runs jobs, one at a time; any number of runners in any number of processes."""

    def __init__(self, database: ServiceDatabase, works: Mapping[JobKind, Work]) -> None:
        self._database = database
        self._works = works

    def take_over_all(self) -> None:
        """End the leases of all others. Only where none of them can be alive. Raises: DatabaseUnavailable."""
        running = jobs.c.state == JobState.RUNNING
        self._database.execute(update(jobs).where(running).values(due_at=func.now()), {})

    def run_one(
        self,
        kinds: Collection[JobKind] = tuple(JobKind),
        stopping: threading.Event | None = None,
    ) -> bool:
        """Run a job of these kinds that is due; False when there is none.

        Args:
            stopping: once it is set the job is handed over at its next report: this process ends.

        Raises: DatabaseUnavailable.
        """
        run = self._claim(kinds, stopping or threading.Event())
        if run is None:
            return False
        try:
            self._perform(run)
        except JobLost:
            _log.warning("a job was taken over by another process")
        return True

    def _perform(self, run: JobRun) -> None:
        try:
            run.end(JobState.DONE, result=self._works[run.kind](run))
        except JobStopped:
            run.end(JobState.STOPPED)
        except JobFailed as exc:
            run.end(JobState.FAILED, error=str(exc))
        except (Unavailable, StoreError, KeyServiceUnavailable) as exc:
            _log.warning("a job waits for a dependency: %s", exc)
            run.put_back(f"{type(exc).__name__}: waiting for it to come back")
        except JobLost:
            raise
        except Exception as exc:  # noqa: BLE001 (a defect in one job must not stop the others)
            _log.error("a job failed", exc_info=exc)
            run.end(JobState.FAILED, error="an unexpected error; the log of the worker shows it")

    def _claim(self, kinds: Collection[JobKind], stopping: threading.Event) -> JobRun | None:
        """A job that is due, or whose runner fell silent."""
        alive = jobs.c.state.in_((JobState.QUEUED.value, JobState.RUNNING.value))
        due = (
            select(jobs.c.id)
            .where(alive, jobs.c.due_at <= func.now(), jobs.c.kind.in_(kinds))
            .order_by(jobs.c.due_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        claimed = (
            update(jobs)
            .where(jobs.c.id == due)
            .values(
                state=JobState.RUNNING,
                lease=uuid4(),
                due_at=func.now() + literal(LEASE),
                resumed_at=func.now(),
                resumed_done=jobs.c.done,
                error=None,
            )
        )
        rows = self._database.execute(claimed.returning(jobs), {})
        return JobRun(self._database, rows[0], stopping) if rows else None
