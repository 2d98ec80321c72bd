"""The worker: what goes on without anybody asking. Any number of them may run, in any process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

from api import metrics
from api.bootstrap import Services
from keymgmt.errors import KeyManagementError
from replication.copier import Copier
from replication.worker import ReplicationWorker
from vault import clock
from vault.errors import JobUnderWay, VaultError
from vault.jobs import JobKind
from vault.objects.store import StoreError

COPIERS: Final = 2
IDLE_SECONDS: Final = 0.5
HOUSEKEEPING_SECONDS: Final = 30

_log = logging.getLogger(__name__)


class Worker:
    """Replication, jobs and housekeeping on threads of their own; `start`, then `stop`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._stopping = threading.Event()
        replication = ReplicationWorker(
            services.journal, Copier(services.stores), metrics.INTEGRITY_FAILURES.inc
        )
        queues = [(f"replication-{n}", replication.run_one) for n in range(COPIERS)]
        queues.append(("jobs", services.job_runner.run_one))
        self._threads = [
            threading.Thread(target=self._work_off, args=(run_one,), name=name)
            for name, run_one in queues
        ]
        self._threads.append(
            threading.Thread(target=self._repeat, args=(self.housekeep,), name="housekeeping")
        )

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish what is in hand and end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def housekeep(self) -> None:
        """One round of sweep, purge and expiry. Raises: DatabaseUnavailable."""
        self._services.sweep.run()
        purged = self._services.purge.run(clock.now())
        if purged:
            _log.info("purged %d documents", purged)
        self._services.idempotency.expire()
        self._rotate_when_due()
        metrics.BACKLOG.clear()
        for (site, operation), waiting in self._services.journal.backlog().items():
            metrics.BACKLOG.labels(site, operation).set(waiting)

    def _rotate_when_due(self) -> None:
        days = self._services.settings.kms.rotate_every_days
        if days is not None and self._services.keks.rotate_when_due(timedelta(days=days)):
            with suppress(JobUnderWay):
                self._services.jobs.start(None, JobKind.REWRAP)

    def _work_off(self, run_one: Callable[[], bool]) -> None:
        while not self._stopping.is_set():
            if not self._attempt(run_one):
                self._stopping.wait(IDLE_SECONDS)

    def _repeat(self, work: Callable[[], object]) -> None:
        while not self._stopping.is_set():
            self._attempt(work)
            self._stopping.wait(HOUSEKEEPING_SECONDS)

    def _attempt(self, work: Callable[[], object]) -> object:
        """Run `work`; whatever it raises is logged, and the loop goes on."""
        try:
            return work()
        except (VaultError, StoreError, KeyManagementError):
            _log.warning("%s: a dependency is away", threading.current_thread().name)
        except Exception:  # noqa: BLE001 (a worker that died of one bad row would stop them all)
            _log.exception("%s failed", threading.current_thread().name)
        return False
