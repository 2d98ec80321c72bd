"""Explains: what the policy would say to somebody, and by which rule, without doing anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, func, literal, select

from vault.access.authorise import require
from vault.access.policy import EVERY_DEPARTMENT, Action, Caller, Decision, Scope, decide
from vault.access.sealed_rows import API_KEYS, PRINCIPALS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import SharedDatabase
from vault.errors import NotFound
from vault.tables import api_keys, principals

_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
_UNKNOWN: Final = "principal or API key"


@dataclass(frozen=True)
class Explanation:
    """What the policy says of one act.

    Attributes:
        rule: the one that decided, in words.
        visible: False where the caller would be told that the thing does not exist.
        api_key_id: None where a principal was asked about, seen through a key with all its scopes.
        department: of the thing that would be acted on; None: none was named.
    """

    allowed: bool
    rule: str
    visible: bool
    principal_id: UUID
    principal: str
    api_key_id: str | None
    action: Action
    department: str | None


class Explanations:
    """Answers who may do what in this vault."""

    def __init__(self, database: SharedDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def explain(
        self, actor: Actor, who: str, action: Action, department: str | None = None
    ) -> Explanation:
        """What would be decided now. An event, which names who was asked about.

        Args:
            who: a principal's id or name, or an API key's id.

        Raises:
            NotAllowed.
            NotFound: nobody of that id or name, or its row does not bear its seal.
        """
        require(actor.caller, Action.ACCESS_EXPLAIN)
        broken = self._seals.refusing(NotFound(_UNKNOWN))
        with broken, self._database.transaction() as connection:
            principal, key = self._find(connection, who)
            decision = _decision(principal, key, action, department)
            detail = {
                "principal": str(principal.id),
                "api_key": key and key.id,
                "action": action.value,
                "allowed": decision.allowed,
            }
            record(connection, AccessEvent(EventType.ACCESS_EXPLAINED, actor, detail=detail))
        return Explanation(
            allowed=decision.allowed,
            rule=decision.rule,
            visible=decision.visible,
            principal_id=principal.id,
            principal=principal.name,
            api_key_id=key and key.id,
            action=action,
            department=department,
        )

    def _find(self, connection: Connection, who: str) -> tuple[Row[Any], Row[Any] | None]:
        key = _key_of(connection, who)
        asked = principals.c.id == key.principal_id if key else _is_principal(who)
        query = select(principals).where(asked).with_for_update(read=True)
        principal = connection.execute(query).one_or_none()
        if principal is None:
            raise NotFound(_UNKNOWN)
        self._seals.check(PRINCIPALS.row_from(principal))
        if key is not None:
            # Again, under the principal's lock: both are of one epoch then.
            key = _key_of(connection, who)
            if key is None:
                raise NotFound(_UNKNOWN)
            self._seals.check_follower(API_KEYS.row_from(key), principal.authority_epoch)
        return principal, key


def _key_of(connection: Connection, who: str) -> Row[Any] | None:
    if not _KEY_ID.fullmatch(who):
        return None
    is_over = func.coalesce(api_keys.c.expires_at <= func.now(), literal(False))
    query = select(api_keys, is_over.label("expired")).where(api_keys.c.id == who)
    return connection.execute(query).one_or_none()


def _is_principal(who: str) -> Any:
    try:
        return principals.c.id == UUID(who)
    except ValueError:
        return principals.c.name == who.replace("\0", "")


def _decision(
    principal: Row[Any], key: Row[Any] | None, action: Action, department: str | None
) -> Decision:
    """As a request would meet it: the key and its principal first, then the policy."""
    for is_dead, rule in (
        (key is not None and key.revoked_at is not None, "the API key is revoked"),
        (key is not None and key.expired, "the API key has expired"),
        (principal.disabled_at is not None, "the principal is disabled"),
    ):
        if is_dead:
            return Decision(allowed=False, rule=f"{rule}, so it may do nothing")
    scopes = set(principal.scopes) & set(principal.scopes if key is None else key.scopes)
    caller = Caller(
        principal_id=principal.id,
        name=principal.name,
        api_key_id=key.id if key is not None else "",
        scopes=frozenset(map(Scope, scopes)),
        department=principal.department,
    )
    decision = decide(caller, action, department)
    if not decision.allowed or department is not None or not action.value.startswith("document."):
        return decision
    return Decision(allowed=True, rule=f"{decision.rule}, {_where(principal.department)}")


def _where(department: str | None) -> str:
    if department == EVERY_DEPARTMENT:
        return "for documents of every department"
    return f"for documents of the department '{department}' only"
