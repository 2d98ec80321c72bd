"""Recovery epochs: under which epoch key, and for which recovery key, data keys are sealed.

Uploads ask no table: a commit under another epoch than the newest is refused, and then they look (`refresh`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keymgmt.datakey import DataKey
from keymgmt.recovery import BlobKind, EpochSealer
from vault.recovery.epochkeys import EpochKeys
from vault.recovery.epochtable import EpochTable, RecoveryEpoch


@dataclass(frozen=True)
class RecoveryBlob:
    """A data key sealed for recovery, and under which epoch; `NO_BLOB` where there is no recovery key."""

    epoch: int | None
    blob: bytes | None


NO_BLOB: Final = RecoveryBlob(None, None)


@dataclass(frozen=True)
class Recipient:
    """For whom data keys are sealed from now on."""

    epoch: RecoveryEpoch
    sealer: EpochSealer

    def seal(self, kind: BlobKind, binding: bytes, data_key: DataKey) -> bytes:
        """The blob of a data key that is bound to `binding`."""
        return self.sealer.seal(self.epoch.public, kind, binding, data_key)


class RecoveryEpochs:
    """The recovery epochs of one vault, with their keys. Safe for threads."""

    def __init__(self, table: EpochTable, epoch_keys: EpochKeys) -> None:
        self._table = table
        self._epoch_keys = epoch_keys
        self._recipient: Recipient | None = None
        self._is_loaded = False

    def seal(self, binding: bytes, data_key: DataKey) -> RecoveryBlob:
        """The data key of a version, for the recipient known here; the commit judges if it still is.

        Raises: as `refresh`, the first time.
        """
        if not self._is_loaded:
            self.refresh()
        recipient = self._recipient
        if recipient is None:
            return NO_BLOB
        blob = recipient.seal(BlobKind.VERSION, binding, data_key)
        return RecoveryBlob(recipient.epoch.number, blob)

    def refresh(self) -> None:
        """Look which epoch is in force.

        Raises:
            StoreError, KeyServiceUnavailable, DatabaseUnavailable: its key cannot be had now.
            DecryptionFailed, KeyVersionRetired: its key is damaged at the sites.
        """
        newest, known = self._table.newest(), self._recipient
        if newest is None:
            self._recipient = None
        elif known is None or known.epoch != newest:
            self._recipient = self.opened(newest)
        self._is_loaded = True

    def newest(self) -> RecoveryEpoch | None:
        """The epoch in force; None before a recovery key is registered. Raises: DatabaseUnavailable."""
        return self._table.newest()

    def earlier(self, than: RecoveryEpoch) -> list[RecoveryEpoch]:
        """Those that are not over yet, newest first. Raises: DatabaseUnavailable."""
        return [epoch for epoch in self._table.all() if epoch.number < than.number]

    def opened(self, epoch: RecoveryEpoch) -> Recipient:
        """An epoch with its key. Raises: as `EpochKeys.open`."""
        return Recipient(epoch, self._epoch_keys.open(epoch.name))

    def current(self) -> Recipient | None:
        """The epoch in force with its key; None before a recovery key is registered.

        Raises: as `EpochKeys.open`; DatabaseUnavailable.
        """
        newest = self.newest()
        return self.opened(newest) if newest else None

    def begin(self) -> Recipient | None:
        """A new epoch for the recovery key that was registered last; None if there is none.

        Raises:
            StoreError, KeyServiceUnavailable, DatabaseUnavailable: the earlier one stays in force.
            RecoveryOutdated: another process was first.
            IntegrityFailure: a site gave back other bytes than it was given.
        """
        public = self._table.registered()
        if public is None:
            return None
        name, sealer = self._epoch_keys.make(self._table.next_number(), public)
        recipient = Recipient(RecoveryEpoch(name, public), sealer)
        # Only now: a row must never name a key that a site does not have.
        self._table.add(recipient.epoch)
        return recipient

    def end_older(self, epoch: RecoveryEpoch) -> None:
        """End every earlier epoch, and destroy its key at every site. Idempotent.

        Raises:
            RecoveryEpochInUse: blobs are sealed under an earlier one; nothing was destroyed.
            StoreError, DatabaseUnavailable: repeat it.
            IntegrityFailure: a site still lists what was deleted.
        """
        self._table.end_before(epoch.number)
        self._epoch_keys.destroy_before(epoch.number)

    def rewrap_keys(self) -> None:
        """Bring the epoch keys under the newest version of what wraps them. Raises: as `EpochKeys.rewrap`."""
        for epoch in self._table.all():
            self._epoch_keys.rewrap(epoch.name)

    def missing_at(self) -> list[str]:
        """The sites without the key in force. Raises: StoreError, DatabaseUnavailable."""
        newest = self._table.newest()
        return self._epoch_keys.missing_at(newest.name) if newest else []
