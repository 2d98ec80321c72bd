"""Walking over all versions in batches, in the order of their primary key.

So a walk that was broken off goes on from the last place seen, and memory is that of two batches however
many versions there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, tuple_

from vault.database import ServiceDatabase
from vault.tables import versions

BATCH: Final = 1000

Place = tuple[str, int]
"""A document's id and a version number; JSON keeps it as a list."""

_ORDER: Final = (versions.c.document_id, versions.c.number)


def walk(
    database: ServiceDatabase, query: Select[Any], after: Place | None = None
) -> Iterator[Sequence[Row[Any]]]:
    """The rows of `query`, which selects from `versions` at least what the order is made of.

    Each batch of up to `BATCH` is read while the one before it is worked on.

    Raises: DatabaseUnavailable.
    """
    ordered = query.order_by(*_ORDER).limit(BATCH)

    def read(last: tuple[UUID, int] | None) -> Sequence[Row[Any]]:
        rest = ordered.where(tuple_(*_ORDER) > tuple_(*last)) if last else ordered
        return database.execute(rest, {})

    with ThreadPoolExecutor(1, "rows-ahead") as reader:
        coming = reader.submit(read, after and (UUID(after[0]), after[1]))
        while rows := coming.result():
            coming = reader.submit(read, (rows[-1].document_id, rows[-1].number))
            yield rows
