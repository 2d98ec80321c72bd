"""Reads one stored object without Strongroom: python reader.py OBJECT EXPORT.json > DOCUMENT

OBJECT is the file taken from a site's store, EXPORT.json what `strongroom key export-dek` printed. Needs only
the package `cryptography`. The format is Tink's AES256_GCM_HKDF_1MB streaming AEAD:

    header      0x28 | salt (32) | nonce prefix (7)
    segments    of 2^20 bytes, the header counting as part of the first, the last one as long as is left:
                AES-256-GCM ciphertext and tag (16)
    key         HKDF-SHA256(data key, salt, info = associated data), 32 bytes
    nonce       nonce prefix (7) | index of the segment (4, big-endian) | 1 in the last segment, else 0
"""

import base64
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER, SEGMENT, TAG = 40, 2**20, 16


def main(object_path, export_path):
    export = json.loads(Path(export_path).read_bytes())
    size = Path(object_path).stat().st_size
    with Path(object_path).open("rb") as file:
        segments = -(-size // SEGMENT)
        if size - HEADER - segments * TAG != export["size_bytes"]:
            raise ValueError("the object is not as long as it was stored")
        header = file.read(HEADER)
        cipher = AESGCM(segment_key(export, header))
        for index in range(segments):
            sealed = file.read(SEGMENT - HEADER if index == 0 else SEGMENT)
            last = index == segments - 1
            nonce = header[33:] + index.to_bytes(4, "big") + bytes([last])
            sys.stdout.buffer.write(cipher.decrypt(nonce, sealed, None))


def segment_key(export, header):
    if len(header) != HEADER or header[0] != HEADER:
        raise ValueError("this is no stored object")
    associated_data = base64.b64decode(export["associated_data"])
    key = HKDF(SHA256(), 32, salt=header[1:33], info=associated_data)
    return key.derive(data_key(export["keyset"]))


def data_key(keyset):
    # Tink's key is a protocol buffer whose last field, tagged 0x1a 0x20, is the key's 32 bytes.
    value = base64.b64decode(keyset["key"][0]["keyData"]["value"])
    if value[-34:-32] != b"\x1a\x20":
        raise ValueError("this is no key that Strongroom exported")
    return value[-32:]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InvalidTag:
        sys.exit(
            "reader: the object was altered, or the key is not its own; what came out so far is true"
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        sys.exit(f"reader: {exc or type(exc).__name__}")
