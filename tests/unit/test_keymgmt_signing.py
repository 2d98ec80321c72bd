"""Ed25519 keys as RFC 8032 has them, sealed to their public half, and DSSE envelopes around them."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path
from typing import Any

import pytest

from keymgmt import dsse
from keymgmt.dsse import open_envelope, sign_envelope
from keymgmt.errors import DecryptionFailed, SignatureInvalid
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import Purpose
from keymgmt.rootkey import RootKey
from keymgmt.signing import SigningKey, VerifyingKey, seal, unseal

# RFC 8032 §7.1, TEST 1 to 3: seed, public half, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]
TYPE = "application/vnd.example+json"


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = LocalKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(Purpose.LOG)
    return keyring


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public.verify(bytes.fromhex(signature), bytes.fromhex(message))


def test_another_message_key_or_signature_is_refused() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"message")
    for public, signed, message in (
        (key.public, signature, b"massage"),
        (other.public, signature, b"message"),
        (key.public, bytes(64), b"message"),
        (key.public, b"short", b"message"),
    ):
        with pytest.raises(SignatureInvalid):
            public.verify(signed, message)


def test_a_private_half_shows_itself_nowhere() -> None:
    key = SigningKey.generate()
    assert "****" in repr(key)
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_sealed_key_opens_only_as_what_it_is(keyring: LocalKeyring) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    sealed = seal(keyring, Purpose.LOG, key)
    assert unseal(keyring, Purpose.LOG, sealed, key.public).sign(b"m") == key.sign(b"m")
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, sealed, other.public)


def test_the_encoding_is_the_published_one() -> None:
    """The example of the DSSE protocol's own text."""
    assert (
        dsse._encoding("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def envelope() -> tuple[dict[str, Any], dict[str, VerifyingKey]]:
    key = SigningKey.generate()
    return sign_envelope(key, TYPE, b'{"a": 1}'), {key.public.id: key.public}


def test_an_envelope_gives_back_exactly_what_was_signed() -> None:
    made, keys = envelope()
    assert open_envelope(made, keys, TYPE) == b'{"a": 1}'


def test_a_second_signature_counts_where_the_first_does_not() -> None:
    made, keys = envelope()
    bad = {**made["signatures"][0], "sig": base64.b64encode(bytes(64)).decode()}
    unknown = {"keyid": "unknown", "sig": bad["sig"]}
    signatures = [unknown, bad, *made["signatures"]]
    assert open_envelope({**made, "signatures": signatures}, keys, TYPE)


@pytest.mark.parametrize(
    "change",
    [
        {"payload": base64.b64encode(b'{"a": 2}').decode()},
        {"payload": "%%%"},
        {"payload": None},
        {"payloadType": "application/vnd.other+json"},
        {"signatures": []},
        {"signatures": None},
        {"signatures": ["x"]},
        {"signatures": [{"keyid": "unknown", "sig": ""}]},
        {"signatures": [{"keyid": ["x"], "sig": ""}]},
    ],
)
def test_a_changed_envelope_is_refused(change: dict[str, Any]) -> None:
    made, keys = envelope()
    with pytest.raises(SignatureInvalid):
        open_envelope({**made, **change}, keys, TYPE)


def test_an_envelope_of_another_type_is_refused_even_if_it_says_so() -> None:
    made, keys = envelope()
    with pytest.raises(SignatureInvalid):
        open_envelope(made, keys, "application/vnd.other+json")


def test_the_signature_of_one_key_under_the_name_of_another_is_refused() -> None:
    made, _ = envelope()
    other = SigningKey.generate().public
    keyid = made["signatures"][0]["keyid"]
    with pytest.raises(SignatureInvalid):
        open_envelope(made, {keyid: other}, TYPE)
