"""Commands that work locally: serve, worker, migrate, doctor, version."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from api import doctor as doctor_checks
from api import logs, metrics, server
from api.bootstrap import build
from api.commands.local import Home, Json, explained, given, say
from api.first_start import ADMINISTRATOR, DEMO, create_once
from api.home import lock_home
from api.settings import Settings, SettingsError, load
from api.worker import Worker
from migrations.run import upgrade

app = typer.Typer()


@app.command()
def serve(
    home: Home = None,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT")] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="leave the work to `worker`")
    ] = False,
    demo: Annotated[
        bool, typer.Option(help="make the application 'demo' and print curl lines")
    ] = False,
) -> None:
    """Serve the HTTP API; by default with the worker in the same process.

    Example: strongroom serve --home ./var --listen 127.0.0.1:8300
    """
    with explained():
        settings = load(**given(home=home, listen=listen))
        logs.configure(settings.log_format)
        with (
            lock_home(settings.home),
            server.bind(settings) as listener,
            build(settings) as services,
        ):
            first = partial(create_once, services.database.as_shared(), services.seals)
            first(ADMINISTRATOR, partial(_show_key, "admin key"))
            shown: list[str] = []
            if demo:
                first(DEMO, partial(_show_key, "api key", shown=shown))
            url = server.url_of(settings, listener)
            worker = None if no_worker else Worker(services)
            server.run(services, listener, worker, partial(_greet, url, shown, demo=demo))


@app.command()
def worker(home: Home = None) -> None:
    """Replicate, sweep and purge in a process of its own; needs STRONGROOM_DATABASE_URL.

    STRONGROOM_WORKER_METRICS_LISTEN says where its metrics are shown.

    Example: strongroom worker
    """
    with explained():
        settings = load(**given(home=home))
        if settings.is_embedded:
            raise SettingsError(
                "the embedded database belongs to `serve`, which has a worker already; "
                "set STRONGROOM_DATABASE_URL to run workers of their own"
            )
        logs.configure(settings.log_format)
        with _metrics_served(settings), build(settings) as services:
            _work_until_told(Worker(services))


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the tables to this version, as the owner (STRONGROOM_DATABASE_OWNER_URL).

    Example: STRONGROOM_DATABASE_OWNER_URL_FILE=/run/secrets/owner-url strongroom migrate
    """
    with explained():
        settings = load()
        if settings.database_owner_url is None:
            raise SettingsError(
                "STRONGROOM_DATABASE_OWNER_URL is not set; the embedded database migrates itself"
            )
        upgrade(settings.database_owner_url.get_secret_value())
    say({"migrated": True}, "the tables are of this version", as_json=as_json)


@app.command()
def adopt_authority(
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Seal all principals and API keys as they stand in the database, whatever seals they bear.

    For a database from before the seals, or under another KMS, when the service says so and does not start.
    Whoever wrote those rows is believed: look at them first.

    Example: strongroom adopt-authority
    """
    with explained():
        settings = load(**given(home=home))
        logs.configure(settings.log_format)
        if not yes:
            typer.confirm(
                "Are all principals and API keys in the database as they should be?", abort=True
            )
        with lock_home(settings.home), build(settings, adopt_authority=True):
            say({"adopted": True}, "principals and API keys are sealed", as_json=as_json)


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check every setting and dependency, and say what to do; exit 1 if something is wrong.

    Example: strongroom doctor --json
    """
    with explained():
        findings = doctor_checks.examine(load(**given(home=home)))
    say(
        {"findings": [finding.as_json() for finding in findings]},
        "\n".join(str(finding) for finding in findings),
        as_json=as_json,
    )
    raise typer.Exit(int(any(not finding.ok for finding in findings)))


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version. Example: strongroom version"""
    found = version_of("strongroom")
    say({"version": found}, f"strongroom {found}", as_json=as_json)


@contextmanager
def _metrics_served(settings: Settings) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(metrics.served(settings.worker_metrics_listen))
        except OSError as exc:
            raise SettingsError(
                f"cannot listen on {settings.worker_metrics_listen}: {exc.strerror}; "
                "correct STRONGROOM_WORKER_METRICS_LISTEN"
            ) from exc
        yield


def _work_until_told(running: Worker) -> None:
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    running.start()
    told.wait()
    running.stop()


def _show_key(label: str, key: str, shown: list[str] | None = None) -> None:
    """Alone on its line, and out before anything else happens: it is shown this once."""
    typer.echo(f"{label}: {key}")
    sys.stdout.flush()
    if shown is not None:
        shown.append(key)


def _greet(url: str, demo_keys: list[str], *, demo: bool) -> None:
    """What a person needs next."""
    typer.echo(f"Strongroom serves {url} (API description: {url}/docs)")
    for key in demo_keys:
        typer.echo(_CURL_LINES.format(url=url, key=key))
    if demo and not demo_keys:
        typer.echo("the keys were shown at the first start; an administrator issues further ones")
    sys.stdout.flush()


_CURL_LINES = """\
Try it, in this folder:
  KEY={key}
  ID=$(curl -fsS {url}/v1/documents -H "Authorization: Bearer $KEY" \\
       -H 'Content-Disposition: attachment; filename="README.md"' --data-binary @README.md \\
       | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
  curl -fsS {url}/v1/documents/$ID/content -H "Authorization: Bearer $KEY" | cmp - README.md \\
       && echo 'came back byte for byte'"""
