"""Recovery epochs as rows: which may have blobs, and which is in force.

The newest row is the one in force, and each blob refers to its own. So an upload cannot land under an epoch
that is over, nor an epoch end that still has blobs: the database itself sees to both, as with KEK versions
(`keks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from keymgmt.recoverykey import RecoveryPublicKey
from vault.database import DanglingReference, DuplicateRow, ServiceDatabase
from vault.errors import RecoveryOutdated, VaultError
from vault.recovery.epochkeys import EpochKeyName
from vault.tables import recovery_epochs, recovery_keys

_NOBODY = UUID(int=0)
"""Who registered a key that came with a catalogue: its own database knows."""


class RecoveryEpochInUse(VaultError):
    """Blobs are sealed under an epoch that was to end."""

    def __init__(self) -> None:
        super().__init__("data keys are still sealed under an earlier recovery epoch")


@dataclass(frozen=True)
class RecoveryEpoch:
    """One epoch of one recovery key."""

    name: EpochKeyName
    public: RecoveryPublicKey

    @property
    def number(self) -> int:
        """Counts from 1."""
        return self.name.epoch


class EpochTable:
    """The recovery epochs of one vault."""

    def __init__(self, database: ServiceDatabase) -> None:
        self._database = database

    def all(self) -> list[RecoveryEpoch]:
        """Those that are not over, newest first. Raises: DatabaseUnavailable."""
        query = (
            select(recovery_epochs, recovery_keys.c.public_key)
            .join(recovery_keys, recovery_keys.c.id == recovery_epochs.c.recovery_key_id)
            .order_by(recovery_epochs.c.number.desc())
        )
        return [
            RecoveryEpoch(
                EpochKeyName(row.number, row.epoch_key_id),
                RecoveryPublicKey(bytes(row.public_key)),
            )
            for row in self._database.execute(query, {})
        ]

    def newest(self) -> RecoveryEpoch | None:
        """The one in force; None before a recovery key is registered. Raises: DatabaseUnavailable."""
        return next(iter(self.all()), None)

    def next_number(self) -> int:
        """Of the epoch that comes next."""
        newest = func.coalesce(func.max(recovery_epochs.c.number), 0)
        return int(self._database.execute(select(newest + 1), {})[0][0])

    def registered(self) -> RecoveryPublicKey | None:
        """The recovery key that was registered last; None if there is none."""
        query = select(recovery_keys.c.public_key).order_by(recovery_keys.c.registered_at.desc())
        rows = self._database.execute(query.limit(1), {})
        return RecoveryPublicKey(bytes(rows[0].public_key)) if rows else None

    def add(self, epoch: RecoveryEpoch) -> None:
        """Put an epoch in force. Raises: RecoveryOutdated: another process was first."""
        try:
            self._database.execute(insert(recovery_epochs).values(_row(epoch)), {})
        except DuplicateRow:
            raise RecoveryOutdated from None

    def adopt(self, epoch: RecoveryEpoch) -> bool:
        """Put an epoch in force in a restored database; False if that has a newer one, or another.

        Raises: DatabaseUnavailable.
        """
        newest = self.newest()
        if newest is not None and newest.number >= epoch.number:
            return newest == epoch
        public = epoch.public
        key = {"id": public.id, "public_key": public.raw, "registered_by": _NOBODY}
        with self._database.transaction() as connection:
            connection.execute(insert(recovery_keys).values(key).on_conflict_do_nothing())
            connection.execute(insert(recovery_epochs).values(_row(epoch)))
        return True

    def end_before(self, number: int) -> None:
        """Remove every earlier epoch.

        Raises: RecoveryEpochInUse: blobs are sealed under one of them; nothing was removed.
        """
        older = recovery_epochs.c.number < number
        try:
            self._database.execute(delete(recovery_epochs).where(older), {})
        except DanglingReference as exc:
            raise RecoveryEpochInUse from exc


def _row(epoch: RecoveryEpoch) -> dict[str, object]:
    return {
        "number": epoch.number,
        "epoch_key_id": epoch.name.id,
        "recovery_key_id": epoch.public.id,
    }
