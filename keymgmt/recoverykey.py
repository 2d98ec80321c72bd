"""The recovery key pair: its private half lies offline, the service knows the public half only.

HPKE in base mode (RFC 9180 §5.1.1) with the suite

    KEM    0x647a   MLKEM768-X25519, also known as X-Wing (draft-irtf-cfrg-concrete-hybrid-kems)
    KDF    0x0001   HKDF-SHA256
    AEAD   0x0002   AES-256-GCM

which stays secret as long as one of ML-KEM-768 and X25519 does: what is sealed now must outlast the
retention of documents. Any HPKE library that has this suite opens what is sealed here.

    private half   seed (32); SHAKE256(seed, 96) = ML-KEM-768 seed d | z (64) | X25519 scalar (32)
    public half    ML-KEM-768 encapsulation key (1184) | X25519 point (32)
    sealed key     ML-KEM-768 ciphertext (1088) | X25519 point (32) | ciphertext (32) | tag (16)

Base mode says nothing about the sender: whoever has the public half can seal. A key that was opened
is checked against what is on record about it (`commitment`).

Does not handle: what is sealed for whom (`recovery`), the file of the private half (`recoveryfile`).
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from keymgmt.errors import DecryptionFailed, RecoveryKeyInvalid
from keymgmt.secret import KEY_SIZE_BYTES, SecretKey

SEALED_KEY_SIZE_BYTES: Final = 1088 + 32 + KEY_SIZE_BYTES + 16

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MLKEM_PUBLIC_SIZE: Final = 1184
_MLKEM_SEED_SIZE: Final = 64
_EXPANDED_SIZE: Final = _MLKEM_SEED_SIZE + 32
_TEXT_TAG: Final = "strongroom-recovery-1"


@dataclass(frozen=True)
class RecoveryPublicKey:
    """A public half.

    Attributes:
        raw: 1216 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        """Raises: RecoveryKeyInvalid if `raw` is not a public half that can be sealed to."""
        try:
            # Loading the key does not notice an X25519 point of small order; the first use does.
            _SUITE.encrypt(b"", self._hpke)
        except ValueError as exc:
            raise RecoveryKeyInvalid from exc

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of `raw`: a stable name, no proof of anything."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def to_text(self) -> str:
        """One line of ASCII to paste: "strongroom-recovery-1:", the id, ":", `raw` in base64.

        The id is the checksum.
        """
        return f"{_TEXT_TAG}:{self.id}:{base64.b64encode(self.raw).decode()}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The key that `to_text` wrote; white space that mail or a terminal put in is ignored.

        Raises:
            RecoveryKeyInvalid: any other character is wrong or missing, or there is one too many.
        """
        line = "".join(text.split())
        try:
            key = cls(base64.b64decode(line.rpartition(":")[2], validate=True))
        except ValueError as exc:
            raise RecoveryKeyInvalid from exc
        if key.to_text() != line:
            raise RecoveryKeyInvalid
        return key

    def seal(self, key: SecretKey, info: bytes) -> bytes:
        """The key for the holder of the private half; `SEALED_KEY_SIZE_BYTES`, others each time.

        Args:
            info: what the key is for; opening needs the same.
        """
        return _SUITE.encrypt(key.reveal_to_keymgmt(), self._hpke, info)

    @cached_property
    def _hpke(self) -> MLKEM768X25519PublicKey:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC_SIZE]),
            X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC_SIZE:]),
        )


class RecoveryPrivateKey(SecretKey):
    """A private half: the 32-byte seed from which both of its keys are derived.

    Attributes:
        public: the public half.
    """

    __slots__ = ("_hpke", "public")

    def __init__(self, raw: bytes) -> None:
        """Raises: ValueError if `raw` is not 32 bytes."""
        super().__init__(raw)
        expanded = hashlib.shake_256(raw).digest(_EXPANDED_SIZE)
        mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_SIZE])
        x25519 = X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_SIZE:])
        self._hpke = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = RecoveryPublicKey(
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    def open(self, sealed_key: bytes, info: bytes) -> bytes:
        """The 32 bytes of the key that was sealed.

        Raises:
            DecryptionFailed: sealed to another key or for something else, or altered.
        """
        # Anyone can seal: without this an honestly sealed text of another size would come out.
        if len(sealed_key) != SEALED_KEY_SIZE_BYTES:
            raise DecryptionFailed
        try:
            return _SUITE.decrypt(sealed_key, self._hpke, info)
        except InvalidTag as exc:
            raise DecryptionFailed from exc
