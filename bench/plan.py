"""How much is measured: in full, or quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30


@dataclass(frozen=True)
class Plan:
    """Sizes and repetitions.

    Attributes:
        rounds: how often each pair is measured, in turns.
        large_bytes: one large document; a multiple of 8 MiB.
        small_seconds: how long small documents are sent, per round and side.
        memory_bytes: a document in flight while memory is watched; a multiple of 40 MiB.
        documents: how many the long list holds.
        keys: data keys to rewrap, drill and shred; a multiple of 1,000.
        many_keys: for how the time grows; likewise.
        copies: how many objects of 4 KiB are copied per round; a multiple of 8.
        lag_seconds: how long documents arrive while it is watched when they are verified.
        beside_bytes: one object that is copied meanwhile.
        resync: objects that an emptied site lacks.
        listed: objects in the listing that a scrub merges.
    """

    rounds: int
    large_bytes: int
    small_seconds: float
    memory_bytes: int
    documents: int
    keys: int
    many_keys: int
    copies: int
    lag_seconds: float
    beside_bytes: int
    resync: int
    listed: int


FULL: Final = Plan(
    rounds=5,
    large_bytes=1 * GIB,
    small_seconds=3.0,
    memory_bytes=5 * GIB,
    documents=1_000_000,
    keys=100_000,
    many_keys=1_000_000,
    copies=4_000,
    lag_seconds=20.0,
    beside_bytes=8 * GIB,
    resync=20_000,
    listed=1_000_000,
)
QUICK: Final = Plan(
    rounds=3,
    large_bytes=256 * MIB,
    small_seconds=1.0,
    memory_bytes=640 * MIB,
    documents=100_000,
    keys=10_000,
    many_keys=100_000,
    copies=800,
    lag_seconds=6.0,
    beside_bytes=2 * GIB,
    resync=2_000,
    listed=100_000,
)
