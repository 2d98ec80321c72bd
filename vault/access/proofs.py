"""Proofs: whether what somebody typed shows that they are who they say.

Password and code are both judged, whatever the first one gave, and for a name that nobody has, a decoy's. So
every refusal costs the same, and neither its time nor its words tell which names there are or which half
was right. The reason is for the log. Does not handle: that a code counts once, which takes the row's lock.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from keymgmt.totp import TotpSecret
from vault.access import recovery_codes
from vault.access.local_users import Credentials, LocalUser, LocalUsers
from vault.access.passwords import Passwords
from vault.errors import InvalidValue

_NOBODY: Final = UUID(int=0)


@dataclass(frozen=True)
class Shown:
    """What somebody typed; exactly one of the codes."""

    password: str = field(repr=False)
    totp: str | None = field(default=None, repr=False)
    recovery_code: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        if (self.totp is None) == (self.recovery_code is None):
            raise InvalidValue("send the app's code as totp, or a recovery_code instead of it")


@dataclass(frozen=True)
class Proof:
    """What was right, still to be used up.

    Attributes:
        step: of the app's code.
        recovery_sha256: of a recovery code.
        fresh_hash: of the same password, where the stored one was made with older parameters.
    """

    user: LocalUser
    credentials: Credentials
    step: int | None
    recovery_sha256: bytes | None
    fresh_hash: str | None


class NotProved(Exception):
    """Somebody did not show who they are; `reason` is for the log alone.

    Attributes:
        reason: `unknown`, `not-enrolled`, `disabled`, `wrong-password`, `wrong-code`, `code-used`, `changed`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Proofs:
    """Judges what people type. Safe for threads."""

    def __init__(self, users: LocalUsers, passwords: Passwords) -> None:
        self._users = users
        self._passwords = passwords
        self._decoy: Credentials | None = None

    def judge(self, user: LocalUser | None, shown: Shown, at: datetime) -> Proof:
        """What of it is right.

        Raises: NotProved, SignInBusy, KeyServiceUnavailable.
        """
        decoy = self._decoy or self._make_decoy()
        tried = (user and user.credentials) or decoy
        is_right = self._passwords.matches(tried.password_hash, shown.password)
        step, recovery_sha256 = self._code(tried, shown, at)
        if user is None:
            raise NotProved("unknown")
        if user.credentials is None:
            raise NotProved("not-enrolled")
        if user.is_disabled:
            raise NotProved("disabled")
        if not is_right:
            raise NotProved("wrong-password")
        if step is None and recovery_sha256 is None:
            raise NotProved("wrong-code")
        outdated = self._passwords.is_outdated(tried.password_hash)
        fresh_hash = self._passwords.hash(shown.password) if outdated else None
        return Proof(user, user.credentials, step, recovery_sha256, fresh_hash)

    def _code(
        self, tried: Credentials, shown: Shown, at: datetime
    ) -> tuple[int | None, bytes | None]:
        if shown.recovery_code is not None:
            typed = recovery_codes.digest(shown.recovery_code)
            fits = [hmac.compare_digest(typed, each) for each in tried.recovery_sha256]
            return None, typed if any(fits) else None
        secret = self._users.unwrap(tried.owner, tried.totp_secret)
        if secret is None and tried is self._decoy:
            self._decoy = None  # its KEK version was retired
        return None if secret is None else secret.step_of(shown.totp or "", at), None

    def _make_decoy(self) -> Credentials:
        """Credentials that nobody has, with the parameters of everybody's."""
        _, codes = recovery_codes.make_codes()
        self._decoy = decoy = Credentials(
            owner=_NOBODY,
            password_hash=self._passwords.hash(secrets.token_urlsafe(32)),
            totp_secret=self._users.wrap(_NOBODY, TotpSecret.generate()),
            recovery_sha256=tuple(codes),
        )
        return decoy
