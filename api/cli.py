"""The command line `strongroom`."""

from __future__ import annotations

from api.commands import service

app = service.app


def main() -> None:
    """Entry point."""
    app()
