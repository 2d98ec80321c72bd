"""SecretKey: 32 raw key bytes that resist being seen, copied into a log or pickled."""

from __future__ import annotations

import os
from typing import NoReturn, Self

from typing_extensions import override

KEY_SIZE_BYTES = 32


class SecretKey:
    """256 secret bits; each kind of key is a type of its own, so that none passes for another.

    The bytes are reached only through `reveal_to_keymgmt`, a name that is easy to search for.
    """

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        """Raises: ValueError if `raw` is not 32 bytes."""
        if len(raw) != KEY_SIZE_BYTES:
            raise ValueError("a key has 32 bytes")
        self._raw = raw

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's generator."""
        return cls(os.urandom(KEY_SIZE_BYTES))

    def reveal_to_keymgmt(self) -> bytes:
        """The 32 raw bytes; called in this room only (the house tests look for strays)."""
        return self._raw

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}(****)"

    @override
    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled or copied")
