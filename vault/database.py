"""The way to PostgreSQL: one engine, transactions, and foreign errors turned into ours.

Each transaction says for whom it acts (`vault.context`), and PostgreSQL's row-level security shows it no
other rows. The context travels with the transaction's first statement, in the same message, and ends with the
transaction: a pooled connection keeps none. Parts that only ever act for the service itself are handed
a `ServiceDatabase`, those that need no department a `SharedDatabase`; flows of callers get neither.

A flow owns its transaction and commits before it returns; where PostgreSQL has a synchronous standby, the
commit returns when the standby has it, or `NotReplicated` is raised (vault.commitwatch). Bound values never
reach a message: SQLAlchemy hides parameters, and what PostgreSQL says of a failed statement is dropped here,
since it quotes rows ("Key (name)=(…) already exists").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg2
from psycopg2 import errorcodes
from psycopg2.errors import ForeignKeyViolation, UniqueViolation
from psycopg2.extras import Json, NamedTupleCursor
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    Row,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from vault.commitwatch import CommitWatch, listen
from vault.context import NOBODY, SERVICE, Context
from vault.errors import DatabaseUnavailable, VaultError

_AWAY = (
    errorcodes.CLASS_CONNECTION_EXCEPTION,
    errorcodes.CLASS_INSUFFICIENT_RESOURCES,
    errorcodes.CLASS_OPERATOR_INTERVENTION,
    errorcodes.CLASS_TRANSACTION_ROLLBACK,
)
"""SQLSTATE classes that mean "not now": connection, resources (disk full, too many), shutdown, deadlock."""

COMMIT_SECONDS: Final = 10.0
"""For a commit to reach disk and standby; a healthy one takes milliseconds."""

WAITS_FOR_STANDBY: Final = """(current_setting('synchronous_standby_names') <> ''
    AND current_setting('synchronous_commit') IN ('on', 'remote_apply'))"""
"""For statements that have to know whether their own commit will be at a standby before it returns."""

NOT_AT_STANDBY: Final = text("SET LOCAL synchronous_commit TO local")
"""For a transaction whose loss with this server would do no harm: its commit waits for no standby."""

_CONNECTION: Final = {
    "connect_timeout": 3,
    # A server whose machine or network is gone sends no reset; by default TCP notices after hours.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}

_PARAMETER: Final = re.compile(r"(?<!:):([a-z][a-z0-9_]*)")


class DatabaseRefused(VaultError):
    """PostgreSQL refused a statement: a defect of ours, or a missing grant. Carries no values."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"the database refused a statement (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


class DuplicateRow(DatabaseRefused):
    """A unique constraint was met."""


class DanglingReference(DatabaseRefused):
    """A row would refer to one that is not there, or one that is referred to would go."""

    def __init__(self, sqlstate: str, constraint: str | None) -> None:
        super().__init__(sqlstate)
        self.constraint = constraint


@dataclass(frozen=True)
class Standby:
    """The second PostgreSQL, as the primary sees it.

    Attributes:
        configured: each commit waits for a synchronous standby, or is not acknowledged.
        streaming: such a standby is connected. To a role without `pg_monitor` PostgreSQL does not say
            whether one that is has caught up, or is just being copied; a hung one counts until
            `wal_sender_timeout`.
    """

    configured: bool
    streaming: bool


class PreparedStatement:
    """A statement whose planning would cost more than its work.

    Attributes:
        prepare, execute: what is sent once per connection, and each time.
    """

    def __init__(self, name: str, sql: str, types: Mapping[str, str]) -> None:
        """`types` maps each ``:parameter`` of `sql` to its PostgreSQL type."""
        self.name = name
        places = {parameter: f"${place}" for place, parameter in enumerate(types, start=1)}
        body = _PARAMETER.sub(lambda found: places[found[1]], sql)
        self.prepare = f"PREPARE {name} ({', '.join(types.values())}) AS {body}"
        given = ", ".join(f"%({parameter})s" for parameter in types)
        self.execute = f"EXECUTE {name} ({given})"
        self._json = [parameter for parameter, kind in types.items() if kind == "jsonb"]

    def values(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """`parameters` as the driver takes them."""
        return parameters | {name: Json(parameters[name]) for name in self._json}


class Database:
    """Connections to one PostgreSQL database under one role. Safe for threads."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 32,
        commit_seconds: float = COMMIT_SECONDS,
        name: str = "strongroom",
    ) -> None:
        """Opens nothing yet; the first use connects.

        Args:
            url: SQLAlchemy URL of the role to act as. It may name several hosts.
            connections: most connections this process holds at a time.
            commit_seconds: how long a commit waits for the standby, and for a server that hangs.
            name: what PostgreSQL shows of the connections in `pg_stat_activity`.
        """
        self._watch = CommitWatch(commit_seconds)
        # A pool of its own for single statements: switching a connection's mode costs round trips.
        self._engine = _engine(url, connections // 2, name)
        self._autocommit = _engine(
            url, connections - connections // 2, name, isolation_level="AUTOCOMMIT"
        )

    @contextmanager
    def transaction(self, context: Context) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Args:
            context: for whom; rows of other departments are not there.

        Raises:
            DatabaseUnavailable: PostgreSQL is away; nothing was committed, or, if it went away
                during the commit itself, it is not known whether it was.
            NotReplicated: committed and visible here, but at no standby; not to be acknowledged.
            DatabaseRefused, DuplicateRow: it refused a statement.
        """
        # What raises leaves `connect`, which rolls back.
        with _translated(), self._engine.connect() as connection:
            connection.execution_options(**{_CONTEXT: _Once(context.statement)})
            yield connection
            with self._watch.over(connection.connection.driver_connection):
                connection.commit()

    def execute(
        self, context: Context, statement: Executable, parameters: dict[str, Any]
    ) -> Sequence[Row[Any]]:
        """Run one statement as a transaction of its own, in a single round trip; returns its rows.

        Raises: as `transaction`.
        """
        with (
            _translated(),
            self._autocommit.connect() as connection,
            self._watch.over(connection.connection.driver_connection),
        ):
            options = {_CONTEXT: _Once(context.statement)}
            result = connection.execute(statement, parameters, execution_options=options)
            return result.fetchall() if result.returns_rows else []

    def execute_prepared(
        self, context: Context, statement: PreparedStatement, parameters: dict[str, Any]
    ) -> Sequence[Any]:
        """As `execute`, for a statement that is planned once per connection.

        The driver's own cursor runs it: SQLAlchemy around it would cost as much again.
        """
        with (
            _translated(),
            closing(self._autocommit.raw_connection()) as connection,
            closing(connection.cursor(cursor_factory=NamedTupleCursor)) as cursor,
        ):
            if statement.name not in connection.info:
                cursor.execute(statement.prepare)
                connection.info[statement.name] = True
            with self._watch.over(connection.driver_connection):
                sql = context.statement + statement.execute
                cursor.execute(sql, statement.values(parameters))
            return cursor.fetchall()

    def standby(self) -> Standby:
        """Whether commits wait for a standby, and whether one is there. Raises: DatabaseUnavailable."""
        row = self.execute(NOBODY, _STANDBY, {})[0]
        return Standby(configured=row.configured, streaming=row.configured and row.streaming)

    def now(self) -> datetime:
        """PostgreSQL's clock: the one that all processes share. Raises: DatabaseUnavailable."""
        moment: datetime = self.execute(NOBODY, select(func.now()), {})[0][0]
        return moment

    def as_service(self) -> ServiceDatabase:
        """For parts that act for the service itself, on rows of every department."""
        return ServiceDatabase(self)

    def as_shared(self) -> SharedDatabase:
        """For parts whose tables belong to no department."""
        return SharedDatabase(self)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._watch.stop()
        self._engine.dispose()
        self._autocommit.dispose()

    @property
    def engine(self) -> Engine:
        """The engine itself, for migrations and doctor."""
        return self._engine


class SharedDatabase:
    """A `Database` for parts whose tables belong to no department: it sees no row of any."""

    def __init__(self, database: Database, context: Context = NOBODY) -> None:
        self._database = database
        self._context = context

    def transaction(self) -> AbstractContextManager[Connection]:
        """As `Database.transaction`."""
        return self._database.transaction(self._context)

    def execute(self, statement: Executable, parameters: dict[str, Any]) -> Sequence[Row[Any]]:
        """As `Database.execute`."""
        return self._database.execute(self._context, statement, parameters)

    def now(self) -> datetime:
        """As `Database.now`."""
        return self._database.now()


class ServiceDatabase(SharedDatabase):
    """A `Database` for the service's own work: it sees the rows of every department as well."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, SERVICE)


class _Once:
    """Text that is taken once: what sets the context goes with the first statement only."""

    def __init__(self, text: str) -> None:
        self._text = text

    def take(self) -> str:
        text, self._text = self._text, ""
        return text


_CONTEXT: Final = "strongroom_context"
"""An execution option of ours."""


def _set_context(
    connection: Connection,
    _cursor: object,
    statement: str,
    parameters: Any,
    context: Any,
    _executemany: bool,
) -> tuple[str, Any]:
    options = context.execution_options if context else connection.get_execution_options()
    pending: _Once | None = options.get(_CONTEXT)
    return (pending.take() + statement if pending else statement), parameters


def _engine(url: str, connections: int, name: str, **options: Any) -> Engine:
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,
        connect_args=_CONNECTION | {"application_name": name, "options": _options(url)},
        **options,
    )
    event.listen(engine, "connect", listen)
    # Two statements in one message of PostgreSQL's simple protocol, which the driver speaks: one transaction,
    # also where each message is one; the answer is that of the second.
    event.listen(engine, "before_cursor_execute", _set_context, retval=True)
    return engine


def _options(url: str) -> str:
    """The URL's own, and that the server tells its warnings, whatever is set for role or database."""
    given = make_url(url).query.get("options", ())
    own = given if isinstance(given, str) else " ".join(given)
    return f"{own} -c client_min_messages=warning".strip()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnavailable from None
    except DBAPIError as exc:
        raise _own_error(exc.orig) from None
    except SQLAlchemyError as exc:
        raise DatabaseRefused(type(exc).__name__) from None
    except psycopg2.Error as exc:
        # Out of the pool's own housekeeping and of prepared statements: SQLAlchemy wraps neither.
        raise _own_error(exc) from None


def _own_error(exc: BaseException | None) -> VaultError:
    sqlstate = getattr(exc, "pgcode", None)
    if sqlstate is None or sqlstate[:2] in _AWAY:
        return DatabaseUnavailable()
    if isinstance(exc, UniqueViolation):
        return DuplicateRow(sqlstate)
    if isinstance(exc, ForeignKeyViolation):
        return DanglingReference(sqlstate, exc.diag.constraint_name)
    return DatabaseRefused(sqlstate)


_STANDBY: Final = text(
    rf"""
    WITH names AS (
        SELECT btrim(name, ' "') AS name
        FROM regexp_split_to_table(
            regexp_replace(lower(current_setting('synchronous_standby_names')),
                           '^\s*(first|any)?\s*\d+\s*\(|\)\s*$', '', 'g'), ',') AS name)
    SELECT {WAITS_FOR_STANDBY} AS configured,
           EXISTS (
               SELECT FROM pg_stat_replication
               WHERE CASE WHEN state IS NULL  -- hidden from this role
                          THEN EXISTS (SELECT FROM names WHERE name IN ('*', lower(application_name)))
                          ELSE state = 'streaming' AND sync_state IN ('sync', 'quorum') END
           ) AS streaming"""  # noqa: S608 (made of constants)
)
"""In the setting names stand as ``a, b`` or ``FIRST 1 (a, "b")`` or ``ANY 1 (*)``, and in any case."""
