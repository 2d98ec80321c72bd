"""What commands print: JSON as the API gave it, or lines and tables for people.

Whatever came from the service passes `api.commands.names` first; tables are made of `Text`, which rich
takes for no markup. One thing is printed as plain lines, since a table would break a key over two of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from api import savedsession
from api.client import DEFAULT_URL, Client, ClientError, Refused, Unavailable
from api.commands.names import printable, printable_json
from api.settings import client_url_and_key

FOUND_WRONG: Final = 1
COULD_NOT_RUN: Final = 2
PIPE_COLUMNS: Final = 2000
"""Width of tables that nobody sees on a terminal: wide enough to cut nothing short."""

AsJson = Annotated[bool, typer.Option("--json", help="print the API's JSON")]
PageSize = Annotated[int, typer.Option(min=1, max=1000, help="items a page")]
PageToken = Annotated[str | None, typer.Option(help="next_page_token of the page before")]
Reworded = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""An item with values in a form for people."""

Everything = Annotated[bool, typer.Option("--all", help="follow the pages to the end")]


@dataclass
class Session:
    """What the options before the command said, and how it went so far."""

    url: str | None = None
    as_json: bool = False
    err: bool = False
    exit_code: int = 0

    @property
    def service_url(self) -> str:
        """The service that the options or the environment name."""
        return self.url or client_url_and_key()[0] or DEFAULT_URL

    def client(self, *, anonymous: bool = False) -> Client:
        """A client for the service, with the environment's key or the session that `login` saved.

        Raises: NotConfigured, FileUnusable.
        """
        url = self.service_url
        if anonymous:
            return Client(url, None, anonymous=True, tell=tell)
        key = client_url_and_key()[1] or savedsession.load(url)
        return Client(url, key, tell=tell)

    @contextmanager
    def attempt(self, about: str | None = None) -> Iterator[None]:
        """Say what failed within, `about` which file, and remember it for the exit code."""
        try:
            yield
        except ClientError as exc:
            _show_failure(exc, about, as_json=self.as_json, err=self.err)
            self.exit_code = max(self.exit_code, _exit_code(exc))


@contextmanager
def connected(
    context: typer.Context, as_json: bool, *, err: bool = False, anonymous: bool = False
) -> Iterator[Client]:
    """A client; what fails becomes a line, or JSON (with `err` on standard error), and the exit code."""
    session: Session = context.obj
    session.as_json, session.err = as_json, err
    with session.attempt(), session.client(anonymous=anonymous) as client:
        yield client
    if session.exit_code:
        raise typer.Exit(session.exit_code)


def post(context: typer.Context, as_json: bool, path: str, body: Any = None) -> None:
    """POST, and show the answer."""
    with connected(context, as_json) as client:
        show(context, client.call("POST", path, json=body))


def show_list(
    context: typer.Context,
    as_json: bool,
    path: str,
    options: dict[str, Any],
    columns: Sequence[str],
    *,
    all_pages: bool,
    reworded: Reworded = lambda item: item,
) -> None:
    """GET a list, and show the page or all of them."""
    with connected(context, as_json) as client:
        pages = client.pages("GET", path, options)
        show_pages(context, pages, columns, all_pages=all_pages, reworded=reworded)


def show(context: typer.Context, answer: Mapping[str, Any], *, err: bool = False) -> None:
    """One thing, a line for each of its values."""
    if context.obj.as_json:
        typer.echo(printable_json(answer), err=err)
        return
    lines = dict(_flat(answer))
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        typer.echo(f"{printable(name):<{width}}  {value}".rstrip(), err=err)


def show_pages(
    context: typer.Context,
    pages: Iterator[dict[str, Any]],
    columns: Sequence[str],
    *,
    all_pages: bool,
    reworded: Reworded = lambda item: item,
) -> None:
    """The first page as the API gave it, or all of them as one list; in a table, each item `reworded`."""
    page = next(pages)
    items = page.get("items", [])
    if all_pages:
        items = [*items, *(item for further in pages for item in further["items"])]
    if context.obj.as_json:
        whole = {"items": items, "next_page_token": None}
        typer.echo(printable_json(whole if all_pages else page))
        return
    show_table(list(map(reworded, items)), columns)
    if not all_pages and page.get("next_page_token"):
        tell(f"more: --page-token {page['next_page_token']}, or --all")


@contextmanager
def progress_bar(
    label: str, *, of_bytes: bool = True
) -> Iterator[Callable[[int, int | None], None]]:
    """Progress on a terminal's standard error; silent elsewhere."""
    amounts: tuple[ProgressColumn, ...] = (
        (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    )
    columns = (
        *(TextColumn("{task.description}", markup=False), BarColumn()),
        *(*amounts, TimeRemainingColumn()),
    )
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task(printable(label), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_table(items: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A line for each item."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold", no_wrap=column == "id")
    for item in items:
        cells = {**_summaries(item), **dict(_flat(item))}
        table.add_row(*(Text(cells.get(column, "")) for column in columns))
    console.print(table)


def tell(message: str) -> None:
    """A line on standard error."""
    typer.echo(f"strongroom: {printable(message)}", err=True)


def _show_failure(exc: ClientError, about: str | None, *, as_json: bool, err: bool) -> None:
    if as_json:
        typer.echo(printable_json(exc.as_problem()), err=err)
        return
    problem = exc.as_problem()
    prefix = "" if about is None else f"{about}: "
    tell(f"{prefix}{problem['title'] if isinstance(exc, Refused) else exc}")
    for name in ("detail", "request_id"):
        if isinstance(exc, Refused) and problem.get(name):
            typer.echo(f"  {name}: {printable(str(problem[name]))}", err=True)


def _exit_code(exc: ClientError) -> int:
    refused = isinstance(exc, Refused) and not isinstance(exc, Unavailable)
    return FOUND_WRONG if refused else COULD_NOT_RUN


def _flat(item: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values by dotted name, printable."""
    for name, value in item.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", printable(_in_words(name, value))


def _summaries(item: Mapping[str, Any]) -> dict[str, str]:
    """Values that hold values themselves, for one cell each."""
    return {
        name: ", ".join(f"{printable(key)}: {printable(str(each))}" for key, each in value.items())
        for name, value in item.items()
        if isinstance(value, Mapping)
    }


def _in_words(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name.endswith(("_at", "_after", "_before")):
        return utc(str(value))
    return str(value)


def utc(moment: str) -> str:
    """A moment of the API's in UTC, to the second."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).isoformat(timespec="seconds")
    except ValueError:
        return moment
