"""What earlier releases and Go's HPKE sealed for a recovery key still has the outcome on file."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from uuid import UUID

import pytest

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.recovery import BlobKind, EpochKey, EpochSealer, open_epoch_key
from keymgmt.recoveryfile import read_private
from keymgmt.recoverykey import RecoveryPrivateKey, RecoveryPublicKey

FOLDER = Path(__file__).parent / "recovery"
FILES = sorted(FOLDER.glob("*.json"), key=lambda file: file.stem)

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def opened(document: dict[str, str], private: RecoveryPrivateKey) -> EpochKey | DataKey:
    sealed, epoch = base64.b64decode(document["sealed"]), int(document["epoch"])
    if "vault_id" in document:
        return open_epoch_key(private, sealed, vault_id=UUID(document["vault_id"]), epoch=epoch)
    sealer = EpochSealer(EpochKey(bytes.fromhex(document["epoch_key"])), epoch)
    context = bytes.fromhex(document.get("context", ""))
    return sealer.open(private, BlobKind(int(document["kind"])), context, sealed)


@every_file
def test_a_recovery_vector_has_the_outcome_that_it_states(file: Path) -> None:
    document = json.loads(file.read_text())
    private = RecoveryPrivateKey(bytes.fromhex(document["private"]))
    if document["expect"] == "key":
        assert opened(document, private).reveal_to_keymgmt().hex() == document["key"]
    else:
        assert document["expect"] == "decryption-failed"
        with pytest.raises(DecryptionFailed):
            opened(document, private)


@every_file
def test_both_sides_derive_the_same_public_half(file: Path) -> None:
    document = json.loads(file.read_text())
    private = RecoveryPrivateKey(bytes.fromhex(document["private"]))
    assert private.public.raw == base64.b64decode(document["public"])


def test_vectors_of_both_outcomes_are_there() -> None:
    outcomes = [json.loads(file.read_text())["expect"] for file in FILES]
    assert (outcomes.count("key"), outcomes.count("decryption-failed")) == (7, 12)


def test_the_file_and_the_text_of_an_earlier_pair_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "private-half.key"
    path.write_bytes((FOLDER / "private-half.key").read_bytes())
    path.chmod(0o600)  # git keeps no such mode
    private = read_private(path, "correct horse 电池 staple")
    assert private.reveal_to_keymgmt() == bytes(range(32))
    text = (FOLDER / "public-half.txt").read_text()
    assert RecoveryPublicKey.from_text(text) == private.public
    assert private.public.to_text() == text.strip()
