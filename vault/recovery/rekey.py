"""After the KMS was lost for good: all data keys go under the KEK of a new one, and the vault serves again.

Objects stay as they are, and so do the recovery blobs. The new KEK goes on above the versions that rows still
name, so that no number means two keys. Repeating it is harmless, also after it was broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from sqlalchemy import delete, func, select, update

from keymgmt.errors import DecryptionFailed
from keymgmt.provider import KeyProvider, Purpose
from vault.access.sealed_rows import FOLLOWERS, PRINCIPALS
from vault.database import ServiceDatabase
from vault.entries import Entries, Entry
from vault.keks import Keks
from vault.recovery.epochkeys import EpochKeys
from vault.recovery.restore import Restore, StoredVersion
from vault.tables import kek_versions, seal_keys, signing_keys
from vault.walk import BATCH

Report = Callable[[StoredVersion, bool], None]
"""Told of each version whether its data key opened."""


class Rekey:
    """Brings one vault, opened with its recovery key, under a new KMS."""

    def __init__(
        self,
        database: ServiceDatabase,
        restore: Restore,
        keys: KeyProvider,
        keks: Keks,
        epoch_keys: EpochKeys,
    ) -> None:
        self._database = database
        self._restore = restore
        self._keys = keys
        self._keks = keks
        self._epoch_keys = epoch_keys
        self._entries = Entries(database)

    def run(self, report: Report) -> int:
        """Wrap every data key that opens; how many were.

        Raises: KeyManagementError, StoreError, DatabaseUnavailable: repeat it.
        """
        self._go_on_above_known_versions()
        for name, key in self._restore.epoch_keys():
            self._epoch_keys.wrap_anew(name, key)
        opened = self._opened(report)
        done = 0
        while batch := list(islice(opened, BATCH)):
            done += self._entries.put_wrapped_keys(batch)
        self._retire_signing_key()
        self._drop_seals()
        return done

    def _go_on_above_known_versions(self) -> None:
        query = select(func.coalesce(func.max(kek_versions.c.version), 0))
        known = int(self._database.execute(query, {})[0][0])
        while self._keys.describe(Purpose.DOCUMENTS).latest <= known:
            self._keys.rotate(Purpose.DOCUMENTS)
        self._keks.adopt()

    def _opened(self, report: Report) -> Iterator[Entry]:
        for version in self._restore.versions():
            try:
                data_key = self._restore.data_key(version)
            except DecryptionFailed:
                report(version, False)
                continue
            wrapped = self._keys.wrap(Purpose.DOCUMENTS, version.binding, data_key)
            yield Entry(version.document_id, version.number, version.id, wrapped, None)
            report(version, True)

    def _retire_signing_key(self) -> None:
        """Its private half was lost with the KMS; its public one still tells what it signed."""
        in_use = signing_keys.c.retired_at.is_(None)
        self._database.execute(update(signing_keys).where(in_use).values(retired_at=func.now()), {})

    def _drop_seals(self) -> None:
        """Their key was lost with the KMS too: the next start takes the rows over as they are."""
        for table in (PRINCIPALS, *FOLLOWERS):
            unsealed = update(table.table).values(seal=None, seal_key_id=None)
            self._database.execute(unsealed, {})
        self._database.execute(delete(seal_keys), {})
