"""Reading copies back: is what a site holds what was stored? Nothing is believed but the bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, wait
from enum import StrEnum
from typing import Final

from vault.incidents import FoundBy, IncidentKind, Incidents, Loss
from vault.inventory import Inventory, Stored
from vault.objects.health import SiteHealth
from vault.objects.keys import object_key
from vault.objects.reading import sha256_of
from vault.objects.store import ObjectMissing, StoreError

WAIT_SECONDS: Final = 1.0


class CopyState(StrEnum):
    """What a look at one copy showed."""

    VERIFIED = "verified"
    MISSING = "missing"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"
    PURGED = "purged"
    """Nothing is wrong: its version ended while it was looked at."""


class Reading:
    """Reads copies back and remembers what it saw: replicas that count, incidents, repairs."""

    def __init__(
        self, health: SiteHealth, inventory: Inventory, incidents: Incidents, executor: Executor
    ) -> None:
        self._health = health
        self._inventory = inventory
        self._incidents = incidents
        self._executor = executor

    def read(
        self,
        site: str,
        objects: Sequence[Stored],
        found_by: FoundBy,
        keep: Callable[[], None] = lambda: None,
    ) -> list[CopyState]:
        """The state of the copy of each object at `site`, several at a time.

        Args:
            keep: called now and then; whatever it raises ends the looks.

        Raises: DatabaseUnavailable: what was seen is not remembered.
        """
        since = self._inventory.now()
        states = self._look_at_all(site, objects, keep)
        seen = list(zip(objects, states, strict=True))
        whole = [each.object_id for each, state in seen if state is CopyState.VERIFIED]
        self._inventory.verified(site, whole, since)
        return [self._judged(site, each, state, found_by) for each, state in seen]

    def _judged(self, site: str, stored: Stored, state: CopyState, found_by: FoundBy) -> CopyState:
        if state not in (CopyState.MISSING, CopyState.DAMAGED):
            return state
        kind = IncidentKind(state.value)
        loss = self._incidents.replica_lost(stored.object_id, site, kind, found_by)
        return CopyState.PURGED if loss is Loss.GONE else state

    def _look_at_all(
        self, site: str, objects: Sequence[Stored], keep: Callable[[], None]
    ) -> list[CopyState]:
        looks = [self._executor.submit(self._look, site, stored) for stored in objects]
        try:
            while wait(looks, timeout=WAIT_SECONDS).not_done:
                keep()
        finally:
            for look in looks:
                look.cancel()
        return [look.result() for look in looks]

    def _look(self, site: str, stored: Stored) -> CopyState:
        if not self._health.is_up(site):
            return CopyState.UNREACHABLE  # at once: asked, a hung one would answer each look late
        store = self._health.stores[site]
        try:
            digest = sha256_of(store, object_key(stored.object_id))
        except ObjectMissing:
            return CopyState.MISSING
        except StoreError:
            return CopyState.UNREACHABLE
        return CopyState.VERIFIED if digest == stored.sha256 else CopyState.DAMAGED


def tally(states: Iterable[CopyState]) -> Counter[str]:
    """How many there are of each."""
    return Counter(state.value for state in states)
