"""Writes the object vectors: `python -m tests.vectors.generate`. The same bytes every time.

Shares no line with `keymgmt.stream`: sealing is spelt out here once more, plainly, with fixed salts.
Objects are chosen so that their *ciphertext* is all zeros between header and tags; the plaintext is then
the key stream, and an object of several MiB compresses to a vector of a few KiB.

    comment              what the vector shows
    expect               "plaintext" or "decryption-failed"
    key                  data key, hex
    binding              associated data, hex
    commitment           the commitment on record, hex
    object_size          size in bytes on record, which may not be the size of the object found
    object               the object found: base64 of zlib
    plaintext_sha256     hex; with "plaintext" only
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from tests.two_keys import object_for_two_keys

FOLDER = Path(__file__).parent

MIB = 2**20
FIRST, FULL = MIB - 56, MIB - 16

KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
BINDING, OTHER_BINDING = b"strongroom/object/v1 of vectors", b"strongroom/object/v1 of others"
SALT, NONCE_PREFIX = b"salt of thirty-two bytes, fixed.", b"prefix7"


@dataclass(frozen=True)
class Vector:
    """One case; the fields as in the file."""

    comment: str
    object: bytes
    object_size: int
    plaintext: bytes = b""
    expect: Literal["plaintext", "decryption-failed"] = "plaintext"
    key: bytes = KEY
    binding: bytes = BINDING
    commitment: bytes = hmac.digest(KEY, b"strongroom/commitment/v1" + BINDING, hashlib.sha256)

    def to_json(self) -> str:
        document = {
            "comment": self.comment,
            "expect": self.expect,
            "key": self.key.hex(),
            "binding": self.binding.hex(),
            "commitment": self.commitment.hex(),
            "object_size": self.object_size,
            "object": base64.b64encode(zlib.compress(self.object, 9)).decode(),
        }
        if self.expect == "plaintext":
            document["plaintext_sha256"] = hashlib.sha256(self.plaintext).hexdigest()
        return json.dumps(document, indent=2) + "\n"


def sealed(size: int, salt: bytes = SALT) -> Vector:
    """A genuine object whose ciphertext is zeros, of `size` bytes of plaintext."""
    aead = AESGCM(HKDF(SHA256(), 32, salt=salt, info=BINDING).derive(KEY))
    ciphertext, plaintext = b"\x28" + salt + NONCE_PREFIX, b""
    lengths = [min(size, FIRST)]
    while (left := size - sum(lengths)) > 0:
        lengths.append(min(left, FULL))
    for index, length in enumerate(lengths):
        last = b"\x01" if index == len(lengths) - 1 else b"\x00"
        nonce = NONCE_PREFIX + index.to_bytes(4, "big") + last
        # Sealing zeros shows the key stream; sealing the key stream gives zeros, and their tag.
        key_stream = aead.encrypt(nonce, bytes(length), None)[:length]
        ciphertext += aead.encrypt(nonce, key_stream, None)
        plaintext += key_stream
    return Vector(f"{size} bytes", ciphertext, len(ciphertext), plaintext)


def refused(genuine: Vector, comment: str, found: bytes, object_size: int | None = None) -> Vector:
    """The object as found, where the row still says what it said unless `object_size` is given."""
    size = genuine.object_size if object_size is None else object_size
    return replace(
        genuine, comment=comment, object=found, object_size=size, expect="decryption-failed"
    )


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


def genuine() -> Iterator[tuple[str, Vector]]:
    sizes = [0, 1, 16, 1000, FIRST - 1, FIRST, FIRST + 1]
    sizes += [FIRST + FULL - 1, FIRST + FULL, FIRST + FULL + 1]
    for size in sizes:
        yield f"sealed-{size}", sealed(size)


def tampered() -> Iterator[tuple[str, Vector]]:
    whole = sealed(FIRST + FULL + 1000)
    data, size = whole.object, whole.object_size
    parts = [data[:MIB], data[MIB : 2 * MIB], data[2 * MIB :]]
    twin = sealed(FIRST + FULL + 1000, salt=SALT[::-1]).object
    for name, offset in [
        ("header-length", 0),
        ("salt", 1),
        ("nonce-prefix", 33),
        ("first-segment", 40),
        ("first-tag", MIB - 1),
        ("middle-segment", MIB + 5),
        ("last-segment", 2 * MIB),
        ("last-tag", size - 1),
    ]:
        yield f"flipped-{name}", refused(whole, f"bit 0 of byte {offset}", flipped(data, offset))
    for name, kept in [("a-byte", size - 1), ("last-segment", 2 * MIB), ("everything", 0)]:
        yield f"cut-{name}", refused(whole, f"{kept} bytes are left", data[:kept])
    cut = data[: 2 * MIB]
    yield "cut-and-row-agrees", refused(whole, "last segment gone, row too", cut, len(cut))
    longer = data + bytes(100)
    yield "extended", refused(whole, "100 bytes more, row too", longer, len(longer))
    swapped = parts[0] + parts[1][16:] + parts[1][:16] + parts[2]
    yield "rotated-segment", refused(whole, "segment 1 rotated by its tag", swapped)
    foreign = parts[0] + twin[MIB : 2 * MIB] + parts[2]
    yield "foreign-segment", refused(whole, "segment 1 of a twin under the same key", foreign)
    four = sealed(FIRST + 3 * FULL)
    segments = [four.object[n * MIB : (n + 1) * MIB] for n in range(4)]
    reordered = segments[0] + segments[2] + segments[1] + segments[3]
    yield "reordered", refused(four, "segments 1 and 2 changed places", reordered)


def wrongly_placed() -> Iterator[tuple[str, Vector]]:
    small = sealed(1000)
    wrong = replace(small, expect="decryption-failed")
    yield "other-key", replace(wrong, comment="another data key", key=OTHER_KEY)
    yield "other-binding", replace(wrong, comment="another binding", binding=OTHER_BINDING)
    yield (
        "other-size",
        replace(wrong, comment="the row says more", object_size=small.object_size + 1),
    )
    recommitted = hmac.digest(OTHER_KEY, b"strongroom/commitment/v1" + BINDING, hashlib.sha256)
    yield (
        "other-key-committed",
        replace(
            wrong,
            comment="another data key and its commitment",
            key=OTHER_KEY,
            commitment=recommitted,
        ),
    )


def two_keys() -> Iterator[tuple[str, Vector]]:
    """GCM takes this object under both keys; only the commitment tells them apart."""
    made = object_for_two_keys(
        DataKey(KEY), DataKey(OTHER_KEY), salt=SALT, nonce_prefix=NONCE_PREFIX, binding=BINDING
    )
    aead = AESGCM(HKDF(SHA256(), 32, salt=SALT, info=BINDING).derive(KEY))
    plaintext = aead.decrypt(NONCE_PREFIX + bytes(4) + b"\x01", made[40:], None)
    first = Vector("opens under two keys: this one is committed to", made, len(made), plaintext)
    yield "two-keys-committed", first
    second = "opens under two keys: this one is not committed to"
    yield "two-keys-other", replace(refused(first, second, made), key=OTHER_KEY)


def vectors() -> dict[str, Vector]:
    """All of them by file name without suffix."""
    return dict([*genuine(), *tampered(), *wrongly_placed(), *two_keys()])


if __name__ == "__main__":
    for name, vector in vectors().items():
        (FOLDER / f"{name}.json").write_text(vector.to_json())
