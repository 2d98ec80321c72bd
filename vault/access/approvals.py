"""Approvals: what one person asks for and another decides, before it may be done.

A request names an action, a target, a purpose and a reason. Who holds the deciding role in the department
that owns the target decides: never the requester, by whichever of their accounts, keys or deputies, which
three constraints of the database say too; nor whom it is about. Approved, it gives a *grant* (`grants`):
for one principal, one action and one target, until a moment, so many times. The act itself uses it up.

Undecided requests are escalated after a day, and expire after a week (`approval_upkeep`). Rows are sealed:
what is decided is what was asked, and a request that SQL wrote cannot be decided.

Locks are taken in the order of `sealed_rows.SEALED`: principals, what follows them, approvals, grants.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, func, insert, select

from vault.access.authorise import require
from vault.access.policy import RULES, Action, Caller, Obstacle, Purpose, Scope
from vault.access.roles import HeldRole, Role
from vault.access.sealed_rows import APPROVALS, GRANTS, PRINCIPALS
from vault.access.seals import Seals, unreadable
from vault.access.sight import context_of, is_head, seen_by
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import Database, DuplicateRow
from vault.errors import ApprovalOver, InvalidValue, NotAllowed, NotFound
from vault.model import Page
from vault.names import display_text
from vault.notices import NoticeKind
from vault.paging import Listing, PageRequest
from vault.tables import approvals, grants, principals

DECIDED_WITHIN: Final = timedelta(days=7)
ESCALATED_AFTER: Final = timedelta(days=1)
MAX_LASTS: Final = timedelta(days=30)
MAX_USES: Final = 100
MAX_REASON_CHARACTERS: Final = 500
MAX_TICKET_CHARACTERS: Final = 64
MAX_PART_CHARACTERS: Final = 128

Target = Mapping[str, str]
"""What an act is about: names and ids. Two targets are the same if all of them are."""


@dataclass(frozen=True)
class Owned:
    """A target as the act itself will name it, and the department that owns it; None: the vault."""

    target: Target
    department: str | None = None


OwnerOf = Callable[[Connection, Actor, Target], Owned]
"""Looks a target up, as somebody wrote it; raises what the act itself would, and `InvalidValue`."""

Announce = Callable[[Connection, NoticeKind, UUID], object]
"""Tells whom it concerns, once the transaction commits."""


class ApprovalState(StrEnum):
    """Where an approval stands."""

    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


@dataclass(frozen=True)
class NewApproval:
    """What somebody asks for.

    Attributes:
        reason: in words, for whoever decides.
        ticket: of the organisation's own system.
        uses: how many times the act is to be done, 1 to 100.
        lasts: how long from the decision on, at most 30 days.
    """

    action: Action
    target: Target
    purpose: Purpose
    reason: str
    ticket: str | None = None
    uses: int = 1
    lasts: timedelta = timedelta(hours=8)

    def __post_init__(self) -> None:
        """Raises: InvalidValue."""
        purposes = RULES[self.action].purposes
        if not purposes:
            raise InvalidValue("this action takes no approval")
        if self.purpose not in purposes:
            names = ", ".join(purpose for purpose in Purpose if purpose in purposes)
            raise InvalidValue(f"an approval for it has one of the purposes {names}")
        display_text(self.reason, "reason", MAX_REASON_CHARACTERS)
        if self.ticket is not None:
            display_text(self.ticket, "ticket", MAX_TICKET_CHARACTERS)
        if self.purpose is Purpose.STAFFING and self.uses != 1:
            raise InvalidValue("what decides over people is approved for one use")
        if not 1 <= self.uses <= MAX_USES:
            raise InvalidValue(f"an approval is for 1 to {MAX_USES} uses")
        if not timedelta(minutes=1) <= self.lasts <= MAX_LASTS:
            raise InvalidValue(f"an approval lasts a minute to {MAX_LASTS.days} days")


@dataclass(frozen=True)
class Approval:
    """One approval.

    Attributes:
        department: owns the target; None: the vault.
        decided_for: the person in whose place a deputy decided.
        grant_id: what it gave.
    """

    id: UUID
    action: Action
    target: Target
    department: str | None
    purpose: Purpose
    reason: str
    ticket: str | None
    uses: int
    lasts_seconds: int
    requested_by: UUID
    requested_at: datetime
    decide_before: datetime
    escalated_at: datetime | None
    state: ApprovalState
    decided_by: UUID | None
    decided_for: UUID | None
    decided_at: datetime | None
    comment: str | None
    grant_id: UUID | None


class Approvals:
    """The approvals of this vault."""

    def __init__(
        self,
        database: Database,
        seals: Seals,
        owners: Mapping[Action, OwnerOf],
        announce: Announce,
    ) -> None:
        """`owners` knows every action that takes an approval."""
        self._database = database
        self._seals = seals
        self._owners = owners
        self._announce = announce

    def request(self, actor: Actor, new: NewApproval) -> Approval:
        """Ask for an approval.

        Raises:
            NotAllowed, NotFound: the act is not allowed to them at all, or its target is not there; or
                nobody answers for an application, so that it cannot be told who else may decide.
            InvalidValue: the target is not written as the action needs it.
        """
        require(actor.caller, Action.APPROVAL_REQUEST)
        _require_in_principle(actor.caller, new.action)
        _require_somebody_responsible(actor.caller)
        with self._database.transaction(context_of(actor.caller)) as connection:
            owned = self._owner_of(new.action)(connection, _as_if_stepped_up(actor), new.target)
            now = connection.execute(select(func.now())).scalar_one()
            row = _requested(actor.caller, new, owned, now)
            values = {**row, **self._seals.sealed(connection, APPROVALS, row)}
            made = connection.execute(insert(approvals).values(values).returning(approvals)).one()
            self._record(connection, EventType.APPROVAL_REQUESTED, actor, made)
            self._announce(connection, NoticeKind.APPROVAL_REQUESTED, made.id)
        return _approval(made, None)

    def decide(
        self, actor: Actor, approval_id: UUID, *, approved: bool, comment: str | None = None
    ) -> Approval:
        """Approve or deny a request.

        Raises:
            NotAllowed, StepUpNeeded: not by them: the role, or they asked for it themselves.
            NotFound: no such request, or not for their eyes.
            ApprovalOver: it is decided, withdrawn or expired.
        """
        require(actor.caller, Action.APPROVAL_DECIDE)
        if comment is not None:
            comment = display_text(comment, "comment", MAX_REASON_CHARACTERS)
        try:
            with self._seals.refusing(NotFound("approval")):
                return self._decide(actor, approval_id, approved, comment)
        except DuplicateRow:  # a grant that SQL put in the place of its own
            raise ApprovalOver(ApprovalState.APPROVED) from None

    def withdraw(self, actor: Actor, approval_id: UUID) -> Approval:
        """Take a request of one's own back. Raises: NotFound, ApprovalOver."""
        require(actor.caller, Action.APPROVAL_REQUEST)
        broken = self._seals.refusing(NotFound("approval"))
        with broken, self._database.transaction(context_of(actor.caller)) as connection:
            row = self._locked(connection, actor.caller, approval_id)
            if row.requested_by != actor.caller.principal_id:
                raise NotFound("approval")
            if row.state != ApprovalState.REQUESTED:
                raise ApprovalOver(row.state)
            state = ApprovalState.WITHDRAWN.value
            row = self._seals.change(connection, APPROVALS, row, state=state)
            self._record(connection, EventType.APPROVAL_WITHDRAWN, actor, row)
        return _approval(row, None)

    def view(self, actor: Actor, approval_id: UUID) -> Approval:
        """One approval. Raises: NotFound: also where it is not for their eyes."""
        require(actor.caller, Action.APPROVAL_LIST)
        seen = seen_by(actor.caller, approvals) & (approvals.c.id == approval_id)
        broken = self._seals.refusing(NotFound("approval"))
        with broken, self._database.transaction(context_of(actor.caller)) as connection:
            row = connection.execute(_WITH_GRANT.where(seen)).one_or_none()
            if row is None:
                raise NotFound("approval")
            self._seals.check(APPROVALS.row_from(row))
            self._record(connection, EventType.APPROVAL_VIEWED, actor, row)
        return _approval(row, row.grant_id)

    def list(
        self, actor: Actor, request: PageRequest, state: ApprovalState | None = None
    ) -> Page[Approval]:
        """A page of approvals that the caller asked for, may decide or oversees, newest first.

        Raises: InvalidPageToken.
        """
        require(actor.caller, Action.APPROVAL_LIST)
        query = _WITH_GRANT.where(seen_by(actor.caller, approvals))
        if state is not None:
            query = query.where(approvals.c.state == state.value)
        with self._database.transaction(context_of(actor.caller)) as connection:
            page = _APPROVALS.fetch(connection, query, request, {"state": state})
            record(connection, AccessEvent(EventType.APPROVALS_LISTED, actor))
        sound = [row for row in page.items if self._seals.is_sound(APPROVALS.row_from(row))]
        shown = tuple(_approval(row, row.grant_id) for row in sound)
        return Page(shown, page.next_page_token)

    def _decide(
        self, actor: Actor, approval_id: UUID, approved: bool, comment: str | None
    ) -> Approval:
        with self._database.transaction(context_of(actor.caller)) as connection:
            row = self._locked(connection, actor.caller, approval_id)
            deciding = _deciding_role(actor.caller, row)
            self._refuse_if_about(connection, actor.caller, row)
            now = connection.execute(select(func.now())).scalar_one()
            if row.state != ApprovalState.REQUESTED or row.decide_before <= now:
                raise ApprovalOver(row.state if row.state != "requested" else "expired")
            state = ApprovalState.APPROVED if approved else ApprovalState.DENIED
            decided = self._seals.change(
                connection,
                APPROVALS,
                row,
                state=state.value,
                decided_by=actor.caller.principal_id,
                decided_person=actor.caller.person_id,
                decided_for=deciding.deputy_of,
                decided_at=now,
                comment=comment,
            )
            grant_id = self._give(connection, decided, now) if approved else None
            kind = EventType.APPROVAL_APPROVED if approved else EventType.APPROVAL_DENIED
            self._record(connection, kind, actor, decided, by=str(deciding.role))
            self._announce(connection, NoticeKind.APPROVAL_DECIDED, row.id)
        return _approval(decided, grant_id)

    def _owner_of(self, action: Action) -> OwnerOf:
        """Raises: InvalidValue."""
        if action not in self._owners:
            raise InvalidValue("this action takes no approval")
        return self._owners[action]

    def _refuse_if_about(self, connection: Connection, caller: Caller, row: Row[Any]) -> None:
        """Whoever gets a role, or a deputy, decides not over it, by any account. Raises: NotAllowed."""
        target = json.loads(row.target)
        about = [UUID(target[name]) for name in ("principal", "deputy_of") if name in target]
        for found in connection.execute(select(principals).where(principals.c.id.in_(about))):
            self._seals.check(PRINCIPALS.row_from(found))
            stands_in_for = {held.deputy_of for held in caller.roles if held.deputy_of}
            if (
                found.person_id in {caller.person_id, *stands_in_for}
                or caller.principal_id == found.id
            ):
                raise NotAllowed(
                    "nobody decides over what is about themselves, or about whom they stand in for"
                )

    def _give(self, connection: Connection, approval: Row[Any], now: datetime) -> UUID:
        row = {
            "id": uuid4(),
            "approval_id": approval.id,
            "principal_id": approval.requested_by,
            "action": approval.action,
            "target": approval.target,
            "department": approval.department,
            "expires_at": now + timedelta(seconds=approval.lasts_seconds),
            "max_uses": approval.uses,
            "remaining": approval.uses,
            "revoked_at": None,
        }
        values = {**row, **self._seals.sealed(connection, GRANTS, row)}
        connection.execute(insert(grants).values(values))
        return UUID(str(row["id"]))

    def _locked(self, connection: Connection, caller: Caller, approval_id: UUID) -> Row[Any]:
        seen = seen_by(caller, approvals) & (approvals.c.id == approval_id)
        try:
            row = connection.execute(select(approvals).where(seen).with_for_update()).one_or_none()
        except (ValueError, OverflowError):
            raise unreadable(APPROVALS, approval_id) from None
        if row is None:
            raise NotFound("approval")
        self._seals.check(APPROVALS.row_from(row))
        return row

    def _record(
        self, connection: Connection, kind: EventType, actor: Actor, row: Row[Any], **more: str
    ) -> None:
        detail = {"approval": str(row.id), "action": row.action, "purpose": row.purpose, **more}
        record(connection, AccessEvent(kind, actor, detail=detail))


def part(target: Target, name: str) -> str:
    """One part of a target. Raises: InvalidValue: it is not there, or cannot stand where people read it."""
    found = target.get(name)
    if not found:
        raise InvalidValue(f"the target of this action says '{name}'")
    return display_text(found, f"'{name}' of the target", MAX_PART_CHARACTERS)


def id_part(target: Target, name: str) -> UUID:
    """One part of a target that is an id. Raises: InvalidValue."""
    try:
        return UUID(part(target, name))
    except ValueError:
        raise InvalidValue(f"'{name}' of the target is an id, as lists show it") from None


def canonical(target: Target) -> str:
    """A target as it is stored and compared: JSON with sorted keys, no spaces."""
    return json.dumps(dict(target), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def deciders(row: Any) -> tuple[Role, ...]:
    """Who may decide over an approval's row: once it is escalated and a department's, compliance too."""
    decided_by = RULES[Action(row.action)].decided_by
    roles = () if decided_by is None else (decided_by,)
    return (*roles, Role.COMPLIANCE) if row.escalated_at and row.department else roles


def _requested(caller: Caller, new: NewApproval, owned: Owned, now: datetime) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "action": new.action.value,
        "target": canonical(owned.target),
        "department": owned.department,
        "purpose": new.purpose.value,
        "reason": new.reason.strip(),
        "ticket": new.ticket,
        "uses": new.uses,
        "lasts_seconds": int(new.lasts.total_seconds()),
        "requested_by": caller.principal_id,
        "requested_person": caller.person_id,
        "decide_before": now + DECIDED_WITHIN,
        "state": ApprovalState.REQUESTED.value,
        **_UNDECIDED,
    }


def _as_if_stepped_up(actor: Actor) -> Actor:
    """To judge the target by what the act will need, but for the step-up: that is for the act."""
    return replace(actor, caller=replace(actor.caller, has_stepped_up=True))


def _require_in_principle(caller: Caller, action: Action) -> None:
    """Whoever may not do it at all need not ask. A step-up is for the act. Raises: NotAllowed."""
    decision = caller.may(action)
    if not decision.allowed and decision.obstacle is not Obstacle.STEP_UP:
        raise NotAllowed(decision.rule)


def _require_somebody_responsible(caller: Caller) -> None:
    """Otherwise whoever holds an application's key could decide over what they asked for with it.

    Not during set-up, whose administrator is nobody yet. Raises: NotAllowed.
    """
    if caller.person_id is None and Scope.ADMIN not in caller.scopes:
        raise NotAllowed(
            "an application asks for an approval only if a person is responsible for it; add one that has"
            " somebody"
        )


def _deciding_role(caller: Caller, row: Row[Any]) -> HeldRole:
    """The role by which the caller decides. Raises: NotAllowed."""
    if caller.person_id is None or caller.person_id == row.requested_person:
        raise NotAllowed("nobody decides over their own request, by whichever account or key")
    roles = deciders(row)
    held = [h for h in caller.roles if h.role in roles and _reaches(h, row.department)]
    if not held:
        names = " or ".join(f"'{role}'" for role in roles)
        where = " of the department that owns the thing" if row.department else ""
        raise NotAllowed(f"this is decided by the role {names}{where}")
    own = [h for h in held if h.deputy_of is None or h.deputy_of != row.requested_person]
    if not own:
        raise NotAllowed("a deputy does not decide over what the person they stand in for asks for")
    return min(own, key=lambda h: h.deputy_of is not None)


def _reaches(held: HeldRole, department: str | None) -> bool:
    return held.department is None or (is_head(held) and held.department == department)


def _approval(row: Row[Any], grant_id: UUID | None) -> Approval:
    return Approval(
        id=row.id,
        action=Action(row.action),
        target=json.loads(row.target),
        department=row.department,
        purpose=Purpose(row.purpose),
        reason=row.reason,
        ticket=row.ticket,
        uses=row.uses,
        lasts_seconds=row.lasts_seconds,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        decide_before=row.decide_before,
        escalated_at=row.escalated_at,
        state=ApprovalState(row.state),
        decided_by=row.decided_by,
        decided_for=row.decided_for,
        decided_at=row.decided_at,
        comment=row.comment,
        grant_id=grant_id,
    )


_UNDECIDED: Final = dict.fromkeys(
    ("escalated_at", "decided_by", "decided_person", "decided_for", "decided_at", "comment")
)

_WITH_GRANT: Final = select(approvals, grants.c.id.label("grant_id")).join(
    grants, grants.c.approval_id == approvals.c.id, isouter=True
)

_APPROVALS = Listing[Row[Any]](
    name="approvals",
    sort_key=(approvals.c.requested_at, approvals.c.id),
    kinds=(datetime, UUID),
    place=lambda row: (row.requested_at, row.id),
    shape=lambda row: row,
)
