"""Legal holds: while one is in force, its document is neither binned nor purged."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, func, insert, select, update

from vault.access.authorise import require
from vault.access.policy import Action
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.context import Context, as_caller
from vault.database import Database
from vault.errors import InvalidValue, NotFound
from vault.model import Hold, Page
from vault.paging import Listing, PageRequest
from vault.records import lock_document
from vault.tables import holds

MAX_REASON_CHARACTERS: Final = 500


class Holds:
    """The legal holds of this vault. Several may lie on one document."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def place(self, actor: Actor, document_id: UUID, reason: str) -> Hold:
        """Put a hold on a document, in the bin or not.

        The document is locked meanwhile, so a purge that has not begun cannot begin any more.

        Raises:
            NotFound: no such document, or it is purged already.
            InvalidValue: no reason, or one of over 500 characters.
        """
        require(actor.caller, Action.HOLD_PLACE)
        if not reason.strip() or len(reason) > MAX_REASON_CHARACTERS or "\0" in reason:
            raise InvalidValue(f"a hold has a reason of 1 to {MAX_REASON_CHARACTERS} characters")
        values = {
            "id": uuid4(),
            "document_id": document_id,
            "reason": reason,
            "placed_by": actor.caller.principal_id,
        }
        with self._database.transaction(_context(actor, Action.HOLD_PLACE)) as connection:
            lock_document(connection, document_id)
            row = connection.execute(insert(holds).values(values).returning(holds)).one()
            detail = {"hold": str(row.id)}
            event = AccessEvent(EventType.HOLD_PLACED, actor, document_id, detail=detail)
            record(connection, event)
        return _hold(row)

    def release(self, actor: Actor, hold_id: UUID) -> Hold:
        """End a hold. Idempotent: the first release counts. Raises: NotFound, NotAllowed."""
        require(actor.caller, Action.HOLD_RELEASE)
        table = holds.c
        with self._database.transaction(_context(actor, Action.HOLD_RELEASE)) as connection:
            row = connection.execute(
                update(holds)
                .where(table.id == hold_id)
                .values(
                    released_at=func.coalesce(table.released_at, func.now()),
                    released_by=func.coalesce(table.released_by, actor.caller.principal_id),
                )
                .returning(holds)
            ).one_or_none()
            if row is None:
                raise NotFound("hold")
            detail = {"hold": str(hold_id)}
            event = AccessEvent(EventType.HOLD_RELEASED, actor, row.document_id, detail=detail)
            record(connection, event)
        return _hold(row)

    def list(
        self, actor: Actor, request: PageRequest, document_id: UUID | None = None
    ) -> Page[Hold]:
        """A page of holds, newest first, released ones too. Raises: InvalidPageToken."""
        require(actor.caller, Action.HOLD_LIST)
        query = select(holds)
        if document_id is not None:
            query = query.where(holds.c.document_id == document_id)
        with self._database.transaction(_context(actor, Action.HOLD_LIST)) as connection:
            page = _HOLDS.fetch(connection, query, request, {"document": document_id})
            record(connection, AccessEvent(EventType.HOLDS_LISTED, actor, document_id))
        return page


def _context(actor: Actor, action: Action) -> Context:
    """Holds are a matter of the whole vault, whichever department the document belongs to."""
    return as_caller(actor.caller, everywhere=actor.caller.reaches_everywhere(action))


def _hold(row: Row[Any]) -> Hold:
    return Hold(
        id=row.id,
        document_id=row.document_id,
        reason=row.reason,
        placed_at=row.placed_at,
        placed_by=row.placed_by,
        released_at=row.released_at,
        released_by=row.released_by,
    )


_HOLDS = Listing(
    name="holds",
    sort_key=(holds.c.placed_at, holds.c.id),
    kinds=(datetime, UUID),
    place=lambda hold: (hold.placed_at, hold.id),
    shape=_hold,
)
