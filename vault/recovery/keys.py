"""Recovery keys: the public halves that an administrator registered. The private ones never come here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, func, select
from sqlalchemy.dialects.postgresql import Insert, insert

from keymgmt.errors import RecoveryKeyInvalid
from keymgmt.recoverykey import RecoveryPublicKey
from vault import jobs
from vault.access.approvals import Owned, Target, part
from vault.access.authorise import require
from vault.access.grants import Grants
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.accesslog.writer import AccessLog
from vault.database import DuplicateRow, ServiceDatabase
from vault.errors import InvalidValue, JobUnderWay
from vault.jobs import Job, JobKind
from vault.tables import recovery_blobs, recovery_epochs, recovery_keys, versions


@dataclass(frozen=True)
class RegisteredKey:
    """A public half.

    Attributes:
        sealed, unsealed: stored versions whose data keys it opens, and does not open.
    """

    id: str
    registered_at: datetime
    registered_by: UUID
    sealed: int
    unsealed: int


class RecoveryKeys:
    """The recovery keys of one vault; the one registered last counts."""

    def __init__(self, database: ServiceDatabase, grants: Grants) -> None:
        self._database = database
        self._grants = grants
        self._access_log = AccessLog(database)

    def register(self, actor: Actor, text: str) -> Job:
        """Have every data key sealed to this key from now on, and, by a job, those there are.

        Registering the key that counts already starts the job once more.

        Args:
            text: as `RecoveryPublicKey.to_text` writes it.

        Raises:
            NotAllowed.
            ApprovalNeeded: who holds the private half opens every document, so it takes two people.
            InvalidValue: this is no recovery key, or a damaged one.
            JobUnderWay: an earlier key is still being brought in.
        """
        require(actor.caller, Action.KEY_REGISTER_RECOVERY)
        public = _parsed(text)
        values = {
            "id": public.id,
            "public_key": public.raw,
            "registered_by": actor.caller.principal_id,
        }
        event = AccessEvent(EventType.RECOVERY_KEY_REGISTERED, actor, detail={"key": public.id})
        try:
            with self._database.transaction() as connection:
                target = {"key": public.id}
                self._grants.use(connection, actor, Action.KEY_REGISTER_RECOVERY, target)
                connection.execute(_register(values))
                record(connection, event)
                return jobs.start(connection, actor, JobKind.RECOVERY)
        except DuplicateRow:
            raise JobUnderWay from None

    def list(self, actor: Actor) -> Sequence[RegisteredKey]:
        """All of them, the one that counts first. Raises: NotAllowed."""
        require(actor.caller, Action.KEY_LIST)
        self._access_log.write(AccessEvent(EventType.RECOVERY_KEYS_LISTED, actor))
        stored = int(self._database.execute(_STORED, {})[0][0])
        return [_registered(row, stored) for row in self._database.execute(_KEYS, {})]


def owned(_connection: Connection, _actor: Actor, target: Target) -> Owned:
    """A recovery key to register, as the target of an approval. Raises: InvalidValue."""
    return Owned({"key": part(target, "key")})


def _parsed(text: str) -> RecoveryPublicKey:
    try:
        return RecoveryPublicKey.from_text(text)
    except RecoveryKeyInvalid as exc:
        raise InvalidValue(str(exc)) from exc


def _register(values: dict[str, Any]) -> Insert:
    again = {"registered_at": func.now(), "registered_by": values["registered_by"]}
    return (
        insert(recovery_keys)
        .values(values)
        .on_conflict_do_update(index_elements=[recovery_keys.c.id], set_=again)
    )


def _registered(row: Row[Any], stored: int) -> RegisteredKey:
    return RegisteredKey(
        id=row.id,
        registered_at=row.registered_at,
        registered_by=row.registered_by,
        sealed=row.sealed,
        unsealed=stored - row.sealed,
    )


_STORED = select(func.count()).select_from(versions)

_SEALED = (
    select(recovery_epochs.c.recovery_key_id, func.count().label("sealed"))
    .join(recovery_blobs, recovery_blobs.c.epoch == recovery_epochs.c.number)
    .group_by(recovery_epochs.c.recovery_key_id)
    .subquery()
)

_KEYS = (
    select(recovery_keys, func.coalesce(_SEALED.c.sealed, 0).label("sealed"))
    .outerjoin(_SEALED, _SEALED.c.recovery_key_id == recovery_keys.c.id)
    .order_by(recovery_keys.c.registered_at.desc())
)
