"""What JSON goes in and out about people: departments, roles, sessions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from api.shapes import Fields, Given
from vault.access.policy import Caller, Scope
from vault.access.roles import Role
from vault.access.sessions import Method


class NewDepartmentShape(Given):
    """A department to add. `title`: as people call it; its name otherwise."""

    name: str
    title: str | None = None


class DepartmentShape(Fields):
    """A department."""

    name: str
    title: str
    created_at: datetime
    closed_at: datetime | None


class NewPersonShape(Given):
    """A person to add. `same_person_as`: a principal of the same natural person."""

    name: str
    display_name: str | None = None
    department: str | None = None
    same_person_as: UUID | None = None


class NewRoleGrantShape(Given):
    """A role to grant. `deputy_of`: a principal of the person in whose place it is held."""

    principal_id: UUID
    role: Role
    department: str | None = None
    class_name: Annotated[str | None, Field(alias="class")] = None
    deputy_of: UUID | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None


class RoleGrantShape(Fields):
    """A role grant. `person_id`, `deputy_of`: natural persons."""

    id: UUID
    principal_id: UUID
    person_id: UUID
    role: Role
    department: str | None
    class_name: Annotated[str | None, Field(serialization_alias="class")]
    deputy_of: UUID | None
    starts_at: datetime
    ends_at: datetime | None
    granted_at: datetime
    granted_by: UUID
    revoked_at: datetime | None


class SessionShape(Fields):
    """A session without its token."""

    id: UUID
    principal_id: UUID
    method: Method
    began_at: datetime
    expires_at: datetime
    last_seen_at: datetime
    stepped_up_at: datetime | None
    revoked_at: datetime | None


class HeldRoleShape(Fields):
    """A role as somebody holds it now."""

    role: Role
    department: str | None
    class_name: Annotated[str | None, Field(serialization_alias="class")]
    deputy_of: UUID | None


class CallerShape(Fields):
    """Who the service takes the caller for."""

    principal_id: UUID
    name: str
    person_id: UUID | None
    api_key_id: str | None
    session_id: UUID | None
    department: str | None
    scopes: list[Scope]
    roles: list[HeldRoleShape]
    has_stepped_up: bool

    @classmethod
    def seen(cls, caller: Caller) -> Self:
        """The shape of a caller."""
        return cls.model_validate(
            {
                **{name: getattr(caller, name) for name in cls.model_fields},
                "scopes": sorted(caller.scopes),
                "roles": [HeldRoleShape.of(held) for held in caller.roles],
            }
        )


class ClosedSetupShape(Fields):
    """How many administrators for set-up were disabled."""

    disabled: int
