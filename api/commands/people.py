"""Commands about people: department, person, role, session, setup."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import quote
from uuid import UUID

import typer

from api.commands import moments
from api.commands.asking import Act, Ask, asking
from api.commands.keys import Yes, confirm
from api.commands.output import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    post,
    show,
    show_list,
)
from vault.access.policy import Action
from vault.access.principals import PrincipalKind
from vault.access.roles import Role

department = typer.Typer(help="Departments.", no_args_is_help=True)
person = typer.Typer(help="People, who act with roles.", no_args_is_help=True)
identity = typer.Typer(
    help="Accounts at the OpenID provider, by which people sign in.", no_args_is_help=True
)
role = typer.Typer(help="Roles of people.", no_args_is_help=True)
session = typer.Typer(help="Sessions of people who signed in.", no_args_is_help=True)
setup = typer.Typer(help="The time before people carry on.", no_args_is_help=True)

PrincipalId = Annotated[UUID, typer.Argument(metavar="PRINCIPAL", help="an id")]
OfPrincipal = Annotated[
    UUID | None, typer.Option("--principal-id", metavar="ID", help="only this one's")
]

_DEPARTMENT: Final = ("name", "title", "created_at", "closed_at")
_PERSON: Final = (
    *("id", "name", "display_name", "department", "person_id", "created_at", "disabled_at"),
)
_IDENTITY: Final = ("id", "principal_id", "issuer", "subject", "linked_at", "revoked_at")
_ROLE: Final = (
    *("id", "principal_id", "role", "department", "class", "deputy_of", "starts_at", "ends_at"),
    *("granted_by", "revoked_at"),
)
_SESSION: Final = (
    *("id", "principal_id", "method", "began_at", "last_seen_at", "expires_at", "stepped_up_at"),
    "revoked_at",
)


@department.command("add")
def add_department(
    context: typer.Context,
    name: str,
    title: Annotated[str | None, typer.Option(help="as people call it; the name otherwise")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a department. Example: strongroom department add credit --title 'Consumer credit'"""
    post(context, as_json, "/v1/departments", {"name": name, "title": title})


@department.command("list")
def list_departments(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List departments, closed ones too. Example: strongroom department list --all"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/departments", options, _DEPARTMENT, all_pages=all_pages)


@department.command("close")
def close_department(context: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Let it take no new people and roles; what is there stays.

    Example: strongroom department close credit
    """
    post(context, as_json, f"/v1/departments/{quote(name, safe='')}/close")


@person.command("add")
def add_person(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="what they sign in with")],
    display_name: Annotated[
        str | None, typer.Option(help="as people call them; the name otherwise")
    ] = None,
    department: Annotated[
        str | None, typer.Option(help="their home; it gives them nothing by itself")
    ] = None,
    same_person_as: Annotated[
        UUID | None, typer.Option(metavar="ID", help="another principal of the same natural person")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a person, who may do nothing until roles are granted.

    Example: strongroom person add li.wei --display-name 李伟 --department credit
    """
    body = {
        "name": name,
        "display_name": display_name,
        "department": department,
        "same_person_as": same_person_as and str(same_person_as),
    }
    post(context, as_json, "/v1/people", body)


@person.command("list")
def list_people(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List people. Example: strongroom person list --all"""
    options = {
        "kind": PrincipalKind.PERSON.value,
        "page_size": page_size,
        "page_token": page_token,
    }
    show_list(context, as_json, "/v1/principals", options, _PERSON, all_pages=all_pages)


@identity.command("link")
def link_identity(
    context: typer.Context,
    principal_id: PrincipalId,
    issuer: Annotated[str, typer.Option(help="the provider, exactly as it writes itself")],
    subject: Annotated[str, typer.Option(help="the account there, as its directory has it")],
    ask: Ask = None,
    as_json: AsJson = False,
) -> None:
    """Let a person sign in as an account at the provider. It may take somebody else's approval.

    Example: strongroom identity link 0198… --issuer https://login.example.org --subject 8f0d…
    """
    act = Act(Action.CREDENTIALS_RESET, {"principal": str(principal_id)})
    body = {"issuer": issuer, "subject": subject}
    with asking(context, as_json, act, ask) as client:
        path = f"/v1/people/{principal_id}/identities"
        show(context, client.call("POST", path, json=body))


@identity.command("list")
def list_identities(
    context: typer.Context,
    principal_id: PrincipalId,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List a person's accounts, revoked ones too. Example: strongroom identity list 0198…"""
    options = {"page_size": page_size, "page_token": page_token}
    path = f"/v1/people/{principal_id}/identities"
    show_list(context, as_json, path, options, _IDENTITY, all_pages=all_pages)


@identity.command("revoke")
def revoke_identity(context: typer.Context, identity_id: UUID, as_json: AsJson = False) -> None:
    """Let nobody sign in by it; the person's sessions end. Example: strongroom identity revoke 0198…"""
    post(context, as_json, f"/v1/identities/{identity_id}/revoke")


@role.command("grant")
def grant_role(
    context: typer.Context,
    principal_id: PrincipalId,
    held: Annotated[
        Role,
        typer.Argument(
            metavar="ROLE", help="department_head, and roles of the whole vault, take an approval"
        ),
    ],
    department: Annotated[
        str | None, typer.Option(help="staff, archive_manager, department_head are held in one")
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="it reaches documents of this class only")
    ] = None,
    deputy_of: Annotated[
        UUID | None, typer.Option(metavar="ID", help="a principal they stand in for; needs --until")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=moments.end,
            metavar="DATE",
            help="2026-12-31: to the end of that day in UTC; or 2026-12-31T18:00+08:00",
        ),
    ] = None,
    starts_at: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            parser=moments.beginning,
            metavar="DATE",
            help="2026-12-01: from the start of that day in UTC; now otherwise",
        ),
    ] = None,
    ask: Ask = None,
    as_json: AsJson = False,
) -> None:
    """Give a person a role; they sign in again. A dangerous role takes somebody else's approval.

    With --ask that is asked for; run the same command again once it is approved.

    Example: strongroom role grant 0198… department_head --department credit --ask 'head from May on'
    """
    about = _given(
        role=held,
        department=department,
        deputy_of=deputy_of,
        starts_at=starts_at,
        ends_at=until,
        **{"class": class_name},
    )
    act = Act(Action.ROLE_GRANT, {"principal": str(principal_id), **about})
    body = {"principal_id": str(principal_id), **about}
    with asking(context, as_json, act, ask) as client:
        show(context, client.call("POST", "/v1/role-grants", json=body))


@role.command("revoke")
def revoke_role(context: typer.Context, role_grant_id: UUID, as_json: AsJson = False) -> None:
    """Take a role away, from now on; `role list` shows its id. Example: strongroom role revoke 0198…"""
    post(context, as_json, f"/v1/role-grants/{role_grant_id}/revoke")


@role.command("list")
def list_roles(
    context: typer.Context,
    principal_id: OfPrincipal = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List roles that were granted, ended ones too. Example: strongroom role list --principal-id 0198…"""
    show_list(
        *(context, as_json, "/v1/role-grants"),
        _of(principal_id, page_size, page_token),
        _ROLE,
        all_pages=all_pages,
    )


@session.command("list")
def list_sessions(
    context: typer.Context,
    principal_id: OfPrincipal = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List sessions without their tokens. Example: strongroom session list --principal-id 0198…"""
    show_list(
        *(context, as_json, "/v1/sessions"),
        _of(principal_id, page_size, page_token),
        _SESSION,
        all_pages=all_pages,
    )


@session.command("revoke")
def revoke_session(context: typer.Context, session_id: UUID, as_json: AsJson = False) -> None:
    """End somebody's session, from now on. Example: strongroom session revoke 0198…"""
    post(context, as_json, f"/v1/sessions/{session_id}/revoke")


@setup.command("close")
def close_setup(context: typer.Context, yes: Yes = False, as_json: AsJson = False) -> None:
    """Disable every administrator for set-up, for good; people carry on. Example: strongroom setup close"""
    confirm("Disable every administrator for set-up, this key among them?", yes=yes)
    post(context, as_json, "/v1/setup/close")


def _given(**options: Role | UUID | datetime | str | None) -> dict[str, str]:
    """The options that were given, as the API writes them."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value)
        for name, value in options.items()
        if value is not None
    }


def _of(principal_id: UUID | None, page_size: int, page_token: str | None) -> dict[str, Any]:
    return {"principal_id": principal_id, "page_size": page_size, "page_token": page_token}
