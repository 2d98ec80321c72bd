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
    """

    rounds: int
    large_bytes: int
    small_seconds: float
    memory_bytes: int
    documents: int
    keys: int
    many_keys: int


FULL: Final = Plan(5, 1 * GIB, 3.0, 5 * GIB, 1_000_000, 100_000, 1_000_000)
QUICK: Final = Plan(3, 256 * MIB, 1.0, 640 * MIB, 100_000, 10_000, 100_000)
