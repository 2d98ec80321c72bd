"""Alembic's entry: runs each migration in a transaction of its own, one process at a time."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine, text

from vault.tables import metadata

ONE_AT_A_TIME = 7_736_178_001
"""Key of the advisory lock, arbitrary but ours."""


def run() -> None:
    """Run what `migrations.run` or the house test asks for."""
    engine: Engine = context.config.attributes["engine"]
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ONE_AT_A_TIME})
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.commit()
        context.configure(
            connection=connection, target_metadata=metadata, transaction_per_migration=True
        )
        with context.begin_transaction():
            context.run_migrations()


run()
