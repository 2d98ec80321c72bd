"""DataKey: 32 raw key bytes that resist being seen, copied into a log or pickled."""

from __future__ import annotations

import os
from typing import NoReturn

KEY_SIZE_BYTES = 32


class DataKey:
    """A 256-bit data-encryption key (DEK).

    The bytes are reached only through `reveal_to_keymgmt`, a name that is easy to search for.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        """Raises: ValueError if `raw` is not 32 bytes."""
        if len(raw) != KEY_SIZE_BYTES:
            raise ValueError("a data key has 32 bytes")
        self._raw = raw

    @classmethod
    def generate(cls) -> DataKey:
        """A fresh key from the operating system's generator."""
        return cls(os.urandom(KEY_SIZE_BYTES))

    def reveal_to_keymgmt(self) -> bytes:
        """The 32 raw bytes; called in this room only (the house tests look for strays)."""
        return self._raw

    def __repr__(self) -> str:
        return "DataKey(****)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a data key is never pickled or copied")
