"""Departments, people, their roles and their sessions."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.peopleshapes import (
    CallerShape,
    ClosedSetupShape,
    DepartmentShape,
    NewDepartmentShape,
    NewPersonShape,
    NewRoleGrantShape,
    RoleGrantShape,
    SessionShape,
)
from api.routers.paging import PageSize, PageToken
from api.shapes import PageShape, PrincipalShape
from vault.access.people import NewPerson
from vault.access.policy import Action
from vault.access.role_grants import NewRoleGrant
from vault.accesslog.event import Actor
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["people"])

DepartmentLister = Annotated[Actor, allowed_to(Action.DEPARTMENT_LIST)]
DepartmentManager = Annotated[Actor, allowed_to(Action.DEPARTMENT_MANAGE)]
PersonManager = Annotated[Actor, allowed_to(Action.PRINCIPAL_MANAGE)]
RoleLister = Annotated[Actor, allowed_to(Action.ROLE_LIST)]
RoleGranter = Annotated[Actor, allowed_to(Action.ROLE_GRANT)]
RoleRevoker = Annotated[Actor, allowed_to(Action.ROLE_REVOKE)]
AnyCaller = Annotated[Actor, allowed_to(Action.CALLER_VIEW)]
SignedIn = Annotated[Actor, allowed_to(Action.SESSION_OWN)]
SessionLister = Annotated[Actor, allowed_to(Action.SESSION_LIST)]
SessionRevoker = Annotated[Actor, allowed_to(Action.SESSION_REVOKE)]
SetupCloser = Annotated[Actor, allowed_to(Action.SETUP_CLOSE)]


@router.get("/departments")
def list_departments(
    services: ServicesOf,
    actor: DepartmentLister,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[DepartmentShape]:
    """Departments, newest first."""
    page = services.departments.list(actor, PageRequest(page_size, page_token))
    return PageShape[DepartmentShape].of(page, DepartmentShape.of)


@router.post("/departments", status_code=201)
def add_department(
    services: ServicesOf, actor: DepartmentManager, given: NewDepartmentShape
) -> DepartmentShape:
    """Add a department."""
    return DepartmentShape.of(services.departments.add(actor, given.name, given.title))


@router.post("/departments/{name}/close")
def close_department(services: ServicesOf, actor: DepartmentManager, name: str) -> DepartmentShape:
    """Let a department take no new people and roles; what is there stays."""
    return DepartmentShape.of(services.departments.close(actor, name))


@router.post("/people", status_code=201)
def add_person(services: ServicesOf, actor: PersonManager, given: NewPersonShape) -> PrincipalShape:
    """Add a person, who may do nothing until roles are granted."""
    new = NewPerson(given.name, given.display_name, given.department, given.same_person_as)
    return PrincipalShape.of(services.people.add(actor, new))


@router.get("/role-grants")
def list_role_grants(
    services: ServicesOf,
    actor: RoleLister,
    principal_id: UUID | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[RoleGrantShape]:
    """Role grants, newest first, ended ones too."""
    page = services.role_grants.list(actor, PageRequest(page_size, page_token), principal_id)
    return PageShape[RoleGrantShape].of(page, RoleGrantShape.of)


@router.post("/role-grants", status_code=201)
def grant_role(
    services: ServicesOf, actor: RoleGranter, given: NewRoleGrantShape
) -> RoleGrantShape:
    """Give a person a role; a dangerous one takes an approval. Their open sessions end."""
    return RoleGrantShape.of(services.role_grants.grant(actor, NewRoleGrant(**given.model_dump())))


@router.post("/role-grants/{grant_id}/revoke")
def revoke_role(services: ServicesOf, actor: RoleRevoker, grant_id: UUID) -> RoleGrantShape:
    """Take a role away, from now on."""
    return RoleGrantShape.of(services.role_grants.revoke(actor, grant_id))


@router.get("/whoami")
def view_caller(actor: AnyCaller) -> CallerShape:
    """Who the service takes the caller for, and with which scopes or roles."""
    return CallerShape.seen(actor.caller)


@router.get("/sessions")
def list_sessions(
    services: ServicesOf,
    actor: SessionLister,
    principal_id: UUID | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[SessionShape]:
    """Sessions without their tokens, newest first."""
    page = services.sessions.list(actor, PageRequest(page_size, page_token), principal_id)
    return PageShape[SessionShape].of(page, SessionShape.of)


@router.post("/sessions/end", status_code=204)
def sign_out(services: ServicesOf, actor: SignedIn) -> None:
    """End the session that this request is sent with."""
    services.sessions.end_own(actor)


@router.post("/sessions/{session_id}/revoke")
def revoke_session(services: ServicesOf, actor: SessionRevoker, session_id: UUID) -> SessionShape:
    """End somebody's session, from now on, and all others of theirs with it."""
    return SessionShape.of(services.sessions.revoke(actor, session_id))


@router.post("/setup/close")
def close_setup(services: ServicesOf, actor: SetupCloser) -> ClosedSetupShape:
    """Disable every administrator for set-up, for good, once people are there to carry on."""
    return ClosedSetupShape(disabled=services.setup.close(actor))
