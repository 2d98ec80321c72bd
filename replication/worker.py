"""Works off the journal: any number of workers in any number of processes, one row each at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from replication.copier import Copier, CopyDiffers
from vault.journal import Journal, Operation, Task
from vault.objects.store import StoreError

_log = logging.getLogger(__name__)


class ReplicationWorker:
    """One worker."""

    def __init__(
        self, journal: Journal, copier: Copier, on_damage: Callable[[], None] = lambda: None
    ) -> None:
        """`on_damage` is told of every copy that differs from its record."""
        self._journal = journal
        self._copier = copier
        self._on_damage = on_damage

    def run_one(self) -> bool:
        """Claim and do one task; False when none is due. Raises: DatabaseUnavailable."""
        task = self._journal.claim()
        if task is None:
            return False
        try:
            self._copier.perform(task)
        except (StoreError, CopyDiffers) as exc:
            if isinstance(exc, CopyDiffers):
                self._on_damage()
            _log.warning("a journal task failed and will be tried again: %s", exc)
            self._journal.failed(task, str(exc))
        else:
            self._done(task)
        return True

    def _done(self, task: Task) -> None:
        if task.operation is Operation.COPY:
            self._journal.copied(task)
        else:
            self._journal.deleted(task)
