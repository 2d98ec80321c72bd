"""The commitment lets one key and one binding through, where GCM alone lets two keys through."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest

from keymgmt.commitment import commit, verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from tests.sealed_objects import BINDING, TinkPeer, open_whole
from tests.two_keys import object_for_two_keys


def test_the_key_and_binding_that_were_committed_to_pass() -> None:
    key = DataKey.generate()
    verify(key, BINDING, commit(key, BINDING))


def test_a_commitment_is_the_published_hmac() -> None:
    raw = bytes(range(32))
    expected = hmac.new(raw, b"strongroom/commitment/v1" + BINDING, hashlib.sha256).digest()
    assert commit(DataKey(raw), BINDING) == expected


def test_another_key_is_refused() -> None:
    with pytest.raises(DecryptionFailed):
        verify(DataKey.generate(), BINDING, commit(DataKey.generate(), BINDING))


def test_another_binding_is_refused() -> None:
    key = DataKey.generate()
    with pytest.raises(DecryptionFailed):
        verify(key, BINDING + b"!", commit(key, BINDING))


@pytest.mark.parametrize("cut", [0, 1, 31])
def test_a_shortened_commitment_is_refused(cut: int) -> None:
    key = DataKey.generate()
    with pytest.raises(DecryptionFailed):
        verify(key, BINDING, commit(key, BINDING)[:cut])


def test_an_object_made_for_two_keys_opens_with_the_committed_key_only() -> None:
    honest, hidden = DataKey.generate(), DataKey.generate()
    ciphertext = object_for_two_keys(
        honest, hidden, salt=os.urandom(32), nonce_prefix=os.urandom(7), binding=BINDING
    )
    [seen] = open_whole(honest, ciphertext, 16)
    [other] = open_whole(hidden, ciphertext, 16)
    assert seen != other, "the attack needs two readings, or this test shows nothing"
    assert TinkPeer(hidden).open(ciphertext) == other

    commitment = commit(honest, BINDING)
    verify(honest, BINDING, commitment)
    with pytest.raises(DecryptionFailed):
        verify(hidden, BINDING, commitment)
