"""Reading whole objects in bounded memory: to copy them, or to see that they are what they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

from vault.objects.store import PART_SIZE_BYTES, ObjectStore

SMALL_BYTES: Final = 16 * 1024

HASHED_BYTES: Final = 2**20
"""Read and hashed at a time: it stays in the processor's cache, and both sites may be read at once."""


def parts(store: ObjectStore, key: str, *, first: int = 1) -> Iterator[memoryview]:
    """The object in pieces of `PART_SIZE_BYTES`; each is valid until the next is asked for.

    Args:
        first: number of the part to begin with, from 1; behind the last one there are none.

    Raises: ObjectMissing, StoreError.
    """
    offset = (first - 1) * PART_SIZE_BYTES
    if offset and offset >= store.size(key):
        return  # S3 refuses a range behind the end as if the object were missing
    yield from _pieces(store, key, offset, PART_SIZE_BYTES)


def sha256_of(
    store: ObjectStore, key: str, *, each_part: Callable[[], None] = lambda: None
) -> bytes:
    """The digest of the object as the store gives it back; `each_part` is called now and then."""
    digest = hashlib.sha256()
    for piece in _pieces(store, key, 0, HASHED_BYTES):
        digest.update(piece)
        each_part()
    return digest.digest()


def small_object(store: ObjectStore, key: str) -> bytes:
    """An object of at most `SMALL_BYTES`, whole; of a larger one just the beginning.

    Raises: ObjectMissing, StoreError.
    """
    buffer = memoryview(bytearray(SMALL_BYTES))
    with closing(store.open(key)) as reader:
        return bytes(buffer[: reader.readinto(buffer)])


def _pieces(store: ObjectStore, key: str, offset: int, size_bytes: int) -> Iterator[memoryview]:
    with closing(store.open(key, offset)) as reader:
        # As large as needed: filling a whole part's with zeros costs more than a small object.
        buffer = memoryview(bytearray(max(1, min(size_bytes, reader.object_size_bytes))))
        while size := reader.readinto(buffer):
            yield buffer[:size]
