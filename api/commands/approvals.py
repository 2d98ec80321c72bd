"""Commands about what one person asks for and another decides: approval, grant."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import typer

from api.commands.output import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    connected,
    post,
    show,
    show_list,
)
from vault.access.approvals import ApprovalState
from vault.access.policy import RULES, Action, Purpose

approval = typer.Typer(help="Approvals: ask, and decide what others ask.", no_args_is_help=True)
grant = typer.Typer(help="What approvals gave: until when, how often.", no_args_is_help=True)

ApprovalId = Annotated[UUID, typer.Argument(metavar="ID", help="as `approval list` shows it")]
Comment = Annotated[str | None, typer.Option(help="why, for the record and who asked")]

_APPROVAL: Final = ("id", "requested_by", "action", "department", "state", "decide_before")
_GRANT: Final = (
    *("id", "approval_id", "principal_id", "action", "target", "department", "expires_at"),
    *("remaining", "revoked_at"),
)
_ACTIONS: Final = ", ".join(action for action in Action if RULES[action].purposes)


@approval.command("list")
def list_approvals(
    context: typer.Context,
    state: Annotated[ApprovalState | None, typer.Option(help="only in this one")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List what you asked for, may decide or oversee. Example: strongroom approval list --state requested"""
    options = {"state": state, "page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/approvals", options, _APPROVAL, all_pages=all_pages)


@approval.command("show")
def show_approval(context: typer.Context, approval_id: ApprovalId, as_json: AsJson = False) -> None:
    """Show everything of one. Example: strongroom approval show 0198…"""
    with connected(context, as_json) as client:
        show(context, client.call("GET", f"/v1/approvals/{approval_id}"))


@approval.command("request")
def request_approval(
    context: typer.Context,
    action: Annotated[
        Action,
        typer.Argument(parser=_action, metavar="ACTION", help=f"one of {_ACTIONS}"),
    ],
    target: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="what it is about; repeatable")
    ],
    purpose: Annotated[Purpose, typer.Option(help="what for")],
    reason: Annotated[str, typer.Option(help="in words, for whoever decides")],
    ticket: Annotated[str | None, typer.Option(help="of your own system")] = None,
    uses: Annotated[int, typer.Option(min=1, help="how often it is to be done")] = 1,
    lasts_minutes: Annotated[int, typer.Option(min=1, help="from the decision on")] = 480,
    as_json: AsJson = False,
) -> None:
    """Ask for an approval; then somebody else decides, and you do what you asked for.

    Example: strongroom approval request key.export --target document=0198… --target version=1 --purpose exit
    --reason 'we leave'
    """
    body = {
        "action": action.value,
        "target": dict(map(_part, target)),
        "purpose": purpose.value,
        "reason": reason,
        "ticket": ticket,
        "uses": uses,
        "lasts_minutes": lasts_minutes,
    }
    post(context, as_json, "/v1/approvals", body)


@approval.command("approve")
def approve(
    context: typer.Context,
    approval_id: ApprovalId,
    comment: Comment = None,
    as_json: AsJson = False,
) -> None:
    """Approve what somebody else asked for. Example: strongroom approval approve 0198…"""
    post(context, as_json, f"/v1/approvals/{approval_id}/approve", {"comment": comment})


@approval.command("deny")
def deny(
    context: typer.Context,
    approval_id: ApprovalId,
    comment: Comment = None,
    as_json: AsJson = False,
) -> None:
    """Deny what somebody else asked for. Example: strongroom approval deny 0198…"""
    post(context, as_json, f"/v1/approvals/{approval_id}/deny", {"comment": comment})


@approval.command("withdraw")
def withdraw(context: typer.Context, approval_id: ApprovalId, as_json: AsJson = False) -> None:
    """Take your own request back. Example: strongroom approval withdraw 0198…"""
    post(context, as_json, f"/v1/approvals/{approval_id}/withdraw")


@grant.command("list")
def list_grants(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List grants you have, could have decided or oversee. Example: strongroom grant list"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/grants", options, _GRANT, all_pages=all_pages)


@grant.command("revoke")
def revoke_grant(context: typer.Context, grant_id: UUID, as_json: AsJson = False) -> None:
    """End a grant, from now on. Example: strongroom grant revoke 0198…"""
    post(context, as_json, f"/v1/grants/{grant_id}/revoke")


def _action(name: str) -> Action:
    """Raises: typer.BadParameter."""
    try:
        return Action(name)
    except ValueError:
        raise typer.BadParameter(f"no such action; they are {_ACTIONS}") from None


def _part(written: str) -> tuple[str, str]:
    """Raises: typer.BadParameter."""
    name, equals, value = written.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter("a part of a target is written NAME=VALUE")
    return name, value
