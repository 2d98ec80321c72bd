"""Writing a key catalogue: one walk over the rows, sealed for each site under a data key of its own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select

from keymgmt import stream
from keymgmt.binding import catalogue_binding
from keymgmt.commitment import commit
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.recovery import BlobKind
from vault import clock
from vault.catalogue import FORMAT, PREFIX, Header, Recovery
from vault.database import ServiceDatabase
from vault.entries import Entries, Entry
from vault.errors import IntegrityFailure
from vault.objects.pipeline import ObjectWriter
from vault.objects.reading import sha256_of
from vault.objects.store import ObjectStore, StoreError
from vault.recovery.epochs import Recipient, RecoveryEpochs
from vault.tables import shred_epochs


class CatalogueWriter:
    """Writes the catalogues of one vault."""

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

    def write(
        self, epoch: int, recipient: Recipient | None, batches: Iterable[list[Entry]]
    ) -> None:
        """Write a catalogue at every site, read them back, and delete the older ones.

        Args:
            recipient: whose blobs the entries have, and who can open it without the KMS.

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
        key = f"{folder}/keys"
        for store, header in self._write_lines(key, about, recipient, batches):
            if sha256_of(store, key).hex() != header.sha256:
                raise IntegrityFailure
            store.put(f"{folder}/header", json.dumps(asdict(header)).encode())
            _delete_all_but(store, folder)

    def _write_lines(
        self,
        key: str,
        about: Mapping[str, Any],
        recipient: Recipient | None,
        batches: Iterable[list[Entry]],
    ) -> list[tuple[ObjectStore, Header]]:
        """The sealed lines at every site, from one walk over the rows."""
        sealed = [
            _SealedLines(self._vault_id, self._keys, store, key, self._executor)
            for store in self._stores.values()
        ]
        try:
            for batch in batches:
                lines = "".join(entry.to_line() for entry in batch).encode()
                for each in sealed:
                    each.write(lines, len(batch))
            return [(each.store, each.finish(about, recipient)) for each in sealed]
        except BaseException:
            for each in sealed:
                each.abort()
            raise


class CatalogueRewrite:
    """Writes the catalogue anew before versions of a KEK are destroyed that it, or its lines, are under."""

    def __init__(
        self,
        database: ServiceDatabase,
        writer: CatalogueWriter,
        entries: Entries,
        recovery: RecoveryEpochs,
    ) -> None:
        self._database = database
        self._writer = writer
        self._entries = entries
        self._recovery = recovery

    def for_documents(self) -> None:
        """With the keys of all living documents as they are now; old copies of the database need it.

        Raises: as `CatalogueWriter.write`.
        """
        recipient = self._recovery.current()
        self._writer.write(self._epoch(), recipient, self._entries.batches(recipient))

    def for_backups(self) -> None:
        """Bring what the KEK `backups` wraps, epoch key and catalogue, under its newest version.

        Raises: as `CatalogueWriter.write`.
        """
        self._recovery.rewrap_keys()
        self.for_documents()

    def _epoch(self) -> int:
        """Of the last shred epoch, also if it is not finished; 0 before the first."""
        newest = select(func.coalesce(func.max(shred_epochs.c.number), 0))
        return int(self._database.execute(newest, {})[0][0])


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

    def finish(self, about: Mapping[str, Any], recipient: Recipient | None) -> Header:
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
            recovery=self._recovery(recipient) if recipient else None,
            **about,
        )

    def abort(self) -> None:
        with suppress(StoreError):
            self._writer.abort()

    def _recovery(self, recipient: Recipient) -> Recovery:
        blob = recipient.seal(BlobKind.CATALOGUE, self._binding, self._data_key)
        name = recipient.epoch.name
        return Recovery(
            epoch=name.epoch,
            epoch_key_id=str(name.id),
            public_key=recipient.epoch.public.to_text(),
            blob=base64.b64encode(blob).decode(),
        )


def _delete_all_but(store: ObjectStore, folder: str) -> None:
    # Headers first: what is left of a catalogue after a crash in here must not look like one.
    older = [o.key for o in store.list(PREFIX) if not o.key.startswith(f"{folder}/")]
    for key in sorted(older, key=lambda key: not key.endswith("/header")):
        store.delete(key)
