"""The key catalogue: the keys of all living documents, wrapped and sealed, as one object at each site.

A shred epoch kills every wrapped key and recovery blob in old backups, those of living documents too; joined
to the newest catalogue, such a backup opens all documents that were not shredded, and none that were. It is
replaced as a whole, and older ones are deleted.

```
catalogue/<epoch, 8 digits>-<when, UTC>/keys      sealed as documents are (Tink AES256_GCM_HKDF_1MB), lines
                                                  (`entries.Entry.to_line`)
                                       /header    JSON (`Header`); stored last, so a catalogue without is none
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from keymgmt import stream
from keymgmt.binding import catalogue_binding
from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.recoverykey import RecoveryPublicKey
from vault.entries import Entry
from vault.objects.reading import small_object
from vault.objects.store import ObjectMissing, ObjectStore, StoreError
from vault.recovery.epochkeys import EpochKeyName
from vault.recovery.epochtable import RecoveryEpoch

PREFIX: Final = "catalogue/"
FORMAT: Final = "strongroom-key-catalogue/2"


@dataclass(frozen=True)
class Recovery:
    """How a catalogue opens without the KMS.

    Attributes:
        epoch, epoch_key_id: of the recovery epoch that its entries' blobs are of.
        public_key: for whom; `RecoveryPublicKey.to_text`.
        blob: the catalogue's own data key, sealed in that epoch; base64.
    """

    epoch: int
    epoch_key_id: str
    public_key: str
    blob: str

    @property
    def of(self) -> RecoveryEpoch:
        """The epoch. Raises: RecoveryKeyInvalid, ValueError: the header is damaged."""
        name = EpochKeyName(self.epoch, UUID(self.epoch_key_id))
        return RecoveryEpoch(name, RecoveryPublicKey.from_text(self.public_key))


@dataclass(frozen=True)
class Header:
    """What stands beside a catalogue in the clear.

    Attributes:
        epoch: the shred epoch it was written for; 0 before the first.
        kek_version: the newest of the KEK `documents` when it was written.
        size_bytes, sha256: of the sealed lines.
        wrapped_key: its data key, under the KEK `backups`.
    """

    format: str
    id: str
    epoch: int
    kek_version: int
    written_at: str
    count: int
    size_bytes: int
    sha256: str
    wrapped_key: str
    commitment: str
    recovery: Recovery | None

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Raises: ValueError, TypeError: this is no header."""
        known: dict[str, Any] = json.loads(text)
        recovery = known.pop("recovery")
        return cls(**known, recovery=recovery and Recovery(**recovery))


@dataclass(frozen=True)
class Found:
    """A catalogue, and where it lies."""

    header: Header
    site: str
    folder: str


class Catalogues:
    """The catalogues of one vault at its sites, to be read."""

    def __init__(self, vault_id: UUID, stores: Mapping[str, ObjectStore]) -> None:
        self._vault_id = vault_id
        self._stores = stores

    def newest(self) -> Found | None:
        """The newest at any site that answers; None if there is none.

        Raises:
            StoreError: no site answered.
        """
        found, failures = [], []
        for site, store in self._stores.items():
            try:
                found += [Found(header, site, folder) for folder, header in _headers(store)]
            except StoreError as exc:
                failures.append(exc)
        if len(failures) == len(self._stores):
            raise failures[0]
        return max(
            found, key=lambda each: (each.header.epoch, each.header.written_at), default=None
        )

    def entries(self, found: Found, data_key: DataKey) -> Iterator[Entry]:
        """What a catalogue holds.

        Raises:
            DecryptionFailed: it is damaged, or not this vault's; what came before was authentic.
            StoreError.
        """
        header, store = found.header, self._stores[found.site]
        binding = self.binding(header)
        verify(data_key, binding, bytes.fromhex(header.commitment))
        chunks = stream.open_range(
            data_key,
            binding,
            ciphertext_size=header.size_bytes,
            fetch=lambda offset, size: store.open(f"{found.folder}/keys", offset, size),
            start=0,
            stop=stream.plaintext_size(header.size_bytes),
        )
        return map(Entry.from_line, _lines(chunks))

    def binding(self, header: Header) -> bytes:
        """What its data key is bound to."""
        return catalogue_binding(vault_id=self._vault_id, catalogue_id=UUID(header.id))


def _headers(store: ObjectStore) -> Iterator[tuple[str, Header]]:
    for stored in list(store.list(PREFIX)):
        if stored.key.endswith("/header"):
            header = _header(store, stored.key)
            if header is not None:
                yield stored.key.removesuffix("/header"), header


def _header(store: ObjectStore, key: str) -> Header | None:
    """None where it is gone by now, or is not one."""
    try:
        header = Header.from_json(small_object(store, key))
    except (ObjectMissing, ValueError, TypeError, KeyError):
        return None
    return header if header.format == FORMAT else None


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("ascii") for line in whole)
    if rest:
        raise DecryptionFailed
