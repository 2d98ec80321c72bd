"""/v1/approvals and /v1/grants: what one person asks for and another decides."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from api.approvalshapes import ApprovalShape, DecisionShape, GrantShape, NewApprovalShape
from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.routers.paging import PageSize, PageToken
from api.shapes import PageShape
from vault.access.approvals import ApprovalState
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["approvals"])

Requester = Annotated[Actor, allowed_to(Action.APPROVAL_REQUEST)]
Lister = Annotated[Actor, allowed_to(Action.APPROVAL_LIST)]
Decider = Annotated[Actor, allowed_to(Action.APPROVAL_DECIDE)]
GrantLister = Annotated[Actor, allowed_to(Action.GRANT_LIST)]


@router.get("/approvals")
def list_approvals(
    services: ServicesOf,
    actor: Lister,
    state: ApprovalState | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[ApprovalShape]:
    """Approvals that the caller asked for, may decide or oversees, newest first."""
    page = services.approvals.list(actor, PageRequest(page_size, page_token), state)
    return PageShape[ApprovalShape].of(page, ApprovalShape.of)


@router.post("/approvals", status_code=201)
def request_approval(
    services: ServicesOf, actor: Requester, given: NewApprovalShape
) -> ApprovalShape:
    """Ask for an approval of an act that takes one."""
    return ApprovalShape.of(services.approvals.request(actor, given.to_domain()))


@router.get("/approvals/{approval_id}")
def view_approval(services: ServicesOf, actor: Lister, approval_id: UUID) -> ApprovalShape:
    """One approval."""
    return ApprovalShape.of(services.approvals.view(actor, approval_id))


@router.post("/approvals/{approval_id}/approve")
def approve(
    services: ServicesOf, actor: Decider, approval_id: UUID, given: DecisionShape
) -> ApprovalShape:
    """Approve a request of somebody else; it gives them a grant."""
    return ApprovalShape.of(
        services.approvals.decide(actor, approval_id, approved=True, comment=given.comment)
    )


@router.post("/approvals/{approval_id}/deny")
def deny(
    services: ServicesOf, actor: Decider, approval_id: UUID, given: DecisionShape
) -> ApprovalShape:
    """Deny a request of somebody else."""
    return ApprovalShape.of(
        services.approvals.decide(actor, approval_id, approved=False, comment=given.comment)
    )


@router.post("/approvals/{approval_id}/withdraw")
def withdraw(services: ServicesOf, actor: Requester, approval_id: UUID) -> ApprovalShape:
    """Take a request of one's own back."""
    return ApprovalShape.of(services.approvals.withdraw(actor, approval_id))


@router.get("/grants")
def list_grants(
    services: ServicesOf,
    actor: GrantLister,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[GrantShape]:
    """Grants that the caller has, could have decided or oversees, newest first."""
    page = services.grants.list(actor, PageRequest(page_size, page_token))
    return PageShape[GrantShape].of(page, GrantShape.of)


@router.post("/grants/{grant_id}/revoke")
def revoke_grant(services: ServicesOf, actor: GrantLister, grant_id: UUID) -> GrantShape:
    """End a grant, from now on; for whom it was given to, and who could have decided."""
    return GrantShape.of(services.grants.revoke(actor, grant_id))
