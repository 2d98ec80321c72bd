"""Sign-in and step-up at a provider, and which of its accounts are whose."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api import cookies
from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.errors import BadRequest, NotConfigured
from api.oidc.signin import ProviderSignIn
from api.oidcshapes import IdentityShape, NewIdentityShape, SignedInShape
from api.peopleshapes import SessionShape
from api.routers.paging import PageSize, PageToken
from api.services import Services
from api.shapes import PageShape
from vault.access.identities import NewIdentity
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["sign-in"])

SignedIn = Annotated[Actor, allowed_to(Action.SESSION_OWN)]
IdentityLinker = Annotated[Actor, allowed_to(Action.CREDENTIALS_RESET)]
IdentityLister = Annotated[Actor, allowed_to(Action.PRINCIPAL_LIST)]
IdentityRevoker = Annotated[Actor, allowed_to(Action.PRINCIPAL_MANAGE)]

_FOR_THE_BROWSER_ONLY: Final = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


@router.get("/oidc/sign-in", status_code=302, response_class=RedirectResponse)
def sign_in(request: Request, services: ServicesOf) -> Response:
    """Leave for the provider; the browser comes back to the callback."""
    return _leave(request, _provider(services), None)


@router.get("/oidc/step-up", status_code=302, response_class=RedirectResponse)
def step_up(request: Request, services: ServicesOf, actor: SignedIn) -> Response:
    """Leave for the provider to prove anew who one is, for this session."""
    return _leave(request, _provider(services), actor.caller.session_id)


@router.get("/oidc/callback")
def come_back(request: Request, response: Response, services: ServicesOf) -> SignedInShape:
    """Where the provider sends the browser back to: its session begins, or is stepped up."""
    provider = _provider(services)
    given = request.query_params.multi_items()
    params = dict(given)
    if len(params) != len(given):
        raise BadRequest("a parameter of the provider's answer stands there twice; sign in anew")
    request_id: str = request.state.request_id
    begun = provider.finish(params, cookies.sign_in_secret(request) or "", request_id)
    came_with = cookies.session_token(request)
    if came_with is not None:
        # Whoever gave the browser that session, it is not to go on under it.
        services.sessions.end(came_with)
    response.headers.update(_FOR_THE_BROWSER_ONLY)
    cookies.set_session(request, response, begun.token)
    cookies.forget_sign_in_secret(request, response)
    return SignedInShape(session=SessionShape.of(begun.session))


@router.get("/people/{principal_id}/identities")
def list_identities(
    services: ServicesOf,
    actor: IdentityLister,
    principal_id: UUID,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[IdentityShape]:
    """Accounts at the provider that are linked to a person, newest first, revoked ones too."""
    page = services.identities.list(actor, PageRequest(page_size, page_token), principal_id)
    return PageShape[IdentityShape].of(page, IdentityShape.of)


@router.post("/people/{principal_id}/identities", status_code=201)
def link_identity(
    services: ServicesOf, actor: IdentityLinker, principal_id: UUID, given: NewIdentityShape
) -> IdentityShape:
    """Let whoever holds an account at the provider sign in as a person."""
    new = NewIdentity(given.issuer, given.subject)
    return IdentityShape.of(services.identities.link(actor, principal_id, new))


@router.post("/identities/{identity_id}/revoke")
def revoke_identity(
    services: ServicesOf, actor: IdentityRevoker, identity_id: UUID
) -> IdentityShape:
    """Let an account at the provider sign in no more; its person's sessions end."""
    return IdentityShape.of(services.identities.revoke(actor, identity_id))


def _leave(request: Request, provider: ProviderSignIn, session_id: UUID | None) -> Response:
    response = RedirectResponse("", 302, headers=_FOR_THE_BROWSER_ONLY)
    browser = cookies.set_sign_in_secret(request, response)
    # Not quoted anew, as the class would: it is an address already.
    response.headers["Location"] = provider.begin(browser, session_id)
    return response


def _provider(services: Services) -> ProviderSignIn:
    if services.provider_sign_in is None:
        raise NotConfigured(
            "nobody signs in at a provider here; to change that, set STRONGROOM_OIDC__ISSUER, __CLIENT_ID, "
            "__CLIENT_SECRET and __REDIRECT_URL, and start the service again"
        )
    return services.provider_sign_in
