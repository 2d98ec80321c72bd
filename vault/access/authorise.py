"""Turns the policy's decision into the error that the caller meets."""

from __future__ import annotations

from vault.access.policy import Action, Caller, Decision, Obstacle
from vault.errors import DocumentHeld, NotAllowed, NotFound, StepUpNeeded


def require(
    caller: Caller,
    action: Action,
    department: str | None = None,
    kind: str = "document",
    *,
    class_name: str | None = None,
    is_held: bool = False,
) -> Decision:
    """The policy's decision, if `caller` may do `action` on a thing of `department` and class.

    Raises:
        NotAllowed: refused, with the rule in words.
        StepUpNeeded: it is allowed to them, once they have proved again who they are.
        DocumentHeld: a legal hold stops it.
        NotFound: refused, and not even its existence is shown.
    """
    decision = caller.may(action, department, class_name=class_name, is_held=is_held)
    if decision.allowed:
        return decision
    if decision.obstacle is Obstacle.HOLD:
        raise DocumentHeld
    if not decision.visible:
        raise NotFound(kind)
    raise StepUpNeeded(decision.rule) if decision.obstacle else NotAllowed(decision.rule)
