"""Commands for documents: put, get, ls, search, show, versions, history, rename, move, rm, undelete."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from urllib.parse import urlencode

import typer

from api.client import Client
from api.commands.output import (
    AsJson,
    Everything,
    PageSize,
    PageToken,
    explained,
    fail,
    printable,
    progress_bar,
    show,
    show_pages,
)

app = typer.Typer()

Id = Annotated[str, typer.Argument(help="the document's id")]
ClassName = Annotated[str | None, typer.Option("--class", help="the class")]
Department = Annotated[str | None, typer.Option(help="the department")]
State = Annotated[str, typer.Option(help="live or binned")]

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
    version_of: Annotated[str | None, typer.Option(help="add a version to this document")] = None,
    if_match: Annotated[str | None, typer.Option(help="only if this is the newest ETag")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="makes a repetition harmless")] = None,
    as_json: AsJson = False,
) -> None:
    """File documents, or with --version-of a further version.

    Example: strongroom put contract.pdf --class general
    """
    if len(files) > 1 and (name or version_of or idempotency_key):
        fail("--name, --version-of and --idempotency-key go with one file")
    query = {k: v for k, v in (("class", class_name), ("department", department)) if v is not None}
    headers = {"If-Match": if_match, "Idempotency-Key": idempotency_key}
    given = {key: value for key, value in headers.items() if value is not None}
    failed = 0
    for file in files:
        try:
            with explained(context, as_json) as client:
                _put_one(context, client, file, name, version_of, query, given)
        except typer.Exit as exc:
            failed = max(failed, exc.exit_code)
    raise typer.Exit(failed)


@app.command()
def get(
    context: typer.Context,
    document_id: Id,
    version: Annotated[int | None, typer.Option(help="its number; the newest otherwise")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="a file; - for standard output")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a document; repeated after an interruption, it goes on where it stopped.

    Example: strongroom get 0198… -o contract.pdf
    """
    middle = "" if version is None else f"/versions/{version}"
    path = f"/v1/documents/{document_id}{middle}/content"
    with explained(context, as_json) as client:
        if output == "-":
            client.stream(path, sys.stdout.buffer)
            return
        with progress_bar("get") as progress:
            fetched = client.download(path, _target(output, force=force), progress)
        answer = {
            "path": str(fetched.path),
            "size_bytes": fetched.size_bytes,
            "sha256": fetched.sha256,
        }
        show(context, answer, tuple(answer))


@app.command("ls")
def list_documents(
    context: typer.Context,
    class_name: ClassName = None,
    department: Department = None,
    state: State = "live",
    created_after: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    created_before: Annotated[datetime | None, typer.Option(help="UTC")] = None,
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
        "created_after": _utc(created_after),
        "created_before": _utc(created_before),
        "page_size": page_size,
        "page_token": page_token,
    }
    with explained(context, as_json) as client:
        pages = client.pages("GET", "/v1/documents", options)
        show_pages(context, pages, _COLUMNS, all_pages=all_pages)


@app.command()
def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="part of the name")],
    class_name: ClassName = None,
    state: State = "live",
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Find documents by part of their name. Example: strongroom search 合同"""
    options = {
        "name_contains": text,
        "class": class_name,
        "state": state,
        "page_size": page_size,
        "page_token": page_token,
    }
    with explained(context, as_json) as client:
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
    with explained(context, as_json) as client:
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
    with explained(context, as_json) as client:
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
    changes = {
        k: v for k, v in (("class", class_name), ("department", department)) if v is not None
    }
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
    with explained(context, as_json) as client:
        show(context, client.call(method, path, **options), _COLUMNS)


def _put_one(
    context: typer.Context,
    client: Client,
    file: str,
    name: str | None,
    version_of: str | None,
    query: dict[str, str],
    headers: dict[str, str],
) -> None:
    if file == "-" and name is None and version_of is None:
        fail("standard input has no name; give it one with --name")
    source, size_bytes = _open(file)
    method, path = (
        ("PUT", f"/v1/documents/{version_of}/content") if version_of else ("POST", "/v1/documents")
    )
    with source, progress_bar(f"put {Path(file).name}") as progress:
        answer = client.upload(
            method,
            path + (f"?{urlencode(query)}" if query else ""),
            source,
            name or Path(file).name,
            size_bytes,
            headers,
            progress,
        )
    if context.obj.as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
    else:
        typer.echo(
            f"{answer['id']}  version {answer['version']['number']}  {printable(answer['name'])}"
        )


def _open(file: str) -> tuple[BinaryIO, int | None]:
    if file == "-":
        return sys.stdin.buffer, None
    opened = Path(file).open("rb")  # noqa: SIM115 (the caller closes it)
    return opened, Path(file).stat().st_size


def _target(output: str | None, *, force: bool) -> Callable[[str], Path]:
    def choose(name: str) -> Path:
        path = Path(output or name)
        if path.exists() and not force:
            fail(f"{printable(str(path))} exists; give another -o, or --force")
        return path

    return choose


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat()}Z"
