"""The HTTP application: routes, problems, and the small work that goes on beside requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api import errors, metrics
from api.auth import Authenticator, describe_permissions, refuse_undeclared_routes
from api.request import RequestScope
from api.routers import (
    access,
    administration,
    approvals,
    contents,
    documents,
    health,
    keys,
    oidc,
    people,
    signin,
    sites,
)
from api.services import Services
from vault.accesslog.event import AccessEvent, EventType
from vault.errors import (
    ApprovalNeeded,
    ApprovalOver,
    DocumentHeld,
    DutiesConflict,
    NotAllowed,
    NotFound,
    SetupIncomplete,
    StepUpNeeded,
    VaultError,
)

NOTE_USE_EVERY_SECONDS: Final = 30

_ROUTED: Final = (
    *(contents, documents, administration, people, signin, oidc, approvals, access, keys, sites),
    health,
)

_DENIALS: Final = (
    *(NotAllowed, StepUpNeeded, ApprovalNeeded, NotFound),
    *(DocumentHeld, DutiesConflict, ApprovalOver, SetupIncomplete),
)
"""What a rule about people refused, which is an event."""

_log = logging.getLogger(__name__)


def create_app(services: Services) -> FastAPI:
    """The application over `services`.

    Raises:
        UndeclaredPermission: a route does not say what it needs.
    """
    app = FastAPI(
        title="Strongroom",
        summary="An encrypted document vault",
        version="0.1.0",
        lifespan=_lifespan,
        telemetry={"logs": False, "auto_configure": False},
        max_body_size=None,
    )
    app.state.services = services
    cache = services.unwrap_cache
    metrics.UNWRAP_CACHE.labels("yes").set_function(lambda: cache.hits)
    metrics.UNWRAP_CACHE.labels("no").set_function(lambda: cache.misses)
    reads = services.replicas.counts
    metrics.FAILOVER_READS.set_function(lambda: reads.failovers)
    app.state.authenticator = Authenticator(
        services.api_keys, services.sessions, services.access_log
    )
    for module in _ROUTED:
        app.include_router(describe_permissions(module.router))
    _add_handlers(app)
    refuse_undeclared_routes(app)
    app.add_middleware(RequestScope)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = app.state.services.settings.threads
    services: Services = app.state.services
    noting = asyncio.create_task(_note_use(app.state.authenticator, services))
    yield
    noting.cancel()
    with suppress(asyncio.CancelledError):
        await noting
    with suppress(VaultError):
        await to_thread.run_sync(app.state.authenticator.note_use)


async def _note_use(authenticator: Authenticator, services: Services) -> None:
    while True:
        await asyncio.sleep(NOTE_USE_EVERY_SECONDS)
        with suppress(VaultError):
            await to_thread.run_sync(authenticator.note_use)
            await to_thread.run_sync(services.seal_upkeep.forget_ended)


def _add_handlers(app: FastAPI) -> None:
    for exception in errors.PROBLEMS:
        app.add_exception_handler(exception, errors.answer_domain_error)
    for denied in _DENIALS:
        app.add_exception_handler(denied, _answer_denial)
    app.add_exception_handler(errors.NotModified, errors.answer_not_modified)
    app.add_exception_handler(RequestValidationError, errors.answer_invalid_request)
    app.add_exception_handler(HTTPException, errors.answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, errors.answer_unexpected_error)


async def _answer_denial(request: Request, exc: Exception) -> Response:
    """A denial is an event. Missing and invisible things are recorded, and answered, alike."""
    actor = getattr(request.state, "actor", None)
    if actor is not None:
        document_id = request.path_params.get("document_id")
        route = getattr(request.scope.get("route"), "path", "none")
        detail = {"route": f"{request.method} {route}", "rule": str(exc), "about": str(document_id)}
        services: Services = request.app.state.services
        event = AccessEvent(EventType.ACT_DENIED, actor, detail=detail)
        try:
            await to_thread.run_sync(services.access_log.write, event)
        except VaultError as failure:
            return errors.answer(request, failure)
    return errors.answer(request, exc)


async def _answer_nobody(_request: Request, _exc: Exception) -> Response:
    """The client left in mid-body; there is nobody to tell, and nothing was kept."""
    return Response(status_code=400)
