"""Commands for the keys and for long work on them: key, job."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TextIO
from uuid import UUID

import typer

from api.bootstrap import build
from api.client import Client, FileUnusable
from api.commands.asking import Act, Ask, For, asking
from api.commands.local import Home, Json, explained, given, say
from api.commands.output import (
    COULD_NOT_RUN,
    FOUND_WRONG,
    AsJson,
    Everything,
    PageSize,
    PageToken,
    connected,
    post,
    progress_bar,
    show,
    show_list,
)
from api.home import lock_home
from api.settings import load
from vault.access.policy import Action

key = typer.Typer(help="Keys: KEKs, rotation, shredding, drills.", no_args_is_help=True)
job = typer.Typer(help="Long work: how far it is; stop and resume it.", no_args_is_help=True)

Purpose = Annotated[
    str, typer.Argument(help="documents, fields, previews, indexes, backups, log or authority")
]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="print the job and return at once")]

POLL_SECONDS: Final = 0.5
_ENDED: Final = ("done", "failed", "stopped")
_KEK: Final = ("purpose", "latest", "oldest_usable", "oldest_kept", "in_use")
_JOB: Final = ("id", "kind", "state", "done", "total", "created_at", "finished_at", "error")
_RELEASED: Final = ("document_id", "number", "released_at")
_EPOCH: Final = ("number", "kek_version", "began_at", "finished_at")


@key.command("list")
def list_keks(context: typer.Context, as_json: AsJson = False) -> None:
    """List the KEKs: versions, and how many documents use each. Example: strongroom key list"""
    show_list(context, as_json, "/v1/keys", {}, _KEK, all_pages=False)


@key.command("rotate")
def rotate(context: typer.Context, purpose: Purpose = "documents", as_json: AsJson = False) -> None:
    """Add a version to a KEK; it wraps from now on. Example: strongroom key rotate documents"""
    post(context, as_json, f"/v1/keys/{_checked(purpose)}/rotate")


@key.command("rotate-signing")
def rotate_signing(context: typer.Context, as_json: AsJson = False) -> None:
    """Sign with a new key from now on. Example: strongroom key rotate-signing"""
    post(context, as_json, "/v1/keys/signing/rotate")


@key.command("rotate-seal")
def rotate_seal(context: typer.Context, as_json: AsJson = False) -> None:
    """Seal principals and API keys with a new key from now on. Example: strongroom key rotate-seal"""
    post(context, as_json, "/v1/keys/seal/rotate")


@key.command("rewrap")
def rewrap(
    context: typer.Context,
    purpose: Purpose = "documents",
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Move every data key under the newest version; objects stay. Example: strongroom key rewrap

    What other purposes wrap is little, and moves when their versions are retired.
    """
    if _checked(purpose) != "documents":
        typer.echo(f"strongroom: what {purpose} wraps moves with `key retire {purpose}`", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    run_job(context, as_json, f"/v1/keys/{purpose}/rewrap", "rewrap", no_wait=no_wait)


@key.command("retire")
def retire(
    context: typer.Context, purpose: Purpose, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Destroy all versions but the newest, for good; refused while one is in use.

    Example: strongroom key retire documents --yes
    """
    path = f"/v1/keys/{_checked(purpose)}/retire"
    confirm(f"Destroy every version of the KEK {purpose} but the newest?", yes=yes)
    post(context, as_json, path)


@key.command("shred")
def shred(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only list what would be shredded")
    ] = False,
    yes: Yes = False,
    no_wait: NoWait = False,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Run a shred epoch: backups from before it open nothing that was purged.

    Example: strongroom key shred --dry-run
    """
    if dry_run:
        options = {"page_size": page_size, "page_token": page_token}
        path = "/v1/keys/epochs/next"
        show_list(context, as_json, path, options, _RELEASED, all_pages=all_pages)
        return
    confirm("Destroy all KEK versions so far, and with them what was purged?", yes=yes)
    run_job(context, as_json, "/v1/keys/epochs", "shred", no_wait=no_wait)


@key.command("epochs")
def list_epochs(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List shred epochs; --json has the signed certificates. Example: strongroom key epochs --json"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/keys/epochs", options, _EPOCH, all_pages=all_pages)


@key.command("drill")
def drill(context: typer.Context, no_wait: NoWait = False, as_json: AsJson = False) -> None:
    """Open every data key once; exit 1 if one does not. Example: strongroom key drill"""
    run_job(context, as_json, "/v1/keys/drill", "drill", no_wait=no_wait)


@key.command("public")
def public(context: typer.Context, as_json: AsJson = False) -> None:
    """Print the public signing keys, a JWK Set. Example: strongroom key public --json"""
    with connected(context, as_json) as client:
        show(context, client.call("GET", "/v1/keys/public"))


@key.command("export-dek")
def export_dek(
    context: typer.Context,
    document_id: UUID,
    number: Annotated[int, typer.Option("--version", min=1)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a new file, mode 0600")
    ] = None,
    ask: Ask = None,
    purpose: For = None,
    as_json: AsJson = False,
) -> None:
    """Export one version's data key as a Tink keyset; it opens the object without Strongroom.

    It takes an approval; with --ask and --purpose that is asked for, and the same command exports then.

    Example: strongroom key export-dek 0198… --version 1 -o key.json --ask 'case 7' --purpose court-order
    """
    path = f"/v1/documents/{document_id}/versions/{number}/export-key"
    target = {"document": str(document_id), "version": str(number)}
    act = Act(Action.KEY_EXPORT, target, purpose)
    with asking(context, as_json, act, ask) as client:
        if output is None:
            typer.echo(json.dumps(client.call("POST", path), indent=2))
            return
        # The file first: an export that could not be written would still use its approval up.
        with _private_file(output) as file:
            file.write(json.dumps(client.call("POST", path), indent=2) + "\n")


@key.command("join-catalogue")
def join_catalogue(
    purge_shredded: Annotated[
        bool, typer.Option("--purge-shredded", help="let go of what was shredded since the copy")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """On a database from before a shred epoch: bring its wrapped keys up to date. Works locally.

    Example: STRONGROOM_DATABASE_URL_FILE=restored-url strongroom key join-catalogue
    """
    with explained():
        settings = load(**given(home=home))
        with lock_home(settings.home), build(settings) as services:
            joined = services.rejoin.run(purge_shredded=purge_shredded)
    words = (
        f"{joined.joined} versions have their present keys again, from the catalogue of epoch "
        f"{joined.epoch}; {joined.shut} stay shut: they were shredded since this copy was made; "
        f"{joined.purged} documents among them were let go"
    )
    say(asdict(joined), words, as_json=as_json)


@job.command("list")
def list_jobs(
    context: typer.Context,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    all_pages: Everything = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first. Example: strongroom job list"""
    options = {"page_size": page_size, "page_token": page_token}
    show_list(context, as_json, "/v1/jobs", options, _JOB, all_pages=all_pages)


@job.command("show")
def show_job(context: typer.Context, job_id: UUID, as_json: AsJson = False) -> None:
    """Show one job and what came of it. Example: strongroom job show 0198…"""
    with connected(context, as_json) as client:
        show(context, client.call("GET", f"/v1/jobs/{job_id}"))


@job.command("stop")
def stop_job(context: typer.Context, job_id: UUID, as_json: AsJson = False) -> None:
    """Have a job end at its next step. Example: strongroom job stop 0198…"""
    post(context, as_json, f"/v1/jobs/{job_id}/stop")


@job.command("resume")
def resume_job(
    context: typer.Context, job_id: UUID, no_wait: NoWait = False, as_json: AsJson = False
) -> None:
    """Let a stopped or failed job go on. Example: strongroom job resume 0198…"""
    run_job(context, as_json, f"/v1/jobs/{job_id}/resume", "job", no_wait=no_wait)


def run_job(
    context: typer.Context,
    as_json: bool,
    path: str,
    label: str,
    *,
    no_wait: bool,
    body: dict[str, Any] | None = None,
    is_wrong: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> None:
    """Start a job and follow it to its end; exit 1 if it failed or found something wrong.

    Args:
        is_wrong: whether the result of a job that was done says so.
    """
    with connected(context, as_json) as client:
        started = client.call("POST", path, json=body)
        ended = started if no_wait else followed(client, started, label)
        show(context, ended)
    if _is_wrong(ended) or is_wrong(ended.get("result") or {}):
        raise typer.Exit(FOUND_WRONG)


def followed(client: Client, started: dict[str, Any], label: str) -> dict[str, Any]:
    """The job once it ended. Interrupting this leaves it running."""
    found = started
    try:
        with progress_bar(label, of_bytes=False) as advance:
            while found["state"] not in _ENDED:
                time.sleep(POLL_SECONDS)
                found = client.call("GET", f"/v1/jobs/{started['id']}")
                advance(found["done"], found["total"])
    except KeyboardInterrupt:
        typer.echo(f"strongroom: the job goes on; strongroom job show {started['id']}", err=True)
    return found


def _is_wrong(ended: dict[str, Any]) -> bool:
    result = ended.get("result") or {}
    return ended["state"] in ("failed", "stopped") or bool(result.get("failed"))


def confirm(question: str, *, yes: bool, why: str = "this cannot be undone") -> None:
    """Go on if a person says so; exit 2 if not, or if there is none to ask and no `yes`."""
    if yes:
        return
    if not sys.stdin.isatty():
        typer.echo(f"strongroom: {why}; say --yes to do it", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    if not typer.confirm(f"{question} {why.capitalize()}.", err=True):
        raise typer.Exit(COULD_NOT_RUN)


def _checked(purpose: str) -> str:
    """A purpose in a path; whether there is such a KEK is the service's to say."""
    if not purpose.isalpha() or not purpose.isascii():
        typer.echo("strongroom: a purpose is one of those that `key list` shows", err=True)
        raise typer.Exit(COULD_NOT_RUN)
    return purpose


@contextmanager
def _private_file(path: Path) -> Iterator[TextIO]:
    """A new file, mode 0600; gone again if what is done with it fails. Raises: FileUnusable."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise _unusable(exc) from exc
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
    except OSError as exc:
        path.unlink()
        raise _unusable(exc) from exc
    except BaseException:
        path.unlink()
        raise


def _unusable(exc: OSError) -> FileUnusable:
    return FileUnusable(f"the file cannot be made: {exc.strerror}")
