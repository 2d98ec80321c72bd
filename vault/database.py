"""The way to PostgreSQL: one engine, transactions, and foreign errors turned into ours.

A flow owns its transaction and commits before it returns. Bound values never reach a message:
SQLAlchemy hides parameters, and what PostgreSQL says of a failed statement is dropped here, since it
quotes rows ("Key (name)=(…) already exists").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg2 import errorcodes
from psycopg2.errors import UniqueViolation
from sqlalchemy import Connection, Engine, Executable, Row, create_engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vault.errors import DatabaseUnavailable, VaultError

_AWAY = (
    errorcodes.CLASS_CONNECTION_EXCEPTION,
    errorcodes.CLASS_INSUFFICIENT_RESOURCES,
    errorcodes.CLASS_OPERATOR_INTERVENTION,
)
"""SQLSTATE classes that mean "not now": connection, resources (disk full, too many), shutdown."""


class DatabaseRefused(VaultError):
    """PostgreSQL refused a statement: a defect of ours, or a missing grant. Carries no values."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"the database refused a statement (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class DuplicateRow(DatabaseRefused):
    """A unique constraint was met."""


class Database:
    """Connections to one PostgreSQL database under one role. Safe for threads."""

    def __init__(self, url: str, *, connections: int = 32) -> None:
        """Opens nothing yet; the first use connects.

        Args:
            url: SQLAlchemy URL of the role to act as.
            connections: most connections this process holds at a time.
        """
        self._engine = create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=5,
            hide_parameters=True,
            connect_args={"connect_timeout": 3, "application_name": "strongroom"},
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

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

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """The engine itself, for migrations and doctor."""
        return self._engine


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


def _own_error(exc: DBAPIError) -> VaultError:
    sqlstate = getattr(exc.orig, "pgcode", None)
    if sqlstate is None or exc.connection_invalidated or sqlstate[:2] in _AWAY:
        return DatabaseUnavailable()
    if isinstance(exc, IntegrityError) and isinstance(exc.orig, UniqueViolation):
        return DuplicateRow(sqlstate)
    return DatabaseRefused(sqlstate)
