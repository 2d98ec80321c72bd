"""Explains: what the policy would say to somebody, and by which rule, without doing anything.

About a document it is asked through the service's own context, since whoever explains need not see it: the
answer is the decision, and says neither what the document is nor where it lies.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, exists, func, literal, select

from vault.access.authorise import require
from vault.access.holders import roles_of, within
from vault.access.policy import (
    EVERY_DEPARTMENT,
    RULES,
    Action,
    Caller,
    Decision,
    Scope,
    decide,
)
from vault.access.principals import PrincipalKind
from vault.access.sealed_rows import API_KEYS, PRINCIPALS
from vault.access.seals import Seals
from vault.accesslog.event import AccessEvent, Actor, EventType, record
from vault.database import ServiceDatabase
from vault.errors import NotFound
from vault.records import find_document
from vault.tables import api_keys, holds, principals

_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
_UNKNOWN: Final = "principal or API key"
_PLACE: Final = re.compile(r" (?:in the department|for the class) '[^']*'")
_ANY_SESSION: Final = UUID(int=0)


@dataclass(frozen=True)
class Explanation:
    """What the policy says of one act.

    Attributes:
        rule: the one that decided, in words.
        visible: False where the caller would be told that the thing does not exist.
        api_key_id: None where a principal was asked about, seen through a key with all its scopes.
        department: the one that was named; None: none was, or a document.
    """

    allowed: bool
    rule: str
    visible: bool
    principal_id: UUID
    principal: str
    api_key_id: str | None
    action: Action
    department: str | None


@dataclass(frozen=True)
class _Thing:
    """What would be acted on."""

    document_id: UUID | None
    department: str | None
    class_name: str | None
    is_held: bool


class Explanations:
    """Answers who may do what in this vault."""

    def __init__(self, database: ServiceDatabase, seals: Seals) -> None:
        self._database = database
        self._seals = seals

    def explain(
        self, actor: Actor, who: str, action: Action, what: str | None = None
    ) -> Explanation:
        """What would be decided now. An event, which names who was asked about.

        Args:
            who: the id or name of a principal, application or person, or an API key's id.
            what: a department, or a document's id; None: nothing in particular.

        Raises:
            NotAllowed.
            NotFound: nobody of that id or name, or its row does not bear its seal; no such document.
        """
        require(actor.caller, Action.ACCESS_EXPLAIN)
        broken = self._seals.refusing(NotFound(_UNKNOWN))
        with broken, self._database.transaction() as connection:
            principal, key = self._find(connection, who)
            thing = _thing(connection, what)
            decision = _of_the_dead(principal, key) or _decision(
                self._caller(connection, principal, key), action, thing
            )
            detail = {
                "principal": str(principal.id),
                "api_key": key and key.id,
                "action": action.value,
                "allowed": decision.allowed,
            }
            event = AccessEvent(EventType.ACCESS_EXPLAINED, actor, thing.document_id, detail=detail)
            record(connection, event)
        return Explanation(
            allowed=decision.allowed,
            rule=decision.rule,
            visible=decision.visible,
            principal_id=principal.id,
            principal=principal.name,
            api_key_id=key and key.id,
            action=action,
            department=None if thing.document_id else thing.department,
        )

    def _caller(self, connection: Connection, principal: Row[Any], key: Row[Any] | None) -> Caller:
        """As they would be recognised, a person after a step-up."""
        is_person = principal.kind == PrincipalKind.PERSON
        scopes = set(principal.scopes) & set(principal.scopes if key is None else key.scopes)
        held = roles_of(within(connection), self._seals, principal.id, principal.authority_epoch)
        return Caller(
            principal_id=principal.id,
            name=principal.name,
            api_key_id=key.id if key is not None else "",
            scopes=frozenset(map(Scope, scopes)),
            department=principal.department,
            session_id=_ANY_SESSION if is_person else None,
            roles=held if is_person else (),
            person_id=principal.person_id,
            has_stepped_up=True,
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


def _thing(connection: Connection, what: str | None) -> _Thing:
    """Raises: NotFound: no such document."""
    try:
        document_id = UUID(what or "")
    except ValueError:
        return _Thing(None, what, None, is_held=False)
    document = find_document(connection, document_id)
    held = exists().where(holds.c.document_id == document_id, holds.c.released_at.is_(None))
    is_held = bool(connection.execute(select(held)).scalar_one())
    return _Thing(document_id, document.department, document.class_name, is_held=is_held)


def _of_the_dead(principal: Row[Any], key: Row[Any] | None) -> Decision | None:
    """What meets a request first: the key and its principal."""
    for is_dead, rule in (
        (key is not None and key.revoked_at is not None, "the API key is revoked"),
        (key is not None and key.expired, "the API key has expired"),
        (principal.disabled_at is not None, "the principal is disabled"),
    ):
        if is_dead:
            return Decision(allowed=False, rule=f"{rule}, so it may do nothing")
    return None


def _decision(caller: Caller, action: Action, thing: _Thing) -> Decision:
    """As a request would meet it, with the conditions in words."""
    found = decide(
        caller, action, thing.department, class_name=thing.class_name, is_held=thing.is_held
    )
    if not found.allowed:
        return found
    rule = RULES[action]
    words = found.rule
    if rule.decided_by is not None:
        words += f" by the role '{rule.decided_by}'"
    if caller.is_person and rule.needs_step_up:
        words += ", after a step-up"
    if thing.department is None and action.value.startswith("document."):
        words += f", {_where(caller)}"
    return Decision(allowed=True, rule=words if thing.document_id is None else _placeless(words))


def _placeless(words: str) -> str:
    """Without where a document lies and of what class it is, which is not for whoever explains."""
    return _PLACE.sub("", words)


def _where(caller: Caller) -> str:
    """Of which departments."""
    own = caller.departments
    if own == (EVERY_DEPARTMENT,):
        return "for documents of every department"
    if len(own) == 1:
        return f"for documents of the department '{own[0]}' only"
    names = ", ".join(f"'{name}'" for name in own)
    return f"for documents of the departments {names} only, by the role in each"
