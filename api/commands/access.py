"""Commands about authority itself: access."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from api.commands.output import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    connected,
    show,
    show_list,
    show_table,
)
from vault.access.policy import Action

access = typer.Typer(help="Who may do what, and why.", no_args_is_help=True)

_FINDING: Final = ("id", "at", "kind", "subject", "subject_id", "found_by")
_CONFLICT: Final = ("kind", "principals", "department", "words")
_ACTIONS: Final = ", ".join(action.value for action in Action)


@access.command("explain")
def explain(
    context: typer.Context,
    who: Annotated[
        str, typer.Argument(help="id or name of an application or person, or an API key's id")
    ],
    action: Annotated[str, typer.Argument(help=f"one of {_ACTIONS}")],
    what: Annotated[str | None, typer.Argument(help="a department, or a document's id")] = None,
    department: Annotated[
        str | None, typer.Option(help="of the thing that would be acted on")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the policy would decide, and by which rule; nothing is done.

    Example: strongroom access explain crm document.read sales
    """
    if action not in [each.value for each in Action]:
        raise typer.BadParameter(f"no such action; they are {_ACTIONS}")
    if what and department:
        raise typer.BadParameter("say a department once, as WHAT or with --department")
    body = {"who": who, "action": action, "what": what, "department": department}
    with connected(context, as_json) as client:
        found = client.call("POST", "/v1/access/explain", json=body)
        if context.obj.as_json:
            show(context, found)
            return
        decision = "allowed" if found["allowed"] else "refused"
        if not found["visible"]:
            decision += ", as if it did not exist"
        show(context, {"who": found["principal"], "decision": decision, "rule": found["rule"]})


@access.command("findings")
def list_findings(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List principals and API keys that do not bear their seals. Example: strongroom access findings"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/access/findings", options, _FINDING, all_pages=all_pages)


@access.command("conflicts")
def list_conflicts(context: typer.Context, as_json: AsJson = False) -> None:
    """List what no constraint forbids and somebody had better know. Example: strongroom access conflicts"""
    with connected(context, as_json) as client:
        found = client.call("GET", "/v1/access/conflicts")
        if context.obj.as_json:
            show(context, found)
            return
        show_table(found["items"], _CONFLICT)
