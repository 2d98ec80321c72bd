"""`make check`: the migrations, run from empty, make the tables that the code knows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from api.embedded import EmbeddedPostgres
from migrations.run import configured, upgrade


def main() -> None:
    """Raises: alembic's CommandError, naming the difference."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder)) as server:
        upgrade(server.urls.owner)
        engine = create_engine(server.urls.owner)
        command.check(configured(engine))
        engine.dispose()


if __name__ == "__main__":
    main()
