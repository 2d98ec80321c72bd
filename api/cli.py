"""The command line `strongroom`: commands speak HTTP; serve, worker, migrate and doctor work locally.

Exit codes: 0 done, 1 found wrong or refused, 2 could not run.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.commands import (
    access,
    administration,
    approvals,
    documents,
    keys,
    people,
    recovery,
    service,
    signin,
    sites,
)
from api.commands.output import Session

app = typer.Typer(
    help="Strongroom, an encrypted document vault. STRONGROOM_URL and STRONGROOM_API_KEY say which, and who; "
    "people `login` instead.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, keys among them
    add_completion=False,
)


@app.callback()
def session(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="of the service, over STRONGROOM_URL")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the API's JSON")] = False,
) -> None:
    """Options for every command."""
    context.obj = Session(url)
    if as_json:
        context.default_map = _json_by_default(context.command)


for commands in (service.app, documents.app, recovery.app, signin.app):
    app.add_typer(commands)
app.add_typer(administration.principal, name="principal")
app.add_typer(administration.api_key, name="api-key")
app.add_typer(administration.document_class, name="class")
app.add_typer(administration.hold, name="hold")
app.add_typer(people.department, name="department")
app.add_typer(people.person, name="person")
app.add_typer(people.identity, name="identity")
app.add_typer(people.role, name="role")
app.add_typer(people.session, name="session")
app.add_typer(people.setup, name="setup")
app.add_typer(approvals.approval, name="approval")
app.add_typer(approvals.grant, name="grant")
app.add_typer(access.access, name="access")
app.add_typer(keys.key, name="key")
app.add_typer(keys.job, name="job")
app.add_typer(sites.site, name="site")


def _json_by_default(command: object) -> dict[str, Any]:
    """The default that makes each command below `command` print JSON."""
    below = command.commands if isinstance(command, TyperGroup) else {}
    return {"as_json": True, **{name: _json_by_default(c) for name, c in below.items()}}


def main() -> None:
    """Entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the locale cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
