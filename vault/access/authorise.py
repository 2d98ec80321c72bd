"""Turns the policy's decision into the error that the caller meets."""

from __future__ import annotations

from vault.access.policy import Action, Caller
from vault.errors import NotAllowed, NotFound


def require(
    caller: Caller, action: Action, department: str | None = None, kind: str = "document"
) -> None:
    """Return if `caller` may do `action` on a thing of `department`.

    Raises:
        NotAllowed: refused, with the rule in words.
        NotFound: refused, and not even its existence is shown.
    """
    decision = caller.may(action, department)
    if decision.allowed:
        return
    if not decision.visible:
        raise NotFound(kind)
    raise NotAllowed(decision.rule)
