"""Commands for documents: put, get, ls, search, show, versions, history, rename, move, rm, undelete."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer

from api.client import Client
from api.commands.names import plain_file_name, printable, printable_json
from api.commands.output import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    connected,
    progress_bar,
    show,
    show_pages,
)
from api.download import PartialFile, Pipe, fetch
from api.upload import STANDARD_INPUT, Source, open_source

app = typer.Typer()


def _utc(given: str) -> datetime:
    """A moment; without an offset it is taken as UTC. Raises: BadParameter."""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter("write it as 2026-11-23 or 2026-11-23T17:00:00Z") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _header_value(given: str | None) -> str | None:
    """A value that HTTP can carry. Raises: BadParameter."""
    if given is not None and not (given.isascii() and given.isprintable()):
        raise typer.BadParameter("only visible ASCII characters can be sent")
    return given


Id = Annotated[UUID, typer.Argument(help="the document's id")]
ClassName = Annotated[str | None, typer.Option("--class", help="the class")]
Department = Annotated[str | None, typer.Option(help="the department")]
State = Annotated[Literal["live", "binned"], typer.Option()]
Moment = Annotated[
    datetime | None,
    typer.Option(parser=_utc, metavar="TIME", help="as 2026-11-23T17:00:00Z; UTC unless it says"),
]

_COLUMNS: Final = (
    "id",
    "name",
    "class",
    "department",
    "state",
    "version.number",
    "version.size_bytes",
    "created_at",
)
_VERSION_COLUMNS: Final = (
    "number",
    "size_bytes",
    "media_type",
    "created_at",
    "durable_on",
    "ciphertext_sha256",
)


@app.command()
def put(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(help="files; - for standard input")],
    class_name: ClassName = None,
    department: Department = None,
    name: Annotated[str | None, typer.Option(help="the document's name, for one file")] = None,
    version_of: Annotated[UUID | None, typer.Option(help="add a version to this document")] = None,
    if_match: Annotated[
        str | None, typer.Option(callback=_header_value, help="only if this is the newest version")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(callback=_header_value, help="makes a repetition harmless")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """File documents, or with --version-of a further version.

    Example: strongroom put contract.pdf --class general
    """
    filing = _given(**{"class": class_name, "department": department})
    new = _given(name=name, **filing, idempotency_key=idempotency_key)
    _refuse_misfits(files, new, is_version=version_of is not None, if_match=if_match)
    method, path = (
        ("POST", "/v1/documents")
        if version_of is None
        else ("PUT", f"/v1/documents/{version_of}/content")
    )
    headers = _given(**{"If-Match": if_match, "Idempotency-Key": idempotency_key})
    with connected(context, as_json) as client:
        for file in files:
            with context.obj.attempt(file), open_source(file, name) as source:
                answer = _send(client, method, path, source, params=filing, headers=headers)
                _say_filed(answer, as_json=as_json)


@app.command()
def get(
    context: typer.Context,
    document_id: Id,
    version: Annotated[
        int | None, typer.Option(min=1, help="its number; the newest otherwise")
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="a file; - for standard output")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a document; repeated after an interruption, it goes on where it stopped.

    Example: strongroom get 0198d3a0-5a2e-7bb4-8c1d-2f60e7a91c34 -o contract.pdf
    """
    document = f"/v1/documents/{document_id}"
    path = f"{document}/content" if version is None else f"{document}/versions/{version}/content"
    to_pipe = output == "-"
    with connected(context, as_json, err=to_pipe) as client:
        if to_pipe:
            show(context, _fetch_to_pipe(client, path), err=True)
            return
        # The name that Content-Disposition has, but refusals of this call have words; those of HEAD have not.
        target = output or plain_file_name(client.call("GET", document)["name"])
        show(context, _fetch_to_file(client, path, Path(target), force=force))


@app.command("ls")
def list_documents(
    context: typer.Context,
    class_name: ClassName = None,
    department: Department = None,
    state: State = "live",
    created_after: Moment = None,
    created_before: Moment = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List documents, newest first. Example: strongroom ls --class general --all"""
    options = {
        "class": class_name,
        "department": department,
        "state": state,
        "created_after": created_after and created_after.isoformat(),
        "created_before": created_before and created_before.isoformat(),
        "page_size": page_size,
        "page_token": page_token,
    }
    with connected(context, as_json) as client:
        pages = client.pages("GET", "/v1/documents", options)
        show_pages(context, pages, _COLUMNS, all_pages=all_pages)


@app.command()
def search(
    context: typer.Context,
    text: Annotated[list[str], typer.Argument(help="part of the name; words as they follow")],
    class_name: ClassName = None,
    department: Department = None,
    state: State = "live",
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Find documents by part of their name. Example: strongroom search 合同"""
    options = {
        "name_contains": " ".join(text),
        "class": class_name,
        "department": department,
        "state": state,
        "page_size": page_size,
        "page_token": page_token,
    }
    with connected(context, as_json) as client:
        pages = client.pages("POST", "/v1/documents/search", options)
        show_pages(context, pages, _COLUMNS, all_pages=all_pages)


@app.command("show")
def show_document(context: typer.Context, document_id: Id, as_json: AsJson = False) -> None:
    """Show one document's metadata. Example: strongroom show 0198…"""
    _call(context, as_json, "GET", f"/v1/documents/{document_id}")


@app.command()
def versions(
    context: typer.Context,
    document_id: Id,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List a document's versions, newest first. Example: strongroom versions 0198…"""
    options = {"page_size": page_size, "page_token": page_token}
    with connected(context, as_json) as client:
        pages = client.pages("GET", f"/v1/documents/{document_id}/versions", options)
        show_pages(context, pages, _VERSION_COLUMNS, all_pages=all_pages)


@app.command()
def history(
    context: typer.Context,
    document_id: Id,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List changes of the metadata: who, when, from, to. Example: strongroom history 0198…"""
    columns = ("revision", "field", "from", "to", "changed_at", "changed_by")
    options = {"page_size": page_size, "page_token": page_token}
    with connected(context, as_json) as client:
        pages = client.pages("GET", f"/v1/documents/{document_id}/history", options)
        show_pages(context, pages, columns, all_pages=all_pages)


@app.command()
def rename(
    context: typer.Context,
    document_id: Id,
    name: Annotated[str, typer.Argument(help="the new name")],
    as_json: AsJson = False,
) -> None:
    """Give a document another name. Example: strongroom rename 0198… 合同.pdf"""
    _call(context, as_json, "PATCH", f"/v1/documents/{document_id}", json={"name": name})


@app.command()
def move(
    context: typer.Context,
    document_id: Id,
    class_name: ClassName = None,
    department: Department = None,
    as_json: AsJson = False,
) -> None:
    """Move a document to another class or department. Example: strongroom move 0198… --class contracts"""
    changes = _given(**{"class": class_name, "department": department})
    if not changes:
        raise typer.BadParameter("say where to: --class or --department")
    _call(context, as_json, "PATCH", f"/v1/documents/{document_id}", json=changes)


@app.command("rm")
def remove(context: typer.Context, document_id: Id, as_json: AsJson = False) -> None:
    """Put a document into the bin. Example: strongroom rm 0198…"""
    _call(context, as_json, "DELETE", f"/v1/documents/{document_id}")


@app.command()
def undelete(context: typer.Context, document_id: Id, as_json: AsJson = False) -> None:
    """Take a document out of the bin. Example: strongroom undelete 0198…"""
    _call(context, as_json, "POST", f"/v1/documents/{document_id}/undelete")


def _call(context: typer.Context, as_json: bool, method: str, path: str, **options: Any) -> None:
    with connected(context, as_json) as client:
        show(context, client.call(method, path, **options))


def _given(**options: str | None) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse_misfits(
    files: Sequence[str], new: Mapping[str, str], *, is_version: bool, if_match: str | None
) -> None:
    """Options that would be ignored are refused: who gave them relies on them."""
    if is_version and new:
        raise typer.BadParameter("--version-of keeps name, class and department as they are")
    if if_match is not None and not is_version:
        raise typer.BadParameter("--if-match goes with --version-of")
    if len(files) > 1 and (is_version or {"name", "idempotency_key"} & new.keys()):
        raise typer.BadParameter("--name, --version-of and --idempotency-key go with one file")
    if STANDARD_INPUT in files and not is_version and "name" not in new:
        raise typer.BadParameter("standard input has no name; give it one with --name")


def _send(
    client: Client,
    method: str,
    path: str,
    source: Source,
    *,
    params: Mapping[str, str],
    headers: Mapping[str, str],
) -> dict[str, Any]:
    with progress_bar(f"put {source.name}") as progress:
        return client.call(
            method,
            path,
            params=params,
            headers={**source.headers(), **headers},
            content=source.chunks(progress),
        )


def _say_filed(answer: Mapping[str, Any], *, as_json: bool) -> None:
    name = printable(str(answer["name"]))
    line = f"{answer['id']}  version {answer['version']['number']}  {name}"
    typer.echo(printable_json(answer) if as_json else line)


def _fetch_to_pipe(client: Client, path: str) -> dict[str, Any]:
    pipe = Pipe(sys.stdout.buffer)
    with progress_bar("get") as progress:
        fetch(client, path, pipe, progress)
    return asdict(pipe.finish())


def _fetch_to_file(client: Client, path: str, target: Path, *, force: bool) -> dict[str, Any]:
    with PartialFile(target, force=force) as part:
        with progress_bar(f"get {target.name}") as progress:
            fetch(client, path, part, progress)
        return asdict(part.finish())
