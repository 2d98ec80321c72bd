"""The way to PostgreSQL: one engine, transactions, and foreign errors turned into ours.

A flow owns its transaction and commits before it returns. Bound values never reach a message:
SQLAlchemy hides parameters, and what PostgreSQL says of a failed statement is dropped here, since it
quotes rows ("Key (name)=(…) already exists").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
from psycopg2 import errorcodes
from psycopg2.errors import UniqueViolation
from sqlalchemy import BindParameter, Connection, Engine, Executable, Row, create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vault.errors import DatabaseUnavailable, VaultError

_AWAY = (
    errorcodes.CLASS_CONNECTION_EXCEPTION,
    errorcodes.CLASS_INSUFFICIENT_RESOURCES,
    errorcodes.CLASS_OPERATOR_INTERVENTION,
)
"""SQLSTATE classes that mean "not now": connection, resources (disk full, too many), shutdown."""

_PARAMETER: Final = re.compile(r"(?<!:):([a-z][a-z0-9_]*)")


class DatabaseRefused(VaultError):
    """PostgreSQL refused a statement: a defect of ours, or a missing grant. Carries no values."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"the database refused a statement (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class DuplicateRow(DatabaseRefused):
    """A unique constraint was met."""


class PreparedStatement:
    """A statement whose planning would cost more than its work.

    Attributes:
        prepare, execute: what is sent once per connection, and each time.
    """

    def __init__(
        self, name: str, sql: str, types: Mapping[str, str], *binds: BindParameter[Any]
    ) -> None:
        """`types` maps each ``:parameter`` of `sql` to its PostgreSQL type; `binds` as for text()."""
        self.name = name
        places = {parameter: f"${place}" for place, parameter in enumerate(types, start=1)}
        body = _PARAMETER.sub(lambda found: places[found[1]], sql)
        self.prepare = f"PREPARE {name} ({', '.join(types.values())}) AS {body}"
        given = ", ".join(f":{parameter}" for parameter in types)
        self.execute = text(f"EXECUTE {name} ({given})").bindparams(*binds)


class Database:
    """Connections to one PostgreSQL database under one role. Safe for threads."""

    def __init__(self, url: str, *, connections: int = 32) -> None:
        """Opens nothing yet; the first use connects.

        Args:
            url: SQLAlchemy URL of the role to act as.
            connections: most connections this process holds at a time.
        """
        # A pool of its own for single statements: switching a connection's mode costs round trips.
        self._engine = _engine(url, connections // 2)
        self._autocommit = _engine(
            url, connections - connections // 2, isolation_level="AUTOCOMMIT"
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Raises:
            DatabaseUnavailable: PostgreSQL is away; nothing was committed, or, if it went away
                during the commit itself, it is not known whether it was.
            DatabaseRefused, DuplicateRow: it refused a statement.
        """
        with _translated(), self._engine.begin() as connection:
            yield connection

    def execute(self, statement: Executable, parameters: dict[str, Any]) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own, in a single round trip; returns its rows.

        Raises: as `transaction`.
        """
        with _translated(), self._autocommit.connect() as connection:
            result = connection.execute(statement, parameters)
            return result.fetchall() if result.returns_rows else []

    def execute_prepared(
        self, statement: PreparedStatement, parameters: dict[str, Any]
    ) -> Sequence[Row[Any]]:
        """As `execute`, for a statement that is planned once per connection."""
        with _translated(), self._autocommit.connect() as connection:
            if statement.name not in connection.info:
                connection.exec_driver_sql(statement.prepare)
                connection.info[statement.name] = True
            return connection.execute(statement.execute, parameters).fetchall()

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()
        self._autocommit.dispose()

    @property
    def engine(self) -> Engine:
        """The engine itself, for migrations and doctor."""
        return self._engine


def _engine(url: str, connections: int, **options: Any) -> Engine:
    return create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,
        connect_args={"connect_timeout": 3, "application_name": "strongroom"},
        **options,
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnavailable from None
    except DBAPIError as exc:
        raise _own_error(exc) from None
    except SQLAlchemyError as exc:
        raise DatabaseRefused(type(exc).__name__) from None
    except psycopg2.Error:
        # Out of the pool's own housekeeping, which SQLAlchemy does not wrap.
        raise DatabaseUnavailable from None


def _own_error(exc: DBAPIError) -> VaultError:
    sqlstate = getattr(exc.orig, "pgcode", None)
    if sqlstate is None or exc.connection_invalidated or sqlstate[:2] in _AWAY:
        return DatabaseUnavailable()
    if isinstance(exc, IntegrityError) and isinstance(exc.orig, UniqueViolation):
        return DuplicateRow(sqlstate)
    return DatabaseRefused(sqlstate)
