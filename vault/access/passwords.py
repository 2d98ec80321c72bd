"""Passwords: which ones are taken, and how they are stored and checked.

At rest a password is its argon2id hash with the library's parameters (RFC 9106 §4, the second recommended
option: 64 MiB). One check takes that much memory, so a process does a few at a time, keeps a few more waiting
and turns the rest away: strangers who try to sign in take neither its memory nor its threads.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from vault.errors import InvalidValue, SignInBusy

MIN_CHARACTERS: Final = 12
MAX_CHARACTERS: Final = 128
AT_A_TIME: Final = 4
WAITING: Final = 8
_NAME_CHARACTERS: Final = 3
"""A name shorter than that is in too many passwords by chance."""


def normalised(password: str) -> str:
    """A password in Unicode's form NFKC, so that every keyboard writes the same one."""
    return unicodedata.normalize("NFKC", password)


def require_usable(password: str, *names: str | None) -> None:
    """Return if this may become the password of somebody of these names.

    NIST SP 800-63B §3.1.1.2: length counts, composition does not; what is easily guessed of the person is
    refused, and the person told why.

    Raises: InvalidValue.
    """
    text = normalised(password)
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS:
        raise InvalidValue(
            f"a password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters; several words do well"
        )
    for name in names:
        if (
            name
            and len(name) >= _NAME_CHARACTERS
            and normalised(name).casefold() in text.casefold()
        ):
            raise InvalidValue("the password holds the person's name, which is guessed first")


class Passwords:
    """Hashes and checks passwords. Safe for threads."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._working = BoundedSemaphore(AT_A_TIME)
        self._places = BoundedSemaphore(AT_A_TIME + WAITING)

    def hash(self, password: str) -> str:
        """The hash to store, a PHC string. Raises: SignInBusy."""
        with self._turn():
            return self._hasher.hash(normalised(password))

    def matches(self, stored: str, password: str) -> bool:
        """Whether this is the password of a stored hash. Raises: SignInBusy."""
        with self._turn():
            try:
                return self._hasher.verify(stored, normalised(password))
            except (VerificationError, InvalidHashError):
                return False

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than the present ones."""
        return self._hasher.check_needs_rehash(stored)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise SignInBusy
        try:
            with self._working:
                yield
        finally:
            self._places.release()
