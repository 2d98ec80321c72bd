"""What becomes of approvals that nobody decides: after a day they are escalated, after a week they are over.

For the worker. Each is one short transaction that skips what another worker has in hand, so any number of
them may look at once, and each approval is escalated and expires once. When it was asked for is told from the
sealed `decide_before`; a row that does not bear its seal is left as it is, and becomes a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, func, literal, select

from vault.access.approvals import DECIDED_WITHIN, ESCALATED_AFTER, Announce, ApprovalState
from vault.access.findings import Findings, FoundBy, SealBroken
from vault.access.policy import RULES, Action
from vault.access.sealed_rows import APPROVALS
from vault.access.seals import Seals, unreadable
from vault.accesslog.event import AccessEvent, EventType, record
from vault.database import ServiceDatabase
from vault.notices import NoticeKind
from vault.tables import approvals

_BATCH: Final = 100

_Change = Callable[[Connection, Row[Any]], None]


@dataclass(frozen=True)
class LookedAfter:
    """How many approvals one look moved on."""

    expired: int
    escalated: int


class ApprovalUpkeep:
    """Looks after the undecided approvals of this vault."""

    def __init__(
        self, database: ServiceDatabase, seals: Seals, findings: Findings, announce: Announce
    ) -> None:
        self._database = database
        self._seals = seals
        self._findings = findings
        self._announce = announce

    def look_after(self) -> LookedAfter:
        """Expire and escalate what is due. Raises: DatabaseUnavailable, KeyServiceUnavailable."""
        expired = sum(self._attempt(each, self._expire, _IS_OVER) for each in self._due(_IS_OVER))
        escalated = sum(
            self._attempt(each, self._escalate, _IS_LATE) for each in self._due(_IS_LATE)
        )
        return LookedAfter(expired, escalated)

    def open_by_action(self) -> dict[Action, int]:
        """How many wait to be decided, of every action that takes one. Raises: DatabaseUnavailable."""
        query = (
            select(approvals.c.action, func.count().label("open"))
            .where(approvals.c.state == ApprovalState.REQUESTED.value)
            .group_by(approvals.c.action)
        )
        found = {row.action: row.open for row in self._database.execute(query, {})}
        return {action: found.get(action.value, 0) for action in Action if RULES[action].purposes}

    def _due(self, is_due: ColumnElement[bool]) -> Iterator[UUID]:
        query = select(approvals.c.id).where(is_due).order_by(approvals.c.id).limit(_BATCH)
        last: UUID | None = None
        while True:
            rest = query if last is None else query.where(approvals.c.id > last)
            rows = self._database.execute(rest, {})
            yield from (row.id for row in rows)
            if len(rows) < _BATCH:
                return
            last = rows[-1].id

    def _attempt(self, approval_id: UUID, change: _Change, is_due: ColumnElement[bool]) -> bool:
        try:
            with self._database.transaction() as connection:
                row = self._taken(connection, approval_id, is_due)
                if row is not None:
                    change(connection, row)
        except SealBroken as exc:
            self._findings.remember(exc, FoundBy.WORKER)
            return False
        return row is not None

    def _taken(
        self, connection: Connection, approval_id: UUID, is_due: ColumnElement[bool]
    ) -> Row[Any] | None:
        query = select(approvals).where(approvals.c.id == approval_id, is_due)
        try:
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
        except (ValueError, OverflowError):
            raise unreadable(APPROVALS, approval_id) from None
        if row is not None:
            self._seals.check(APPROVALS.row_from(row))
        return row

    def _expire(self, connection: Connection, row: Row[Any]) -> None:
        self._seals.change(connection, APPROVALS, row, state=ApprovalState.EXPIRED.value)
        self._tell(connection, row, EventType.APPROVAL_EXPIRED, NoticeKind.APPROVAL_EXPIRED)

    def _escalate(self, connection: Connection, row: Row[Any]) -> None:
        now = connection.execute(select(func.now())).scalar_one()
        self._seals.change(connection, APPROVALS, row, escalated_at=now)
        self._tell(connection, row, EventType.APPROVAL_ESCALATED, NoticeKind.APPROVAL_ESCALATED)

    def _tell(
        self, connection: Connection, row: Row[Any], kind: EventType, notice: NoticeKind
    ) -> None:
        detail = {"approval": str(row.id), "action": row.action}
        record(connection, AccessEvent(kind, None, detail=detail))
        self._announce(connection, notice, row.id)


_IS_OPEN: Final = approvals.c.state == ApprovalState.REQUESTED.value
_IS_OVER: Final = _IS_OPEN & (approvals.c.decide_before <= func.now())
_IS_LATE: Final = (
    _IS_OPEN
    & approvals.c.escalated_at.is_(None)
    & (approvals.c.decide_before > func.now())
    & (approvals.c.decide_before <= func.now() + literal(DECIDED_WITHIN - ESCALATED_AFTER))
)
