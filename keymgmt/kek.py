"""One key-encryption key (KEK) with its versions, as the embedded keyring holds it.

A wrapped key is the text ``local:v<version>:<base64>`` of

    nonce (12) | AES-256-GCM of the data key (32) | tag (16)

under HKDF-SHA256(KEK version, info = context), 32 bytes (RFC 5869): the KEK version itself encrypts
nothing, as in Transit with `derived` keys. Random nonces are safe, since a derived key serves one
context and so a handful of wraps; NIST SP 800-38D §8.3 allows 2^32.

Values are immutable: every change makes a new `Kek`.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import KeyState, WrappedKey
from keymgmt.secret import KEY_SIZE_BYTES, SecretKey

_NONCE_SIZE_BYTES: Final = 12
_WRAPPED: Final = re.compile(r"local:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]{80})")
"""80 characters of base64 are the 60 bytes above, without padding and so in one way only."""


class KekVersion(SecretKey):
    """The key material of one version of a KEK."""

    __slots__ = ()


@dataclass(frozen=True)
class Kek:
    """A KEK's versions, without gaps from the oldest one kept to the newest.

    Attributes:
        oldest_usable: lowest version that still unwraps, at least the oldest one kept.
    """

    name: str
    oldest_usable: int
    versions: Mapping[int, KekVersion]

    @classmethod
    def generate(cls, name: str) -> Kek:
        """A new KEK at version 1."""
        return cls(name, oldest_usable=1, versions={1: KekVersion.generate()})

    @property
    def state(self) -> KeyState:
        return KeyState(
            kek=self.name,
            latest=self._latest,
            oldest_usable=self.oldest_usable,
            oldest_kept=min(self.versions),
        )

    @property
    def _latest(self) -> int:
        return max(self.versions)

    def wrap(self, context: bytes, data_key: DataKey) -> WrappedKey:
        """Seal a data key under the newest version."""
        nonce = os.urandom(_NONCE_SIZE_BYTES)
        aead = _derived_aead(self.versions[self._latest], context)
        sealed = nonce + aead.encrypt(nonce, data_key.reveal_to_keymgmt(), None)
        return WrappedKey(f"local:v{self._latest}:{base64.b64encode(sealed).decode()}")

    def unwrap(self, context: bytes, wrapped: WrappedKey) -> DataKey:
        """Raises: KeyVersionRetired, DecryptionFailed."""
        version, sealed = _parse(wrapped)
        if version < self.oldest_usable:
            raise KeyVersionRetired(self.name, version)
        if version > self._latest:
            raise DecryptionFailed
        aead = _derived_aead(self.versions[version], context)
        try:
            raw = aead.decrypt(sealed[:_NONCE_SIZE_BYTES], sealed[_NONCE_SIZE_BYTES:], None)
        except InvalidTag as exc:
            raise DecryptionFailed from exc
        return DataKey(raw)

    def rewrap(self, context: bytes, wrapped: WrappedKey) -> WrappedKey:
        """The same data key under the newest version. Raises: as `unwrap`."""
        return self.wrap(context, self.unwrap(context, wrapped))

    def rotated(self) -> Kek:
        """With one version more, which wraps from now on."""
        return replace(self, versions={**self.versions, self._latest + 1: KekVersion.generate()})

    def retired(self, below: int) -> Kek:
        """With versions under `below` unusable; what was trimmed stays so.

        Raises:
            ValueError: `below` is not the number of a version.
        """
        if not 1 <= below <= self._latest:
            raise ValueError(f"key {self.name!r} has versions 1 to {self._latest}, not {below}")
        return replace(self, oldest_usable=max(below, min(self.versions)))

    def trimmed(self) -> Kek:
        """Without the material of its retired versions."""
        kept = {n: key for n, key in self.versions.items() if n >= self.oldest_usable}
        return replace(self, versions=kept)


def _derived_aead(version: KekVersion, context: bytes) -> AESGCM:
    hkdf = HKDF(SHA256(), KEY_SIZE_BYTES, salt=None, info=context)
    return AESGCM(hkdf.derive(version.reveal_to_keymgmt()))


def _parse(wrapped: WrappedKey) -> tuple[int, bytes]:
    """The version and the sealed bytes. Raises: DecryptionFailed."""
    match = _WRAPPED.fullmatch(wrapped.text)
    if match is None:
        raise DecryptionFailed
    return int(match[1]), base64.b64decode(match[2])
