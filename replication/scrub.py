"""Scrub: do the sites hold what PostgreSQL says, and does it still read back as it was stored?

```
for each site: companions → listing merged with PostgreSQL → leavings of broken-off copies
then, at each site, the copies that were read back longest ago: so many that all are within the period
```
Every difference is looked at again before it counts, since both lists are older than the look. Missing and
wrong copies are repaired from the other site; what was deleted and rose again is deleted again; what
nothing explains is remembered (`orphans`) and left alone. It goes at a bounded rate, and on from where it
was stopped.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from replication.companions import Companions
from replication.leavings import Leavings
from replication.merge import Difference, Finding, differences, windows
from replication.reading import CopyState, Reading, tally
from vault.incidents import FoundBy, IncidentKind, Incidents, Loss
from vault.inventory import BATCH, Inventory, Stored
from vault.jobrun import JobRun
from vault.journal import Reason
from vault.objects.health import SiteHealth
from vault.objects.keys import PREFIX, object_key
from vault.objects.store import ObjectMissing, StoredObject

READ_AT_ONCE: Final = 50
REST_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Pace:
    """How fast a scrub goes.

    Attributes:
        period: within which every copy is read back.
        every: how often a scrub runs.
        objects_per_second: listed and compared.
        bytes_per_second: read back and hashed.
    """

    period: timedelta = timedelta(days=30)
    every: timedelta = timedelta(days=1)
    objects_per_second: int = 20_000
    bytes_per_second: int = 100 * 2**20


class Scrub:
    """The work of the job `scrub`."""

    def __init__(
        self,
        *,
        health: SiteHealth,
        inventory: Inventory,
        incidents: Incidents,
        companions: Companions,
        leavings: Leavings,
        reading: Reading,
        pace: Pace,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._health = health
        self._inventory = inventory
        self._incidents = incidents
        self._companions = companions
        self._leavings = leavings
        self._reading = reading
        self._pace = pace
        self._pause = pause

    def run(self, run: JobRun) -> Mapping[str, Any]:
        """One pass over every site that answers; one that is away holds up no look at the other.

        Raises: as `jobrun.Work`.
        """
        progress = _Progress(run, sorted(self._health.stores), self._inventory.count())
        progress.report()
        for phase, work in (("listing", self._list), ("reading", self._read)):
            for site in progress.sites:
                if progress.has_ended(phase, site):
                    continue
                if self._health.is_up(site):
                    work(site, progress)
                else:
                    progress.count(site, f"{phase}-left-out")
        return progress.result()

    def _list(self, site: str, progress: _Progress) -> None:
        self._companions.destroy_risen(site)
        if len(self._health.up()) == len(self._health.stores):
            self._companions.copy_to(site)
        began = self._inventory.now()
        after = progress.after(site)
        batches = self._inventory.expected_at(site, after)
        for expected, listed in windows(batches, self._listed(site, after)):
            started = time.monotonic()
            self._judge(site, list(differences(expected, listed)), progress)
            if expected:
                progress.compared(site, len(expected), expected[-1].object_id)
            self._rest(len(expected) / self._pace.objects_per_second, started, progress)
        if after is None:
            self._inventory.forget_orphans(site, began)
        progress.count(site, "leavings", self._leavings.clear(site))
        progress.end("listing", site)

    def _listed(self, site: str, after: UUID | None) -> Iterator[StoredObject]:
        start_after = object_key(after) if after else ""
        return self._health.stores[site].list(PREFIX, start_after)

    def _rest(self, seconds: float, started: float, progress: _Progress) -> None:
        """Wait until what began at `started` has taken that long, which may be longer than a lease."""
        while (left := started + seconds - time.monotonic()) > 0:
            self._pause(min(left, REST_SECONDS))
            progress.keep()

    def _judge(self, site: str, findings: Sequence[Finding], progress: _Progress) -> None:
        extras = [each for each in findings if each.difference is Difference.EXTRA]
        found = self._inventory.judge_extras(
            site, [(each.object_id, each.size_bytes) for each in extras]
        )
        for object_id in found.unknown:
            self._incidents.object_found(site, object_id, IncidentKind.UNEXPECTED, FoundBy.SCRUB)
        progress.count(site, "risen", len(found.risen))
        progress.count(site, "unexpected", len(found.unknown))
        for each in findings:
            if each.difference is not Difference.EXTRA:
                progress.keep()
                self._judge_copy(site, each, progress)

    def _judge_copy(self, site: str, finding: Finding, progress: _Progress) -> None:
        kind = self._looked_again(site, finding)
        if kind is None:
            return
        if finding.is_counted:
            loss = self._incidents.replica_lost(finding.object_id, site, kind, FoundBy.SCRUB)
            progress.count(site, kind.value, int(loss is Loss.NEW))
        else:
            # Never counted: a copy that is due, or one whose row in the journal got lost.
            self._inventory.have_copied(site, [finding.object_id], Reason.REPAIR)
            progress.count(site, "due")

    def _looked_again(self, site: str, finding: Finding) -> IncidentKind | None:
        """What is wrong with a copy at this moment; None: nothing."""
        try:
            size = self._health.stores[site].size(object_key(finding.object_id))
        except ObjectMissing:
            return IncidentKind.MISSING
        is_wrong = finding.difference is Difference.WRONG_SIZE and size == finding.size_bytes
        return IncidentKind.DAMAGED if is_wrong else None

    def _read(self, site: str, progress: _Progress) -> None:
        """The share of this pass: so many that the next ones are through within the period."""
        began = self._inventory.now()
        overdue = began - self._pace.period + self._pace.every
        passes = max(1, math.floor(self._pace.period / self._pace.every))
        share = max(
            self._inventory.unread_count(site, overdue), math.ceil(progress.objects / passes)
        )
        while (left := share - progress.read_at(site)) > 0:
            objects = self._inventory.unread_since(site, began, min(BATCH, left))
            judged = [self._read_some(site, some, progress) for some in _slices(objects)]
            if not any(judged):
                break  # none is left, or the site is away
        progress.end("reading", site)

    def _read_some(self, site: str, objects: Sequence[Stored], progress: _Progress) -> bool:
        """Whether any was judged, and so left the queue."""
        started = time.monotonic()
        states = self._reading.read(site, objects, FoundBy.SCRUB, progress.keep)
        progress.read(site, tally(states))
        seconds = sum(each.size_bytes for each in objects) / self._pace.bytes_per_second
        self._rest(seconds, started, progress)
        return any(state is not CopyState.UNREACHABLE for state in states)


def _slices(objects: Sequence[Stored]) -> Iterator[Sequence[Stored]]:
    for start in range(0, len(objects), READ_AT_ONCE):
        yield objects[start : start + READ_AT_ONCE]


class _Progress:
    """How far a pass is, as the job keeps it."""

    def __init__(self, run: JobRun, sites: list[str], objects: int) -> None:
        self._run = run
        self.sites = sites
        self.objects = run.place.get("objects", objects)
        self._ended: list[str] = run.place.get("ended", [])
        self._after: dict[str, str] = run.place.get("after", {})
        self._counts = {site: Counter(run.place.get("counts", {}).get(site, {})) for site in sites}
        self._compared = run.done

    def has_ended(self, phase: str, site: str) -> bool:
        """Whether it is over for the site."""
        return f"{phase}-{site}" in self._ended

    def end(self, phase: str, site: str) -> None:
        """It is over for the site."""
        self._ended.append(f"{phase}-{site}")
        self.report()

    def after(self, site: str) -> UUID | None:
        """The id after which comparing goes on."""
        found = self._after.get(site)
        return UUID(found) if found else None

    def compared(self, site: str, count: int, last: UUID) -> None:
        """So many more were compared, `last` the last of them."""
        self._after[site] = str(last)
        self._counts[site]["compared"] += count
        self._compared += count
        self.report()

    def count(self, site: str, what: str, number: int = 1) -> None:
        """Something was found."""
        self._counts[site][what] += number

    def read(self, site: str, states: Counter[str]) -> None:
        """Copies were read back."""
        self._counts[site].update({f"read-{state}": count for state, count in states.items()})
        self.report()

    def read_at(self, site: str) -> int:
        """How many were read back at the site."""
        return sum(count for what, count in self._counts[site].items() if what.startswith("read-"))

    def keep(self) -> None:
        """Between reports that are far apart. Raises: JobStopped, JobLost."""
        self._run.keep()

    def report(self) -> None:
        """Raises: JobStopped, JobLost."""
        read = sum(map(self.read_at, self.sites))
        total = len(self.sites) * self.objects
        self._run.report(
            done=self._compared,
            total=max(total, self._compared),
            place={
                "objects": self.objects,
                "ended": self._ended,
                "after": self._after,
                "counts": self._counts,
                "read": read,
            },
        )

    def result(self) -> dict[str, Any]:
        """For people."""
        return {"sites": {site: dict(counts) for site, counts in self._counts.items()}}
