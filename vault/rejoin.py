"""Joining a database from before a shred epoch to the key catalogue, so that it opens what still lives.

For a restored dump, or one recovered to a point in time: its wrapped keys are of versions that an epoch
destroyed, and its recovery blobs of an epoch key that is gone. What the catalogue does not name was shredded
since, and stays shut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import func, select

from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from vault.catalogue import Catalogues, Found
from vault.database import ServiceDatabase
from vault.entries import Entries, Entry
from vault.errors import VaultError
from vault.purge import Purge
from vault.recovery.epochtable import EpochTable
from vault.tables import shred_epochs, versions
from vault.walk import BATCH


class NoCatalogue(VaultError):
    """No site holds a key catalogue, or just one that is older than the database."""


@dataclass(frozen=True)
class Rejoined:
    """What a join did.

    Attributes:
        epoch, written_at: of the catalogue.
        joined: versions that have their present wrapped key again.
        shut: versions that nothing opens any more: they were shredded since the copy was made.
        purged: documents among them that were let go now.
    """

    epoch: int
    written_at: str
    joined: int
    shut: int
    purged: int


class Rejoin:
    """Joins the database of one vault to its newest catalogue."""

    def __init__(
        self,
        database: ServiceDatabase,
        keys: KeyProvider,
        catalogues: Catalogues,
        entries: Entries,
        epochs: EpochTable,
        purge: Purge,
    ) -> None:
        self._database = database
        self._keys = keys
        self._catalogues = catalogues
        self._entries = entries
        self._epochs = epochs
        self._purge = purge

    def run(self, *, purge_shredded: bool = False) -> Rejoined:
        """Put the catalogue's keys into the rows they belong to. Repeating it is harmless.

        Args:
            purge_shredded: let go of what the catalogue does not name, as the original did.

        Raises:
            NoCatalogue: there is none, or it is older than the database: then its rows are current; or
                its own keys were destroyed, so it does not tell what was shredded.
            DecryptionFailed, KeyVersionRetired: the catalogue is damaged, or its key is gone.
            StoreError, KeyServiceUnavailable, DatabaseUnavailable.
        """
        found = self._found()
        header = found.header
        wrapped = WrappedKey(header.wrapped_key)
        binding = self._catalogues.binding(header)
        data_key = self._keys.unwrap(Purpose.BACKUPS, binding, wrapped)
        joined, oldest_kept = 0, self._oldest_kept()
        for batch in batches(self._catalogues.entries(found, data_key)):
            if min(entry.wrapped.version for entry in batch) < oldest_kept:
                raise NoCatalogue(
                    "key versions that the newest key catalogue is under were destroyed at the KMS itself; "
                    "`strongroom recover` with the recovery key is the way left"
                )
            joined += self._entries.put_wrapped_keys(batch)
        join_recovery(found, self._catalogues.entries(found, data_key), self._entries, self._epochs)
        shut = self._shut()
        purged = self._purge.finish_shredded(oldest_kept) if purge_shredded else 0
        return Rejoined(header.epoch, header.written_at, joined, shut, purged)

    def _found(self) -> Found:
        found = self._catalogues.newest()
        if found is None:
            raise NoCatalogue("no site holds a key catalogue; they are written by `key shred`")
        if found.header.epoch < self._epoch():
            raise NoCatalogue(
                "the newest key catalogue is older than this database, whose wrapped keys are current"
            )
        return found

    def _epoch(self) -> int:
        finished = shred_epochs.c.finished_at.is_not(None)
        query = select(func.coalesce(func.max(shred_epochs.c.number), 0)).where(finished)
        return int(self._database.execute(query, {})[0][0])

    def _shut(self) -> int:
        gone = versions.c.kek_version < self._oldest_kept()
        query = select(func.count()).select_from(versions).where(gone)
        return int(self._database.execute(query, {})[0][0])

    def _oldest_kept(self) -> int:
        return self._keys.describe(Purpose.DOCUMENTS).oldest_kept


def join_recovery(
    found: Found, entries: Iterable[Entry], into: Entries, epochs: EpochTable
) -> None:
    """Put a catalogue's recovery blobs into the rows they belong to, if the database is older.

    Raises: DecryptionFailed, StoreError, DatabaseUnavailable.
    """
    if found.header.recovery is None:
        return
    epoch = found.header.recovery.of
    if epochs.adopt(epoch):
        for batch in batches(iter(entries)):
            into.put_recovery_blobs(epoch.number, batch)


def batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Them in lists of up to `BATCH`."""
    while batch := list(islice(entries, BATCH)):
        yield batch
