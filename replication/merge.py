"""Two sorted lists side by side: what a site lists, and what PostgreSQL says it should hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Final
from uuid import UUID

from vault.inventory import Expected
from vault.objects.keys import object_id_of, object_key
from vault.objects.store import StoredObject

REST: Final = 1000

_END: Final = UUID(int=2**128 - 1)


def windows(
    batches: Iterable[list[Expected]], listed: Iterator[StoredObject]
) -> Iterator[tuple[list[Expected], list[StoredObject]]]:
    """The two lists cut at the same ids, so that one window after the other can be judged and forgotten.

    Windows are as long as the batches; what is listed behind the last batch comes in windows of `REST`.
    """
    ahead = next(listed, None)
    for batch in batches:
        last, window = object_key(batch[-1].object_id), []
        while ahead is not None and ahead.key <= last:
            window.append(ahead)
            ahead = next(listed, None)
        yield batch, window
    rest = listed if ahead is None else chain([ahead], listed)
    while window := list(islice(rest, REST)):
        yield [], window


class Difference(StrEnum):
    """How the two differ about one object."""

    MISSING = "missing"
    EXTRA = "extra"
    WRONG_SIZE = "wrong-size"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference.

    Attributes:
        size_bytes: as listed; for a missing one, as expected.
        is_counted: the copy counted as safe up to now.
    """

    difference: Difference
    object_id: UUID
    size_bytes: int
    is_counted: bool


def differences(expected: Iterable[Expected], listed: Iterable[StoredObject]) -> Iterator[Finding]:
    """Where the lists differ, in the order of ids. Both are in that order; each is gone through once.

    Listed keys that are no objects' are passed over.
    """
    objects = ((object_id_of(each.key), each.size_bytes) for each in listed)
    named = ((object_id, size) for object_id, size in objects if object_id is not None)
    rows = iter(expected)
    row, (found, size) = next(rows, None), next(named, (_END, 0))
    while row is not None or found is not _END:
        if row is not None and row.object_id == found:
            if row.size_bytes != size:
                yield Finding(Difference.WRONG_SIZE, found, size, row.is_counted)
            row, (found, size) = next(rows, None), next(named, (_END, 0))
        elif row is not None and (found is _END or row.object_id < found):
            yield Finding(Difference.MISSING, row.object_id, row.size_bytes, row.is_counted)
            row = next(rows, None)
        else:
            yield Finding(Difference.EXTRA, found, size, is_counted=False)
            found, size = next(named, (_END, 0))
