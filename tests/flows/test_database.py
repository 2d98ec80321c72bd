"""Connections that die at any moment cost one answer, never a place in the pool."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlalchemy import create_engine, text

from api.embedded import DatabaseUrls, EmbeddedPostgres
from vault.database import Database, DuplicateRow
from vault.errors import DatabaseUnavailable
from vault.tables import classes

ONE = text("SELECT 1")


def terminate_all(postgres: EmbeddedPostgres) -> None:
    engine = create_engine(postgres.superuser_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'strongroom_service'"
            )
        )
    engine.dispose()


def test_connections_that_are_cut_are_replaced(
    postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    database = Database(database_urls.service, connections=4)
    for _ in range(6):
        database.as_shared().execute(ONE, {})
        terminate_all(postgres)
        with suppress(DatabaseUnavailable):
            database.as_shared().execute(ONE, {})
        with suppress(DatabaseUnavailable), database.as_shared().transaction() as connection:
            connection.execute(ONE)
            terminate_all(postgres)
    assert database.as_shared().execute(ONE, {})[0][0] == 1
    with database.as_shared().transaction() as connection:
        assert connection.execute(ONE).scalar_one() == 1
    database.dispose()


def test_a_server_that_dies_after_its_answer_costs_no_place(
    postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    database = Database(database_urls.service, connections=4)
    for _ in range(6):
        with suppress(Exception), database._autocommit.connect() as connection:
            connection.execute(ONE)
            terminate_all(postgres)
        with suppress(DatabaseUnavailable):
            database.as_shared().execute(ONE, {})
    assert database.as_shared().execute(ONE, {})[0][0] == 1
    database.dispose()


def test_what_postgresql_says_of_a_row_is_not_repeated(database_urls: DatabaseUrls) -> None:
    database = Database(database_urls.service)
    row = {"name": "canary-110101199003070000", "media_types": [], "max_size_bytes": 1}
    rest = {"durability": "async", "retention_days": 1, "bin_days": 1}
    insert = classes.insert().values(**row, **rest)
    database.as_shared().execute(insert, {})
    with pytest.raises(DuplicateRow) as refused:
        database.as_shared().execute(insert, {})
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None
    database.dispose()
