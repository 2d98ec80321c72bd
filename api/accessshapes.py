"""What JSON goes in and out of /v1/access."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from api.shapes import Fields, Given
from vault.access.conflicts import ConflictKind
from vault.access.findings import Finding, FindingKind, FoundBy
from vault.access.policy import Action


class ExplainShape(Given):
    """An act to explain. `who`: a principal's id or name, or an API key's id. `what`: a department or a
    document's id; `department` says the first only.
    """

    who: Annotated[str, Field(min_length=1, max_length=64)]
    action: Action
    what: Annotated[str | None, Field(max_length=64)] = None
    department: Annotated[str | None, Field(max_length=64)] = None


class ExplanationShape(Fields):
    """What the policy says. `visible`: false where the answer would be that the thing does not exist."""

    allowed: bool
    rule: str
    visible: bool
    principal_id: UUID
    principal: str
    api_key_id: str | None
    action: Action
    department: str | None


class ConflictShape(Fields):
    """What no constraint forbids. `principals`: whom it is about; `words`: what is wrong, and what to do."""

    kind: ConflictKind
    principals: list[UUID]
    person_id: UUID | None
    department: str | None
    words: str


class FindingShape(Fields):
    """A row that does not bear its seal; `state_sha256` tells states of one row apart."""

    id: UUID
    at: datetime
    kind: FindingKind
    subject: str
    subject_id: str
    state_sha256: str
    found_by: FoundBy

    @classmethod
    def found(cls, finding: Finding) -> Self:
        """The shape of a finding."""
        return cls(
            id=finding.id,
            at=finding.at,
            kind=finding.kind,
            subject=finding.subject,
            subject_id=finding.subject_id,
            state_sha256=finding.state_sha256.hex(),
            found_by=finding.found_by,
        )
