"""Pages of lists that grow at the front: newest first, stable under inserts.

A page token is the place after which the next page starts, that is the sort key of the last item shown,
together with a digest of the filters it was made for. Rows added later sort before it and shift nothing.
It is opaque but not secret: a forged one shows only what its bearer may list anyway.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, desc, literal, tuple_

from vault.errors import InvalidPageToken
from vault.model import Page

MAX_PAGE_SIZE: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

Item = TypeVar("Item")
Place = Sequence[datetime | UUID | int | str]


@dataclass(frozen=True)
class PageRequest:
    """Which page is asked for.

    Attributes:
        size: 1 to `MAX_PAGE_SIZE` items.
        token: from the page before; None for the first.
    """

    size: int = 100
    token: str | None = None


@dataclass(frozen=True)
class Listing(Generic[Item]):
    """How one kind of list is sorted and shaped.

    Attributes:
        name: keeps tokens of one list from another.
        sort_key: columns, all descending, unique together; an index should end in them.
        kinds: the Python type of each.
        place: the sort key of an item.
        shape: an item of a row.
    """

    name: str
    sort_key: tuple[ColumnElement[Any], ...]
    kinds: tuple[type, ...]
    place: Callable[[Item], Place]
    shape: Callable[[Row[Any]], Item]

    def fetch(
        self,
        connection: Connection,
        query: Select[Any],
        request: PageRequest,
        filters: Mapping[str, Any] | None = None,
    ) -> Page[Item]:
        """One page of `query`, which is already narrowed by `filters`.

        Raises:
            InvalidPageToken: the token is not one of this list and these filters.
        """
        digest = _digest(self.name, filters or {})
        if request.token is not None:
            after = map(literal, _decode(request.token, self.kinds, digest))
            query = query.where(tuple_(*self.sort_key) < tuple_(*after))
        # One row more than shown tells whether another page follows.
        query = query.order_by(*map(desc, self.sort_key)).limit(request.size + 1)
        rows = connection.execute(query).fetchall()
        items = tuple(map(self.shape, rows[: request.size]))
        more = len(rows) > request.size
        return Page(items, _encode(self.place(items[-1]), digest) if more else None)


def _encode(place: Place, digest: str) -> str:
    parts = [_to_json(part) for part in place]
    return base64.urlsafe_b64encode(json.dumps([*parts, digest]).encode()).decode().rstrip("=")


def _decode(token: str, kinds: tuple[type, ...], expected_digest: str) -> Place:
    try:
        padded = token + "=" * (-len(token) % 4)
        *parts, digest = json.loads(base64.urlsafe_b64decode(padded.encode()))
        place = [_from_json(part, kind) for part, kind in zip(parts, kinds, strict=True)]
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise InvalidPageToken from None
    if digest != expected_digest:
        raise InvalidPageToken
    return place


def _to_json(part: datetime | UUID | int | str) -> int | str:
    if isinstance(part, datetime):
        return (part - _EPOCH) // _MICROSECOND
    return part.hex if isinstance(part, UUID) else part


def _from_json(part: Any, kind: type) -> datetime | UUID | int | str:
    if kind is datetime:
        return _EPOCH + timedelta(microseconds=part)
    if kind is UUID:
        return UUID(hex=part)
    if kind is int and 0 <= part < 2**31:
        return int(part)
    if kind is str and "\0" not in part:
        return str(part)
    raise ValueError


def _digest(name: str, filters: Mapping[str, Any]) -> str:
    described = json.dumps([name, filters], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:16]
