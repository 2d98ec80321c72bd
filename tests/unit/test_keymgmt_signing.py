"""Ed25519 keys as RFC 8032 has them, and their private halves sealed to their public ones."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyNotFound, KeyVersionRetired, SignatureInvalid
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import BoundKey, Purpose, WrappedKey
from keymgmt.rootkey import RootKey
from keymgmt.signing import SigningKey, VerifyingKey, seal, signing_context, unseal

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
KEY = SigningKey(b"0123456789abcdef0123456789ABCDEF")
OTHER = SigningKey(b"another key's seed, of 32 bytes.")


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = LocalKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(Purpose.LOG)
    return keyring


# Signatures


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public.verify(bytes.fromhex(signature), bytes.fromhex(message))


@given(st.binary(max_size=200))
def test_what_a_key_signs_its_public_half_accepts_and_no_other_does(message: bytes) -> None:
    signature = KEY.sign(message)
    KEY.public.verify(signature, message)
    with pytest.raises(SignatureInvalid):
        OTHER.public.verify(signature, message)


@given(bit=st.integers(0, 64 * 8 - 1))
def test_a_signature_with_one_bit_flipped_is_refused(bit: int) -> None:
    signature = bytearray(KEY.sign(b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureInvalid):
        KEY.public.verify(bytes(signature), b"message")


@pytest.mark.parametrize("size", [0, 32, 63])
def test_a_signature_cut_short_is_refused(size: int) -> None:
    with pytest.raises(SignatureInvalid):
        KEY.public.verify(KEY.sign(b"message")[:size], b"message")


def test_a_signature_with_a_byte_more_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        KEY.public.verify(KEY.sign(b"message") + b"\0", b"message")


def test_another_message_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        KEY.public.verify(KEY.sign(b"message"), b"massage")


def test_a_signature_whose_scalar_is_not_reduced_is_refused() -> None:
    """S + L verifies the same equation; RFC 8032 §5.1.7 demands S < L, or anyone makes a second one."""
    group_order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(b"message")
    scalar = int.from_bytes(signature[32:], "little") + group_order
    with pytest.raises(SignatureInvalid):
        KEY.public.verify(signature[:32] + scalar.to_bytes(32, "little"), b"message")


def test_32_bytes_that_are_no_point_verify_nothing() -> None:
    no_point = VerifyingKey(
        (2).to_bytes(32, "little")
    )  # (y² - 1) / (dy² + 1) is no square for y = 2
    with pytest.raises(SignatureInvalid):
        no_point.verify(KEY.sign(b"message"), b"message")


# Keys


def test_no_way_of_printing_shows_the_seed() -> None:
    seed = KEY.reveal_to_keymgmt()
    shown = [repr(KEY), str(KEY), f"{KEY}", repr([KEY]), repr({"key": KEY})]
    assert all("SigningKey(****)" in text for text in shown)
    assert not any(secret in text for text in shown for secret in (seed.decode(), seed.hex()))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_signing_key_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(KEY, protocol)


def test_a_signing_key_is_not_copied() -> None:
    with pytest.raises(TypeError, match="never pickled or copied"):
        copy.deepcopy(KEY)


def test_generated_keys_differ() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_public_half_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        VerifyingKey(bytes(size))


def test_the_id_is_the_start_of_the_digest_of_the_public_half() -> None:
    public = KEY.public
    assert public.id == hashlib.sha256(public.raw).digest()[:8].hex()
    assert public.id == VerifyingKey(public.raw).id != OTHER.public.id


def test_the_web_key_is_the_one_of_rfc_8037() -> None:
    """RFC 8037 appendix A.2 has the key of RFC 8032's TEST 1."""
    public = VerifyingKey(bytes.fromhex(RFC_8032[0][1]))
    assert public.as_jwk() == {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "use": "sig",
        "kid": public.id,
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }


# Sealed keys


def test_a_sealed_key_opens_as_what_it_was(keyring: LocalKeyring) -> None:
    sealed = seal(keyring, Purpose.LOG, KEY)
    opened = unseal(keyring, Purpose.LOG, sealed, KEY.public)
    assert type(opened) is SigningKey
    assert opened.public == KEY.public
    assert opened.sign(b"message") == KEY.sign(b"message")


def test_a_sealed_key_says_nothing_of_the_seed(keyring: LocalKeyring) -> None:
    scheme, version, sealed = seal(keyring, Purpose.LOG, KEY).split(":")
    assert (scheme, version) == ("local", "v1")
    assert KEY.reveal_to_keymgmt() not in base64.b64decode(sealed)


def test_a_sealed_key_in_the_row_of_another_is_refused(keyring: LocalKeyring) -> None:
    sealed = seal(keyring, Purpose.LOG, OTHER)
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, sealed, KEY.public)


def test_a_seed_wrapped_for_the_public_half_of_another_is_refused(keyring: LocalKeyring) -> None:
    """Here the context is right, so that only the comparison of the public halves can tell."""
    seed = DataKey(OTHER.reveal_to_keymgmt())
    wrapped = keyring.wrap(Purpose.LOG, signing_context(KEY.public), seed)
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, wrapped.text, KEY.public)


@pytest.mark.parametrize("place", [-1, 20, 60])
def test_an_altered_sealed_key_is_refused(keyring: LocalKeyring, place: int) -> None:
    sealed = seal(keyring, Purpose.LOG, KEY)
    altered = list(sealed)
    altered[place] = "A" if sealed[place] != "A" else "B"
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, "".join(altered), KEY.public)


@pytest.mark.parametrize("text", ["", "local", "local:v1:", "not sealed at all"])
def test_text_that_is_no_sealed_key_is_refused(keyring: LocalKeyring, text: str) -> None:
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, text, KEY.public)


def test_a_key_sealed_under_another_kek_is_refused(keyring: LocalKeyring) -> None:
    keyring.create_key(Purpose.DOCUMENTS)
    sealed = seal(keyring, Purpose.DOCUMENTS, KEY)
    with pytest.raises(DecryptionFailed):
        unseal(keyring, Purpose.LOG, sealed, KEY.public)


def test_a_kek_that_is_not_there_is_named(keyring: LocalKeyring) -> None:
    with pytest.raises(KeyNotFound, match="backups"):
        seal(keyring, Purpose.BACKUPS, KEY)


def test_a_sealed_key_moves_to_a_new_kek_version_by_its_context(keyring: LocalKeyring) -> None:
    sealed = seal(keyring, Purpose.LOG, KEY)
    keyring.rotate(Purpose.LOG)
    item = BoundKey(WrappedKey(sealed), signing_context(KEY.public))
    [moved] = keyring.rewrap_batch(Purpose.LOG, [item])
    assert isinstance(moved, WrappedKey)
    keyring.retire(Purpose.LOG, below=2)

    assert unseal(keyring, Purpose.LOG, moved.text, KEY.public).public == KEY.public
    with pytest.raises(KeyVersionRetired):
        unseal(keyring, Purpose.LOG, sealed, KEY.public)


def test_the_context_is_the_documented_one() -> None:
    assert signing_context(KEY.public) == b"strongroom/signing-key/v1" + KEY.public.raw
