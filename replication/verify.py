"""Proving copies equal now: one document, or every object at every site."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from replication.reading import CopyState, Reading, tally
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.errors import NotFound
from vault.incidents import FoundBy
from vault.inventory import Inventory
from vault.jobrun import JobRun


@dataclass(frozen=True)
class VerifiedCopy:
    """What a look at one copy of one version showed."""

    version: int
    site: str
    state: CopyState


class Verify:
    """The work of the job `verify`, and the look at one document."""

    def __init__(
        self, database: ServiceDatabase, inventory: Inventory, reading: Reading, sites: list[str]
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._reading = reading
        self._sites = sites

    def document(self, actor: Actor, document_id: UUID) -> list[VerifiedCopy]:
        """Read every version of a document back at every site.

        Raises:
            NotAllowed, NotFound, DatabaseUnavailable.
        """
        require(actor.caller, Action.SITE_MANAGE)
        objects = self._inventory.of_document(document_id)
        if not objects:
            raise NotFound("document")
        seen = [
            VerifiedCopy(stored.version, site, state)
            for site in self._sites
            for stored, state in zip(
                objects, self._reading.read(site, objects, FoundBy.VERIFY), strict=True
            )
        ]
        detail = {"states": dict(tally(copy.state for copy in seen))}
        with self._database.transaction() as connection:
            event = AccessEvent(EventType.REPLICAS_VERIFIED, actor, document_id, detail=detail)
            record(connection, event)
        return sorted(seen, key=lambda copy: (copy.version, copy.site))

    def run(self, run: JobRun) -> dict[str, Any]:
        """Read every object back at every site; counts by site and state.

        Raises: as `jobrun.Work`.
        """
        place = run.place or {"after": None, "sites": {site: {} for site in self._sites}}
        after = place["after"] and UUID(place["after"])
        counts = {site: Counter(place["sites"][site]) for site in self._sites}
        total, done = self._inventory.count(), run.done
        run.report(done=done, total=total, place=place)
        for batch in self._inventory.by_id(after):
            for slice_ in (batch[start : start + 100] for start in range(0, len(batch), 100)):
                for site in self._sites:
                    counts[site] += tally(
                        self._reading.read(site, slice_, FoundBy.VERIFY, run.keep)
                    )
                done += len(slice_)
                place = {"after": str(slice_[-1].object_id), "sites": counts}
                run.report(done=done, total=max(total, done), place=place)
        return {"sites": {site: dict(count) for site, count in counts.items()}}
