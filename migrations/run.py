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
    """Whether the tables are of the version that this code was written for."""
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(_config()).get_current_head()


def configured(engine: Engine) -> Config:
    """Alembic's configuration for a database, for its other commands."""
    config = _config()
    config.attributes["engine"] = engine
    return config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
