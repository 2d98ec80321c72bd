"""Seal keys: RFC 2104 over RFC 4231's vectors, an id that commits, and a wrap bound to vault and id."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from uuid import UUID

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import Purpose
from keymgmt.rootkey import RootKey
from keymgmt.seal import SEAL_SIZE_BYTES, SealKey, unwrap, wrap, wrapping_context

VAULT = UUID("0198aaaa-0000-7000-8000-000000000001")
OTHER_VAULT = UUID("0198aaaa-0000-7000-8000-000000000002")
KEK = Purpose.AUTHORITY


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = LocalKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(KEK)
    return keyring


def test_a_seal_is_hmac_sha256() -> None:
    # RFC 4231 §4.2; its key of 20 bytes is, to HMAC, the same key padded with zeros.
    key = SealKey(b"\x0b" * 20 + bytes(12))
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert key.seal(b"Hi There").hex() == expected
    assert len(key.seal(b"")) == SEAL_SIZE_BYTES


def test_a_seal_matches_its_message_and_key_only() -> None:
    key, message = SealKey.generate(), b"a row"
    seal = key.seal(message)
    assert key.matches(message, seal)
    assert not key.matches(b"another row", seal)
    assert not SealKey.generate().matches(message, seal)
    for wrong in (b"", seal[:31], seal + b"\0", bytes(32)):
        assert not key.matches(message, wrong)


def test_the_id_is_fixed_by_the_key_and_is_none_of_its_seals() -> None:
    assert SealKey(bytes(32)).id == SealKey(bytes(32)).id == "645a6465b27bf898"
    assert SealKey(bytes(32)).id != SealKey(bytes(31) + b"\1").id


def test_a_seal_key_is_neither_seen_nor_copied() -> None:
    key = SealKey(b"0123456789abcdef0123456789ABCDEF")
    assert repr(key) == str(key) == "SealKey(****)"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(key)


def test_a_wrapped_key_opens_in_its_vault_and_under_its_id_only(keyring: LocalKeyring) -> None:
    key, other = SealKey.generate(), SealKey.generate()
    wrapped = wrap(keyring, KEK, VAULT, key)
    assert key.reveal_to_keymgmt().hex() not in wrapped
    assert unwrap(keyring, KEK, VAULT, key.id, wrapped).id == key.id
    for vault, key_id in ((OTHER_VAULT, key.id), (VAULT, other.id), (VAULT, "")):
        with pytest.raises(DecryptionFailed):
            unwrap(keyring, KEK, vault, key_id, wrapped)


def test_a_key_wrapped_under_another_s_id_by_who_may_wrap_does_not_open(
    keyring: LocalKeyring,
) -> None:
    mine, theirs = SealKey.generate(), SealKey.generate()
    context = wrapping_context(VAULT, theirs.id)
    wrapped = keyring.wrap(KEK, context, DataKey(mine.reveal_to_keymgmt()))
    with pytest.raises(DecryptionFailed):
        unwrap(keyring, KEK, VAULT, theirs.id, wrapped.text)


def test_a_wrap_dies_with_its_kek_version(keyring: LocalKeyring) -> None:
    key = SealKey.generate()
    wrapped = wrap(keyring, KEK, VAULT, key)
    keyring.rotate(KEK)
    keyring.retire(KEK, below=2)
    with pytest.raises(KeyVersionRetired):
        unwrap(keyring, KEK, VAULT, key.id, wrapped)
