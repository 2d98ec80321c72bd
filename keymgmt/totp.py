"""TOTP secrets: what an authenticator app and the service share (RFC 6238 over RFC 4226).

At rest the secret is wrapped by the key provider like a data key, bound to its vault and its principal, so
that a row copied to another person, or to another vault, opens nothing. In the clear it leaves this room
once: at enrolment, as the app takes it.

Does not handle: that a code counts once (the caller remembers the last step), and how often one may guess.
"""

from __future__ import annotations

import base64
import hmac
import re
from datetime import datetime
from typing import Final
from uuid import UUID

import pyotp

from keymgmt.datakey import DataKey
from keymgmt.provider import KeyProvider, WrappedKey
from keymgmt.secret import SecretKey

ISSUER: Final = "Strongroom"
STEP_SECONDS: Final = 30
DIGITS: Final = 6
DRIFT_STEPS: Final = 1
"""Codes of the step before and after count too, for a clock that is off and a person who types (RFC 6238
§5.2 recommends no more)."""

SECRET_SIZE_BYTES: Final = 20
"""What RFC 4226 §4 recommends, and the most that apps take alike: the first 20 of the key's 32 bytes."""

_TAG: Final = b"strongroom/totp-secret/v1"
_CODE: Final = re.compile(rf"[0-9]{{{DIGITS}}}")


class TotpSecret(SecretKey):
    """The secret of one person's authenticator app."""

    __slots__ = ()

    @property
    def base32(self) -> str:
        """As a person types it into an app: 32 letters and digits. Shown at enrolment, kept nowhere."""
        return base64.b32encode(self.reveal_to_keymgmt()[:SECRET_SIZE_BYTES]).decode()

    def uri(self, account: str) -> str:
        """As an app reads it from a QR code (Key Uri Format of Google Authenticator)."""
        return self._totp().provisioning_uri(name=account, issuer_name=ISSUER)

    def step_of(self, code: str, at: datetime) -> int | None:
        """The time step of which this is the code, within `DRIFT_STEPS` of `at`; None: it is none.

        Every step is compared, in constant time each, so that the time tells nothing of which one it was.
        """
        typed = code.replace(" ", "")
        if not _CODE.fullmatch(typed):
            return None
        now, totp = int(at.timestamp()) // STEP_SECONDS, self._totp()
        steps = range(now - DRIFT_STEPS, now + DRIFT_STEPS + 1)
        fits = [hmac.compare_digest(totp.generate_otp(step), typed) for step in steps]
        return next((step for step, fit in zip(steps, fits, strict=True) if fit), None)

    def _totp(self) -> pyotp.TOTP:
        return pyotp.TOTP(self.base32, digits=DIGITS, interval=STEP_SECONDS)


def wrap(provider: KeyProvider, kek: str, vault_id: UUID, owner: UUID, secret: TotpSecret) -> str:
    """The secret wrapped under the newest version of `kek`, at most 512 ASCII characters.

    Raises:
        KeyManagementError: as `KeyProvider.wrap`.
    """
    context = wrapping_context(vault_id, owner)
    return provider.wrap(kek, context, DataKey(secret.reveal_to_keymgmt())).text


def unwrap(
    provider: KeyProvider, kek: str, vault_id: UUID, owner: UUID, wrapped_secret: str
) -> TotpSecret:
    """The secret of this principal.

    Raises:
        DecryptionFailed: it is another vault's, another principal's, or altered.
        KeyManagementError: as `KeyProvider.unwrap`.
    """
    context = wrapping_context(vault_id, owner)
    raw = provider.unwrap(kek, context, WrappedKey(wrapped_secret)).reveal_to_keymgmt()
    return TotpSecret(raw)


def wrapping_context(vault_id: UUID, owner: UUID) -> bytes:
    """The KEK context of a wrapped secret: a tag (25 bytes), the vault id (16), the principal's id (16)."""
    return _TAG + vault_id.bytes + owner.bytes
