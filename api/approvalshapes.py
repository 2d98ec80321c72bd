"""What JSON goes in and out about approvals and grants."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import Field

from api.shapes import Fields, Given
from vault.access.approvals import ApprovalState, NewApproval
from vault.access.policy import Action, Purpose

Part = Annotated[str, Field(max_length=128)]


class NewApprovalShape(Given):
    """What somebody asks for. `lasts_minutes`: from the decision on."""

    action: Action
    target: Annotated[dict[Part, Part], Field(max_length=8)]
    purpose: Purpose
    reason: str
    ticket: str | None = None
    uses: Annotated[int, Field(ge=1, le=100)] = 1
    lasts_minutes: Annotated[int, Field(ge=1, le=43_200)] = 480

    def to_domain(self) -> NewApproval:
        """Raises: InvalidValue."""
        return NewApproval(
            action=self.action,
            target=self.target,
            purpose=self.purpose,
            reason=self.reason,
            ticket=self.ticket,
            uses=self.uses,
            lasts=timedelta(minutes=self.lasts_minutes),
        )


class DecisionShape(Given):
    """Why it was decided so."""

    comment: str | None = None


class ApprovalShape(Fields):
    """An approval. `department`: owns the target; null: the vault. `grant_id`: what it gave."""

    id: UUID
    action: Action
    target: dict[str, str]
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


class GrantShape(Fields):
    """A grant. `remaining`: how many uses are left."""

    id: UUID
    approval_id: UUID
    principal_id: UUID
    action: Action
    target: dict[str, str]
    department: str | None
    granted_at: datetime
    expires_at: datetime
    max_uses: int
    remaining: int
    revoked_at: datetime | None
