"""A data key as a cleartext Tink keyset: the one way in which key bytes leave this process.

For `key export-dek`: with it, any Tink library opens the stored object, given its associated data. Source:
Tink's proto/aes_gcm_hkdf_streaming.proto and proto/tink.proto, in proto3's JSON form.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from keymgmt.datakey import DataKey

_KEY_ID: Final = 1
_TYPE_URL: Final = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
_SEGMENT_SIZE_BYTES: Final = 2**20
_SHA256: Final = 3
"""HashType.SHA256 of proto/common.proto."""


def keyset(data_key: DataKey) -> dict[str, Any]:
    """A keyset of one key, AES256_GCM_HKDF_1MB with the output prefix RAW."""
    key = {
        "keyData": {
            "typeUrl": _TYPE_URL,
            "value": base64.b64encode(_key_proto(data_key)).decode(),
            "keyMaterialType": "SYMMETRIC",
        },
        "status": "ENABLED",
        "keyId": _KEY_ID,
        "outputPrefixType": "RAW",
    }
    return {"primaryKeyId": _KEY_ID, "key": [key]}


def _key_proto(data_key: DataKey) -> bytes:
    """AesGcmHkdfStreamingKey {version = 1 (0, so absent), params = 2, key_value = 3}."""
    parameters = b"\x08" + _varint(_SEGMENT_SIZE_BYTES) + b"\x10\x20" + b"\x18" + _varint(_SHA256)
    return _field(2, parameters) + _field(3, data_key.reveal_to_keymgmt())


def _field(number: int, content: bytes) -> bytes:
    """Length-delimited (https://protobuf.dev/programming-guides/encoding/)."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 (seven bits a byte)
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
