"""Key commitment: a value that only the one true data key can have produced.

AES-GCM does not commit to its key: one ciphertext can be made that decrypts under two keys to two
plaintexts (Dodis et al. 2018, https://eprint.iacr.org/2019/016), and Tink's format inherits that.
HMAC-SHA256 does commit, because its collisions are SHA-256's. The commitment is stored beside the
wrapped key and checked before any byte is decrypted.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed

_TAG: Final = b"strongroom/commitment/v1"


def commit(data_key: DataKey, associated_data: bytes) -> bytes:
    """HMAC-SHA256 under the data key (RFC 2104) of the tag and the associated data, 32 bytes.

    May be stored in the clear: it tells nothing about the key.
    """
    # Used as it is beside HKDF's use in `stream`: there the key is HMAC's message, here its key.
    return hmac.digest(data_key.reveal_to_keymgmt(), _TAG + associated_data, hashlib.sha256)


def verify(data_key: DataKey, associated_data: bytes, commitment: bytes) -> None:
    """Return if this is the key and the binding that were committed to; in constant time.

    Raises:
        DecryptionFailed: it is not.
    """
    if not hmac.compare_digest(commit(data_key, associated_data), commitment):
        raise DecryptionFailed
