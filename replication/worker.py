"""Works off the journal: any number of workers in any number of processes.

```
claim a few tasks of a site that answers → do each → settle those that were done, some together
```
A task fails alone: later ones of the same claim go on, unless the site itself turns out to be away. Then all
of its tasks go back untouched, and nothing is claimed for it until it answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from replication.copier import Copier, SourceUnfit, TargetLies, TaskLost
from vault import clock
from vault.errors import SiteFenced, VaultError
from vault.incidents import FoundBy, IncidentKind, Incidents, Loss
from vault.journal import LEASE, Bulk, Journal, Operation, Settled, Task
from vault.objects.health import SiteHealth
from vault.objects.store import MAX_OBJECT_BYTES, PART_SIZE_BYTES, ObjectLocked, StoreError

RENEW_EVERY_SECONDS: Final = 10.0

ANY_SIZE: Final = (Bulk(1, MAX_OBJECT_BYTES),)
"""For a lane that takes what is longest due, however large."""

SMALL_FIRST: Final = (Bulk(8, 2**20), Bulk(1, 2**30))
"""For lanes that stay free of very large objects, so that these hold up nothing else."""

CLAIM_SECONDS: Final = LEASE.total_seconds() / 3
"""After that the rest of a claim goes back untouched: it would be taken over, and counted as tried."""

SETTLE_AFTER_SECONDS: Final = 0.05
"""What is done waits no longer than that for the next task of its claim, where tasks take long."""

VERY_LARGE_BYTES: Final = 2**30
GIVE_WAY: Final = 2.0
"""For how many times a part's time a very large copy pauses for small work: it slows to a third."""

RECENT_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 5.0
"""Far below a lease, and below what a store waits for a reader."""

LOCK_UNKNOWN: Final = timedelta(days=1)
"""When to ask again for the end of a lock that the store does not tell."""

_log = logging.getLogger(__name__)


@dataclass
class SmallWork:
    """When a lane of this process last did a small task: very large copies give way to the next ones.

    A gateway hashes a part for tens of milliseconds; without a pause between parts whatever else it is
    asked waits behind them. For any number of threads: there is one value, and a stale one harms nothing.
    """

    done_at: float = float("-inf")

    def give_way(self, seconds: float) -> None:
        """Pause if there was any just now."""
        if time.monotonic() - self.done_at < RECENT_SECONDS:
            time.sleep(min(seconds, LONGEST_PAUSE_SECONDS))


class ReplicationWorker:
    """One lane of work. For one thread."""

    def __init__(
        self,
        journal: Journal,
        health: SiteHealth,
        incidents: Incidents,
        on_damage: Callable[[], None] = lambda: None,
        bulks: tuple[Bulk, ...] = SMALL_FIRST,
        on_verified: Callable[[Settled], None] = lambda _: None,
        small_work: SmallWork | None = None,
    ) -> None:
        """Made for one vault.

        Args:
            on_damage: is told of every copy that differs from its record.
            on_verified: is told of every copy that counts from now on.
            small_work: shared by all lanes of a process.
        """
        self._journal = journal
        self._health = health
        self._incidents = incidents
        self._on_damage = on_damage
        self._on_verified = on_verified
        self._bulks = bulks
        self._small_work = small_work or SmallWork()
        self._copier = Copier(health.stores)
        self._turn = 0

    def run_one(self) -> bool:
        """Claim and do a few tasks; False when none is due, or nothing may be done just now.

        Raises:
            DatabaseUnavailable: what was done is done again later.
        """
        up = self._health.up()
        self._turn += 1
        try:
            for bulk in self._bulks:
                # In turn: the backlog of one site must not hold up the other's.
                for site in up if self._turn % 2 else reversed(up):
                    tasks = self._journal.claim(site, copies=len(up) > 1, bulk=bulk)
                    if tasks:
                        self._work_off(tasks)
                        return True
        except SiteFenced:
            _log.info("this site was failed over: nothing is claimed")
        return False

    def _work_off(self, tasks: list[Task]) -> None:
        done, until = _Done(), time.monotonic() + CLAIM_SECONDS
        try:
            for place, task in enumerate(tasks):
                if time.monotonic() > until:
                    self._journal.put_back(tasks[place:])
                    return
                if not self._attempt(task, done):
                    self._journal.put_back([task], were_begun=True)
                    self._journal.put_back(tasks[place + 1 :])
                    return
                if time.monotonic() > done.settle_at:
                    self._settle(done)
                    done = _Done()
        finally:
            self._settle(done)

    def _attempt(self, task: Task, done: _Done) -> bool:
        """Do a task, or note why it failed; False: one of the sites is away."""
        try:
            self._perform(task, done)
        except StoreError as exc:
            done.given_up.append(task)
            if self._is_away(exc.site):
                return False
            self._fail(task, str(exc))
        except (SourceUnfit, TargetLies) as exc:
            self._remember(task, exc)
            self._fail(task, str(exc))
        except TaskLost:
            done.given_up.append(task)
            _log.warning("a task was purged, or taken over by another worker")
        except VaultError:
            raise
        except Exception as exc:  # noqa: BLE001 (left leased, its row would come back for ever)
            _log.exception("a journal task met a defect")
            self._fail(task, f"unexpected: {type(exc).__name__}")
        return True

    def _settle(self, done: _Done) -> None:
        for settled in self._journal.copied(done.copied):
            self._on_verified(settled)
        self._journal.deleted(done.deleted)
        copies = [task for task in done.given_up if task.operation is Operation.COPY]
        self._journal.given_up(copies)

    def _perform(self, task: Task, done: _Done) -> None:
        if task.operation is Operation.DELETE:
            self._delete(task, done)
        elif task.sha256 is None:
            done.deleted.append(task)  # purged between its claim and now: there is nothing to copy
        else:
            renewal = _Renewal(self._journal, task, self._small_work)
            done.copied.append((task, self._copier.copy(task, renewal)))
            if task.size_bytes <= PART_SIZE_BYTES:
                self._small_work.done_at = time.monotonic()

    def _delete(self, task: Task, done: _Done) -> None:
        try:
            self._copier.delete(task)
        except ObjectLocked as exc:
            self._journal.put_off(task, exc.until or clock.now() + LOCK_UNKNOWN)
        else:
            done.deleted.append(task)

    def _is_away(self, site: str) -> bool:
        return not self._health.confirm(site)

    def _fail(self, task: Task, error: str) -> None:
        _log.warning("a journal task failed and will be tried again: %s", error)
        if self._journal.failed(task, error):
            _log.error("a journal task is parked: %s", error)
            self._incidents.object_found(
                task.site, task.object_id, IncidentKind.PARKED, FoundBy.COPY
            )

    def _remember(self, task: Task, exc: SourceUnfit | TargetLies) -> None:
        if isinstance(exc, SourceUnfit):
            kind = IncidentKind.MISSING if exc.is_missing else IncidentKind.DAMAGED
            loss = self._incidents.replica_lost(task.object_id, exc.site, kind, FoundBy.COPY)
            if loss is not Loss.NEW:
                return
        self._on_damage()


@dataclass
class _Done:
    """Tasks of one claim that are settled together, soon.

    Attributes:
        copied: with the sites they were copied from.
        given_up: copies that did not come to their end, and may have come to a store.
    """

    copied: list[tuple[Task, str | None]] = field(default_factory=list)
    deleted: list[Task] = field(default_factory=list)
    given_up: list[Task] = field(default_factory=list)
    settle_at: float = field(default_factory=lambda: time.monotonic() + SETTLE_AFTER_SECONDS)


class _Renewal:
    """Renews a task's lease now and then, and whenever its upload changes. Called after each part."""

    def __init__(self, journal: Journal, task: Task, small_work: SmallWork) -> None:
        self._journal = journal
        self._task = task
        self._small_work = small_work
        self._upload_id = task.upload_id
        self._renewed = self._called = time.monotonic()

    def __call__(self, upload_id: str | None) -> bool:
        self._give_way()
        is_due = time.monotonic() - self._renewed > RENEW_EVERY_SECONDS
        if upload_id == self._upload_id and not is_due:
            return True
        self._upload_id, self._renewed = upload_id, time.monotonic()
        return self._journal.renew(self._task, upload_id=upload_id)

    def _give_way(self) -> None:
        if self._task.size_bytes > VERY_LARGE_BYTES:
            self._small_work.give_way(GIVE_WAY * (time.monotonic() - self._called))
        self._called = time.monotonic()
