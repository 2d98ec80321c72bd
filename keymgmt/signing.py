"""Ed25519 signing keys (RFC 8032), for certificates, receipts, checkpoints, manifests and reports.

A private half is its 32-byte seed. At rest it is wrapped by the key provider like a data key, bound to
its public half, so that a row whose halves were swapped does not sign.

Does not handle: which key is in use, and moving sealed keys to a new KEK version. What is signed, and
as what, is `dsse`'s matter or the caller's: a signature here covers bare bytes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, SignatureInvalid
from keymgmt.provider import KeyProvider, WrappedKey
from keymgmt.secret import SecretKey

PUBLIC_KEY_SIZE_BYTES: Final = 32
_TAG: Final = b"strongroom/signing-key/v1"


@dataclass(frozen=True)
class VerifyingKey:
    """A public half.

    Attributes:
        raw: the 32 bytes of RFC 8032 §5.1.5; not checked to be a point, and no point verifies nothing.
    """

    raw: bytes

    def __post_init__(self) -> None:
        """Raises: ValueError if `raw` is not 32 bytes."""
        if len(self.raw) != PUBLIC_KEY_SIZE_BYTES:
            raise ValueError("an Ed25519 public key has 32 bytes")

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of `raw`: a stable name, no proof of anything."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return if this key's private half signed `message` (RFC 8032 §5.1.7).

        Raises:
            SignatureInvalid: it did not, or `signature` is not 64 bytes.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature as exc:
            raise SignatureInvalid from exc

    def as_jwk(self) -> dict[str, str]:
        """As a JSON Web Key (RFC 8037 §2)."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "alg": "EdDSA",
            "use": "sig",
            "kid": self.id,
            "x": base64.urlsafe_b64encode(self.raw).decode().rstrip("="),
        }


class SigningKey(SecretKey):
    """A private half: the 32-byte seed of RFC 8032 §5.1.5."""

    __slots__ = ()

    @property
    def public(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self._private().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, 64 bytes, always the same ones (RFC 8032 §5.1.6)."""
        return self._private().sign(message)

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.reveal_to_keymgmt())


def seal(provider: KeyProvider, kek: str, key: SigningKey) -> str:
    """The private half wrapped under the newest version of `kek`, at most 512 ASCII characters.

    Raises:
        KeyManagementError: as `KeyProvider.wrap`.
    """
    seed = DataKey(key.reveal_to_keymgmt())
    return provider.wrap(kek, signing_context(key.public), seed).text


def unseal(provider: KeyProvider, kek: str, sealed: str, public: VerifyingKey) -> SigningKey:
    """The private half of `public`.

    Raises:
        DecryptionFailed: it is another key's, or altered.
        KeyManagementError: as `KeyProvider.unwrap`.
    """
    seed = provider.unwrap(kek, signing_context(public), WrappedKey(sealed))
    key = SigningKey(seed.reveal_to_keymgmt())
    if key.public != public:  # the context alone does not stop who may wrap under it
        raise DecryptionFailed
    return key


def signing_context(public: VerifyingKey) -> bytes:
    """The KEK context of a sealed private half: a tag (25 bytes), then the public half (32)."""
    return _TAG + public.raw
