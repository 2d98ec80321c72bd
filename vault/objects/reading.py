"""Reading whole objects in bounded memory: to copy them, or to see that they are what they should be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from vault.objects.store import PART_SIZE_BYTES, ObjectStore

SMALL_BYTES: Final = 16 * 1024


def parts(store: ObjectStore, key: str) -> Iterator[memoryview]:
    """The object in pieces of `PART_SIZE_BYTES`; each is valid until the next is asked for."""
    buffer = memoryview(bytearray(PART_SIZE_BYTES))
    with closing(store.open(key)) as reader:
        while size := reader.readinto(buffer):
            yield buffer[:size]


def sha256_of(store: ObjectStore, key: str) -> bytes:
    """The digest of the object as the store gives it back."""
    digest = hashlib.sha256()
    for part in parts(store, key):
        digest.update(part)
    return digest.digest()


def small_object(store: ObjectStore, key: str) -> bytes:
    """An object of at most `SMALL_BYTES`, whole; of a larger one just the beginning.

    Raises: ObjectMissing, StoreError.
    """
    buffer = memoryview(bytearray(SMALL_BYTES))
    with closing(store.open(key)) as reader:
        return bytes(buffer[: reader.readinto(buffer)])
