"""Classes: the rules that documents are filed under. Added once, never edited.

A class that could be edited would change what was promised for documents already filed; a new rule is a
new class, and a document moves there by a recorded change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, insert, select

from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import DuplicateRow, SharedDatabase
from vault.errors import AlreadyExists, InvalidValue, UnknownClass
from vault.model import DocumentClass, Durability, IfPeerAway, Page
from vault.names import label
from vault.objects.store import MAX_OBJECT_BYTES
from vault.paging import Listing, PageRequest
from vault.tables import classes

MAX_DOCUMENT_BYTES: Final = MAX_OBJECT_BYTES - MAX_OBJECT_BYTES // 2**20 * 16 - 40
"""The largest plaintext whose ciphertext still fits into one object."""

MAX_DAYS: Final = 100 * 366

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,60}/(\*|[a-z0-9.+-]{1,100})")


@dataclass(frozen=True)
class NewClass:
    """What an administrator says of a class to add."""

    name: str
    media_types: tuple[str, ...] = field(default=())
    max_size_bytes: int = MAX_DOCUMENT_BYTES
    durability: Durability = Durability.ASYNC
    retention_days: int = 1825
    bin_days: int = 30
    if_peer_away: IfPeerAway = IfPeerAway.REFUSE
    worm_days: int | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        label(self.name, "class")
        if not all(_MEDIA_TYPE.fullmatch(media_type) for media_type in self.media_types):
            raise InvalidValue("a media type is written like application/pdf or image/*")
        if not 0 <= self.max_size_bytes <= MAX_DOCUMENT_BYTES:
            raise InvalidValue(f"max_size_bytes lies between 0 and {MAX_DOCUMENT_BYTES}")
        if not (0 <= self.retention_days <= MAX_DAYS and 0 <= self.bin_days <= MAX_DAYS):
            raise InvalidValue(f"retention_days and bin_days lie between 0 and {MAX_DAYS}")
        if self.worm_days is not None and not 1 <= self.worm_days <= MAX_DAYS:
            raise InvalidValue(f"worm_days lies between 1 and {MAX_DAYS}, or is left out")


class Classes:
    """The classes of this vault."""

    def __init__(
        self, database: SharedDatabase, without_object_lock: Callable[[], Sequence[str]]
    ) -> None:
        """`without_object_lock` names the sites whose stores cannot lock objects just now."""
        self._database = database
        self._without_object_lock = without_object_lock
        self._known: dict[str, DocumentClass] = {}

    def add(self, actor: Actor, new: NewClass) -> DocumentClass:
        """Add a class.

        Raises:
            AlreadyExists: there is one of this name.
            InvalidValue: its versions are to be locked, and a site's store cannot.
        """
        if new.worm_days is not None and (lacking := self._without_object_lock()):
            raise InvalidValue(
                f"worm_days needs object lock at both sites; site {' and site '.join(lacking)} has "
                "none, or does not answer: `strongroom doctor` says which"
            )
        values = {
            "name": new.name,
            "media_types": list(new.media_types),
            "max_size_bytes": new.max_size_bytes,
            "durability": new.durability.value,
            "retention_days": new.retention_days,
            "bin_days": new.bin_days,
            "if_peer_away": new.if_peer_away.value,
            "worm_days": new.worm_days,
        }
        try:
            with self._database.transaction() as connection:
                row = connection.execute(insert(classes).values(values).returning(classes)).one()
                record(
                    connection,
                    AccessEvent(EventType.CLASS_ADDED, actor, detail={"class": new.name}),
                )
        except DuplicateRow:
            raise AlreadyExists("class") from None
        return _class(row)

    def get(self, name: str) -> DocumentClass:
        """The class of this name; remembered, since it cannot change.

        Raises:
            UnknownClass: there is none.
        """
        if name not in self._known:
            rows = self._database.execute(select(classes).where(classes.c.name == name), {})
            if not rows:
                raise UnknownClass
            self._known[name] = _class(rows[0])
        return self._known[name]

    def locking(self) -> list[str]:
        """The names of those whose versions are locked. Raises: DatabaseUnavailable."""
        query = select(classes.c.name).where(classes.c.worm_days.is_not(None))
        return [row.name for row in self._database.execute(query.order_by(classes.c.name), {})]

    def list(self, request: PageRequest) -> Page[DocumentClass]:
        """A page of classes, newest first. Raises: InvalidPageToken."""
        with self._database.transaction() as connection:
            return _CLASSES.fetch(connection, select(classes), request)


def _class(row: Row[Any]) -> DocumentClass:
    return DocumentClass(
        name=row.name,
        media_types=tuple(row.media_types),
        max_size_bytes=row.max_size_bytes,
        durability=Durability(row.durability),
        retention_days=row.retention_days,
        bin_days=row.bin_days,
        created_at=row.created_at,
        if_peer_away=IfPeerAway(row.if_peer_away),
        worm_days=row.worm_days,
    )


_CLASSES = Listing(
    name="classes",
    sort_key=(classes.c.created_at, classes.c.name),
    kinds=(datetime, str),
    place=lambda document_class: (document_class.created_at, document_class.name),
    shape=_class,
)
