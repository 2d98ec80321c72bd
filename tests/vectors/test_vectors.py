"""Every vector does what its file says, with our reader and, where it can know, with Tink's."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
import tink

from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.stream import open_range, plaintext_size
from tests.sealed_objects import MemoryObject, TinkPeer
from tests.vectors.generate import FOLDER, vectors

FILES = sorted(FOLDER.glob("*.json"), key=lambda file: file.stem)

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@dataclass(frozen=True)
class Case:
    """A vector as it was read."""

    expect: str
    key: DataKey
    binding: bytes
    commitment: bytes
    object_size: int
    object: bytes
    plaintext_sha256: str | None

    @classmethod
    def read(cls, file: Path) -> Case:
        document = json.loads(file.read_text())
        return cls(
            document["expect"],
            DataKey(bytes.fromhex(document["key"])),
            bytes.fromhex(document["binding"]),
            bytes.fromhex(document["commitment"]),
            document["object_size"],
            zlib.decompress(base64.b64decode(document["object"])),
            document.get("plaintext_sha256"),
        )

    def open(self) -> bytes:
        """As the vault reads: commitment first, size from the row."""
        verify(self.key, self.binding, self.commitment)
        pieces = open_range(
            self.key,
            self.binding,
            ciphertext_size=self.object_size,
            fetch=MemoryObject(self.object).fetch,
            start=0,
            stop=plaintext_size(self.object_size),
        )
        return b"".join(pieces)


@every_file
def test_a_vector_has_the_outcome_that_it_states(file: Path) -> None:
    case = Case.read(file)
    if case.expect == "plaintext":
        assert hashlib.sha256(case.open()).hexdigest() == case.plaintext_sha256
    else:
        assert case.expect == "decryption-failed"
        with pytest.raises(DecryptionFailed):
            case.open()


KNOWN_TO_US_ONLY = {"other-size", "two-keys-other"}
"""Refused for a size or a commitment on record, which Tink has no notion of."""


@every_file
def test_tink_agrees(file: Path) -> None:
    case = Case.read(file)
    peer = TinkPeer(case.key)
    if case.expect == "plaintext":
        opened = peer.open(case.object, case.binding)
        assert hashlib.sha256(opened).hexdigest() == case.plaintext_sha256
    elif file.stem in KNOWN_TO_US_ONLY:
        peer.open(case.object, case.binding)
    else:
        with pytest.raises(tink.TinkError):
            peer.open(case.object, case.binding)


def test_the_files_are_what_the_generator_writes() -> None:
    generated = vectors()
    assert [file.stem for file in FILES] == sorted(generated)
    for file in FILES:
        assert unpacked(file.read_text()) == unpacked(generated[file.stem].to_json())


def unpacked(text: str) -> dict[str, object]:
    """Another zlib may pack the same object differently."""
    document = json.loads(text)
    return {**document, "object": zlib.decompress(base64.b64decode(document["object"]))}
