"""For whom a transaction acts, as PostgreSQL's row-level security is told: the second wall.

The first wall is the policy (`vault.access`), which a flow asks. The second stands in the database
(`migrations/versions/0005_row_security.py`): whatever a flow forgets to ask, a transaction sees and changes
only the rows that its context opens; one without a context sees none of any department. What the context says
comes from the caller's own row, never from what a decision of the policy was.

It stops forgotten filters, not injected SQL: whoever can run SQL as the service can also set the context.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self
from uuid import UUID

from vault.access.policy import EVERY_DEPARTMENT, Caller

_QUOTABLE: Final = re.compile(r"[^'\\%\0]*")
"""What stands in quotes as itself, whatever the server's settings; every name of a department does, and none
holds a comma (vault.names.label)."""


@dataclass(frozen=True)
class Context:
    """What a transaction may see and change.

    Attributes:
        kind: `caller`, or `service` for the tables that only the service itself works on; None: only
            what belongs to no department.
        departments: departments with commas between them, `EVERY_DEPARTMENT`, or None for none.
        principal_id: whose idempotency keys these are.
        new_document_id: of a document that this transaction makes. Within one statement PostgreSQL does
            not see yet to which department it belongs.
    """

    kind: str | None = None
    departments: str | None = None
    principal_id: UUID | None = None
    new_document_id: UUID | None = None

    def creating(self, document_id: UUID) -> Self:
        """The same, for the statement that makes this document."""
        return replace(self, new_document_id=document_id)

    @cached_property
    def statement(self) -> str:
        """What sets it, put before a transaction's first statement: no round trip of its own.

        All of it is set each time, so that nothing that a session was made to keep shines through. It ends
        with the transaction.

        Raises:
            ValueError: a department that is none.
        """
        if self.kind is None:
            return ""
        settings = {
            "context": self.kind,
            "departments": self.departments,
            "principal": self.principal_id,
            "new_document": self.new_document_id,
        }
        return f"SELECT {', '.join(_setting(name, value) for name, value in settings.items())}; "


def _setting(name: str, value: object) -> str:
    text = "" if value is None else str(value)
    if not _QUOTABLE.fullmatch(text):
        raise ValueError(f"this cannot be the {name} of a context")
    return f"set_config('strongroom.{name}', '{text}', true)"


NOBODY: Final = Context()
"""For what belongs to no department: recognising a caller, classes, upload rows, writing single events."""

SERVICE: Final = Context("service", EVERY_DEPARTMENT)
"""For the service's own work on everybody's rows: worker, sweep, purge, keys, sites, recovery."""


def as_caller(caller: Caller, *, everywhere: bool = False) -> Context:
    """For what somebody asked for.

    Args:
        everywhere: a right of theirs reaches into every department, whichever they work for.
    """
    departments = EVERY_DEPARTMENT if everywhere else ",".join(caller.departments) or None
    return Context("caller", departments, caller.principal_id)
