"""The worker: what goes on without anybody asking. Any number of them may run, in any process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final

from api import metrics, sitemetrics
from api.services import Services
from keymgmt.errors import KeyManagementError
from replication.worker import ANY_SIZE, SMALL_FIRST, ReplicationWorker, SmallWork
from vault.errors import JobUnderWay, VaultError
from vault.jobs import JobKind
from vault.journal import Bulk
from vault.notices import Channel, Sender
from vault.objects.store import StoreError

LANES: Final = (ANY_SIZE,) * 2 + (SMALL_FIRST,) * 6
"""What each copying thread takes: very large objects never keep all of them busy."""

IDLE_SECONDS: Final = 0.5
COPY_IDLE_SECONDS: Final = 0.3
"""How long a copying thread that found nothing leaves it to the others."""

POLL_SECONDS: Final = 0.1
"""How often the journal is asked whether anything is due; half of it is a copy's least lag, on average."""

HOUSEKEEPING_SECONDS: Final = 30
WATCH_SECONDS: Final = 2
SEALS_SECONDS: Final = 300
"""Between looks at every principal and API key, one query each."""

JOB_LANES: Final = (
    (JobKind.REWRAP, JobKind.SHRED, JobKind.DRILL, JobKind.RECOVERY),
    (JobKind.SCRUB, JobKind.VERIFY),
    (JobKind.RESYNC_A, JobKind.RESYNC_B),
)
"""Jobs that may take days hold up no others."""

_log = logging.getLogger(__name__)


class Worker:
    """Replication, jobs and housekeeping on threads of their own; `start`, then `stop`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stopping = threading.Event()
        self._small_work = SmallWork()
        self._copies_are_due = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._copy, args=(self._lane(bulks).run_one,), name=f"copies-{n}"
            )
            for n, bulks in enumerate(LANES)
        ]
        self._threads += [
            threading.Thread(
                target=self._work_off,
                args=(partial(services.job_runner.run_one, kinds, self._stopping),),
                name=f"jobs-{n}",
            )
            for n, kinds in enumerate(JOB_LANES)
        ]
        # One for each channel: a mail server that hangs keeps no webhook waiting.
        self._threads += [
            threading.Thread(
                target=self._work_off,
                args=(partial(self._deliver, channel, sender),),
                name=f"notices-{channel}",
            )
            for channel, sender in services.senders.items()
        ]
        self._threads += [
            threading.Thread(target=self._repeat, args=(work, seconds), name=name)
            for name, work, seconds in (
                ("housekeeping", self.housekeep, HOUSEKEEPING_SECONDS),
                ("site-watch", self.watch_sites, WATCH_SECONDS),
                ("journal", self._poll, POLL_SECONDS),
                ("seals", services.seal_upkeep.look_at_all, SEALS_SECONDS),
                ("notices", self.look_after_notices, HOUSEKEEPING_SECONDS),
                ("approvals", self.look_after_approvals, HOUSEKEEPING_SECONDS),
            )
        ]

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the copies in hand, hand over the jobs, and end."""
        self._stopping.set()
        self._copies_are_due.set()
        for thread in self._threads:
            thread.join()

    def housekeep(self) -> None:
        """One round of sweep, purge, expiry and the keys' schedule.

        Raises: DatabaseUnavailable, KeyServiceUnavailable, StoreError.
        """
        self._services.sites.sweep_holds.look()
        self._services.sweep.run()
        purged = self._services.purge.run(self._services.database.now())
        if purged:
            _log.info("purged %d documents", purged)
        self._services.idempotency.expire()
        self._services.oidc_sign_ins.expire()
        self._services.sessions.expire()
        self._services.enrolments.expire()
        self._services.attempts.expire()
        sitemetrics.publish(self._services.sites.statuses.current())
        self._rotate_and_retire_when_due()

    def watch_sites(self) -> None:
        """One look at the sites. Raises: DatabaseUnavailable."""
        self._services.sites.watch.look(self._services.database.now())

    def look_after_notices(self) -> None:
        """Remove old ones, and show what is not delivered. Raises: DatabaseUnavailable."""
        self._services.notices.expire()
        for channel, outbox in self._services.notices.outbox().items():
            metrics.NOTIFICATIONS_WAITING.labels(channel).set(outbox.waiting)
            metrics.NOTIFICATIONS_PARKED.labels(channel).set(outbox.parked)

    def look_after_approvals(self) -> None:
        """Escalate and expire what nobody decides, and show what is open.

        Raises: DatabaseUnavailable, KeyServiceUnavailable.
        """
        moved = self._services.approval_upkeep.look_after()
        if moved.expired or moved.escalated:
            _log.info("approvals: %d expired, %d escalated", moved.expired, moved.escalated)
        for action, count in self._services.approval_upkeep.open_by_action().items():
            metrics.APPROVALS_OPEN.labels(action).set(count)

    def _rotate_and_retire_when_due(self) -> None:
        kms, keks = self._services.settings.kms, self._services.keks
        if kms.rotate_every_days and keks.rotate_when_due(timedelta(days=kms.rotate_every_days)):
            with suppress(JobUnderWay):
                self._services.jobs.start(None, JobKind.REWRAP)
        if kms.retire_after_days:
            keks.retire_when_due(timedelta(days=kms.retire_after_days))

    def _deliver(self, channel: Channel, sender: Sender) -> bool:
        outcome = self._services.notices.deliver_due(channel, sender)
        if outcome is not None:
            metrics.NOTIFICATIONS.labels(channel, outcome).inc()
        return outcome is not None

    def _lane(self, bulks: tuple[Bulk, ...]) -> ReplicationWorker:
        services = self._services
        return ReplicationWorker(
            services.journal,
            services.health,
            services.incidents,
            metrics.INTEGRITY_FAILURES.inc,
            bulks,
            sitemetrics.observe,
            self._small_work,
        )

    def _poll(self) -> None:
        """One question for all copying threads, which would otherwise each ask all the time."""
        if self._services.journal.is_due(self._services.health.up()):
            self._copies_are_due.set()

    def _copy(self, run_one: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            if not self._copies_are_due.wait(IDLE_SECONDS):
                continue
            if not self._attempt(run_one):
                self._copies_are_due.clear()
                self._stopping.wait(COPY_IDLE_SECONDS)

    def _work_off(self, run_one: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            if not self._attempt(run_one):
                self._stopping.wait(IDLE_SECONDS)

    def _repeat(self, work: Callable[[], object], seconds: float) -> None:
        while not self._stopping.is_set():
            self._attempt(work)
            self._stopping.wait(seconds)

    def _attempt(self, work: Callable[[], object]) -> object:
        """Run `work`; whatever it raises is logged, and the loop goes on."""
        try:
            return work()
        except (VaultError, StoreError, KeyManagementError):
            _log.warning("%s: a dependency is away", threading.current_thread().name)
        except Exception:  # noqa: BLE001 (a worker that died of one bad row would stop them all)
            _log.exception("%s failed", threading.current_thread().name)
        return False
