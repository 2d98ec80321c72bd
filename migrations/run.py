"""Running migrations, without a configuration file: the URL comes from settings."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine


def upgrade(owner_url: str) -> None:
    """Bring the tables to the newest version, as the owner. Idempotent; one runs at a time."""
    engine = create_engine(owner_url, hide_parameters=True)
    try:
        command.upgrade(configured(engine), "head")
    finally:
        engine.dispose()


def is_current(engine: Engine) -> bool:
    """Whether this code can work with the tables: they are of its version, or of a later one.

    A later one is a revision that is not known here: each migration fits the release before it.
    """
    scripts = ScriptDirectory.from_config(_config())
    older = {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()}
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found is not None and found not in older


def configured(engine: Engine) -> Config:
    """Alembic's configuration for a database, for its other commands."""
    config = _config()
    config.attributes["engine"] = engine
    return config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
