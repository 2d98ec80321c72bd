"""Joining a database from before a shred epoch to the key catalogue, so that it opens what still lives.

For a restored dump, or one recovered to a point in time: its wrapped keys are of versions that an epoch
destroyed. What the catalogue does not name was shredded since, and stays shut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert

from keymgmt.provider import KeyProvider, Purpose
from vault.catalogue import Catalogue, Entry
from vault.database import Database
from vault.errors import VaultError
from vault.tables import kek_versions, shred_epochs, versions
from vault.wrapped_keys import BATCH


class NoCatalogue(VaultError):
    """No site holds a key catalogue, or just one that is older than the database."""


@dataclass(frozen=True)
class Rejoined:
    """What a join did.

    Attributes:
        epoch, written_at: of the catalogue.
        joined: versions that have their present wrapped key again.
        shut: versions that nothing opens any more: shredded, or later than the catalogue.
    """

    epoch: int
    written_at: str
    joined: int
    shut: int


class Rejoin:
    """Joins the database of one vault to its newest catalogue."""

    def __init__(self, database: Database, keys: KeyProvider, catalogue: Catalogue) -> None:
        self._database = database
        self._keys = keys
        self._catalogue = catalogue

    def run(self) -> Rejoined:
        """Put the catalogue's wrapped keys into the rows they belong to. Repeating it is harmless.

        Raises:
            NoCatalogue: there is none, or it is older than the database: then its rows are current.
            DecryptionFailed, KeyVersionRetired: the catalogue is damaged, or its key is gone.
            StoreError, KeyServiceUnavailable, DatabaseUnavailable.
        """
        found = self._catalogue.newest()
        if found is None:
            raise NoCatalogue("no site holds a key catalogue; they are written by `key shred`")
        header, site, folder = found
        if header.epoch < self._epoch():
            raise NoCatalogue(
                "the newest key catalogue is older than this database, whose wrapped keys are current"
            )
        entries = self._catalogue.entries(header, site, folder)
        joined = sum(self._join(batch) for batch in _batches(entries))
        return Rejoined(header.epoch, header.written_at, joined, self._shut())

    def _epoch(self) -> int:
        finished = shred_epochs.c.finished_at.is_not(None)
        query = select(func.coalesce(func.max(shred_epochs.c.number), 0)).where(finished)
        return int(self._database.execute(query, {})[0][0])

    def _join(self, batch: list[Entry]) -> int:
        known = [{"version": number} for number in {entry.wrapped.version for entry in batch}]
        values = {
            "documents": [entry.document_id for entry in batch],
            "numbers": [entry.number for entry in batch],
            "ids": [entry.version_id for entry in batch],
            "wrapped": [entry.wrapped.text for entry in batch],
        }
        with self._database.transaction() as connection:
            connection.execute(insert(kek_versions).values(known).on_conflict_do_nothing())
            return connection.execute(_JOIN, values).rowcount

    def _shut(self) -> int:
        oldest = self._keys.describe(Purpose.DOCUMENTS).oldest_usable
        query = select(func.count()).select_from(versions).where(versions.c.kek_version < oldest)
        return int(self._database.execute(query, {})[0][0])


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


_JOIN = text(
    """
    UPDATE versions v SET wrapped_key = entry.wrapped
    FROM unnest(CAST(:documents AS uuid[]), CAST(:numbers AS integer[]), CAST(:ids AS uuid[]),
                CAST(:wrapped AS text[])) AS entry (document_id, number, id, wrapped)
    WHERE v.document_id = entry.document_id AND v.number = entry.number AND v.id = entry.id"""
)
