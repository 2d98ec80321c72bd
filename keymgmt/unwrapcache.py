"""A cache of unwrapped data keys, for reading only: it hands out nothing that anybody encrypts with.

An entry is found only by the very commitment and format it was checked against: a cache that forgot them
would let a caller with a weaker policy in through the door of a stricter one (CVE-2026-6550).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.provider import KeyProvider, WrappedKey

MAX_TTL_SECONDS: Final = 300.0

_Place = tuple[str, str, bytes, int, bytes]


class UnwrapCache:
    """Bounded, and short-lived. Safe for threads; no lock is held while the KMS is asked.

    Attributes:
        hits, misses: counted since the start.
    """

    def __init__(
        self,
        *,
        capacity: int = 4096,
        ttl_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises: ValueError if the time to live is not within `MAX_TTL_SECONDS`."""
        if not 0 <= ttl_seconds <= MAX_TTL_SECONDS:
            raise ValueError(f"a data key is cached for at most {MAX_TTL_SECONDS:.0f} seconds")
        self._capacity = capacity
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Place, tuple[float, DataKey]] = OrderedDict()
        self._generation = 0
        self.hits = 0
        self.misses = 0

    def unwrap(
        self,
        provider: KeyProvider,
        kek: str,
        context: bytes,
        wrapped: WrappedKey,
        *,
        object_format: int,
        commitment: bytes,
    ) -> DataKey:
        """The data key, held to its commitment; from the cache, or else from the provider.

        Raises:
            DecryptionFailed: it does not open, or is another key than the one committed to.
            KeyNotFound, KeyVersionRetired, KeyServiceUnavailable: as `KeyProvider.unwrap`.
        """
        place = (kek, wrapped.text, context, object_format, commitment)
        cached, generation = self._look_up(place)
        if cached is not None:
            return cached
        data_key = provider.unwrap(kek, context, wrapped)
        verify(data_key, context, commitment)
        self._store(place, data_key, generation)
        return data_key

    def purge(self) -> None:
        """Forget every key at once, also those that are being unwrapped just now."""
        with self._lock:
            self._generation += 1
            self._entries.clear()

    def _look_up(self, place: _Place) -> tuple[DataKey | None, int]:
        with self._lock:
            expires, data_key = self._entries.get(place, (0.0, None))
            if data_key is not None and self._clock() < expires:
                self.hits += 1
                self._entries.move_to_end(place)
            else:
                self.misses += 1
                self._entries.pop(place, None)
                data_key = None
            return data_key, self._generation

    def _store(self, place: _Place, data_key: DataKey, generation: int) -> None:
        with self._lock:
            if generation != self._generation:
                return
            self._entries[place] = (self._clock() + self._ttl_seconds, data_key)
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
