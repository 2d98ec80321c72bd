"""Replication in a test's own hands: one worker, run until nothing is due."""

from __future__ import annotations

from sqlalchemy import func, update

from api.services import Services
from replication.worker import ANY_SIZE, ReplicationWorker
from vault.journal import Bulk
from vault.tables import journal


def worker_of(services: Services, bulks: tuple[Bulk, ...] = ANY_SIZE) -> ReplicationWorker:
    """A worker that shares everything with the service."""
    return ReplicationWorker(services.journal, services.health, services.incidents, bulks=bulks)


def work_off(services: Services) -> None:
    """Do what is due."""
    worker = worker_of(services)
    while worker.run_one():
        pass


def make_all_due(services: Services) -> None:
    """As if the delays after failures, and the leases of dead workers, were over."""
    services.database.as_service().execute(update(journal).values(due_at=func.now()), {})


def waiting(services: Services) -> dict[tuple[str, str], int]:
    """How many rows wait or are parked, by (site, operation)."""
    found: dict[tuple[str, str], int] = {}
    for row in services.journal.backlog():
        place = (row.site, row.operation.value)
        found[place] = found.get(place, 0) + row.waiting + row.parked
    return found
