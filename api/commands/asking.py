"""Acts that take somebody else's approval: done, or asked for on the spot.

    act ── 403 approval-needed ──┬── with --ask REASON: the request, for the target that the act names
                                 └── without: the refusal, and the command that asks

Either way it is not done, and the command exits 1: no script takes a request for the act. Once somebody
else has approved it, the same command does it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn

import typer

from api.client import Client, Refused
from api.commands.output import FOUND_WRONG, connected, show, tell, utc
from vault.access.policy import RULES, Action, Purpose

Ask = Annotated[
    str | None,
    typer.Option("--ask", metavar="REASON", help="if it takes an approval, ask for it; exits 1"),
]
For = Annotated[
    Purpose | None, typer.Option("--purpose", help="of the approval that --ask asks for")
]

_NEEDED: Final = "urn:strongroom:problem:approval-needed"


@dataclass(frozen=True)
class Act:
    """What an approval would be for.

    Attributes:
        target: as the act names it to the service: a grant for another target does not count.
        purpose: None: the only one there is.
    """

    action: Action
    target: Mapping[str, str]
    purpose: Purpose | None = None

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """Those that an approval for it may have, or the one that was said."""
        if self.purpose is not None:
            return (self.purpose,)
        return tuple(each for each in Purpose if each in RULES[self.action].purposes)

    def request(self, reason: str) -> dict[str, Any]:
        """The body that asks for it."""
        (purpose,) = self.purposes
        return {
            "action": self.action.value,
            "target": dict(self.target),
            "purpose": purpose.value,
            "reason": reason,
        }

    def command(self) -> str:
        """The command that asks for it, but for what only a person can say."""
        words = ["strongroom", "approval", "request", self.action.value]
        for name, value in self.target.items():
            words += ["--target", f"{name}={value}"]
        words += ["--purpose", "|".join(self.purposes), "--reason", "REASON"]
        return shlex.join(words)


@contextmanager
def asking(context: typer.Context, as_json: bool, act: Act, reason: str | None) -> Iterator[Client]:
    """As `connected`, for a block that does `act`; if that takes an approval, ask or say how.

    Args:
        reason: of `--ask`; None: it was not said.

    Raises:
        typer.BadParameter: to ask, a purpose has to be chosen; nothing was done.
    """
    if reason is not None and len(act.purposes) > 1:
        names = ", ".join(act.purposes)
        raise typer.BadParameter(f"--ask takes a --purpose: one of {names}")
    is_needed = False
    try:
        with connected(context, as_json) as client:
            try:
                yield client
            except Refused as exc:
                is_needed = exc.problem.get("type") == _NEEDED
                if not is_needed or reason is None:
                    raise
                _ask(context, client, act.request(reason))
    except typer.Exit:
        if is_needed and reason is None:
            tell(f"to ask for it: {act.command()}")
        raise


def _ask(context: typer.Context, client: Client, request: dict[str, Any]) -> NoReturn:
    """Make the request, and leave: the act is not done."""
    made = client.call("POST", "/v1/approvals", json=request)
    show(context, made)
    tell(
        f"not done yet: somebody else decides before {utc(made['decide_before'])}, with `strongroom "
        f"approval approve {made['id']}`; run the same command again afterwards"
    )
    raise typer.Exit(FOUND_WRONG)
