"""Grants: what an approval gave, used up by the act it was given for.

A use locks a grant that still counts, and is one `UPDATE … RETURNING` in the transaction of the act and
its event: of any number of uses at once as many succeed as the grant has, and a use that comes to nothing is
given back by the rollback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select

from vault.access.approvals import Announce, Target, canonical
from vault.access.authorise import require
from vault.access.holders import somebody_holds
from vault.access.policy import RULES, Action, Caller, GoesAlone, Scope
from vault.access.sealed_rows import GRANTS
from vault.access.seals import Seals
from vault.access.sight import context_of, seen_by
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import Database
from vault.errors import ApprovalNeeded, NotFound
from vault.model import Page
from vault.notices import NoticeKind
from vault.paging import Listing, PageRequest
from vault.tables import grants, principals


@dataclass(frozen=True)
class Grant:
    """One grant.

    Attributes:
        remaining: how many uses are left of `max_uses`.
    """

    id: UUID
    approval_id: UUID
    principal_id: UUID
    action: Action
    target: Target
    department: str | None
    granted_at: datetime
    expires_at: datetime
    max_uses: int
    remaining: int
    revoked_at: datetime | None


class Grants:
    """The grants of this vault."""

    def __init__(self, database: Database, seals: Seals, announce: Announce) -> None:
        self._database = database
        self._seals = seals
        self._announce = announce

    def use(
        self,
        connection: Connection,
        actor: Actor,
        action: Action,
        target: Target,
        department: str | None = None,
    ) -> None:
        """Use up one of the caller's grants for this act, with an event, in the act's transaction.

        Args:
            department: owns the target now; a grant that another one decided is none.

        Raises:
            ApprovalNeeded: there is none that counts, and somebody who could decide.
        """
        usable = _usable(actor, action, target, department)
        query = select(grants.c.id).where(usable).order_by(grants.c.id)
        for grant_id in connection.execute(query).scalars().all():
            row = self._taken(connection, grant_id, usable)
            if row is not None:
                row = self._seals.change(connection, GRANTS, row, remaining=row.remaining - 1)
                detail = _detail(row, remaining=row.remaining)
                record(connection, AccessEvent(EventType.GRANT_USED, actor, detail=detail))
                return
        self._go_alone(connection, actor, action, target)

    def revoke(self, actor: Actor, grant_id: UUID) -> Grant:
        """End a grant, by whom it was given to or by who could have decided. Idempotent. Raises: NotFound."""
        require(actor.caller, Action.GRANT_LIST)
        broken = self._seals.refusing(NotFound("grant"))
        with broken, self._database.transaction(context_of(actor.caller)) as connection:
            found = seen_by(actor.caller, grants) & (grants.c.id == grant_id)
            query = select(grants).where(found).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound("grant")
            if row.principal_id != actor.caller.principal_id:
                require(actor.caller, Action.GRANT_REVOKE)
            self._seals.check(GRANTS.row_from(row))
            event = AccessEvent(EventType.GRANT_REVOKED, actor, detail=_detail(row))
            record(connection, event)
            if row.revoked_at is None:
                now = connection.execute(select(func.now())).scalar_one()
                row = self._seals.change(connection, GRANTS, row, revoked_at=now)
                self._announce(connection, NoticeKind.GRANT_REVOKED, row.approval_id)
        return _grant(row)

    def list(self, actor: Actor, request: PageRequest) -> Page[Grant]:
        """A page of grants that the caller has, could have decided or oversees, newest first.

        Raises: InvalidPageToken.
        """
        require(actor.caller, Action.GRANT_LIST)
        query = select(grants).where(seen_by(actor.caller, grants))
        with self._database.transaction(context_of(actor.caller)) as connection:
            page = _GRANTS.fetch(connection, query, request)
            record(connection, AccessEvent(EventType.GRANTS_LISTED, actor))
        sound = [row for row in page.items if self._seals.is_sound(GRANTS.row_from(row))]
        return Page(tuple(map(_grant, sound)), page.next_page_token)

    def _taken(
        self, connection: Connection, grant_id: UUID, usable: ColumnElement[bool]
    ) -> Row[Any] | None:
        """A grant, locked, that still counts and bears its seal: somebody may have had its last use."""
        query = select(grants).where(grants.c.id == grant_id, usable).with_for_update()
        try:
            row = connection.execute(query).one_or_none()
        except (ValueError, OverflowError):
            return None  # a moment that we never wrote: the worker's look makes it a finding
        return row if row is not None and self._seals.is_sound(GRANTS.row_from(row)) else None

    def _go_alone(
        self, connection: Connection, actor: Actor, action: Action, target: Target
    ) -> None:
        """Where nobody could decide, some acts are done without; the event says so. Raises:
        ApprovalNeeded.
        """
        if not _may_go_alone(actor.caller, action) or self._others(
            connection, actor, action, target
        ):
            raise ApprovalNeeded(_how_to_ask(action, target))
        detail = {"action": action.value, "because": "nobody else could decide"}
        record(connection, AccessEvent(EventType.WENT_ALONE, actor, detail=detail))

    def _others(self, connection: Connection, actor: Actor, action: Action, target: Target) -> bool:
        """Whether somebody could decide: not whoever asks, nor whom it is about, nor a deputy of theirs."""
        role = RULES[action].decided_by
        assert role is not None
        named = [UUID(target[name]) for name in ("principal", "deputy_of") if name in target]
        found = connection.execute(select(principals.c.person_id).where(principals.c.id.in_(named)))
        concerned = {actor.caller.person_id, *found.scalars()} - {None}
        return somebody_holds(
            connection, self._seals, role, besides={each for each in concerned if each}
        )


def _may_go_alone(caller: Caller, action: Action) -> bool:
    alone = RULES[action].may_go_alone
    return alone is GoesAlone.ALWAYS or (
        alone is GoesAlone.IN_SETUP and Scope.ADMIN in caller.scopes
    )


def _how_to_ask(action: Action, target: Target) -> str:
    """Names the parts of the target, and no value: what a caller sent is not echoed."""
    decided_by = RULES[action].decided_by
    parts = " and ".join(f"'{name}'" for name in sorted(target))
    return (
        f"{action} takes an approval by somebody else with the role '{decided_by}': ask with "
        f"POST /v1/approvals, or `strongroom approval request`, for a target of {parts}, "
        "and do it again once it is approved"
    )


def _usable(
    actor: Actor, action: Action, target: Target, department: str | None
) -> ColumnElement[bool]:
    columns = grants.c
    return and_(
        columns.principal_id == actor.caller.principal_id,
        columns.action == action.value,
        columns.target == canonical(target),
        columns.department.is_not_distinct_from(department),
        columns.revoked_at.is_(None),
        columns.expires_at > func.now(),
        columns.remaining > 0,
    )


def _detail(row: Row[Any], **more: object) -> dict[str, object]:
    return {"grant": str(row.id), "approval": str(row.approval_id), "action": row.action, **more}


def _grant(row: Row[Any]) -> Grant:
    return Grant(
        id=row.id,
        approval_id=row.approval_id,
        principal_id=row.principal_id,
        action=Action(row.action),
        target=json.loads(row.target),
        department=row.department,
        granted_at=row.granted_at,
        expires_at=row.expires_at,
        max_uses=row.max_uses,
        remaining=row.remaining,
        revoked_at=row.revoked_at,
    )


_GRANTS = Listing[Row[Any]](
    name="grants",
    sort_key=(grants.c.granted_at, grants.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.granted_at, row.id),
    shape=lambda row: row,
)
