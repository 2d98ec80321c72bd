"""Commands for administrators: principal, api-key, class, hold."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import quote
from uuid import UUID

import typer

from api.commands.asking import Act, Ask, asking
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
from vault.access.policy import Action
from vault.access.principals import PrincipalKind

principal = typer.Typer(help="Applications and people that act.", no_args_is_help=True)
api_key = typer.Typer(help="API keys.", no_args_is_help=True)
document_class = typer.Typer(
    help="Classes: the rules documents are filed under.", no_args_is_help=True
)
hold = typer.Typer(help="Legal holds.", no_args_is_help=True)

Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="read, write, export-keys, operate, audit or admin; repeatable"),
]
Days = Annotated[int | None, typer.Option("--lifetime-days", help="until revoked otherwise")]

_PRINCIPAL: Final = ("id", "name", "kind", "department", "scopes", "created_at", "disabled_at")
_KEY: Final = (
    "id",
    "principal_id",
    "scopes",
    "created_at",
    "expires_at",
    "revoked_at",
    "last_used_at",
)
_CLASS: Final = (
    "name",
    "media_types",
    "max_size_bytes",
    "durability",
    "retention_days",
    "bin_days",
    "if_peer_away",
    "worm_days",
)
_HOLD: Final = ("id", "document_id", "reason", "placed_at", "placed_by", "released_at")


@principal.command("add")
def add_principal(
    context: typer.Context,
    name: str,
    scopes: Scopes,
    department: Annotated[str | None, typer.Option(help="its own, or * for every one")] = None,
    responsible: Annotated[
        UUID | None, typer.Option(metavar="ID", help="a principal of the person who answers for it")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add an application. Example: strongroom principal add crm --scope read --department sales"""
    body = {
        "name": name,
        "scopes": scopes,
        "department": department,
        "responsible": responsible and str(responsible),
    }
    post(context, as_json, "/v1/principals", body)


@principal.command("list")
def list_principals(
    context: typer.Context,
    kind: Annotated[PrincipalKind | None, typer.Option(help="only these")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List principals. Example: strongroom principal list --kind application --all"""
    options = {"kind": kind, "page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/principals", options, _PRINCIPAL, all_pages=all_pages)


@principal.command("disable")
def disable_principal(context: typer.Context, principal_id: UUID, as_json: AsJson = False) -> None:
    """Stop a principal and all its keys, for good. Example: strongroom principal disable 0198…"""
    post(context, as_json, f"/v1/principals/{principal_id}/disable")


@api_key.command("issue")
def issue_key(
    context: typer.Context,
    principal_id: UUID,
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", help="all of the principal's otherwise")
    ] = None,
    lifetime_days: Days = None,
    ask: Ask = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key; its token is shown this once.

    One that reaches every department, exports keys, operates or audits takes somebody else's approval.

    Example: strongroom api-key issue 0198…
    """
    body = {
        "principal_id": str(principal_id),
        "scopes": scopes or None,
        "lifetime_days": lifetime_days,
    }
    act = Act(Action.API_KEY_ISSUE, {"principal": str(principal_id)})
    with asking(context, as_json, act, ask) as client:
        show(context, client.call("POST", "/v1/api-keys", json=body))


@api_key.command("rotate")
def rotate_key(context: typer.Context, lifetime_days: Days = None, as_json: AsJson = False) -> None:
    """Issue a successor for the key in use; revoke that one then. Example: strongroom api-key rotate"""
    body = {"lifetime_days": lifetime_days}
    post(context, as_json, "/v1/api-keys/rotate", body)


@api_key.command("revoke")
def revoke_key(context: typer.Context, key_id: str, as_json: AsJson = False) -> None:
    """Stop a key, from now on and for good. Example: strongroom api-key revoke 3f0c…"""
    post(context, as_json, f"/v1/api-keys/{quote(key_id, safe='')}/revoke")


@api_key.command("list")
def list_keys(
    context: typer.Context,
    principal_id: Annotated[UUID | None, typer.Option(help="only this principal's")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List API keys without their secrets. Example: strongroom api-key list"""
    options = {"principal_id": principal_id, "page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/api-keys", options, _KEY, all_pages=all_pages)


@document_class.command("add")
def add_class(
    context: typer.Context,
    name: str,
    media_types: Annotated[
        list[str] | None, typer.Option("--media-type", help="repeatable; image/* works")
    ] = None,
    max_size_bytes: Annotated[int | None, typer.Option(help="per document")] = None,
    durability: Annotated[str | None, typer.Option(help="sync or async")] = None,
    retention_days: Annotated[
        int | None, typer.Option(help="kept at least, from the newest version")
    ] = None,
    bin_days: Annotated[int | None, typer.Option(help="kept at least in the bin")] = None,
    if_peer_away: Annotated[
        str | None,
        typer.Option(help="of a sync class: refuse uploads, or degrade: take them, and owe"),
    ] = None,
    worm_days: Annotated[
        int | None, typer.Option(help="versions are locked at both stores that long")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a class; it cannot be edited. Example: strongroom class add scans --media-type image/*"""
    given = {
        "name": name,
        "media_types": media_types,
        "max_size_bytes": max_size_bytes,
        "durability": durability,
        "retention_days": retention_days,
        "bin_days": bin_days,
        "if_peer_away": if_peer_away,
        "worm_days": worm_days,
    }
    body = {key: value for key, value in given.items() if value is not None}
    post(context, as_json, "/v1/classes", body)


@document_class.command("list")
def list_classes(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List classes. Example: strongroom class list"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/classes", options, _CLASS, all_pages=all_pages)


@document_class.command("show")
def show_class(context: typer.Context, name: str, as_json: AsJson = False) -> None:
    """Show one class. Example: strongroom class show general"""
    with connected(context, as_json) as client:
        show(context, client.call("GET", f"/v1/classes/{quote(name, safe='')}"))


@hold.command("place")
def place_hold(
    context: typer.Context,
    document_id: UUID,
    reason: Annotated[str, typer.Option(help="why, for the record")],
    as_json: AsJson = False,
) -> None:
    """Put a legal hold on a document. Example: strongroom hold place 0198… --reason 'case 2026/17'"""
    body = {"document_id": str(document_id), "reason": reason}
    post(context, as_json, "/v1/holds", body)


@hold.command("release")
def release_hold(context: typer.Context, hold_id: UUID, as_json: AsJson = False) -> None:
    """End a legal hold. Example: strongroom hold release 0198…"""
    post(context, as_json, f"/v1/holds/{hold_id}/release")


@hold.command("list")
def list_holds(
    context: typer.Context,
    document_id: Annotated[UUID | None, typer.Option(help="only this document's")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List legal holds, released ones too. Example: strongroom hold list --document-id 0198…"""
    options = {"document_id": document_id, "page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/holds", options, _HOLD, all_pages=all_pages)
