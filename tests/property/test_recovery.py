"""Recovery blobs for any context, damaged anywhere; the public half's text with any slip of the pen."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, RecoveryKeyInvalid
from keymgmt.recovery import (
    BLOB_SIZE_BYTES,
    BlobKind,
    EpochKey,
    EpochSealer,
    open_epoch_key,
    seal_epoch_key,
)
from keymgmt.recoverykey import SEALED_KEY_SIZE_BYTES, RecoveryPrivateKey, RecoveryPublicKey
from keymgmt.secret import KEY_SIZE_BYTES

PAIR = RecoveryPrivateKey(b"the seed of one pair: 32 bytes..")
PAIR_TEXT = PAIR.public.to_text()
SEALER = EpochSealer(EpochKey(b"the key of epoch 7: 32 bytes ..."), 7)
SUCCESSOR = EpochSealer(EpochKey(b"the key of epoch 8: 32 bytes ..."), 8)
CONTEXT = b"strongroom/object/v1 of the tests"
VAULT = UUID(int=1)
VERSION = BlobKind.VERSION
BLOB = SEALER.seal(PAIR.public, VERSION, CONTEXT, DataKey(bytes(range(32))))
EPOCH_KEY = seal_epoch_key(PAIR.public, EpochKey.generate(), vault_id=VAULT, epoch=7)

keys = st.binary(min_size=KEY_SIZE_BYTES, max_size=KEY_SIZE_BYTES)
kinds = st.sampled_from(BlobKind)
contexts = st.binary(max_size=300)
epochs = st.integers(0, 2**64 - 1)

fewer_examples = settings(max_examples=60, deadline=None)
untimed = settings(deadline=None)


def with_bit_flipped(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


@fewer_examples
@given(keys, keys, keys, kinds, contexts, epochs, epochs)
def test_a_data_key_survives_its_epochs(
    key: bytes, old: bytes, new: bytes, kind: BlobKind, context: bytes, first: int, second: int
) -> None:
    sealer, successor = EpochSealer(EpochKey(old), first), EpochSealer(EpochKey(new), second)
    blob = sealer.seal(PAIR.public, kind, context, DataKey(key))
    moved = sealer.reseal(blob, successor, kind, context)
    assert sealer.open(PAIR, kind, context, blob).reveal_to_keymgmt() == key
    assert successor.open(PAIR, kind, context, moved).reveal_to_keymgmt() == key


@untimed
@given(st.integers(0, 8 * BLOB_SIZE_BYTES - 1))
def test_no_bit_of_a_blob_may_flip(bit: int) -> None:
    damaged = with_bit_flipped(BLOB, bit)
    with pytest.raises(DecryptionFailed):
        SEALER.open(PAIR, VERSION, CONTEXT, damaged)
    with pytest.raises(DecryptionFailed):
        SEALER.reseal(damaged, SUCCESSOR, VERSION, CONTEXT)


@untimed
@given(st.integers(0, 8 * SEALED_KEY_SIZE_BYTES - 1))
def test_no_bit_of_a_sealed_epoch_key_may_flip(bit: int) -> None:
    with pytest.raises(DecryptionFailed):
        open_epoch_key(PAIR, with_bit_flipped(EPOCH_KEY, bit), vault_id=VAULT, epoch=7)


@untimed
@given(st.integers(0, BLOB_SIZE_BYTES - 1), st.binary(min_size=1, max_size=20))
def test_a_blob_cut_short_or_extended_is_refused(kept: int, more: bytes) -> None:
    for damaged in (BLOB[:kept], BLOB + more):
        with pytest.raises(DecryptionFailed):
            SEALER.open(PAIR, VERSION, CONTEXT, damaged)


@untimed
@given(st.integers(0, SEALED_KEY_SIZE_BYTES - 1), st.binary(min_size=1, max_size=20))
def test_a_sealed_epoch_key_cut_short_or_extended_is_refused(kept: int, more: bytes) -> None:
    for damaged in (EPOCH_KEY[:kept], EPOCH_KEY + more):
        with pytest.raises(DecryptionFailed):
            open_epoch_key(PAIR, damaged, vault_id=VAULT, epoch=7)


@untimed
@given(st.binary(max_size=BLOB_SIZE_BYTES + 20))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        SEALER.open(PAIR, VERSION, CONTEXT, data)


@untimed
@given(contexts.filter(lambda context: context != CONTEXT))
def test_a_blob_opens_in_no_other_context(context: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        SEALER.open(PAIR, VERSION, context, BLOB)


@fewer_examples
@given(keys)
def test_the_text_of_a_public_half_reads_back(seed: bytes) -> None:
    public = RecoveryPrivateKey(seed).public
    assert RecoveryPublicKey.from_text(public.to_text()) == public


visible = st.characters(exclude_categories=["Z", "C"])


@untimed
@given(st.integers(0, len(PAIR_TEXT) - 1), visible)
def test_a_mistyped_character_is_refused(position: int, typed: str) -> None:
    text = PAIR_TEXT[:position] + typed + PAIR_TEXT[position + 1 :]
    if text == PAIR_TEXT:
        return
    with pytest.raises(RecoveryKeyInvalid):
        RecoveryPublicKey.from_text(text)


@untimed
@given(st.integers(0, len(PAIR_TEXT) - 1), st.integers(1, 80), visible)
def test_a_lost_or_added_piece_is_refused(position: int, length: int, typed: str) -> None:
    lost = PAIR_TEXT[:position] + PAIR_TEXT[position + length :]
    added = PAIR_TEXT[:position] + typed + PAIR_TEXT[position:]
    for text in (lost, added):
        with pytest.raises(RecoveryKeyInvalid):
            RecoveryPublicKey.from_text(text)


@untimed
@given(st.text())
def test_no_other_text_is_a_public_half(text: str) -> None:
    with pytest.raises(RecoveryKeyInvalid):
        RecoveryPublicKey.from_text(text)
