"""What commands share that work here, on settings, and not through the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from api.bootstrap import UnsafeStart
from api.commands.output import COULD_NOT_RUN
from api.embedded import EmbeddedDatabaseError
from api.home import HomeInUse
from api.settings import SettingsError
from keymgmt.errors import KeyManagementError
from vault.errors import VaultError
from vault.objects.store import StoreError

Home = Annotated[Path | None, typer.Option(help="where the embedded parts keep their files")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def say(found: dict[str, Any], words: str, *, as_json: bool) -> None:
    """Print what came of it."""
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else words)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what stops a start into one clear line and exit 2."""
    try:
        yield
    except (
        SettingsError,
        UnsafeStart,
        HomeInUse,
        EmbeddedDatabaseError,
        VaultError,
        StoreError,
        KeyManagementError,
    ) as exc:
        typer.echo(f"strongroom: {exc}", err=True)
        raise typer.Exit(COULD_NOT_RUN) from None
    except OSError as exc:
        typer.echo(f"strongroom: {exc.filename or 'a file'}: {exc.strerror}", err=True)
        raise typer.Exit(COULD_NOT_RUN) from None
