"""Role grants: which person has which role, where, from when until when.

Nobody grants a role to themselves, and nobody holds roles of two duties (`roles`); both are also constraints
of the database. A dangerous role takes two people: the one who grants it needs another's approval. A
deputy holds somebody's role until a day, and only as long as that person holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, delete, exists, func, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_leave

from vault.access.approvals import Owned, Target, id_part, part
from vault.access.authorise import require
from vault.access.departments import require_open
from vault.access.grants import Grants
from vault.access.holders import stood_in_for, within
from vault.access.policy import Action
from vault.access.roles import DANGEROUS, DEPARTMENTAL, DUTY_OF, Role
from vault.access.sealed_rows import ROLE_GRANTS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import NOBODY, as_caller
from vault.database import DanglingReference, Database, DuplicateRow
from vault.errors import AlreadyExists, DutiesConflict, InvalidValue, NotAllowed, NotFound
from vault.model import Page
from vault.paging import Listing, PageRequest
from vault.tables import person_duties, principals, role_grants

MAX_DEPUTY: Final = timedelta(days=90)


@dataclass(frozen=True)
class NewRoleGrant:
    """A role to grant.

    Attributes:
        principal_id: of the person who gets it.
        class_name: it reaches documents of this class only.
        deputy_of: a principal of the person in whose place they act; needs `ends_at`.
        starts_at: None: now.
        ends_at: None: until it is revoked.
    """

    principal_id: UUID
    role: Role
    department: str | None = None
    class_name: str | None = None
    deputy_of: UUID | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        if (self.role in DEPARTMENTAL) != (self.department is not None):
            names = ", ".join(role for role in Role if role in DEPARTMENTAL)
            raise InvalidValue(f"{names} are held in a department, every other role in none")
        if self.class_name is not None and self.department is None:
            raise InvalidValue("only a role in a department is held for one class")
        if self.deputy_of is not None and self.ends_at is None:
            raise InvalidValue("a deputy acts until a day: say ends_at")
        if self.deputy_of == self.principal_id:
            raise InvalidValue("nobody is their own deputy")
        for moment in (self.starts_at, self.ends_at):
            if moment is not None:
                _utc(moment)

    @property
    def target(self) -> Target:
        """What an approval for it is about."""
        given = {
            "principal": str(self.principal_id),
            "role": self.role.value,
            "department": self.department,
            "class": self.class_name,
            "deputy_of": str(self.deputy_of) if self.deputy_of else None,
            "starts_at": _utc(self.starts_at).isoformat() if self.starts_at else None,
            "ends_at": _utc(self.ends_at).isoformat() if self.ends_at else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def owned_by_vault(connection: Connection, actor: Actor, target: Target) -> Owned:
    """A role to grant, as the target of an approval: whoever could not grant it need not ask.

    Raises: NotAllowed, NotFound, InvalidValue.
    """
    new = _as_written(target)
    if new.role not in DANGEROUS:
        raise InvalidValue("this role is granted without an approval")
    found = connection.execute(
        select(principals.c.person_id).where(
            principals.c.id == new.principal_id, principals.c.kind == "person"
        )
    ).one_or_none()
    if found is None:
        raise NotFound("person")
    if found.person_id == actor.caller.person_id:
        raise NotAllowed("nobody grants a role to themselves")
    if new.department is not None:
        require_open(connection, new.department)
    return Owned(new.target)


def _as_written(target: Target) -> NewRoleGrant:
    """Raises: InvalidValue."""
    try:
        return NewRoleGrant(
            principal_id=id_part(target, "principal"),
            role=Role(part(target, "role")),
            department=part(target, "department") if "department" in target else None,
            class_name=part(target, "class") if "class" in target else None,
            deputy_of=id_part(target, "deputy_of") if "deputy_of" in target else None,
            starts_at=_moment_part(target, "starts_at"),
            ends_at=_moment_part(target, "ends_at"),
        )
    except ValueError:
        raise InvalidValue("the target names no role, or a moment that is none") from None


def _moment_part(target: Target, name: str) -> datetime | None:
    """Raises: InvalidValue, ValueError."""
    return datetime.fromisoformat(part(target, name)) if name in target else None


def _utc(moment: datetime) -> datetime:
    """Raises: InvalidValue."""
    if moment.tzinfo is None:
        raise InvalidValue("a moment says its offset from UTC, for instance …Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue("a moment lies in the years 1 to 9999") from None


@dataclass(frozen=True)
class RoleGrant:
    """One role grant.

    Attributes:
        person_id, deputy_of: natural persons, not principals.
    """

    id: UUID
    principal_id: UUID
    person_id: UUID
    role: Role
    department: str | None
    class_name: str | None
    deputy_of: UUID | None
    starts_at: datetime
    ends_at: datetime | None
    granted_at: datetime
    granted_by: UUID
    revoked_at: datetime | None


class RoleGrants:
    """The role grants of this vault."""

    def __init__(self, database: Database, seals: Seals, grants: Grants) -> None:
        self._database = database
        self._shared = database.as_shared()
        self._seals = seals
        self._grants = grants

    def grant(self, actor: Actor, new: NewRoleGrant) -> RoleGrant:
        """Give a person a role; whoever has open sessions has to sign in again.

        Raises:
            NotAllowed, StepUpNeeded: refused; also to oneself.
            ApprovalNeeded: the role is dangerous, and nobody has approved.
            DutiesConflict: the person holds a role of another duty.
            AlreadyExists: they hold this one already.
            NotFound, InvalidValue: no such person, department, class or period.
        """
        require(actor.caller, Action.ROLE_GRANT)
        broken = self._seals.refusing(NotFound("person"))
        try:
            # As the caller, whose grants are theirs to see.
            with broken, self._database.transaction(as_caller(actor.caller)) as connection:
                row = self._grant(connection, actor, new)
        except DuplicateRow:
            raise AlreadyExists("role grant") from None
        except DanglingReference as exc:
            raise (
                DutiesConflict() if exc.constraint == "duty" else InvalidValue("no such class")
            ) from None
        return _role_grant(row)

    def revoke(self, actor: Actor, grant_id: UUID) -> RoleGrant:
        """Take a role away, from now on. Idempotent. Raises: NotAllowed, NotFound."""
        require(actor.caller, Action.ROLE_REVOKE)
        broken = self._seals.refusing(NotFound("role grant"))
        with broken, self._database.transaction(NOBODY) as connection:
            principal, row = self._locked(connection, grant_id)
            detail = {"role_grant": str(grant_id), "principal": str(principal.id)}
            # The event first: who takes a role from themselves is signed out by it.
            record(connection, AccessEvent(EventType.ROLE_REVOKED, actor, detail=detail))
            if row.revoked_at is None:
                row = self._revoke(connection, principal, row)
        return _role_grant(row)

    def list(
        self, actor: Actor, request: PageRequest, principal_id: UUID | None = None
    ) -> Page[RoleGrant]:
        """A page of role grants, newest first, ended ones too. Raises: NotAllowed, InvalidPageToken."""
        require(actor.caller, Action.ROLE_LIST)
        epoch = principals.c.authority_epoch.label("principal_epoch")
        query = select(role_grants, epoch).join(
            principals, role_grants.c.principal_id == principals.c.id
        )
        if principal_id is not None:
            query = query.where(role_grants.c.principal_id == principal_id)
        with self._database.transaction(NOBODY) as connection:
            page = _ROLE_GRANTS.fetch(connection, query, request, {"principal": principal_id})
            record(connection, AccessEvent(EventType.ROLES_LISTED, actor))
        sound = [
            row
            for row in page.items
            if self._seals.is_sound(ROLE_GRANTS.row_from(row), row.principal_epoch)
        ]
        return Page(tuple(map(_role_grant, sound)), page.next_page_token)

    def _grant(self, connection: Connection, actor: Actor, new: NewRoleGrant) -> Row[Any]:
        principal = self._person(connection, new.principal_id)
        if (
            principal.person_id == actor.caller.person_id
            or principal.id == actor.caller.principal_id
        ):
            raise NotAllowed("nobody grants a role to themselves")
        if new.department is not None:
            require_open(connection, new.department)
        row = self._row(connection, actor, principal, new)
        detail = {"role_grant": str(row["id"]), **new.target}
        record(connection, AccessEvent(EventType.ROLE_GRANTED, actor, detail=detail))
        principal = self._seals.change_principal(connection, principal)
        row["authority_epoch"] = principal.authority_epoch
        if new.role in DANGEROUS:  # after it, for the order of locks
            self._grants.use(connection, actor, Action.ROLE_GRANT, new.target)
        _take_duty(connection, principal.person_id, new.role)
        values = {**row, **self._seals.sealed(connection, ROLE_GRANTS, row)}
        return connection.execute(insert(role_grants).values(values).returning(role_grants)).one()

    def _row(
        self, connection: Connection, actor: Actor, principal: Row[Any], new: NewRoleGrant
    ) -> dict[str, Any]:
        starts_at, ends_at = _period(connection, new)
        return {
            "id": uuid4(),
            "principal_id": principal.id,
            "person_id": principal.person_id,
            "role": new.role.value,
            "department": new.department,
            "class_name": new.class_name,
            "deputy_of": self._deputised(connection, new, principal.person_id),
            "starts_at": starts_at,
            "ends_at": ends_at,
            "granted_by": actor.caller.principal_id,
            "revoked_at": None,
        }

    def _person(self, connection: Connection, principal_id: UUID) -> Row[Any]:
        principal = self._seals.locked_principal(connection, principal_id)
        if principal.kind != "person" or principal.disabled_at is not None:
            raise NotFound("person")
        return principal

    def _deputised(self, connection: Connection, new: NewRoleGrant, deputy: UUID) -> UUID | None:
        """The person in whose place the role is held. Raises: NotFound, InvalidValue."""
        if new.deputy_of is None:
            return None
        query = select(principals.c.person_id).where(principals.c.id == new.deputy_of)
        person_id = connection.execute(query).scalar_one_or_none()
        if person_id is None:
            raise NotFound("person")
        if person_id == deputy:
            raise InvalidValue("nobody is their own deputy, by whichever account")
        if not stood_in_for(
            within(connection), self._seals, person_id, new.role, new.department, new.class_name
        ):
            raise InvalidValue("a deputy acts for somebody who holds that role there themselves")
        return UUID(str(person_id))

    def _locked(self, connection: Connection, grant_id: UUID) -> tuple[Row[Any], Row[Any]]:
        query = select(role_grants).where(role_grants.c.id == grant_id)
        found = connection.execute(query).one_or_none()
        if found is None:
            raise NotFound("role grant")
        principal = self._seals.locked_principal(connection, found.principal_id)
        row = connection.execute(query.with_for_update()).one()
        self._seals.check_follower(ROLE_GRANTS.row_from(row), principal.authority_epoch)
        return principal, row

    def _revoke(self, connection: Connection, principal: Row[Any], row: Row[Any]) -> Row[Any]:
        now = connection.execute(select(func.now())).scalar_one()
        principal = self._seals.change_principal(connection, principal)
        return self._seals.change(
            connection,
            ROLE_GRANTS,
            row,
            revoked_at=now,
            authority_epoch=principal.authority_epoch,
        )


def _period(connection: Connection, new: NewRoleGrant) -> tuple[datetime, datetime | None]:
    """Raises: InvalidValue."""
    now: datetime = connection.execute(select(func.now())).scalar_one()
    starts_at = max(new.starts_at or now, now)  # nobody had a role before somebody gave it
    if new.ends_at is not None and new.ends_at <= starts_at:
        raise InvalidValue("a role ends after it starts, and not before now")
    if new.deputy_of is not None and new.ends_at and new.ends_at - starts_at > MAX_DEPUTY:
        raise InvalidValue(f"a deputy acts for at most {MAX_DEPUTY.days} days")
    return starts_at, new.ends_at


def _take_duty(connection: Connection, person_id: UUID, role: Role) -> None:
    """Let the person's one duty be that of `role`, if no role of another one is in force.

    Raises: DanglingReference, by the constraint `duty`, here or at the role grant's insert.
    """
    duty = DUTY_OF[role].value
    other = (person_duties.c.person_id == person_id) & (person_duties.c.duty != duty)
    in_force = exists().where(
        role_grants.c.person_id == person_id, role_grants.c.revoked_at.is_(None)
    )
    connection.execute(delete(person_duties).where(other, ~in_force))
    taken = insert_or_leave(person_duties).values(person_id=person_id, duty=duty)
    connection.execute(taken.on_conflict_do_nothing())


def _role_grant(row: Row[Any]) -> RoleGrant:
    return RoleGrant(
        id=row.id,
        principal_id=row.principal_id,
        person_id=row.person_id,
        role=Role(row.role),
        department=row.department,
        class_name=row.class_name,
        deputy_of=row.deputy_of,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        granted_at=row.granted_at,
        granted_by=row.granted_by,
        revoked_at=row.revoked_at,
    )


_ROLE_GRANTS = Listing[Row[Any]](
    name="role-grants",
    sort_key=(role_grants.c.granted_at, role_grants.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.granted_at, row.id),
    shape=lambda row: row,
)
