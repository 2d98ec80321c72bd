"""Identities: which account at a provider is which person here.

An identity is the pair of issuer and subject (OpenID Connect Core 1.0 §5.7) and nothing else: no e-mail
address and no name, which providers give out anew. Nobody comes to be by signing in; an administrator links.
Rows are sealed (`vault.access.seals`). Does not handle: whether a provider vouches for somebody (`api.oidc`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, insert, select

from vault.access.authorise import require
from vault.access.grants import Grants
from vault.access.policy import Action
from vault.access.sealed_rows import OIDC_IDENTITIES
from vault.access.seals import Seals
from vault.access.ways_in import judge_new_way_in
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import as_caller
from vault.database import Database, DuplicateRow
from vault.errors import AlreadyExists, IdentityNotLinked, InvalidValue, NotFound
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import oidc_identities, principals

MAX_CHARACTERS: Final = 255
"""Of issuer and of subject; OpenID Connect Core 1.0 §2 says so of the latter."""


@dataclass(frozen=True)
class NewIdentity:
    """An account at a provider, as the directory there has it."""

    issuer: str
    subject: str

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        for name, value in (("issuer", self.issuer), ("subject", self.subject)):
            if not 0 < len(value) <= MAX_CHARACTERS or not (
                value.isascii() and value.isprintable()
            ):
                raise InvalidValue(
                    f"the {name} is 1 to {MAX_CHARACTERS} printable ASCII characters"
                )


@dataclass(frozen=True)
class Identity:
    """An identity that was linked to a person."""

    id: UUID
    principal_id: UUID
    issuer: str
    subject: str
    linked_at: datetime
    linked_by: UUID
    revoked_at: datetime | None


class Identities:
    """The identities of this vault's people."""

    def __init__(
        self, database: Database, seals: Seals, grants: Grants, issuer: str | None = None
    ) -> None:
        """`issuer`: the only one that is linked to; None: any."""
        self._database = database
        self._shared = database.as_shared()
        self._seals = seals
        self._grants = grants
        self._issuer = issuer

    def link(self, actor: Actor, principal_id: UUID, new: NewIdentity) -> Identity:
        """Let whoever holds this identity sign in as a person.

        Raises:
            NotAllowed, StepUpNeeded.
            ApprovalNeeded: they could take over somebody with a dangerous role, and nobody has approved.
            NotFound: no such person, or disabled.
            AlreadyExists: it is linked already.
            InvalidValue: of another provider.
        """
        require(actor.caller, Action.CREDENTIALS_RESET)
        if self._issuer is not None and new.issuer != self._issuer:
            raise InvalidValue(
                "people sign in at one provider here: write the issuer exactly as STRONGROOM_OIDC__ISSUER"
            )
        broken = self._seals.refusing(NotFound("person"))
        try:
            with broken, self._database.transaction(as_caller(actor.caller)) as connection:
                return _identity(self._link(connection, actor, principal_id, new))
        except DuplicateRow:
            raise AlreadyExists("linked identity") from None

    def revoke(self, actor: Actor, identity_id: UUID) -> Identity:
        """Let an identity sign in no more; its person's sessions end. Idempotent.

        Raises: NotAllowed, NotFound.
        """
        require(actor.caller, Action.PRINCIPAL_MANAGE)
        broken = self._seals.refusing(NotFound("identity"))
        with broken, self._shared.transaction() as connection:
            principal, row = self._locked(connection, oidc_identities.c.id == identity_id)
            # The event first: who revokes their own is signed out by it.
            record(connection, _event(EventType.IDENTITY_REVOKED, actor, row))
            if row.revoked_at is None:
                row = self._revoke(connection, principal, row)
        return _identity(row)

    def list(self, actor: Actor, request: PageRequest, principal_id: UUID) -> Page[Identity]:
        """A page of a person's identities, newest first, revoked ones too.

        Raises: NotAllowed, InvalidPageToken.
        """
        require(actor.caller, Action.PRINCIPAL_LIST)
        epoch = principals.c.authority_epoch.label("principal_epoch")
        query = (
            select(oidc_identities, epoch)
            .join(principals, oidc_identities.c.principal_id == principals.c.id)
            .where(oidc_identities.c.principal_id == principal_id)
        )
        with self._shared.transaction() as connection:
            page = _IDENTITIES.fetch(connection, query, request, {"principal": principal_id})
            record(connection, AccessEvent(EventType.IDENTITIES_LISTED, actor))
        sound = [
            row
            for row in page.items
            if self._seals.is_sound(OIDC_IDENTITIES.row_from(row), row.principal_epoch)
        ]
        return Page(tuple(map(_identity, sound)), page.next_page_token)

    def recognise(self, connection: Connection, issuer: str, subject: str) -> Row[Any]:
        """The person whom a provider vouches for: their principal, locked and checked.

        Raises:
            IdentityNotLinked: nobody, or somebody who was disabled.
            SealBroken.
        """
        columns = oidc_identities.c
        live = (
            (columns.issuer == issuer) & (columns.subject == subject) & columns.revoked_at.is_(None)
        )
        try:
            principal, _ = self._locked(connection, live)
        except NotFound:
            raise IdentityNotLinked from None
        if principal.kind != "person" or principal.disabled_at is not None:
            raise IdentityNotLinked
        return principal

    def _link(
        self, connection: Connection, actor: Actor, principal_id: UUID, new: NewIdentity
    ) -> Row[Any]:
        principal = self._seals.locked_principal(connection, principal_id)
        if principal.kind != "person" or principal.disabled_at is not None:
            raise NotFound("person")
        judge_new_way_in(connection, self._seals, self._grants, actor, principal)
        row = {
            "id": uuid4(),
            "principal_id": principal.id,
            "issuer": new.issuer,
            "subject": new.subject,
            "linked_by": actor.caller.principal_id,
            "revoked_at": None,
            "authority_epoch": principal.authority_epoch,
        }
        values = {**row, **self._seals.sealed(connection, OIDC_IDENTITIES, row)}
        added = insert(oidc_identities).values(values).returning(oidc_identities)
        linked = connection.execute(added).one()
        record(connection, _event(EventType.IDENTITY_LINKED, actor, linked))
        return linked

    def _locked(self, connection: Connection, which: Any) -> tuple[Row[Any], Row[Any]]:
        """A principal and their identity, locked in that order and checked. Raises: NotFound, SealBroken."""
        query = select(oidc_identities).where(which)
        found = connection.execute(query).one_or_none()
        if found is None:
            raise NotFound("identity")
        principal = self._seals.locked_principal(connection, found.principal_id)
        # Read again: it may have been revoked while we waited for the lock.
        again = query.where(oidc_identities.c.id == found.id).with_for_update()
        row = connection.execute(again).one_or_none()
        if row is None:
            raise NotFound("identity")
        self._seals.check_follower(OIDC_IDENTITIES.row_from(row), principal.authority_epoch)
        return principal, row

    def _revoke(self, connection: Connection, principal: Row[Any], row: Row[Any]) -> Row[Any]:
        now = connection.execute(select(func.now())).scalar_one()
        principal = self._seals.change_principal(connection, principal)
        epoch = principal.authority_epoch
        return self._seals.change(
            connection, OIDC_IDENTITIES, row, revoked_at=now, authority_epoch=epoch
        )


def _event(kind: EventType, actor: Actor, row: Row[Any]) -> AccessEvent:
    detail = {"identity": str(row.id), "principal": str(row.principal_id)}
    return AccessEvent(kind, actor, detail=detail)


def _identity(row: Row[Any]) -> Identity:
    return Identity(
        id=row.id,
        principal_id=row.principal_id,
        issuer=row.issuer,
        subject=row.subject,
        linked_at=row.linked_at,
        linked_by=row.linked_by,
        revoked_at=row.revoked_at,
    )


_IDENTITIES = Listing[Row[Any]](
    name="identities",
    sort_key=(oidc_identities.c.linked_at, oidc_identities.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.linked_at, row.id),
    shape=lambda row: row,
)
