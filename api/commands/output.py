"""What commands print: JSON as the API gave it, or tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from api.client import DEFAULT_URL, Client, Interrupted, Refused, Unreachable
from api.settings import client_url_and_key

FOUND_WRONG: Final = 1
COULD_NOT_RUN: Final = 2
PIPE_COLUMNS: Final = 2000
"""Width of tables that nobody sees on a terminal: wide enough to cut nothing short."""

AsJson = Annotated[bool, typer.Option("--json", help="print the API's JSON")]
PageSize = Annotated[int, typer.Option(min=1, max=1000, help="items a page")]
PageToken = Annotated[str | None, typer.Option(help="next_page_token of the page before")]
Everything = Annotated[bool, typer.Option("--all", help="follow the pages to the end")]


@dataclass
class Session:
    """What the options before the command said."""

    url: str | None = None
    as_json: bool = False

    def client(self) -> Client:
        """A client for the service and key of the environment."""
        url, key = client_url_and_key()
        if key is None:
            fail("set STRONGROOM_API_KEY to a key; the first start printed one")
        return Client(self.url or url or DEFAULT_URL, key)


def fail(message: str) -> NoReturn:
    """Say why the command could not run, and end."""
    typer.echo(f"strongroom: {message}", err=True)
    raise typer.Exit(COULD_NOT_RUN)


@contextmanager
def explained(context: typer.Context, as_json: bool) -> Iterator[Client]:
    """A client; what it raises becomes a line, or JSON, and the exit code."""
    session: Session = context.obj
    session.as_json |= as_json
    try:
        yield session.client()
    except Refused as exc:
        _show_problem(exc.problem, as_json=session.as_json)
        raise typer.Exit(COULD_NOT_RUN if exc.is_temporary else FOUND_WRONG) from None
    except (Unreachable, Interrupted, OSError) as exc:
        fail(printable(str(exc)))


def show(context: typer.Context, answer: Any, columns: Sequence[str]) -> None:
    """One thing, or a page of them (`items`), as a table of `columns`."""
    if context.obj.as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    items = answer.get("items", [answer])
    table = Table(*columns)
    for item in items:
        table.add_row(*(printable(_cell(item, column)) for column in columns))
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
    if answer.get("next_page_token"):
        typer.echo(f"more: --page-token {answer['next_page_token']}, or --all", err=True)


def show_pages(
    context: typer.Context,
    pages: Iterator[dict[str, Any]],
    columns: Sequence[str],
    *,
    all_pages: bool,
) -> None:
    """The first page, or all of them as one list."""
    page = next(pages)
    if all_pages:
        items = [*page["items"], *(item for further in pages for item in further["items"])]
        page = {"items": items, "next_page_token": None}
    show(context, page, columns)


def printable(text: str) -> str:
    """`text` without what a terminal would obey, nor what rich would take for markup."""
    visible = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return visible.replace("[", r"\[")


@contextmanager
def progress_bar(label: str) -> Iterator[Any]:
    """A transfer's progress on a terminal's standard error; silent elsewhere."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), DownloadColumn()),
        *(TransferSpeedColumn(), TimeRemainingColumn()),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show_problem(problem: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(problem, ensure_ascii=False))
        return
    typer.echo(f"strongroom: {printable(str(problem.get('title', 'refused')))}", err=True)
    for key in ("detail", "request_id"):
        if problem.get(key):
            typer.echo(f"  {key}: {printable(str(problem[key]))}", err=True)


def _cell(item: dict[str, Any], column: str) -> str:
    value: Any = item
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
