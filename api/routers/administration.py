"""Classes, holds, principals and API keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.routers.paging import PageSize, PageToken
from api.shapes import (
    ClassShape,
    HoldShape,
    IssuedKeyShape,
    KeyShape,
    NewClassShape,
    NewHoldShape,
    NewKeyShape,
    NewPrincipalShape,
    PageShape,
    PrincipalShape,
    RotateKeyShape,
)
from vault.access.policy import Action
from vault.access.principals import NewPrincipal, PrincipalKind
from vault.accesslog.event import Actor
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["administration"])

ClassLister = Annotated[Actor, allowed_to(Action.CLASS_LIST)]
ClassAdder = Annotated[Actor, allowed_to(Action.CLASS_ADD)]
HoldPlacer = Annotated[Actor, allowed_to(Action.HOLD_PLACE)]
HoldReleaser = Annotated[Actor, allowed_to(Action.HOLD_RELEASE)]
HoldLister = Annotated[Actor, allowed_to(Action.HOLD_LIST)]
PrincipalLister = Annotated[Actor, allowed_to(Action.PRINCIPAL_LIST)]
KeyLister = Annotated[Actor, allowed_to(Action.API_KEY_LIST)]
PrincipalManager = Annotated[Actor, allowed_to(Action.PRINCIPAL_MANAGE)]
KeyIssuer = Annotated[Actor, allowed_to(Action.API_KEY_ISSUE)]
KeyManager = Annotated[Actor, allowed_to(Action.API_KEY_MANAGE)]
KeyHolder = Annotated[Actor, allowed_to(Action.API_KEY_ROTATE_OWN)]


@router.get("/classes")
def list_classes(
    services: ServicesOf,
    _actor: ClassLister,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[ClassShape]:
    """Classes and their rules, newest first."""
    page = services.classes.list(PageRequest(page_size, page_token))
    return PageShape[ClassShape].of(page, ClassShape.of)


@router.get("/classes/{name}")
def view_class(services: ServicesOf, _actor: ClassLister, name: str) -> ClassShape:
    """One class."""
    return ClassShape.of(services.classes.get(name))


@router.post("/classes", status_code=201)
def add_class(services: ServicesOf, actor: ClassAdder, given: NewClassShape) -> ClassShape:
    """Add a class; it cannot be edited afterwards."""
    return ClassShape.of(services.classes.add(actor, given.to_domain()))


@router.get("/holds")
def list_holds(
    services: ServicesOf,
    actor: HoldLister,
    document_id: UUID | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[HoldShape]:
    """Legal holds, newest first, released ones too."""
    page = services.holds.list(actor, PageRequest(page_size, page_token), document_id)
    return PageShape[HoldShape].of(page, HoldShape.of)


@router.post("/holds", status_code=201)
def place_hold(services: ServicesOf, actor: HoldPlacer, given: NewHoldShape) -> HoldShape:
    """Put a legal hold on a document."""
    return HoldShape.of(services.holds.place(actor, given.document_id, given.reason))


@router.post("/holds/{hold_id}/release")
def release_hold(services: ServicesOf, actor: HoldReleaser, hold_id: UUID) -> HoldShape:
    """End a legal hold."""
    return HoldShape.of(services.holds.release(actor, hold_id))


@router.get("/principals")
def list_principals(
    services: ServicesOf,
    actor: PrincipalLister,
    kind: PrincipalKind | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[PrincipalShape]:
    """Principals, newest first."""
    page = services.principals.list(actor, PageRequest(page_size, page_token), kind)
    return PageShape[PrincipalShape].of(page, PrincipalShape.of)


@router.post("/principals", status_code=201)
def add_principal(
    services: ServicesOf, actor: PrincipalManager, given: NewPrincipalShape
) -> PrincipalShape:
    """Add an application."""
    new = NewPrincipal(given.name, given.scopes, given.department, given.responsible)
    return PrincipalShape.of(services.principals.add(actor, new))


@router.post("/principals/{principal_id}/disable")
def disable_principal(
    services: ServicesOf, actor: PrincipalManager, principal_id: UUID
) -> PrincipalShape:
    """Stop a principal and all its keys, for good."""
    return PrincipalShape.of(services.principals.disable(actor, principal_id))


@router.get("/api-keys")
def list_keys(
    services: ServicesOf,
    actor: KeyLister,
    principal_id: UUID | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[KeyShape]:
    """API keys without their secrets, newest first."""
    page = services.api_keys.list(actor, PageRequest(page_size, page_token), principal_id)
    return PageShape[KeyShape].of(page, KeyShape.of)


@router.post("/api-keys", status_code=201)
def issue_key(services: ServicesOf, actor: KeyIssuer, given: NewKeyShape) -> IssuedKeyShape:
    """Issue a key; its token is shown this once."""
    issued = services.api_keys.issue(
        actor, given.principal_id, scopes=given.scopes, lifetime=_days(given.lifetime_days)
    )
    return IssuedKeyShape.of_issued(issued)


@router.post("/api-keys/rotate", status_code=201)
def rotate_own_key(services: ServicesOf, actor: KeyHolder, given: RotateKeyShape) -> IssuedKeyShape:
    """Issue a successor for the key that this request is sent with; revoke the old one afterwards."""
    return IssuedKeyShape.of_issued(
        services.api_keys.rotate(actor, lifetime=_days(given.lifetime_days))
    )


@router.post("/api-keys/{api_key_id}/revoke")
def revoke_key(services: ServicesOf, actor: KeyManager, api_key_id: str) -> KeyShape:
    """Stop a key, from now on and for good."""
    return KeyShape.of(services.api_keys.revoke(actor, api_key_id))


def _days(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(days=count)
