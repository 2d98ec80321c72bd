"""Local users: the rows that hold how a person without a provider of identities proves who they are.

A row is sealed and follows its principal's authority epoch (`vault.access.seals`): a hash that SQL replaced
opens nothing, and neither does an older row that was put back. While an enrolment is open, nothing in the row
counts. Does not handle: what is typed (`proofs`), enrolment (`enrolment`), sessions (`sign_in`).
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, insert, or_, select, update

from keymgmt import totp
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.totp import TotpSecret
from vault.access.findings import Findings, SealBroken
from vault.access.principals import PrincipalKind
from vault.access.sealed_rows import LOCAL_USERS, PRINCIPALS, SealedRow
from vault.access.seals import Seals, looked_again, unreadable
from vault.database import SharedDatabase
from vault.errors import InvalidValue, NotFound
from vault.names import label
from vault.tables import local_users, principals

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credentials:
    """What a person proves themselves with."""

    owner: UUID
    password_hash: str
    totp_secret: str
    recovery_sha256: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LocalUser:
    """A person as they are met at the door; both rows bear their seals.

    Attributes:
        credentials: None while they have none that count.
    """

    id: UUID
    name: str
    display_name: str | None
    is_disabled: bool
    credentials: Credentials | None


class LocalUsers:
    """The local users of one vault."""

    def __init__(
        self,
        database: SharedDatabase,
        vault_id: UUID,
        provider: KeyProvider,
        seals: Seals,
        findings: Findings,
    ) -> None:
        self._database = database
        self._vault_id = vault_id
        self._provider = provider
        self._seals = seals
        self._findings = findings

    def named(self, name: str) -> LocalUser | None:
        """The person of a name; None: there is none, or their row does not bear its seal, a finding.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        try:
            label(name, "person")
        except InvalidValue:
            self._seals.rehearse()
            return None
        return self._met(principals.c.name == name)

    def of(self, principal_id: UUID) -> LocalUser | None:
        """As `named`, by id."""
        return self._met(principals.c.id == principal_id)

    def locked(
        self, connection: Connection, principal_id: UUID
    ) -> tuple[Row[Any], Row[Any] | None]:
        """A person who is not disabled and their row if they have one, both locked and checked.

        Raises: NotFound, SealBroken.
        """
        principal = self._seals.locked_principal(connection, principal_id)
        if principal.kind != PrincipalKind.PERSON or principal.disabled_at is not None:
            raise NotFound("person")
        query = select(local_users).where(local_users.c.id == principal_id).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is not None:
            self._seals.check_follower(LOCAL_USERS.row_from(row), principal.authority_epoch)
        return principal, row

    def add(self, connection: Connection, principal: Row[Any], **given: Any) -> Row[Any]:
        """The row of a locked person who has none."""
        row = {
            **dict.fromkeys(LOCAL_USERS.all_columns),
            "id": principal.id,
            "principal_id": principal.id,
            "recovery_sha256": [],
            "authority_epoch": principal.authority_epoch,
            **given,
        }
        values = {**row, **self._seals.sealed(connection, LOCAL_USERS, row)}
        return connection.execute(insert(local_users).values(values).returning(local_users)).one()

    def replace(
        self, connection: Connection, principal: Row[Any], row: Row[Any], **changed: Any
    ) -> tuple[Row[Any], Row[Any]]:
        """Change a locked row under the next authority epoch, so that the old one is worth nothing and
        sessions end; both new rows.
        """
        principal = self._seals.change_principal(connection, principal)
        changed["authority_epoch"] = principal.authority_epoch
        return principal, self._seals.change(connection, LOCAL_USERS, row, **changed)

    def take_step(self, connection: Connection, principal_id: UUID, step: int) -> bool:
        """Let codes up to this time step count no more; False: they did not before."""
        last = local_users.c.totp_last_step
        taken = (
            update(local_users)
            .where(local_users.c.id == principal_id, or_(last.is_(None), last < step))
            .values(totp_last_step=step)
        )
        return connection.execute(taken).rowcount == 1

    def wrap(self, owner: UUID, secret: TotpSecret) -> str:
        """The secret as it is stored. Raises: KeyManagementError."""
        return totp.wrap(self._provider, Purpose.AUTHORITY, self._vault_id, owner, secret)

    def unwrap(self, owner: UUID, wrapped_secret: str) -> TotpSecret | None:
        """The secret of a stored one; None: it does not open. Raises: KeyServiceUnavailable."""
        purpose = Purpose.AUTHORITY
        try:
            return totp.unwrap(self._provider, purpose, self._vault_id, owner, wrapped_secret)
        except (DecryptionFailed, KeyVersionRetired):
            return None

    def rewrap(self) -> None:
        """Wrap every secret anew under the newest version of the KEK, before older ones go.

        One that does not open, as after the KMS was replaced, is left as it is: it is lost already, and its
        person has to be enrolled anew.

        Raises: KeyServiceUnavailable, DatabaseUnavailable.
        """
        query = select(local_users.c.id).where(local_users.c.totp_secret.is_not(None))
        for found in self._database.execute(query, {}):
            # A row that does not bear its seal is a finding, and opens nothing whatever it is wrapped under.
            broken = self._seals.refusing(NotFound("person"))
            with suppress(NotFound), broken, self._database.transaction() as connection:
                self._rewrap(connection, found.id)

    def _rewrap(self, connection: Connection, principal_id: UUID) -> None:
        principal = self._seals.locked_principal(connection, principal_id)
        query = select(local_users).where(local_users.c.id == principal_id).with_for_update()
        row = connection.execute(query).one()
        self._seals.check_follower(LOCAL_USERS.row_from(row), principal.authority_epoch)
        secret = row.totp_secret and self.unwrap(row.id, row.totp_secret)
        if secret is None:
            _log.warning("the TOTP secret of principal %s does not open: enrol them anew", row.id)
        elif secret:
            wrapped = self.wrap(row.id, secret)
            self._seals.change(connection, LOCAL_USERS, row, totp_secret=wrapped)

    def _met(self, which: Any) -> LocalUser | None:
        try:
            return looked_again(lambda: self._checked(which))
        except SealBroken as exc:
            self._findings.remember(exc)
            return None

    def _checked(self, which: Any) -> LocalUser | None:
        person = principals.c.kind == PrincipalKind.PERSON.value
        try:
            rows = self._database.execute(_MET.where(which, person), {})
        except (ValueError, OverflowError):
            raise unreadable(LOCAL_USERS, "unknown") from None
        if not rows:
            self._seals.rehearse()
            return None
        principal = PRINCIPALS.row_of(rows[0][:_PRINCIPAL_WIDTH])
        user = LOCAL_USERS.row_of(rows[0][_PRINCIPAL_WIDTH:])
        self._seals.check(principal)
        if user.values[0] is None:
            return _local_user(principal, None)
        self._seals.check_follower(user, principal.epoch)
        return _local_user(principal, user)


def credentials_of(row: Any) -> Credentials | None:
    """What counts of a row of local users."""
    if row.enrolment_sha256 is not None or row.revoked_at is not None or not row.password_hash:
        return None
    codes = tuple(bytes(each) for each in row.recovery_sha256)
    return Credentials(row.id, row.password_hash, row.totp_secret, codes)


class _ByName:
    """A sealed row's columns as attributes."""

    def __init__(self, row: SealedRow) -> None:
        self._row = row

    def __getattr__(self, column: str) -> Any:
        return self._row.value(column)


def _local_user(principal: SealedRow, user: SealedRow | None) -> LocalUser:
    return LocalUser(
        id=principal.value("id"),
        name=principal.value("name"),
        display_name=principal.value("display_name"),
        is_disabled=principal.value("disabled_at") is not None,
        credentials=None if user is None else credentials_of(_ByName(user)),
    )


_PRINCIPAL_COLUMNS: Final = [
    column.label(f"principal_{column.name}") for column in PRINCIPALS.sealed_columns()
]
_PRINCIPAL_WIDTH: Final = len(_PRINCIPAL_COLUMNS)
_USER_COLUMNS: Final = [
    column.label(f"user_{column.name}") for column in LOCAL_USERS.sealed_columns()
]
_MET: Final = select(*_PRINCIPAL_COLUMNS, *_USER_COLUMNS).join_from(
    principals, local_users, local_users.c.principal_id == principals.c.id, isouter=True
)
