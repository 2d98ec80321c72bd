"""Documents without their bytes: view, list, search, change, history, bin and undelete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from vault.access.authorise import require
from vault.access.policy import Action, Reach
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.classes import Classes
from vault.context import as_caller
from vault.database import Database
from vault.errors import (
    DocumentInBin,
    DocumentNotFit,
    DocumentNotInBin,
    InvalidValue,
    NotAllowed,
    NotFound,
    PreconditionFailed,
)
from vault.model import Change, Document, DocumentClass, DocumentState, Page, Version
from vault.names import document_name, label
from vault.paging import Listing, PageRequest
from vault.records import (
    find_document,
    lock_document,
    select_documents,
    select_versions,
    to_document,
    to_version,
)
from vault.tables import document_changes, documents, holds, versions


@dataclass(frozen=True)
class Filter:
    """Which documents a list shows; None: any."""

    class_name: str | None = None
    department: str | None = None
    state: DocumentState = DocumentState.LIVE
    created_after: datetime | None = None
    created_before: datetime | None = None
    name_contains: str | None = None

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        if self.state is DocumentState.PURGED:
            raise InvalidValue("state is live or binned")
        if self.name_contains is not None and not self.name_contains.strip("\0"):
            raise InvalidValue("name_contains is empty")


@dataclass(frozen=True)
class Changes:
    """New values for metadata; None: leave as it is."""

    name: str | None = None
    class_name: str | None = None
    department: str | None = None


class Documents:
    """The documents of this vault, seen through their metadata."""

    def __init__(self, database: Database, classes: Classes) -> None:
        self._database = database
        self._classes = classes

    def view(self, actor: Actor, document_id: UUID) -> Document:
        """One document, in the bin or not. Raises: NotFound, NotAllowed."""
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = _visible(connection, actor, document_id)
            record(connection, AccessEvent(EventType.DOCUMENT_VIEWED, actor, document_id))
        return document

    def list(self, actor: Actor, wanted: Filter, request: PageRequest) -> Page[Document]:
        """A page of documents that the caller may see, newest first.

        Raises:
            NotAllowed: no scope, or no department.
            InvalidPageToken: not this list's.
        """
        caller = actor.caller
        require(caller, Action.DOCUMENT_LIST, wanted.department, class_name=wanted.class_name)
        seen = caller.reach(Action.DOCUMENT_LIST)
        if seen == ():
            raise NotAllowed("documents belong to departments, and you work for none")
        query = _filtered(wanted, seen)
        searched = wanted.name_contains is not None
        kind = EventType.DOCUMENTS_SEARCHED if searched else EventType.DOCUMENTS_LISTED
        with self._database.transaction(as_caller(actor.caller)) as connection:
            filters = {**asdict(wanted), "seen": seen}
            page = _DOCUMENTS.fetch(connection, query, request, filters)
            record(connection, AccessEvent(kind, actor, detail={"shown": len(page.items)}))
        return page

    def versions(self, actor: Actor, document_id: UUID, request: PageRequest) -> Page[Version]:
        """A page of a document's versions, newest first.

        Raises:
            NotFound, NotAllowed, InvalidPageToken.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            _visible(connection, actor, document_id)
            page = _VERSIONS.fetch(
                connection, select_versions(document_id), request, {"document": document_id}
            )
            record(connection, AccessEvent(EventType.DOCUMENT_VIEWED, actor, document_id))
        return page

    def version(self, actor: Actor, document_id: UUID, number: int) -> Version:
        """One version. Raises: NotFound, NotAllowed."""
        with self._database.transaction(as_caller(actor.caller)) as connection:
            _visible(connection, actor, document_id)
            row = connection.execute(
                select_versions(document_id).where(versions.c.number == number)
            ).one_or_none()
            if row is None:
                raise NotFound("version")
            record(connection, AccessEvent(EventType.DOCUMENT_VIEWED, actor, document_id, number))
        return to_version(row)

    def history(self, actor: Actor, document_id: UUID, request: PageRequest) -> Page[Change]:
        """A page of the changes of a document's metadata, newest first.

        Raises:
            NotFound, NotAllowed, InvalidPageToken.
        """
        query = select(document_changes).where(document_changes.c.document_id == document_id)
        with self._database.transaction(as_caller(actor.caller)) as connection:
            _visible(connection, actor, document_id)
            page = _CHANGES.fetch(connection, query, request, {"document": document_id})
            record(connection, AccessEvent(EventType.DOCUMENT_VIEWED, actor, document_id))
        return page

    def change(
        self, actor: Actor, document_id: UUID, changes: Changes, expected_revision: int | None
    ) -> Document:
        """Change metadata and remember what it was.

        Args:
            expected_revision: the change happens only to this revision (If-Match); None: to any.

        Raises:
            NotFound, NotAllowed: the document, or the department it should move to.
            PreconditionFailed, DocumentInBin: not in this state.
            InvalidName, InvalidValue, UnknownClass, DocumentNotFit: not to these values.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = lock_document(connection, document_id)
            _require(actor, Action.DOCUMENT_UPDATE, document)
            if document.state is not DocumentState.LIVE:
                raise DocumentInBin
            if expected_revision not in (None, document.revision):
                raise PreconditionFailed
            after = self._judge(connection, actor, document, changes)
            before = {
                "name": document.name,
                "class_name": document.class_name,
                "department": document.department,
            }
            differing = {field: value for field, value in after.items() if before[field] != value}
            if differing:
                _store_changes(connection, actor, document, before, differing)
            record(
                connection,
                AccessEvent(
                    EventType.DOCUMENT_CHANGED,
                    actor,
                    document_id,
                    detail={"fields": sorted(differing)},
                ),
            )
            return find_document(connection, document_id)

    def bin(
        self, actor: Actor, document_id: UUID, expected_revision: int | None = None
    ) -> Document:
        """Put a document into the bin, where it stays for its class's days at least.

        Raises:
            NotFound, NotAllowed, DocumentInBin, DocumentHeld, PreconditionFailed.
        """
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = lock_document(connection, document_id)
            _require(actor, Action.DOCUMENT_BIN, document)
            if document.state is not DocumentState.LIVE:
                raise DocumentInBin
            if expected_revision not in (None, document.revision):
                raise PreconditionFailed
            _require(actor, Action.DOCUMENT_BIN, document, is_held=is_held(connection, document_id))
            _set_state(connection, document_id, DocumentState.BINNED)
            record(connection, AccessEvent(EventType.DOCUMENT_BINNED, actor, document_id))
            return find_document(connection, document_id)

    def undelete(self, actor: Actor, document_id: UUID) -> Document:
        """Take a document out of the bin. Raises: NotFound, NotAllowed, DocumentNotInBin."""
        with self._database.transaction(as_caller(actor.caller)) as connection:
            document = lock_document(connection, document_id)
            _require(actor, Action.DOCUMENT_BIN, document)
            if document.state is not DocumentState.BINNED:
                raise DocumentNotInBin
            _set_state(connection, document_id, DocumentState.LIVE)
            record(connection, AccessEvent(EventType.DOCUMENT_UNDELETED, actor, document_id))
            return find_document(connection, document_id)

    def _judge(
        self, connection: Connection, actor: Actor, document: Document, changes: Changes
    ) -> dict[str, str]:
        after = {}
        if changes.name is not None:
            after["name"] = document_name(changes.name)
        if changes.department is not None:
            after["department"] = label(changes.department, "department")
            _require(actor, Action.DOCUMENT_MOVE, document)
        if changes.class_name is not None:
            rules = self._classes.get(changes.class_name)
            _require_fit(connection, document, rules)
            after["class_name"] = rules.name
        if after.keys() - {"name"}:
            _require_there(actor, document, after)
        return after


def is_held(connection: Connection, document_id: UUID) -> bool:
    """Whether a hold is in force on the document."""
    in_force = (holds.c.document_id == document_id) & holds.c.released_at.is_(None)
    return bool(connection.execute(select(exists().where(in_force))).scalar_one())


def _visible(connection: Connection, actor: Actor, document_id: UUID) -> Document:
    # The scope first: who may read nothing learns nothing from which ids exist.
    require(actor.caller, Action.DOCUMENT_READ)
    document = find_document(connection, document_id)
    _require(actor, Action.DOCUMENT_READ, document)
    return document


def _require(actor: Actor, action: Action, document: Document, *, is_held: bool = False) -> None:
    require(
        actor.caller,
        action,
        document.department,
        class_name=document.class_name,
        is_held=is_held,
    )


def _filtered(wanted: Filter, seen: Reach | None) -> Select[Any]:
    query = select_documents().where(documents.c.state == wanted.state.value)
    if seen is not None:
        query = query.where(_within(seen))
    if wanted.department is not None:
        query = query.where(documents.c.department == wanted.department)
    if wanted.class_name is not None:
        query = query.where(documents.c.class_name == wanted.class_name)
    if wanted.created_after is not None:
        query = query.where(documents.c.created_at > wanted.created_after)
    if wanted.created_before is not None:
        query = query.where(documents.c.created_at < wanted.created_before)
    if wanted.name_contains is not None:
        query = query.where(documents.c.name.icontains(wanted.name_contains, autoescape=True))
    return query


def _require_there(actor: Actor, document: Document, after: Mapping[str, str]) -> None:
    """Nobody moves a document to where they could not have filed it."""
    moves = "department" in after
    require(
        actor.caller,
        Action.DOCUMENT_MOVE if moves else Action.DOCUMENT_UPDATE,
        after.get("department", document.department),
        "department" if moves else "document",
        class_name=after.get("class_name", document.class_name),
    )


def _within(seen: Reach) -> ColumnElement[bool]:
    return or_(
        *(
            documents.c.department == department
            if class_name is None
            else and_(documents.c.department == department, documents.c.class_name == class_name)
            for department, class_name in seen
        )
    )


def _require_fit(connection: Connection, document: Document, rules: DocumentClass) -> None:
    rows = connection.execute(
        select(versions.c.media_type, versions.c.size_bytes).where(
            versions.c.document_id == document.id
        )
    )
    for row in rows:
        if row.size_bytes > rules.max_size_bytes or not rules.takes(row.media_type):
            raise DocumentNotFit("a stored version is too large or of a type the class refuses")


def _store_changes(
    connection: Connection,
    actor: Actor,
    document: Document,
    before: dict[str, str],
    after: dict[str, str],
) -> None:
    revision = document.revision + 1
    connection.execute(
        update(documents).where(documents.c.id == document.id).values(**after, revision=revision)
    )
    connection.execute(
        insert(document_changes),
        [
            {
                "document_id": document.id,
                "revision": revision,
                "field": field.removesuffix("_name"),
                "before": before[field],
                "after": value,
                "changed_by": actor.caller.principal_id,
            }
            for field, value in after.items()
        ],
    )


def _set_state(connection: Connection, document_id: UUID, state: DocumentState) -> None:
    connection.execute(
        update(documents)
        .where(documents.c.id == document_id)
        .values(
            state=state.value,
            revision=documents.c.revision + 1,
            binned_at=func.now() if state is DocumentState.BINNED else None,
        )
    )


def _change(row: Row[Any]) -> Change:
    return Change(
        revision=row.revision,
        field=row.field,
        before=row.before,
        after=row.after,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )


_DOCUMENTS = Listing(
    name="documents",
    sort_key=(documents.c.created_at, documents.c.id),
    kinds=(datetime, UUID),
    place=lambda document: (document.created_at, document.id),
    shape=to_document,
)
_VERSIONS = Listing(
    name="versions",
    sort_key=(versions.c.number,),
    kinds=(int,),
    place=lambda version: (version.number,),
    shape=to_version,
)
_CHANGES = Listing(
    name="changes",
    sort_key=(document_changes.c.revision, document_changes.c.field),
    kinds=(int, str),
    place=lambda change: (change.revision, change.field),
    shape=_change,
)
