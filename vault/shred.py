"""Crypto-shredding: after an epoch, no copy of a wrapped key from before it opens anything.

Deleting a row shreds nothing while dumps and WAL keep it. An epoch does: it wraps what lives under a new KEK
version, seals its recovery blobs under a new epoch key, writes the key catalogue at both sites, and destroys
the older versions and epoch keys. Then old backups are dead, and only joined to the catalogue do they open
again, without what was purged.

Each step bears being done twice, and nothing is destroyed before both sites hold a catalogue that was read
back. Does not handle: copies of the KMS itself that are older than the epoch; the certificate says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, func, insert, select, update

from keymgmt.errors import KeyVersionRetired
from keymgmt.provider import KeyProvider, Purpose, WrappedKey
from keymgmt.unwrapcache import UnwrapCache
from vault import clock
from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.catalogue_writer import CatalogueWriter
from vault.database import ServiceDatabase
from vault.entries import Entries, Entry
from vault.errors import KeyVersionInUse, RecoveryOutdated
from vault.jobrun import JobFailed, JobRun
from vault.keks import Keks
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.recovery.epochs import Recipient, RecoveryEpochs
from vault.recovery.epochtable import RecoveryEpochInUse
from vault.recovery.sealing import RecoverySealing
from vault.rewrap import Progress, Rewrap
from vault.signing_keys import SigningKeys
from vault.tables import released_versions, shred_epochs
from vault.wrapped_keys import WrappedKeys

CERTIFICATE_TYPE: Final = "application/vnd.strongroom.destruction-certificate+json"
MAX_PASSES: Final = 10
_PROBE: Final = b"strongroom/shred-probe/v1"

CONDITION: Final = {
    "en": "A snapshot of the KMS, or a copy of the keyring, that was made before this epoch finished "
    "can still open wrapped keys of that time; so can the recovery key, with a copy of an epoch key that "
    "somebody took from a site before. The destruction is complete once those are destroyed too.",
    "zh": "在本次销毁完成之前制作的 KMS 快照或密钥环副本，仍可打开当时的封装密钥；"
    "此前从站点取走的恢复纪元密钥副本，配合恢复私钥，亦可打开。"
    "这些副本一并销毁之后，销毁方为彻底。",
}


@dataclass(frozen=True)
class ReleasedVersion:
    """A version that was purged; until an epoch, old copies of its wrapped key still open it."""

    id: UUID
    document_id: UUID
    number: int
    released_at: datetime


@dataclass(frozen=True)
class Epoch:
    """One shred epoch.

    Attributes:
        kek_version: every older one of the KEK `documents` was destroyed.
        certificate: a DSSE envelope; None until it is finished.
    """

    number: int
    kek_version: int
    began_at: datetime
    finished_at: datetime | None
    certificate: Mapping[str, Any] | None


class Epochs:
    """What waits for an epoch, and the epochs there were."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def waiting(self, actor: Actor, request: PageRequest) -> Page[ReleasedVersion]:
        """What the next epoch would shred: a dry run. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.KEY_LIST)
        query = select(released_versions).where(released_versions.c.epoch.is_(None))
        return self._page(query, _RELEASED, request)

    def list(self, actor: Actor, request: PageRequest) -> Page[Epoch]:
        """Epochs with their certificates, newest first. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.KEY_LIST)
        return self._page(select(shred_epochs), _EPOCHS, request)

    def _page(self, query: Select[Any], listing: Listing[Any], request: PageRequest) -> Page[Any]:
        with self._database.transaction() as connection:
            return listing.fetch(connection, query, request)


class Shred:
    """The work of the job `shred`: one epoch."""

    def __init__(
        self,
        database: ServiceDatabase,
        vault_id: UUID,
        keys: KeyProvider,
        keks: Keks,
        wrapped_keys: WrappedKeys,
        rewrap: Rewrap,
        recovery_epochs: RecoveryEpochs,
        recovery_sealing: RecoverySealing,
        entries: Entries,
        catalogue: CatalogueWriter,
        signing_keys: SigningKeys,
        cache: UnwrapCache,
    ) -> None:
        self._database = database
        self._vault_id = vault_id
        self._keys = keys
        self._keks = keks
        self._wrapped_keys = wrapped_keys
        self._rewrap = rewrap
        self._recovery_epochs = recovery_epochs
        self._recovery_sealing = recovery_sealing
        self._entries = entries
        self._catalogue = catalogue
        self._signing_keys = signing_keys
        self._cache = cache

    def run(self, run: JobRun) -> dict[str, Any]:
        """Run an epoch, or finish the one that was broken off.

        Raises:
            JobFailed: a data key does not open, so nothing was destroyed.
            As `jobrun.Work`.
        """
        place = run.place or self._begin(run)
        if not place.get("recovery_begun"):
            self._begin_recovery_epoch(run, place)
        epoch, target = place["epoch"], place["target"]
        # The recovery epoch begun here, or one begun since.
        self._save_survivors(run, epoch, target, self._recovery_epochs.current())
        self._cache.purge()
        self._prove_gone(place["probe"])
        return self._certify(epoch, target)

    def _begin(self, run: JobRun) -> dict[str, Any]:
        """Rotate, and write down under which version the survivors will live."""
        _, probe = self._keys.generate_data_key(Purpose.DOCUMENTS, _PROBE)
        target = self._keks.rotate(None, Purpose.DOCUMENTS)
        place = {
            "epoch": self._open_epoch(target),
            "target": target,
            "probe": probe.text,
            "recovery_begun": False,
        }
        run.report(done=0, total=self._wrapped_keys.count(below=target), place=place)
        return place

    def _begin_recovery_epoch(self, run: JobRun, place: Mapping[str, Any]) -> None:
        """A step of its own: it waits for both sites, and a rotation must not be repeated for that."""
        self._recovery_epochs.begin()
        run.report(done=run.done, total=run.done, place={**place, "recovery_begun": True})

    def _open_epoch(self, target: int) -> int:
        """The number of the epoch: a new one. One that was given up before stays without certificate."""
        newest = select(func.coalesce(func.max(shred_epochs.c.number), 0) + 1).scalar_subquery()
        statement = insert(shred_epochs).values(number=newest, kek_version=target)
        rows = self._database.execute(statement.returning(shred_epochs.c.number), {})
        return int(rows[0].number)

    def _save_survivors(
        self, run: JobRun, epoch: int, target: int, recipient: Recipient | None
    ) -> None:
        """Rewrap and seal what lives, catalogue it at every site, and only then destroy what was before."""
        for _ in range(MAX_PASSES):
            self._move_all(run, target)
            self._seal_all(run, recipient)

            def save() -> None:
                self._catalogue.write(epoch, recipient, self._reported(run, recipient))

            try:
                self._keks.retire(None, Purpose.DOCUMENTS, below=target, save=save)
                if recipient is not None:
                    self._recovery_epochs.end_older(recipient.epoch)
            except (KeyVersionInUse, RecoveryEpochInUse):
                continue  # an upload that began before the epoch was committed during it
            return
        raise JobFailed("documents keep arriving under the old key; try again at a quieter time")

    def _move_all(self, run: JobRun, target: int) -> None:
        progress = Progress(target, self._wrapped_keys.count(below=target))
        done = run.done

        def report() -> None:
            run.report(done=done + progress.rewrapped, total=done + progress.total, place=run.place)

        self._rewrap.move(progress, report)
        if progress.failed_count:
            raise JobFailed(
                f"{progress.failed_count} data keys do not open, such as {progress.failed[0]}; "
                "nothing was destroyed. `strongroom key drill` names them all"
            )

    def _seal_all(self, run: JobRun, recipient: Recipient | None) -> None:
        if recipient is None:
            return

        def report(_: int) -> None:
            run.report(done=run.done, total=run.done, place=run.place)

        try:
            self._recovery_sealing.move(recipient, report)
        except RecoveryOutdated:
            raise JobFailed("another recovery epoch took over; resume this one") from None

    def _reported(self, run: JobRun, recipient: Recipient | None) -> Iterator[list[Entry]]:
        """All living keys in batches, each a sign of life."""
        for batch in self._entries.batches(recipient):
            run.report(done=run.done, total=run.done, place=run.place)
            yield batch

    def _prove_gone(self, probe: str) -> None:
        """A key that was wrapped before the epoch must not open any more."""
        try:
            self._keys.unwrap(Purpose.DOCUMENTS, _PROBE, WrappedKey(probe))
        except KeyVersionRetired:
            return
        raise JobFailed("the KMS still opens what was wrapped before the epoch; no certificate")

    def _certify(self, epoch: int, target: int) -> dict[str, Any]:
        with self._database.transaction() as connection:
            connection.execute(
                update(released_versions)
                .where(released_versions.c.epoch.is_(None))
                .where(released_versions.c.kek_version < target)
                .values(epoch=epoch)
            )
            shredded = connection.execute(
                select(released_versions.c.document_id, released_versions.c.number)
                .where(released_versions.c.epoch == epoch)
                .order_by(released_versions.c.document_id, released_versions.c.number)
            ).fetchall()
            statement = self._statement(epoch, target, shredded)
            payload = json.dumps(statement, ensure_ascii=False, sort_keys=True).encode()
            connection.execute(
                update(shred_epochs)
                .where(shred_epochs.c.number == epoch)
                .values(
                    finished_at=func.now(),
                    certificate=dict(self._signing_keys.sign(CERTIFICATE_TYPE, payload)),
                )
            )
            detail = {"epoch": epoch, "versions": len(shredded)}
            record(connection, AccessEvent(EventType.DOCUMENTS_SHREDDED, None, detail=detail))
        return {"epoch": epoch, "shredded": len(shredded), "kek_version": target}

    def _statement(self, epoch: int, target: int, shredded: Any) -> dict[str, Any]:
        state = self._keys.describe(Purpose.DOCUMENTS)
        recovery = self._recovery_epochs.newest()
        lines = [f"{row.document_id} {row.number}" for row in shredded]
        return {
            "vault": str(self._vault_id),
            "epoch": epoch,
            "finished_at": clock.now().isoformat(),
            "kek": Purpose.DOCUMENTS.value,
            "destroyed_below_version": target,
            "oldest_version_kept": state.oldest_kept,
            "recovery_epoch_keys_destroyed_before": recovery and recovery.number,
            "probe": "a data key wrapped before the epoch was refused after it",
            "shredded_count": len(lines),
            "shredded_sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
            "shredded": lines,
            "condition": CONDITION,
        }


def _released(row: Row[Any]) -> ReleasedVersion:
    return ReleasedVersion(row.id, row.document_id, row.number, row.released_at)


def _epoch(row: Row[Any]) -> Epoch:
    return Epoch(row.number, row.kek_version, row.began_at, row.finished_at, row.certificate)


_RELEASED: Final[Listing[ReleasedVersion]] = Listing(
    name="released-versions",
    sort_key=(released_versions.c.released_at, released_versions.c.id),
    kinds=(datetime, UUID),
    place=lambda released: (released.released_at, released.id),
    shape=_released,
)

_EPOCHS: Final[Listing[Epoch]] = Listing(
    name="shred-epochs",
    sort_key=(shred_epochs.c.number,),
    kinds=(int,),
    place=lambda epoch: (epoch.number,),
    shape=_epoch,
)
