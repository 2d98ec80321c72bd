"""Who calls, by API key or session, and that every route says what it needs.

A route takes its `Actor` through `allowed_to(Action…)`, so its signature reads as its permission. A route
that does not, and is not in `PUBLIC`, stops the start-up.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from api import metrics
from api.cookies import session_token
from api.errors import CrossSite, Unauthenticated, refused_credential
from vault import clock
from vault.access.api_keys import ApiKeys
from vault.access.authorise import require
from vault.access.credentials import CredentialRefused
from vault.access.policy import Action, Caller
from vault.access.sessions import Sessions
from vault.access.tokens import is_session_token
from vault.accesslog.event import AccessEvent, Actor, EventType
from vault.accesslog.writer import AccessLog

PUBLIC: Final = frozenset(
    {
        *("/healthz", "/readyz", "/metrics", "/v1/keys/public"),
        *("/v1/sessions/password", "/v1/enrolment", "/v1/enrolment/confirm"),
        *("/v1/oidc/sign-in", "/v1/oidc/callback"),
        *("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"),
    }
)
"""Paths that show nothing of any document and need no key: what is up, and how people sign in."""

TTL_SECONDS: Final = 5.0
"""How long a recognised key is not looked up again. A revoked one is dead at once all the same: every act
is recorded on condition that its key is live (`vault.accesslog.event`). Sessions are looked up each time:
what their roles allow is not in the event's condition."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

CACHE_SIZE: Final = 10_000

_log = logging.getLogger(__name__)


class UndeclaredPermission(Exception):
    """A route names no permission; the service must not start."""


class Authenticator:
    """Recognises API keys, remembering each for `TTL_SECONDS`."""

    def __init__(self, api_keys: ApiKeys, sessions: Sessions, log: AccessLog) -> None:
        self._api_keys = api_keys
        self._sessions = sessions
        self._log = log
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._last_used: dict[str, datetime] = {}

    async def caller(self, request: Request) -> Caller:
        """Who sends this request. Raises: Unauthenticated, DatabaseUnavailable."""
        text = _bearer(request) or _cookie(request)
        if not text:
            metrics.REFUSED_CREDENTIALS.labels("missing").inc()
            raise Unauthenticated("send the header 'Authorization: Bearer <api key>', or sign in")
        digest = hashlib.sha256(text.encode()).digest()
        caller = self._remembered(digest)
        if caller is None:
            caller = await to_thread.run_sync(self._look_up, text, digest)
        if caller.api_key_id is not None:
            self._last_used[caller.api_key_id] = clock.now()
        return caller

    def note_use(self) -> None:
        """Write when keys were last used. Raises: DatabaseUnavailable."""
        used, self._last_used = self._last_used, {}
        self._api_keys.note_use(used)

    def _remembered(self, digest: bytes) -> Caller | None:
        caller, until = self._known.get(digest, (None, 0.0))
        return caller if time.monotonic() < until else None

    def _look_up(self, text: str, digest: bytes) -> Caller:
        try:
            caller = self._recognise(text)
        except CredentialRefused as exc:
            metrics.REFUSED_CREDENTIALS.labels(exc.reason).inc()
            if exc.token_id is not None:
                detail = {"reason": exc.reason, "credential": exc.token_id}
                self._log.write(AccessEvent(EventType.CREDENTIAL_REFUSED, None, detail=detail))
            raise refused_credential(exc) from exc
        if not caller.is_person:
            self._remember(digest, caller)
        return caller

    def _recognise(self, text: str) -> Caller:
        known_by = self._sessions if is_session_token(text) else self._api_keys
        return known_by.authenticate(text)

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._known[digest] = (caller, time.monotonic() + TTL_SECONDS)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)


def _bearer(request: Request) -> str | None:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    return text if scheme.lower() == "bearer" else None


def _cookie(request: Request) -> str | None:
    """The session of a browser. Raises: CrossSite: the request may come from another site's page."""
    text = session_token(request)
    if text and request.method not in SAFE_METHODS:
        refuse_cross_site(request)
    return text


def came_by_cookie(request: Request) -> bool:
    """Whether an authenticated request is a browser's, so that a new token goes into its cookie."""
    return not _bearer(request)


def refuse_cross_site(request: Request) -> None:
    """Return if a browser says that this request comes from a page of this very service.

    Browsers send `Origin` with every request that changes something (Fetch standard §3.2), and no page can
    make them lie. A cookie alone proves nothing: any page can have a browser send it.

    Raises: CrossSite.
    """
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if origin != own:
        raise CrossSite("a signed-in browser sends the header 'Origin' of this service's own pages")


class _Permission:
    """The dependency behind `allowed_to`: authenticates, then asks the policy for scope or role."""

    def __init__(self, action: Action) -> None:
        self.action = action

    async def __call__(self, request: Request) -> Actor:
        authenticator: Authenticator = request.app.state.authenticator
        caller = await authenticator.caller(request)
        actor = Actor(caller, request.state.request_id)
        request.state.actor = actor
        decision = require(caller, self.action)
        return replace(actor, by=decision.by)


def allowed_to(action: Action) -> Any:
    """For a route's signature: ``actor: Annotated[Actor, allowed_to(Action.X)]``."""
    return Depends(_Permission(action))


def describe_permissions(router: APIRouter) -> APIRouter:
    """Write each route's permission into its OpenAPI entry; call it before including the router."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            actions = [found.action.value for found in _permissions(route.dependant)]
            extra = {"x-required-permission": actions[0]} if actions else {}
            route.openapi_extra = {**(route.openapi_extra or {}), **extra}
    return router


def refuse_undeclared_routes(app: FastAPI) -> None:
    """Return if every route that is not public names exactly one permission.

    Raises:
        UndeclaredPermission: one does not; the service must not start.
    """
    for context in iter_route_contexts(app.routes):
        if context.path in PUBLIC:
            continue
        route = context.original_route
        found = list(_permissions(route.dependant)) if isinstance(route, APIRoute) else []
        if len(found) != 1:
            raise UndeclaredPermission(f"{context.path} declares {len(found)} permissions")


def _permissions(dependant: Dependant) -> Iterator[_Permission]:
    if isinstance(dependant.call, _Permission):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _permissions(inner)
