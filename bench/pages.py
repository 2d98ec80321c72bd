"""A page of a long list beside the same page of a short one, first page and last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final
from urllib.parse import urlencode

from sqlalchemy import Engine, text

from bench.client import Client
from bench.plan import Plan
from bench.result import Result, at_most, in_turns
from bench.world import MeasuredService, World

SHORT: Final = 1_000
PAGE: Final = 100
STRIDE: Final = 1_000
"""Page size for walking to the end: the largest there is."""

REQUESTS: Final = 10
SLOWEST: Final = at_most(1.5)

FILTERS: Final[dict[str, dict[str, str]]] = {
    "all": {},
    "one department": {"department": "department-0"},
    "one class": {"class": "class-0"},
    "one class in one department": {"department": "department-0", "class": "class-0"},
}
"""Each matches more than a page even in the short list: a third, or a ninth, of the documents."""

Connect = Callable[[], Client]


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Fill a short and a long list, then ask both for the same pages."""
    with _filled(world, SHORT) as short, _filled(world, plan.documents) as long:
        for name, wanted in FILTERS.items():
            what = f"first page of {PAGE}, {name}, among {plan.documents:,}; floor: among {SHORT:,}"
            yield _compare(what, plan, floor=_get(short, wanted), ours=_get(long, wanted))
        last = {"page_token": _last_page_token(long, plan.documents)}
        what = f"last page of {PAGE} among {plan.documents:,}; floor: its first page"
        yield _compare(what, plan, floor=_get(long, {}), ours=_get(long, last))


def _compare(
    what: str, plan: Plan, *, floor: Callable[[], float], ours: Callable[[], float]
) -> Result:
    mine, theirs = in_turns(2 * plan.rounds, ours, floor)
    return Result.of_rounds(what, "ms", floor=theirs, ours=mine, target=SLOWEST)


def _get(connect: Connect, wanted: dict[str, str]) -> Callable[[], float]:
    """Ask for a full page some times; the median in milliseconds."""
    path = _path(wanted, PAGE)

    def ask() -> float:
        taken = []
        with connect() as client:
            for _ in range(REQUESTS):
                began = time.perf_counter()
                page = client.get(path)
                taken.append((time.perf_counter() - began) * 1000)
                assert len(page["items"]) == PAGE
        return median(taken)

    return ask


def _last_page_token(connect: Connect, documents: int) -> str:
    """Walk to the last full page through all the others."""
    wanted: dict[str, str] = {}
    seen = 0
    with connect() as client:
        while seen < documents - PAGE:
            page = client.get(_path(wanted, min(STRIDE, documents - PAGE - seen)))
            wanted = {"page_token": str(page["next_page_token"])}
            seen += len(page["items"])
    return wanted["page_token"]


def _path(wanted: dict[str, str], size: int) -> str:
    return f"/v1/documents?{urlencode({**wanted, 'page_size': size})}"


@contextmanager
def _filled(world: World, documents: int) -> Iterator[Connect]:
    """A service over `documents` documents, seen by a reader of every department."""
    with world.service() as service:
        _fill(service.owner, documents)
        key = _reader_key(service)
        yield lambda: service.client(key)


def _fill(owner: Engine, documents: int) -> None:
    with owner.begin() as connection:
        connection.execute(text(_CLASSES))
        connection.execute(text(_DOCUMENTS), {"documents": documents})
        connection.execute(text(_VERSIONS))
    with owner.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        # What autovacuum does within a minute, so that no round is measured before it and one after.
        connection.execute(text("VACUUM (ANALYZE) documents, versions"))


def _reader_key(service: MeasuredService) -> str:
    with service.client(service.process.admin_key) as admin:
        reader = {"name": "reader", "scopes": ["read"], "department": "*"}
        principal = admin.post("/v1/principals", reader)
        issued = admin.post("/v1/api-keys", {"principal_id": principal["id"]})
    return str(issued["token"])


_CLASSES: Final = """
INSERT INTO classes (name, media_types, max_size_bytes, durability, retention_days, bin_days)
SELECT 'class-' || n, media_types, max_size_bytes, durability, retention_days, bin_days
FROM classes, generate_series(0, 2) AS n WHERE name = 'general'"""

_DOCUMENTS: Final = """
INSERT INTO documents
    (id, name, class, department, state, revision, newest_version, created_at, created_by)
SELECT gen_random_uuid(), 'document ' || n || '.pdf', 'class-' || n / 3 % 3,
       'department-' || n % 3, 'live', 1, 1, now() - n * interval '1 second', principals.id
FROM generate_series(1, :documents) AS n, principals WHERE principals.name = 'demo'"""

_VERSIONS: Final = """
INSERT INTO versions
    (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
     ciphertext_sha256, media_type, wrapped_key, key_commitment, receipt, created_at, created_by)
SELECT id, 1, gen_random_uuid(), gen_random_uuid(), 'a', 1, 16384, 16440,
       sha256(''), 'application/pdf', 'local:v1:' || repeat('k', 80), sha256(''), gen_random_uuid(),
       created_at, created_by
FROM documents"""
