"""Who may do what, decided in one pure function; no rows, no clock, no network.

Default deny: what no line of the table allows is refused. The rule that decided is returned in
words, because a refusal that cannot be explained cannot be corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

EVERY_DEPARTMENT: Final = "*"


class Scope(StrEnum):
    """What an API key may be used for. None of them implies another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    EXPORT_KEYS = "export-keys"


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
    PRINCIPAL_MANAGE = "principal.manage"
    API_KEY_MANAGE = "api-key.manage"
    API_KEY_ROTATE_OWN = "api-key.rotate-own"
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
    JOB_LIST = "job.list"
    JOB_STOP = "job.stop"
    ACCESS_EXPLAIN = "access.explain"
    FINDING_LIST = "finding.list"


@dataclass(frozen=True)
class Caller:
    """An authenticated principal, seen through the API key it used.

    Attributes:
        scopes: what both the principal and the key allow.
        department: the one it works for, `EVERY_DEPARTMENT`, or None for none.
    """

    principal_id: UUID
    name: str
    api_key_id: str
    scopes: frozenset[Scope]
    department: str | None

    @property
    def narrowed_to(self) -> str | None:
        """The one department whose documents a list shows; None: it shows those of all."""
        return None if self.department == EVERY_DEPARTMENT else self.department

    def may(self, action: Action, department: str | None = None) -> Decision:
        """As `decide`. Flows ask here, so that a double shows what holds without this answer."""
        return decide(self, action, department)

    def works_for(self, department: str) -> bool:
        """Whether documents of `department` exist for this caller at all."""
        return self.department in (EVERY_DEPARTMENT, department)


@dataclass(frozen=True)
class Decision:
    """What the policy says, and the deciding rule in words.

    Attributes:
        visible: False when the caller must not even learn that the thing exists (answer: 404).
    """

    allowed: bool
    rule: str
    visible: bool = True


_SCOPE_OF: Final[dict[Action, Scope | None]] = {
    Action.DOCUMENT_CREATE: Scope.WRITE,
    Action.DOCUMENT_READ: Scope.READ,
    Action.DOCUMENT_LIST: Scope.READ,
    Action.DOCUMENT_UPDATE: Scope.WRITE,
    Action.DOCUMENT_MOVE: Scope.WRITE,
    Action.DOCUMENT_BIN: Scope.WRITE,
    Action.CLASS_LIST: None,
    Action.CLASS_ADD: Scope.ADMIN,
    Action.HOLD_PLACE: Scope.ADMIN,
    Action.HOLD_RELEASE: Scope.ADMIN,
    Action.HOLD_LIST: Scope.ADMIN,
    Action.PRINCIPAL_MANAGE: Scope.ADMIN,
    Action.API_KEY_MANAGE: Scope.ADMIN,
    Action.API_KEY_ROTATE_OWN: None,
    Action.KEY_LIST: Scope.ADMIN,
    Action.KEY_ROTATE: Scope.ADMIN,
    Action.KEY_REWRAP: Scope.ADMIN,
    Action.KEY_RETIRE: Scope.ADMIN,
    Action.KEY_SHRED: Scope.ADMIN,
    Action.KEY_DRILL: Scope.ADMIN,
    Action.KEY_EXPORT: Scope.EXPORT_KEYS,
    Action.KEY_REGISTER_RECOVERY: Scope.ADMIN,
    Action.SITE_LIST: Scope.ADMIN,
    Action.SITE_MANAGE: Scope.ADMIN,
    Action.JOB_LIST: Scope.ADMIN,
    Action.JOB_STOP: Scope.ADMIN,
    Action.ACCESS_EXPLAIN: Scope.ADMIN,
    Action.FINDING_LIST: Scope.ADMIN,
}
"""The scope each action needs; None: any valid key will do."""


def decide(caller: Caller, action: Action, department: str | None = None) -> Decision:
    """Whether `caller` may do `action`, on a thing of `department` where it has one.

    The scope is judged first, so that a caller without it learns nothing from the second answer.
    """
    needed = _SCOPE_OF.get(action)
    if action not in _SCOPE_OF:
        return Decision(allowed=False, rule=f"no rule allows {action}")
    if needed is not None and needed not in caller.scopes:
        return Decision(allowed=False, rule=f"{action} needs an API key with the scope '{needed}'")
    if department is not None and not caller.works_for(department):
        return Decision(
            allowed=False, visible=False, rule="documents of other departments are not visible"
        )
    return Decision(allowed=True, rule=f"{action} is allowed by the scope '{needed or 'any'}'")
