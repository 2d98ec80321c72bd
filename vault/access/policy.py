"""Who may do what, decided in one pure function; no rows, no clock, no network.

Default deny: what no line of the table allows is refused. The rule that decided is returned in
words, because a refusal that cannot be explained cannot be corrected.

Applications act through API keys, and what counts is a scope; people act through sessions, and what counts
is a role. Does not handle: who approves whom (`vault.access.approvals`); the table says only that an
approval is needed.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from vault.access.roles import HeldRole, Role

EVERY_DEPARTMENT: Final = "*"

Reach = tuple[tuple[str, str | None], ...]
"""Pairs of a department and a class, None for every class."""


class Scope(StrEnum):
    """What an API key may be used for. None of them implies another.

    `admin` is for setting a vault up: what the three administrators do, until they are there.
    """

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    EXPORT_KEYS = "export-keys"
    OPERATE = "operate"
    AUDIT = "audit"


class Action(StrEnum):
    """Everything a caller can ask for; a route names exactly one."""

    DOCUMENT_CREATE = "document.create"
    DOCUMENT_READ = "document.read"
    DOCUMENT_LIST = "document.list"
    DOCUMENT_UPDATE = "document.update"
    DOCUMENT_MOVE = "document.move"
    DOCUMENT_BIN = "document.bin"
    CLASS_LIST = "class.list"
    CLASS_ADD = "class.add"
    HOLD_PLACE = "hold.place"
    HOLD_RELEASE = "hold.release"
    HOLD_LIST = "hold.list"
    DEPARTMENT_LIST = "department.list"
    DEPARTMENT_MANAGE = "department.manage"
    PRINCIPAL_LIST = "principal.list"
    PRINCIPAL_MANAGE = "principal.manage"
    CREDENTIALS_RESET = "credentials.reset"
    API_KEY_LIST = "api-key.list"
    API_KEY_ISSUE = "api-key.issue"
    API_KEY_MANAGE = "api-key.manage"
    API_KEY_ROTATE_OWN = "api-key.rotate-own"
    ROLE_LIST = "role.list"
    ROLE_GRANT = "role.grant"
    ROLE_REVOKE = "role.revoke"
    CALLER_VIEW = "caller.view"
    SESSION_OWN = "session.own"
    SESSION_LIST = "session.list"
    SESSION_REVOKE = "session.revoke"
    SETUP_CLOSE = "setup.close"
    APPROVAL_REQUEST = "approval.request"
    APPROVAL_LIST = "approval.list"
    APPROVAL_DECIDE = "approval.decide"
    GRANT_LIST = "grant.list"
    GRANT_REVOKE = "grant.revoke"
    KEY_LIST = "key.list"
    KEY_ROTATE = "key.rotate"
    KEY_REWRAP = "key.rewrap"
    KEY_RETIRE = "key.retire"
    KEY_SHRED = "key.shred"
    KEY_DRILL = "key.drill"
    KEY_EXPORT = "key.export"
    KEY_REGISTER_RECOVERY = "key.register-recovery"
    SITE_LIST = "site.list"
    SITE_MANAGE = "site.manage"
    SITE_FAIL_OVER = "site.fail-over"
    JOB_LIST = "job.list"
    JOB_STOP = "job.stop"
    ACCESS_EXPLAIN = "access.explain"
    CONFLICT_LIST = "conflict.list"
    FINDING_LIST = "finding.list"


class Purpose(StrEnum):
    """Why somebody asks for an approval."""

    CUSTOMER_REQUEST = "customer-request"
    COMPLAINT = "complaint"
    COURT_ORDER = "court-order"
    AUDIT = "audit"
    EXIT = "exit"
    STAFFING = "staffing"
    DISASTER = "disaster"
    EXERCISE = "exercise"


class Obstacle(StrEnum):
    """What stands in the way of somebody who may, on a condition."""

    STEP_UP = "step-up"
    HOLD = "hold"


class GoesAlone(StrEnum):
    """When something that takes an approval is done without, since nobody is there who could decide."""

    NEVER = "never"
    IN_SETUP = "in-setup"
    ALWAYS = "always"


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        scopes: one of them makes it allowed to an application; None: to every application.
        roles: one of them makes it allowed to a person; None: to everybody who is signed in.
        needs_step_up: a person has to have proved who they are within the last minutes.
        purposes: not empty: it takes an approval for one of these.
        decided_by: who gives that, in the department that owns the thing if it has one.
        may_go_alone: whether it is done without an approval where there is nobody who could decide.
        yields_to_hold: a legal hold on the thing stops it.
    """

    scopes: frozenset[Scope] | None
    roles: frozenset[Role] | None
    needs_step_up: bool = False
    purposes: frozenset[Purpose] = frozenset()
    decided_by: Role | None = None
    may_go_alone: GoesAlone = GoesAlone.NEVER
    yields_to_hold: bool = False


def _rule(
    scopes: AbstractSet[Scope] | None,
    roles: AbstractSet[Role] | None,
    *,
    step_up: bool = False,
    **more: Any,
) -> Rule:
    return Rule(
        None if scopes is None else frozenset(scopes),
        None if roles is None else frozenset(roles),
        needs_step_up=step_up,
        **more,
    )


_VAULT_WIDE: Final = frozenset({Scope.ADMIN, Scope.OPERATE, Scope.AUDIT})
"""Scopes that no department bounds."""

_READ, _WRITE, _EXPORT = {Scope.READ}, {Scope.WRITE}, {Scope.EXPORT_KEYS}
_SETUP = {Scope.ADMIN}
_OPERATE = {Scope.OPERATE, Scope.ADMIN}
_AUDIT = {Scope.AUDIT, Scope.ADMIN}
_WATCH = {Scope.OPERATE, Scope.AUDIT, Scope.ADMIN}
_CLERKS = {Role.STAFF, Role.ARCHIVE_MANAGER}
_MANAGERS = {Role.ARCHIVE_MANAGER}
_DEPARTMENT = {Role.STAFF, Role.ARCHIVE_MANAGER, Role.DEPARTMENT_HEAD}
_COMPLIANCE = {Role.COMPLIANCE}
_OPERATIONS = {Role.IT_OPERATIONS}
_SECURITY = {Role.SECURITY_ADMINISTRATOR}
_OVERSIGHT = {Role.SECURITY_ADMINISTRATOR, Role.AUDITOR}
_OPERATED = {Role.IT_OPERATIONS, Role.AUDITOR}
_DECIDERS = {Role.DEPARTMENT_HEAD, Role.COMPLIANCE, Role.IT_OPERATIONS, Role.SECURITY_ADMINISTRATOR}
_NOBODY: frozenset[Role] = frozenset()
_NO_SCOPE: frozenset[Scope] = frozenset()

_STAFFING: Final[dict[str, Any]] = {
    "purposes": frozenset({Purpose.STAFFING}),
    "decided_by": Role.SECURITY_ADMINISTRATOR,
    "may_go_alone": GoesAlone.IN_SETUP,
}
_EXPORTING: Final[dict[str, Any]] = {
    "purposes": frozenset({Purpose.CUSTOMER_REQUEST, Purpose.COURT_ORDER, Purpose.EXIT}),
    "decided_by": Role.DEPARTMENT_HEAD,
}
_RECOVERING: Final[dict[str, Any]] = {
    "purposes": frozenset({Purpose.DISASTER, Purpose.EXERCISE}),
    "decided_by": Role.SECURITY_ADMINISTRATOR,
    "may_go_alone": GoesAlone.IN_SETUP,
}
_FAILING_OVER: Final[dict[str, Any]] = {
    "purposes": frozenset({Purpose.DISASTER, Purpose.EXERCISE}),
    "decided_by": Role.IT_OPERATIONS,
    "may_go_alone": GoesAlone.ALWAYS,
}

RULES: Final[dict[Action, Rule]] = {
    Action.DOCUMENT_CREATE: _rule(_WRITE, _CLERKS),
    Action.DOCUMENT_READ: _rule(_READ, _DEPARTMENT),
    Action.DOCUMENT_LIST: _rule(_READ, _DEPARTMENT),
    Action.DOCUMENT_UPDATE: _rule(_WRITE, _CLERKS),
    Action.DOCUMENT_MOVE: _rule(_WRITE, _MANAGERS),
    Action.DOCUMENT_BIN: _rule(_WRITE, _MANAGERS, yields_to_hold=True),
    Action.CLASS_LIST: _rule(None, None),
    Action.CLASS_ADD: _rule(_SETUP, _COMPLIANCE),
    Action.HOLD_PLACE: _rule(_SETUP, _COMPLIANCE),
    Action.HOLD_RELEASE: _rule(_SETUP, _COMPLIANCE, step_up=True),
    Action.HOLD_LIST: _rule(_AUDIT, _COMPLIANCE | {Role.AUDITOR}),
    Action.DEPARTMENT_LIST: _rule(None, None),
    Action.DEPARTMENT_MANAGE: _rule(_SETUP, _SECURITY),
    Action.PRINCIPAL_LIST: _rule(_AUDIT, _OVERSIGHT),
    Action.PRINCIPAL_MANAGE: _rule(_SETUP, _SECURITY),
    Action.CREDENTIALS_RESET: _rule(_SETUP, _SECURITY, step_up=True, **_STAFFING),
    Action.API_KEY_LIST: _rule(_AUDIT, _OVERSIGHT),
    Action.API_KEY_ISSUE: _rule(_SETUP, _SECURITY, step_up=True, **_STAFFING),
    Action.API_KEY_MANAGE: _rule(_SETUP, _SECURITY),
    Action.API_KEY_ROTATE_OWN: _rule(None, _NOBODY),
    Action.ROLE_LIST: _rule(_AUDIT, _OVERSIGHT),
    Action.ROLE_GRANT: _rule(_SETUP, _SECURITY, step_up=True, **_STAFFING),
    Action.ROLE_REVOKE: _rule(_SETUP, _SECURITY),
    Action.CALLER_VIEW: _rule(None, None),
    Action.SESSION_OWN: _rule(_NO_SCOPE, None),
    Action.SESSION_LIST: _rule(_AUDIT, _OVERSIGHT),
    Action.SESSION_REVOKE: _rule(_SETUP, _SECURITY),
    Action.SETUP_CLOSE: _rule(_SETUP, _NOBODY),
    Action.APPROVAL_REQUEST: _rule(None, None),
    Action.APPROVAL_LIST: _rule(None, None),
    Action.APPROVAL_DECIDE: _rule(_NO_SCOPE, _DECIDERS, step_up=True),
    Action.GRANT_LIST: _rule(None, None),
    Action.GRANT_REVOKE: _rule(_SETUP, _DECIDERS),
    Action.KEY_LIST: _rule(_WATCH, _OPERATED),
    Action.KEY_ROTATE: _rule(_OPERATE, _OPERATIONS),
    Action.KEY_REWRAP: _rule(_OPERATE, _OPERATIONS),
    Action.KEY_RETIRE: _rule(_OPERATE, _OPERATIONS, step_up=True),
    Action.KEY_SHRED: _rule(_OPERATE, _OPERATIONS, step_up=True),
    Action.KEY_DRILL: _rule(_OPERATE, _OPERATIONS),
    Action.KEY_EXPORT: _rule(_EXPORT, _MANAGERS, step_up=True, **_EXPORTING),
    Action.KEY_REGISTER_RECOVERY: _rule(_SETUP, _OPERATIONS, step_up=True, **_RECOVERING),
    Action.SITE_LIST: _rule(_WATCH, _OPERATED),
    Action.SITE_MANAGE: _rule(_OPERATE, _OPERATIONS),
    Action.SITE_FAIL_OVER: _rule(_OPERATE, _OPERATIONS, step_up=True, **_FAILING_OVER),
    Action.JOB_LIST: _rule(_WATCH, _OPERATED),
    Action.JOB_STOP: _rule(_OPERATE, _OPERATIONS),
    Action.ACCESS_EXPLAIN: _rule(_AUDIT, _OVERSIGHT),
    Action.CONFLICT_LIST: _rule(_AUDIT, _OVERSIGHT | _COMPLIANCE),
    Action.FINDING_LIST: _rule(_AUDIT, _OVERSIGHT),
}


@dataclass(frozen=True)
class Caller:
    """An authenticated principal, seen through the API key or session it used.

    Attributes:
        scopes: of an application: what both the principal and the key allow.
        department: the one it works for, `EVERY_DEPARTMENT`, or None for none; of a person the home one,
            which gives nothing by itself.
        session_id: of a person; they have roles instead of scopes.
        person_id: the natural person behind it, however many accounts they have; None: nobody.
        has_stepped_up: whether this person proved who they are within the last minutes.
        authority_epoch: of the principal, when it was recognised.
    """

    principal_id: UUID
    name: str
    api_key_id: str | None
    scopes: frozenset[Scope]
    department: str | None
    session_id: UUID | None = None
    roles: tuple[HeldRole, ...] = ()
    person_id: UUID | None = None
    has_stepped_up: bool = False
    authority_epoch: int = 1

    @property
    def is_person(self) -> bool:
        """Whether a person is signed in, and no application."""
        return self.session_id is not None

    @property
    def departments(self) -> tuple[str, ...]:
        """The departments whose documents exist for this caller, or just `EVERY_DEPARTMENT`."""
        if self.is_person:
            return tuple(sorted({held.department for held in self.roles if held.department}))
        return (self.department,) if self.department else ()

    @property
    def only_department(self) -> str | None:
        """The one it works for, where it is one: documents without another are filed there."""
        own = self.departments
        return own[0] if len(own) == 1 and own[0] != EVERY_DEPARTMENT else None

    def may(
        self,
        action: Action,
        department: str | None = None,
        *,
        class_name: str | None = None,
        is_held: bool = False,
    ) -> Decision:
        """As `decide`. Flows ask here, so that a double shows what holds without this answer."""
        return decide(self, action, department, class_name=class_name, is_held=is_held)

    def works_for(self, department: str, class_name: str | None = None) -> bool:
        """Whether documents of `department` exist for this caller at all."""
        if self.is_person:
            return any(h.department and h.reaches(department, class_name) for h in self.roles)
        return self.department in (EVERY_DEPARTMENT, department)

    def reaches_everywhere(self, action: Action) -> bool:
        """Whether what allows `action` to this caller reaches into every department."""
        rule = RULES[action]
        if self.is_person:
            return any(h.department is None and h.role in (rule.roles or ()) for h in self.roles)
        return bool(_VAULT_WIDE & self.scopes & (rule.scopes or frozenset()))

    def reach(self, action: Action) -> Reach | None:
        """Where `action` is allowed; None: everywhere."""
        if not self.is_person:
            own = self.department
            return None if own == EVERY_DEPARTMENT else ((own, None),) if own else ()
        roles = RULES[action].roles or frozenset()
        found = {
            (h.department, h.class_name) for h in self.roles if h.department and h.role in roles
        }
        whole = {department for department, class_name in found if class_name is None}
        return tuple(
            sorted(
                ((d, c) for d, c in found if c is None or d not in whole),
                key=lambda p: (p[0], p[1] or ""),
            )
        )


@dataclass(frozen=True)
class Decision:
    """What the policy says, and the deciding rule in words.

    Attributes:
        visible: False when the caller must not even learn that the thing exists (answer: 404).
        obstacle: what stands in the way of somebody to whom it is allowed otherwise.
        by: what allows it, for the log: ``scope:read``, ``role:staff@sales``, or several of them where no
            department was named.
    """

    allowed: bool
    rule: str
    visible: bool = True
    obstacle: Obstacle | None = None
    by: str = ""


def decide(
    caller: Caller,
    action: Action,
    department: str | None = None,
    *,
    class_name: str | None = None,
    is_held: bool = False,
) -> Decision:
    """Whether `caller` may do `action`, on a thing of `department` and class where it has them.

    Scope or role are judged first, so that a caller without them learns nothing from the second answer.
    """
    rule = RULES.get(action)
    if rule is None:
        return Decision(allowed=False, rule=f"no rule allows {action}")
    judge = _decide_for_person if caller.is_person else _decide_for_application
    decision = judge(caller, action, rule, department, class_name)
    if decision.allowed and is_held and rule.yields_to_hold:
        return Decision(
            allowed=False, rule="a legal hold lies on the document", obstacle=Obstacle.HOLD
        )
    return decision


_INVISIBLE: Final = Decision(
    allowed=False, visible=False, rule="documents of other departments are not visible"
)


def _decide_for_application(
    caller: Caller, action: Action, rule: Rule, department: str | None, _class_name: str | None
) -> Decision:
    used: Scope | None = None
    if rule.scopes is not None:
        used = next((scope for scope in Scope if scope in rule.scopes & caller.scopes), None)
        if used is None:
            return Decision(allowed=False, rule=_needs_scope(action, rule.scopes))
    if department is not None and not caller.works_for(department):
        return _INVISIBLE
    return _allowed(action, rule, f"the scope '{used or 'any'}'", f"scope:{used or 'any'}")


def _decide_for_person(
    caller: Caller, action: Action, rule: Rule, department: str | None, class_name: str | None
) -> Decision:
    if rule.roles is None:
        words = f"{action} is allowed to everybody who is signed in"
        return Decision(allowed=True, rule=words, by="signed-in")
    held = [h for h in caller.roles if h.role in rule.roles]
    if not held:
        return Decision(allowed=False, rule=_needs_role(action, rule.roles))
    if department is not None:
        held = [h for h in held if h.reaches(department, class_name)]
        if not held:
            if not caller.works_for(department, class_name):
                return _INVISIBLE
            return Decision(
                allowed=False, rule=f"{_needs_role(action, rule.roles)}, in this department"
            )
    if rule.needs_step_up and not caller.has_stepped_up:
        return Decision(
            allowed=False,
            rule=f"{action} needs you to prove once more who you are (step-up)",
            obstacle=Obstacle.STEP_UP,
        )
    return _allowed(action, rule, _in_words(held[0]), " ".join(map(_for_log, held)))


def _allowed(action: Action, rule: Rule, words: str, by: str) -> Decision:
    approval = ", with an approval" if rule.purposes else ""
    return Decision(allowed=True, rule=f"{action} is allowed by {words}{approval}", by=by)


def _for_log(held: HeldRole) -> str:
    return f"role:{held.role}@{held.department}" if held.department else f"role:{held.role}"


def _needs_scope(action: Action, scopes: frozenset[Scope]) -> str:
    if not scopes:
        return f"{action} is for people, and no API key allows it"
    names = " or ".join(f"'{scope}'" for scope in Scope if scope in scopes)
    return f"{action} needs an API key with the scope {names}"


def _needs_role(action: Action, roles: frozenset[Role]) -> str:
    if not roles:
        return f"{action} is for applications, and no role allows it"
    names = " or ".join(f"'{role}'" for role in Role if role in roles)
    return f"{action} needs the role {names}"


def _in_words(held: HeldRole) -> str:
    where = f" in the department '{held.department}'" if held.department else ""
    only = f" for the class '{held.class_name}'" if held.class_name else ""
    deputy = ", as a deputy" if held.deputy_of else ""
    return f"the role '{held.role}'{where}{only}{deputy}"
