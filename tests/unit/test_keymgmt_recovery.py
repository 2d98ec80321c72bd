"""A key sealed for recovery opens with the recovery key and its epoch's key, and with nothing less."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import pickle
from pathlib import Path
from uuid import UUID

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, RecoveryKeyInvalid, UnsafeKeyFile
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import Purpose
from keymgmt.recovery import (
    BLOB_SIZE_BYTES,
    BlobKind,
    EpochKey,
    EpochSealer,
    open_epoch_key,
    seal_epoch_key,
    unwrap_epoch_key,
    wrap_epoch_key,
)
from keymgmt.recoveryfile import read_private, write_private
from keymgmt.recoverykey import SEALED_KEY_SIZE_BYTES, RecoveryPrivateKey, RecoveryPublicKey
from keymgmt.rootkey import RootKey, create_root_key
from keymgmt.secret import SecretKey

PAIR = RecoveryPrivateKey(b"the seed of one pair: 32 bytes..")
OTHER_PAIR = RecoveryPrivateKey(b"the seed of the other pair......")
DATA_KEY = DataKey(bytes(range(32)))
CONTEXT = b"strongroom/object/v1 of the tests"
VAULT, OTHER_VAULT = UUID(int=1), UUID(int=2)
PASSPHRASE = "correct horse 电池 staple"
VERSION = BlobKind.VERSION


@pytest.fixture
def sealer() -> EpochSealer:
    return EpochSealer(EpochKey.generate(), 7)


@pytest.fixture
def blob(sealer: EpochSealer) -> bytes:
    return sealer.seal(PAIR.public, VERSION, CONTEXT, DATA_KEY)


def raw(key: SecretKey) -> bytes:
    return key.reveal_to_keymgmt()


# The pair


def test_the_pair_is_that_of_the_x_wing_draft() -> None:
    """draft-connolly-cfrg-xwing-kem, appendix C, first vector."""
    seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    public = RecoveryPrivateKey(bytes.fromhex(seed)).public
    assert public.raw[:20].hex() == "e2236b35a8c24b39b10aa1323a96a919a2ced884"
    assert len(public.raw) == 1216


@pytest.mark.parametrize("key", [PAIR, EpochKey(b"e" * 32)], ids=repr)
def test_secret_halves_and_epoch_keys_show_nothing_and_stay_where_they_are(key: SecretKey) -> None:
    assert repr(key) == str(key) == f"{type(key).__name__}(****)"
    assert not hasattr(key, "__dict__")
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="never pickled or copied"):
        copy.copy(key)


def test_generated_pairs_differ() -> None:
    first, second = RecoveryPrivateKey.generate(), RecoveryPrivateKey.generate()
    assert first.public != second.public
    assert first.public.id != second.public.id


def test_the_id_is_the_start_of_the_hash() -> None:
    assert PAIR.public.id == hashlib.sha256(PAIR.public.raw).hexdigest()[:16]


LONG_MODULUS = b"\xff" * 1184
"""Coefficients of 4095, where FIPS 203 §7.2 takes none above 3328."""


@pytest.mark.parametrize(
    "public",
    [
        b"",
        PAIR.public.raw[:-1],
        PAIR.public.raw + b"\0",
        LONG_MODULUS + PAIR.public.raw[1184:],
        PAIR.public.raw[:1184] + bytes(32),
    ],
    ids=["empty", "short", "long", "no ML-KEM key", "a point of small order"],
)
def test_bytes_that_cannot_be_sealed_to_are_no_public_half(public: bytes) -> None:
    with pytest.raises(RecoveryKeyInvalid):
        RecoveryPublicKey(public)


# The public half as text


def test_a_public_half_is_one_line_of_ascii() -> None:
    text = PAIR.public.to_text()
    assert text.startswith(f"strongroom-recovery-1:{PAIR.public.id}:")
    assert text.isascii()
    assert text.split() == [text]
    assert RecoveryPublicKey.from_text(text) == PAIR.public


def test_a_line_that_mail_broke_is_put_together() -> None:
    text = PAIR.public.to_text()
    broken = "\r\n".join(text[start : start + 70] for start in range(0, len(text), 70))
    assert RecoveryPublicKey.from_text(f"  {broken}\n") == PAIR.public


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "strongroom-recovery-1:",
        base64.b64encode(PAIR.public.raw).decode(),
        PAIR.public.to_text().replace("recovery-1", "recovery-2"),
        PAIR.public.to_text().replace(PAIR.public.id, OTHER_PAIR.public.id),
        PAIR.public.to_text()[:-4],
        PAIR.public.to_text() + "=",
        PAIR.public.to_text() + "电",
        PAIR.public.to_text() * 2,
    ],
    ids=["empty", "colon", "tag", "bare", "version", "id", "cut", "padded", "foreign", "twice"],
)
def test_damaged_text_is_refused_with_a_word_on_what_to_do(text: str) -> None:
    with pytest.raises(RecoveryKeyInvalid, match="copy the whole line again"):
        RecoveryPublicKey.from_text(text)


# The private half's file


def test_a_private_half_is_read_back_with_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "recovery.key"
    before = os.umask(0)
    try:
        write_private(path, PAIR, PASSPHRASE)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert raw(PAIR) not in path.read_bytes()
    assert base64.b64encode(raw(PAIR)) not in path.read_bytes()
    assert raw(read_private(path, PASSPHRASE)) == raw(PAIR)


def test_a_private_half_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "recovery.key"
    write_private(path, PAIR, PASSPHRASE)
    before = path.read_bytes()
    with pytest.raises(UnsafeKeyFile, match="File exists"):
        write_private(path, OTHER_PAIR, PASSPHRASE)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_half_is_not_written_without_a_passphrase(tmp_path: Path) -> None:
    with pytest.raises(UnsafeKeyFile, match="choose one"):
        write_private(tmp_path / "recovery.key", PAIR, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("passphrase", ["", "Tr0ub4dor&3", PASSPHRASE + " "])
def test_another_passphrase_is_refused(tmp_path: Path, passphrase: str) -> None:
    write_private(tmp_path / "recovery.key", PAIR, PASSPHRASE)
    with pytest.raises(UnsafeKeyFile, match="passphrase is wrong or the file is damaged"):
        read_private(tmp_path / "recovery.key", passphrase)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o700])
def test_a_file_that_others_could_use_is_refused(tmp_path: Path, mode: int) -> None:
    write_private(tmp_path / "recovery.key", PAIR, PASSPHRASE)
    (tmp_path / "recovery.key").chmod(mode)
    with pytest.raises(UnsafeKeyFile, match=rf"mode {mode:04o}: run `chmod 0600`"):
        read_private(tmp_path / "recovery.key", PASSPHRASE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeKeyFile, match="missing"):
        read_private(tmp_path / "recovery.key", PASSPHRASE)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recovery.key"
    write_private(path, PAIR, PASSPHRASE)
    document = json.loads(path.read_bytes())
    sealed = bytearray(base64.b64decode(document["sealed_key"]))
    sealed[20] ^= 1
    document["sealed_key"] = base64.b64encode(sealed).decode()
    path.write_text(json.dumps(document))
    with pytest.raises(UnsafeKeyFile, match="the file is damaged"):
        read_private(path, PASSPHRASE)


def test_a_sealed_root_key_does_not_pass_for_a_private_half(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    create_root_key(path, data_folder=tmp_path / "data", passphrase=PASSPHRASE)
    with pytest.raises(UnsafeKeyFile, match="strongroom-recovery-key/1: put back the right file"):
        read_private(path, PASSPHRASE)
    relabelled = {**json.loads(path.read_bytes()), "format": "strongroom-recovery-key/1"}
    path.write_text(json.dumps(relabelled))
    with pytest.raises(UnsafeKeyFile, match="does not open"):
        read_private(path, PASSPHRASE)


# Recovery blobs


@pytest.mark.parametrize("kind", BlobKind)
def test_a_data_key_of_any_kind_comes_back(sealer: EpochSealer, kind: BlobKind) -> None:
    blob = sealer.seal(PAIR.public, kind, CONTEXT, DATA_KEY)
    assert len(blob) == BLOB_SIZE_BYTES == 1196
    assert raw(sealer.open(PAIR, kind, CONTEXT, blob)) == raw(DATA_KEY)


def test_sealing_twice_gives_two_blobs_that_share_nothing(sealer: EpochSealer, blob: bytes) -> None:
    again = sealer.seal(PAIR.public, VERSION, CONTEXT, DATA_KEY)
    assert blob[:12] != again[:12]
    assert blob[12:] != again[12:]


def test_another_private_half_opens_nothing(sealer: EpochSealer, blob: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        sealer.open(OTHER_PAIR, VERSION, CONTEXT, blob)


def test_the_recovery_key_opens_nothing_without_the_epoch_key(blob: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        EpochSealer(EpochKey.generate(), 7).open(PAIR, VERSION, CONTEXT, blob)


def test_a_blob_does_not_pass_for_one_of_another_epoch() -> None:
    epoch_key = EpochKey.generate()
    blob = EpochSealer(epoch_key, 7).seal(PAIR.public, VERSION, CONTEXT, DATA_KEY)
    with pytest.raises(DecryptionFailed):
        EpochSealer(epoch_key, 8).open(PAIR, VERSION, CONTEXT, blob)


@pytest.mark.parametrize("epoch", [-1, 2**64])
def test_an_epoch_that_is_no_uint64_is_refused(epoch: int) -> None:
    with pytest.raises(OverflowError):
        EpochSealer(EpochKey.generate(), epoch)


def test_a_blob_of_one_kind_never_opens_as_another(sealer: EpochSealer) -> None:
    for kind in BlobKind:
        blob = sealer.seal(PAIR.public, kind, CONTEXT, DATA_KEY)
        for other in set(BlobKind) - {kind}:
            with pytest.raises(DecryptionFailed):
                sealer.open(PAIR, other, CONTEXT, blob)


# Shred epochs


def test_a_resealed_blob_opens_in_the_new_epoch_only(sealer: EpochSealer, blob: bytes) -> None:
    successor = EpochSealer(EpochKey.generate(), 8)
    moved = sealer.reseal(blob, successor, VERSION, CONTEXT)
    assert len(moved) == BLOB_SIZE_BYTES
    assert raw(successor.open(PAIR, VERSION, CONTEXT, moved)) == raw(DATA_KEY)
    with pytest.raises(DecryptionFailed):
        sealer.open(PAIR, VERSION, CONTEXT, moved)


def test_an_old_blob_opens_with_nothing_that_is_left_after_an_epoch(blob: bytes) -> None:
    for epoch in (7, 8):
        left = EpochSealer(EpochKey.generate(), epoch)
        with pytest.raises(DecryptionFailed):
            left.open(PAIR, VERSION, CONTEXT, blob)
        with pytest.raises(DecryptionFailed):
            left.reseal(blob, left, VERSION, CONTEXT)


def test_resealing_refuses_what_opening_would(sealer: EpochSealer, blob: bytes) -> None:
    successor = EpochSealer(EpochKey.generate(), 8)
    with pytest.raises(DecryptionFailed):
        sealer.reseal(blob, successor, VERSION, CONTEXT + b"!")
    with pytest.raises(DecryptionFailed):
        sealer.reseal(blob, successor, BlobKind.BACKUP, CONTEXT)
    with pytest.raises(DecryptionFailed):
        sealer.reseal(blob[:-1], successor, VERSION, CONTEXT)


# Epoch keys


def test_an_epoch_key_comes_back_with_the_recovery_key_alone() -> None:
    epoch_key = EpochKey.generate()
    sealed = seal_epoch_key(PAIR.public, epoch_key, vault_id=VAULT, epoch=7)
    assert len(sealed) == SEALED_KEY_SIZE_BYTES == 1168
    opened = open_epoch_key(PAIR, sealed, vault_id=VAULT, epoch=7)
    assert type(opened) is EpochKey
    assert raw(opened) == raw(epoch_key)


@pytest.mark.parametrize(
    ("pair", "vault_id", "epoch"),
    [(OTHER_PAIR, VAULT, 7), (PAIR, OTHER_VAULT, 7), (PAIR, VAULT, 8)],
    ids=["pair", "vault", "epoch"],
)
def test_an_epoch_key_stays_in_its_place(
    pair: RecoveryPrivateKey, vault_id: UUID, epoch: int
) -> None:
    sealed = seal_epoch_key(PAIR.public, EpochKey.generate(), vault_id=VAULT, epoch=7)
    with pytest.raises(DecryptionFailed):
        open_epoch_key(pair, sealed, vault_id=vault_id, epoch=epoch)


def test_the_running_service_takes_its_epoch_key_from_the_kms(tmp_path: Path) -> None:
    root_key = RootKey.generate()
    create_keyring(tmp_path / "keyring", root_key)
    keyring = LocalKeyring(tmp_path / "keyring", root_key)
    keyring.create_key(Purpose.DOCUMENTS)
    epoch_key, kek = EpochKey.generate(), Purpose.DOCUMENTS
    wrapped = wrap_epoch_key(keyring, kek, epoch_key, vault_id=VAULT, epoch=7)
    unwrapped = unwrap_epoch_key(keyring, kek, wrapped, vault_id=VAULT, epoch=7)
    assert type(unwrapped) is EpochKey
    assert raw(unwrapped) == raw(epoch_key)
    for vault_id, epoch in ((OTHER_VAULT, 7), (VAULT, 8)):
        with pytest.raises(DecryptionFailed):
            unwrap_epoch_key(keyring, kek, wrapped, vault_id=vault_id, epoch=epoch)
