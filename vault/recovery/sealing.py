"""Bringing every data key under one recovery epoch: for a key that was registered, and when shredding.

Where the recovery key stays the same only a blob's outer layer changes, without the KMS. Where it is another,
or a version has no blob yet, the data key is unwrapped, held to its commitment and sealed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text

from keymgmt.commitment import verify
from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.recovery import BlobKind
from vault.database import ServiceDatabase
from vault.errors import RecoveryOutdated
from vault.jobrun import JobFailed, JobRun
from vault.objects.store import ObjectMissing
from vault.recovery.blobs import RecoveryBlobs, StoredBlob
from vault.recovery.epochs import Recipient, RecoveryEpochs
from vault.recovery.epochtable import RecoveryEpochInUse

MAX_PASSES: Final = 10
_POLL_SECONDS: Final = 0.05

Report = Callable[[int], None]
"""Told of each batch how many versions got their blob."""


class RecoverySealing:
    """The work of the job `recovery`, and a part of that of `shred`."""

    def __init__(
        self,
        database: ServiceDatabase,
        keys: KeyProvider,
        epochs: RecoveryEpochs,
        blobs: RecoveryBlobs,
    ) -> None:
        self._database = database
        self._keys = keys
        self._epochs = epochs
        self._blobs = blobs

    def run(self, run: JobRun) -> dict[str, Any]:
        """Begin an epoch for the recovery key registered last, and seal every data key under it.

        Raises:
            JobFailed: data keys do not open, or no recovery key is registered.
            As `jobrun.Work`.
        """
        recipient = self._begun(run)
        number = recipient.epoch.number
        for _ in range(MAX_PASSES):
            self._seal_all(run, recipient)
            try:
                self._epochs.end_older(recipient.epoch)
            except RecoveryEpochInUse:
                continue  # an upload that had begun before was committed since
            return {
                "recovery_epoch": number,
                "recovery_key": recipient.epoch.public.id,
                "sealed": run.done,
            }
        raise JobFailed("documents keep arriving under the old epoch; resume it at a quieter time")

    def move(self, recipient: Recipient, report: Report) -> None:
        """Seal what is not sealed under this epoch.

        Raises:
            JobFailed: some data keys could not be opened; all others are sealed.
            RecoveryOutdated: another epoch took over.
            What `report` raises.
        """
        failed = []
        for _ in range(2):  # what was rewrapped after it was read is read once more
            move = _Move(self._keys, recipient, self._earlier(recipient))
            for batch in self._blobs.lacking(recipient.epoch.number):
                report(self._blobs.put(recipient.epoch.number, list(move.sealed(batch))))
            failed = move.failed
        if failed:
            raise JobFailed(
                f"{len(failed)} data keys do not open, such as that of {failed[0]}; "
                "`strongroom key drill` names them all"
            )

    def _begun(self, run: JobRun) -> Recipient:
        """The epoch that this job began, or a new one if that is over by now, or its key lost."""
        newest = self._epochs.newest()
        if newest is not None and newest.number == run.place.get("epoch"):
            with suppress(ObjectMissing):
                return self._epochs.opened(newest)
        recipient = self._epochs.begin()
        if recipient is None:
            raise JobFailed("no recovery key is registered; `strongroom key register-recovery`")
        run.report(done=0, total=None, place={"epoch": recipient.epoch.number})
        return recipient

    def _seal_all(self, run: JobRun, recipient: Recipient) -> None:
        # An upload that knew no epoch at all refers to none: only its end tells that it is counted here.
        self._wait_for_those_before(lambda: run.report(done=run.done, total=None, place=run.place))
        total = run.done + self._blobs.count_lacking(recipient.epoch.number)

        def report(sealed: int) -> None:
            run.report(done=run.done + sealed, total=total, place=run.place)

        report(0)
        try:
            self.move(recipient, report)
        except RecoveryOutdated:
            raise JobFailed("another recovery epoch took over; resume this one") from None

    def _wait_for_those_before(self, report: Callable[[], None]) -> None:
        """Until every transaction that may not see the newest epoch has ended."""
        mine = self._database.execute(_NEXT_TRANSACTION, {})[0].id
        while not self._database.execute(_ALL_BEFORE_ENDED, {"id": mine})[0].ended:
            report()
            time.sleep(_POLL_SECONDS)

    def _earlier(self, recipient: Recipient) -> dict[int, Recipient]:
        """Earlier epochs of the same recovery key whose keys are still there."""
        found = {}
        for epoch in self._epochs.earlier(recipient.epoch):
            if epoch.public == recipient.epoch.public:
                try:
                    found[epoch.number] = self._epochs.opened(epoch)
                except (ObjectMissing, DecryptionFailed, KeyVersionRetired):
                    continue  # lost or damaged at every site: the KMS opens the data keys instead
        return found


@dataclass
class _Move:
    """Batches on their way to one recipient.

    Attributes:
        failed: ids of versions whose data keys did not open.
    """

    keys: KeyProvider
    recipient: Recipient
    earlier: Mapping[int, Recipient]

    def __post_init__(self) -> None:
        self.failed: list[str] = []

    def sealed(self, batch: Sequence[StoredBlob]) -> Iterator[tuple[StoredBlob, bytes]]:
        """The new blob of each, but of those that failed."""
        rest = []
        for each in batch:
            blob = self._resealed(each)
            if blob is None:
                rest.append(each)
            else:
                yield each, blob
        yield from self._sealed_anew(rest)

    def _resealed(self, each: StoredBlob) -> bytes | None:
        earlier = self.earlier.get(each.present.epoch or 0)
        if earlier is None or each.present.blob is None:
            return None
        try:
            return earlier.sealer.reseal(
                each.present.blob, self.recipient.sealer, BlobKind.VERSION, each.bound.context
            )
        except DecryptionFailed:
            return None

    def _sealed_anew(self, batch: Sequence[StoredBlob]) -> Iterator[tuple[StoredBlob, bytes]]:
        if not batch:
            return
        answers = self.keys.unwrap_batch(Purpose.DOCUMENTS, [each.bound for each in batch])
        for each, answer in zip(batch, answers, strict=True):
            try:
                yield each, self._sealed(each, answer)
            except DecryptionFailed:
                self.failed.append(f"document {each.document_id}, version {each.number}")

    def _sealed(self, each: StoredBlob, answer: object) -> bytes:
        if not isinstance(answer, DataKey):
            raise DecryptionFailed
        verify(answer, each.bound.context, each.commitment)
        return self.recipient.seal(BlobKind.VERSION, each.bound.context, answer)


_NEXT_TRANSACTION = text("SELECT CAST(pg_current_xact_id() AS text) AS id")
_ALL_BEFORE_ENDED = text(
    "SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(:id AS xid8) AS ended"
)
"""PostgreSQL 18 manual, §9.28.9 (transaction ids and snapshots)."""
