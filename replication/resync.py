"""Resync: a site that was emptied, or came back incomplete, gets everything again, the newest first.

The job only looks what is missing and has it copied; the copies are made by the journal's workers, and
start with the first batch. It ends when nothing of them waits any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from replication.companions import Companions
from replication.sitemarks import SiteMarks
from vault.incidents import IncidentKind, Incidents
from vault.inventory import Expected, Inventory, Stored
from vault.jobrun import JobRun
from vault.journal import Journal, Reason
from vault.objects.health import SiteHealth
from vault.objects.keys import object_key
from vault.objects.store import ObjectMissing

FIRST_BATCH: Final = 100
"""So small that copies begin at once."""

LOOK_EVERY_SECONDS: Final = 1.0


class Resync:
    """The work of the jobs `resync-a` and `resync-b`."""

    def __init__(
        self,
        *,
        health: SiteHealth,
        inventory: Inventory,
        incidents: Incidents,
        journal: Journal,
        companions: Companions,
        marks: SiteMarks,
        executor: Executor,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._health = health
        self._inventory = inventory
        self._incidents = incidents
        self._journal = journal
        self._companions = companions
        self._marks = marks
        self._executor = executor
        self._pause = pause

    def run(self, site: str, run: JobRun) -> Mapping[str, Any]:
        """Bring `site` up to what PostgreSQL says it should hold.

        Raises: as `jobrun.Work`.
        """
        store = self._health.stores[site]
        store.prepare()
        place = run.place or {"before": None, "looked": 0, "missing": 0, "has_looked": False}
        total = self._inventory.count()
        run.report(done=run.done, total=total, place=place)
        self._companions.copy_to(site)
        if not place["has_looked"]:
            place = self._look(site, run, place, total)
        self._wait(site, run, place, total)
        if self._was_emptied_again(site):
            run.report(done=0, total=total, place={})
            return self.run(site, run)
        self._marks.renew(site)
        self._incidents.resolve(site, "resynced", kind=IncidentKind.EMPTIED)
        return {"site": site, "looked": place["looked"], "missing": place["missing"]}

    def _look(self, site: str, run: JobRun, place: dict[str, Any], total: int) -> dict[str, Any]:
        for batch in self._inventory.newest_first(_cursor(place)):
            for objects in _slices(batch, is_first=place["looked"] == 0):
                missing = self._missing(site, objects)
                self._note(site, missing)
                last = objects[-1]
                place = {
                    "before": [last.created_at.isoformat(), str(last.object_id)],
                    "looked": place["looked"] + len(objects),
                    "missing": place["missing"] + len(missing),
                    "has_looked": False,
                }
                run.report(done=self._done(site, place["looked"]), total=total, place=place)
        return {**place, "has_looked": True}

    def _was_emptied_again(self, site: str) -> bool:
        """Then a copy that counts is gone, whichever one looks for."""
        batch = next(self._inventory.expected_at(site), [])
        counted = next((each for each in batch if each.is_counted), None)
        return counted is not None and not self._has(site, counted)

    def _missing(self, site: str, objects: Sequence[Stored]) -> list[Stored]:
        there = self._executor.map(lambda stored: self._has(site, stored), objects)
        return [stored for stored, is_there in zip(objects, there, strict=True) if not is_there]

    def _has(self, site: str, stored: Stored | Expected) -> bool:
        try:
            size = self._health.stores[site].size(object_key(stored.object_id))
        except ObjectMissing:
            return False
        return size == stored.size_bytes

    def _note(self, site: str, missing: Sequence[Stored]) -> None:
        self._inventory.lost(site, [stored.object_id for stored in missing])
        self._inventory.have_copied(site, [stored.object_id for stored in missing], Reason.RESYNC)

    def _wait(self, site: str, run: JobRun, place: dict[str, Any], total: int) -> None:
        """Until nothing waits for the site; parked rows are incidents of their own and hold up nothing."""
        while left := self._left(site):
            run.report(done=max(total - left, 0), total=total, place=place)
            self._pause(LOOK_EVERY_SECONDS)
        run.report(done=total, total=total, place=place)

    def _left(self, site: str) -> int:
        return self._journal.waiting(site, Reason.RESYNC)

    def _done(self, site: str, looked: int) -> int:
        return max(looked - self._left(site), 0)


def _cursor(place: Mapping[str, Any]) -> tuple[datetime, UUID] | None:
    if place["before"] is None:
        return None
    moment, object_id = place["before"]
    return datetime.fromisoformat(moment), UUID(object_id)


def _slices(batch: list[Stored], *, is_first: bool) -> list[list[Stored]]:
    first = FIRST_BATCH if is_first else len(batch)
    return [part for part in (batch[:first], batch[first:]) if part]
