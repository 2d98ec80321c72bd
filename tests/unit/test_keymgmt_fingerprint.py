"""Equal requests have equal fingerprints, under one key only."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from keymgmt.fingerprint import Fingerprint

KEY = DataKey(bytes(range(32)))


def fingerprint(key: DataKey, parameters: bytes, *chunks: bytes) -> bytes:
    made = Fingerprint(key, parameters)
    for chunk in chunks:
        made.update(chunk)
    return made.digest()


def test_chunking_does_not_matter() -> None:
    assert fingerprint(KEY, b"p", b"body") == fingerprint(KEY, b"p", b"b", b"", b"ody")


def test_body_and_parameters_both_count() -> None:
    ours = fingerprint(KEY, b"p", b"body")
    assert fingerprint(KEY, b"p", b"Body") != ours
    assert fingerprint(KEY, b"q", b"body") != ours


def test_bytes_cannot_move_between_parameters_and_body() -> None:
    assert fingerprint(KEY, b"ab", b"c") != fingerprint(KEY, b"a", b"bc")


def test_another_data_key_gives_another_fingerprint() -> None:
    assert fingerprint(DataKey.generate(), b"p", b"body") != fingerprint(KEY, b"p", b"body")


def test_a_fingerprint_is_the_published_hmac() -> None:
    hkdf = HKDF(SHA256(), 32, salt=None, info=b"strongroom/fingerprint/v1")
    key = hkdf.derive(KEY.reveal_to_keymgmt())
    message = (1).to_bytes(8, "big") + b"p" + b"body"
    assert fingerprint(KEY, b"p", b"body") == hmac.digest(key, message, hashlib.sha256)
