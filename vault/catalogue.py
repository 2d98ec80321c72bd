"""The key catalogue: the wrapped keys of all living documents, as one sealed object at each site.

A shred epoch kills every wrapped key in old backups, those of living documents too; joined to the newest
catalogue, such a backup opens all documents that were not shredded, and none that were. It is replaced as a
whole, and older ones are deleted.

```
catalogue/<epoch, 8 digits>-<when, UTC>/keys      sealed as documents are (Tink AES256_GCM_HKDF_1MB), lines of
                                                  <document id> <number> <version id> <wrapped key>
                                       /header    JSON (`Header`); stored last, so a catalogue without is none
```
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import Any, Final
from uuid import UUID, uuid4

from keymgmt import stream
from keymgmt.binding import catalogue_binding
from keymgmt.commitment import commit, verify
from keymgmt.errors import DecryptionFailed
from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from vault import clock
from vault.errors import IntegrityFailure
from vault.objects.pipeline import ObjectWriter
from vault.objects.reading import sha256_of
from vault.objects.store import ObjectMissing, ObjectStore, StoreError
from vault.wrapped_keys import StoredKey

PREFIX: Final = "catalogue/"
FORMAT: Final = "strongroom-key-catalogue/1"
_MAX_HEADER_BYTES: Final = 4096


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


@dataclass(frozen=True)
class Entry:
    """One living version's wrapped key."""

    document_id: UUID
    number: int
    version_id: UUID
    wrapped: WrappedKey


class Catalogue:
    """The catalogues of one vault at its sites."""

    def __init__(
        self,
        vault_id: UUID,
        keys: KeyProvider,
        stores: Mapping[str, ObjectStore],
        executor: Executor,
    ) -> None:
        self._vault_id = vault_id
        self._keys = keys
        self._stores = stores
        self._executor = executor

    def write(self, epoch: int, batches: Iterable[list[StoredKey]]) -> None:
        """Write a catalogue at every site, read them back, and delete the older ones.

        Raises:
            StoreError: the older ones are as they were.
            IntegrityFailure: a site gave back other bytes than it was given.
            KeyServiceUnavailable, DatabaseUnavailable.
        """
        now = clock.now().astimezone(UTC)
        folder = f"{PREFIX}{epoch:08d}-{now:%Y%m%dt%H%M%S.%f}"
        # Asked before the first row is read: an upload from now on may be wrapped under a newer one.
        kek_version = self._keys.describe(Purpose.DOCUMENTS).latest
        about = {"epoch": epoch, "kek_version": kek_version, "written_at": now.isoformat()}
        for store, header in self._write_lines(f"{folder}/keys", about, batches):
            if sha256_of(store, f"{folder}/keys").hex() != header.sha256:
                raise IntegrityFailure
            store.put(f"{folder}/header", json.dumps(asdict(header)).encode())
            _delete_all_but(store, folder)

    def rewrite(self, batches: Iterable[list[StoredKey]]) -> None:
        """Write the newest catalogue anew, if there is one, so that its data keys are too.

        Raises: as `write`.
        """
        found = self.newest()
        if found is not None:
            self.write(found[0].epoch, batches)

    def newest(self) -> tuple[Header, str, str] | None:
        """The newest header at any site that answers, with its site and folder; None if there is none.

        Raises:
            StoreError: no site answered.
        """
        found, failures = [], []
        for site, store in self._stores.items():
            try:
                found += [(header, site, folder) for folder, header in _headers(store)]
            except StoreError as exc:
                failures.append(exc)
        if len(failures) == len(self._stores):
            raise failures[0]
        return max(found, key=lambda each: (each[0].epoch, each[0].written_at), default=None)

    def entries(self, header: Header, site: str, folder: str) -> Iterator[Entry]:
        """What a catalogue holds.

        Raises:
            DecryptionFailed: it is damaged, or not this vault's; what came before was authentic.
            KeyVersionRetired, KeyServiceUnavailable, StoreError.
        """
        binding = catalogue_binding(vault_id=self._vault_id, catalogue_id=UUID(header.id))
        data_key = self._keys.unwrap(Purpose.BACKUPS, binding, WrappedKey(header.wrapped_key))
        verify(data_key, binding, bytes.fromhex(header.commitment))
        chunks = stream.open_range(
            data_key,
            binding,
            ciphertext_size=header.size_bytes,
            fetch=lambda offset, size: self._stores[site].open(f"{folder}/keys", offset, size),
            start=0,
            stop=stream.plaintext_size(header.size_bytes),
        )
        for line in _lines(chunks):
            document_id, number, version_id, wrapped = line.split(" ")
            yield Entry(UUID(document_id), int(number), UUID(version_id), WrappedKey(wrapped))

    def _write_lines(
        self, key: str, about: Mapping[str, Any], batches: Iterable[list[StoredKey]]
    ) -> list[tuple[ObjectStore, Header]]:
        """The sealed lines at every site, from one walk over the rows."""
        sealed = [
            _SealedLines(self._vault_id, self._keys, store, key, self._executor)
            for store in self._stores.values()
        ]
        try:
            for batch in batches:
                lines = "".join(map(_line, batch)).encode()
                for each in sealed:
                    each.write(lines, len(batch))
            return [(each.store, each.finish(about)) for each in sealed]
        except BaseException:
            for each in sealed:
                each.abort()
            raise


class _SealedLines:
    """The lines on their way to one site, under a data key of their own."""

    def __init__(
        self,
        vault_id: UUID,
        keys: KeyProvider,
        store: ObjectStore,
        key: str,
        executor: Executor,
    ) -> None:
        self.store = store
        self._id = uuid4()
        self._binding = catalogue_binding(vault_id=vault_id, catalogue_id=self._id)
        self._data_key, self._wrapped = keys.generate_data_key(Purpose.BACKUPS, self._binding)
        self._writer = ObjectWriter(store, key, executor)
        self._stream = stream.SealingStream(self._data_key, self._binding, self._writer)
        self._count = 0

    def write(self, lines: bytes, count: int) -> None:
        self._stream.write(lines)
        self._count += count

    def finish(self, about: Mapping[str, Any]) -> Header:
        self._stream.finish()
        sent = self._writer.finish()
        return Header(
            format=FORMAT,
            id=str(self._id),
            count=self._count,
            size_bytes=sent.size_bytes,
            sha256=sent.sha256.hex(),
            wrapped_key=self._wrapped.text,
            commitment=commit(self._data_key, self._binding).hex(),
            **about,
        )

    def abort(self) -> None:
        with suppress(StoreError):
            self._writer.abort()


def _delete_all_but(store: ObjectStore, folder: str) -> None:
    # Headers first: what is left of a catalogue after a crash in here must not look like one.
    older = [o.key for o in store.list(PREFIX) if not o.key.startswith(f"{folder}/")]
    for key in sorted(older, key=lambda key: not key.endswith("/header")):
        store.delete(key)


def _line(key: StoredKey) -> str:
    return f"{key.document_id} {key.number} {key.version_id} {key.bound.wrapped.text}\n"


def _headers(store: ObjectStore) -> Iterator[tuple[str, Header]]:
    for stored in list(store.list(PREFIX)):
        if stored.key.endswith("/header"):
            header = _header(store, stored.key)
            if header is not None:
                yield stored.key.removesuffix("/header"), header


def _header(store: ObjectStore, key: str) -> Header | None:
    """None where it is gone by now, or is not one."""
    buffer = memoryview(bytearray(_MAX_HEADER_BYTES))
    try:
        with closing(store.open(key)) as reader:
            size = reader.readinto(buffer)
        known: dict[str, Any] = json.loads(bytes(buffer[:size]))
        header = Header(**known)
    except (ObjectMissing, ValueError, TypeError):
        return None
    return header if header.format == FORMAT else None


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("ascii") for line in whole)
    if rest:
        raise DecryptionFailed
