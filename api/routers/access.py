"""/v1/access: who may do what, and what was found wrong with authority itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from api.accessshapes import ConflictShape, ExplainShape, ExplanationShape, FindingShape
from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.routers.paging import PageSize, PageToken
from api.shapes import PageShape
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.model import Page
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["access"])

Explainer = Annotated[Actor, allowed_to(Action.ACCESS_EXPLAIN)]
ConflictLister = Annotated[Actor, allowed_to(Action.CONFLICT_LIST)]
FindingLister = Annotated[Actor, allowed_to(Action.FINDING_LIST)]


@router.post("/access/explain")
def explain(services: ServicesOf, actor: Explainer, asked: ExplainShape) -> ExplanationShape:
    """What the policy would decide, and the rule in words; nothing is done. In the body: URLs get logged."""
    what = asked.what or asked.department
    found = services.explanations.explain(actor, asked.who, asked.action, what)
    return ExplanationShape.of(found)


@router.get("/access/findings")
def list_findings(
    services: ServicesOf,
    actor: FindingLister,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[FindingShape]:
    """Principals and API keys that were written behind the service's back, newest first."""
    page = services.findings.list(actor, PageRequest(page_size, page_token))
    return PageShape[FindingShape].of(page, FindingShape.found)


@router.get("/access/conflicts")
def list_conflicts(services: ServicesOf, actor: ConflictLister) -> PageShape[ConflictShape]:
    """What no constraint forbids and somebody had better know; always a single page."""
    found = tuple(services.conflicts.list(actor))
    return PageShape[ConflictShape].of(Page(found, None), ConflictShape.of)
