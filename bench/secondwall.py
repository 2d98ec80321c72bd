"""Row-level security: a page and a search behind it, beside the same by the owner with a WHERE."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import median
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Select, create_engine, text
from sqlalchemy.dialects import postgresql

from bench import pages
from bench.plan import Plan
from bench.result import Result, Target, at_most, in_turns
from bench.world import World
from vault.access.policy import EVERY_DEPARTMENT, Caller
from vault.context import NOBODY, Context, as_caller
from vault.database import Database
from vault.documents import _DOCUMENTS, Filter, _filtered
from vault.paging import PageRequest

DEPARTMENTS: Final = 50
PAGE: Final = pages.PAGE
REQUESTS: Final = 100
ONE: Final = "department-7"

COSTS_AT_MOST: Final = at_most(1.3)


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Fill one database; ask it as a caller of one department, of all, and as the owner."""
    with _filled(world, plan.documents) as (service, owner):
        one, every = _context(ONE), _context(EVERY_DEPARTMENT)
        rare = Filter(name_contains=f"{plan.documents - 7}.pdf")
        for what, wanted, department, context, target in (
            (f"page of {PAGE} of one department", Filter(), ONE, one, COSTS_AT_MOST),
            (f"page of {PAGE} of every department", Filter(), None, every, COSTS_AT_MOST),
            ("search of a rare name in one department", rare, ONE, one, None),
            ("search of a rare name in every department", rare, None, every, None),
        ):
            query = _filtered(wanted, ((department, None),) if department else None)
            _show_plan(what, service, context, query)
            for how, ask in (("", _page), (", the statement alone", _statement)):
                yield _compare(
                    f"{what} among {plan.documents:,} in {DEPARTMENTS}{how}; floor: the owner, with WHERE",
                    plan,
                    ours=ask(service, context, query),
                    floor=ask(owner, NOBODY, query),
                    target=target,
                )


def _compare(
    what: str,
    plan: Plan,
    *,
    ours: Callable[[], float],
    floor: Callable[[], float],
    target: Target | None,
) -> Result:
    def of(side: Callable[[], float]) -> tuple[float, ...]:
        return tuple(side() for _ in range(REQUESTS))

    for side in (ours, floor):
        of(side)
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(2 * plan.rounds):
        # One request each in turns: a slow moment slows both sides.
        taken = in_turns(REQUESTS, ours, floor)
        mine.append(median(taken[0]))
        theirs.append(median(taken[1]))
    return Result.of_rounds(what, "ms", floor=theirs, ours=mine, target=target)


def _page(database: Database, context: Context, query: Select[object]) -> Callable[[], float]:
    """What a flow does for a page, without its event; in milliseconds."""

    def ask() -> float:
        began = time.perf_counter()
        with database.transaction(context) as connection:
            _DOCUMENTS.fetch(connection, query, PageRequest(PAGE), {})
        return (time.perf_counter() - began) * 1000

    return ask


def _statement(database: Database, context: Context, query: Select[object]) -> Callable[[], float]:
    """The same statement by the bare driver, with what sets the context."""
    sql = context.statement + _sql(query)

    def ask() -> float:
        began = time.perf_counter()
        _rows(database, sql)
        return (time.perf_counter() - began) * 1000

    return ask


def _show_plan(what: str, service: Database, context: Context, query: Select[object]) -> None:
    explained = f"{context.statement}EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) {_sql(query)}"
    lines = (line for (line,) in _rows(service, explained))
    print(f"bench: plan of {what}:", *lines, sep="\n  ", file=sys.stderr)


def _rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """One transaction of one statement, without SQLAlchemy."""
    with (
        closing(database.engine.raw_connection()) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(sql)
        rows = list(cursor.fetchall())
        connection.commit()
    return rows


def _sql(query: Select[object]) -> str:
    """As the driver would send it, ordered and cut like a page."""
    ordered = query.order_by(*(column.desc() for column in _DOCUMENTS.sort_key)).limit(PAGE + 1)
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return str(ordered.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _context(department: str) -> Context:
    return as_caller(Caller(uuid4(), "reader", "key", frozenset(), department))


@contextmanager
def _filled(world: World, documents: int) -> Iterator[tuple[Database, Database]]:
    """A database of that many documents: as the service, and as its owner."""
    urls = world.database()
    owner = create_engine(urls.owner)
    with owner.begin() as connection:
        connection.execute(text("INSERT INTO kek_versions VALUES (1) ON CONFLICT DO NOTHING"))
        connection.execute(text(_DOCUMENTS_OF_DEPARTMENTS), {"documents": documents})
        connection.execute(text(pages._VERSIONS))
    with owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM (ANALYZE) documents, versions"))
    owner.dispose()
    databases = Database(urls.service, connections=2), Database(urls.owner, connections=2)
    try:
        yield databases
    finally:
        for database in databases:
            database.dispose()


_DOCUMENTS_OF_DEPARTMENTS: Final = f"""
INSERT INTO documents
    (id, name, class, department, state, revision, newest_version, created_at, created_by)
SELECT gen_random_uuid(), 'document ' || n || '.pdf', 'general', 'department-' || n % {DEPARTMENTS},
       'live', 1, 1, now() - n * interval '1 second', gen_random_uuid()
FROM generate_series(1, :documents) AS n"""
