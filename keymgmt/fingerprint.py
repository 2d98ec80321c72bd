"""A keyed digest of a request, to tell a repeated request from a different one.

Keyed, because a plain hash of a small document can be found by trying all likely contents. The key
comes from the document's own data key, so that shredding the one makes the other meaningless.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from keymgmt.secret import KEY_SIZE_BYTES

_TAG: Final = b"strongroom/fingerprint/v1"


class Fingerprint:
    """HMAC-SHA256 of the parameters, their length before them (8 bytes, big-endian), and the body.

    The key is HKDF-SHA256 (RFC 5869) of the data key, without salt, info "strongroom/fingerprint/v1".
    """

    def __init__(self, data_key: DataKey, parameters: bytes) -> None:
        hkdf = HKDF(SHA256(), KEY_SIZE_BYTES, salt=None, info=_TAG)
        key = hkdf.derive(data_key.reveal_to_keymgmt())
        self._mac = hmac.new(key, len(parameters).to_bytes(8, "big"), hashlib.sha256)
        self._mac.update(parameters)

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the bytes of the body that come next."""
        self._mac.update(chunk)

    def digest(self) -> bytes:
        """32 bytes, over all that was taken so far."""
        return self._mac.digest()
