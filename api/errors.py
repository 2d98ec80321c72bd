"""One table from domain error to problem (RFC 9457), and the handlers that apply it.

A problem has a stable `type` (documented in docs/problems.md), says what was wrong and what to do, carries
the request id, and never echoes input: not a name, not a value, not a key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api import metrics
from api.oidc.errors import ProviderUnavailable, SignInRefused
from keymgmt.errors import KeyManagementError, KeyServiceUnavailable
from vault import errors as vault_errors
from vault.access.credentials import CredentialRefused
from vault.objects.store import StoreError, StoreUnavailable

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 5

_log = logging.getLogger(__name__)


class NotModified(Exception):
    """The caller has these bytes already (RFC 9110 §15.4.5)."""

    def __init__(self, etag: str) -> None:
        super().__init__("not modified")
        self.etag = etag


class RangeNotSatisfiable(Exception):
    """The range begins behind the end (RFC 9110 §15.5.17)."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("the range starts behind the end of the document")
        self.size_bytes = size_bytes


class BadRequest(Exception):
    """The request is not formed as HTTP or this API ask; the message says what to do."""


class Unauthenticated(Exception):
    """No credentials, or none that are valid; one answer for all that are well-formed."""


class CrossSite(Exception):
    """A browser's cookie came with a request that may be another site's doing (CSRF)."""


class NotConfigured(Exception):
    """What is asked for is not set up; the message names the setting."""


class CredentialInUrl(Exception):
    """An API key or a token stands in the URL, which proxies, browsers and logs keep."""

    def __init__(self) -> None:
        super().__init__(
            "an API key or token stands in the URL, where logs and histories keep it: treat the key as "
            "leaked, have it revoked, and send its successor in the header 'Authorization: Bearer …'"
        )


@dataclass(frozen=True)
class Problem:
    """One line of the table.

    Attributes:
        slug: the last part of the type, ``urn:strongroom:problem:<slug>``; never changed.
    """

    status: int
    slug: str
    title: str

    @property
    def retry_later(self) -> bool:
        """Whether trying the same again may help."""
        return self.status == UNAVAILABLE


UNAVAILABLE: Final = 503

PROBLEMS: Final[Mapping[type[Exception], Problem]] = {
    BadRequest: Problem(400, "bad-request", "The request is malformed"),
    CredentialInUrl: Problem(400, "credential-in-url", "A credential stands in the URL"),
    vault_errors.InvalidPageToken: Problem(400, "invalid-page-token", "Not a token of this list"),
    Unauthenticated: Problem(401, "unauthenticated", "A valid API key or session is needed"),
    vault_errors.CredentialRevoked: Problem(
        401, "unauthenticated", "A valid API key or session is needed"
    ),
    SignInRefused: Problem(401, "sign-in-refused", "The provider's answer proves nothing"),
    vault_errors.IdentityNotLinked: Problem(403, "identity-not-linked", "Nobody here is that"),
    vault_errors.OtherIdentity: Problem(403, "other-identity", "Somebody else proved who they are"),
    vault_errors.SignInRefused: Problem(401, "sign-in-refused", "Not signed in"),
    vault_errors.EnrolmentRefused: Problem(401, "enrolment-refused", "No enrolment is open"),
    CrossSite: Problem(403, "cross-site", "The request may come from another site"),
    vault_errors.StepUpNeeded: Problem(403, "step-up-needed", "Prove again who you are"),
    vault_errors.ApprovalNeeded: Problem(403, "approval-needed", "It takes somebody's approval"),
    vault_errors.NotAllowed: Problem(403, "not-allowed", "The policy does not allow this"),
    NotConfigured: Problem(404, "not-configured", "Not set up here"),
    vault_errors.NotFound: Problem(404, "not-found", "Not found"),
    vault_errors.DocumentInBin: Problem(409, "document-in-bin", "The document is in the bin"),
    vault_errors.DocumentNotInBin: Problem(409, "not-in-bin", "The document is not in the bin"),
    vault_errors.DocumentHeld: Problem(409, "document-held", "A legal hold is in force"),
    vault_errors.AlreadyExists: Problem(409, "already-exists", "The name is taken"),
    vault_errors.TooManyKeys: Problem(409, "too-many-keys", "Two live API keys exist"),
    vault_errors.KeyVersionInUse: Problem(409, "key-version-in-use", "The key is in use"),
    vault_errors.DutiesConflict: Problem(409, "duties-conflict", "Two duties of one person"),
    vault_errors.ApprovalOver: Problem(409, "approval-over", "The approval is over"),
    vault_errors.SetupIncomplete: Problem(409, "setup-incomplete", "Nobody would carry on"),
    vault_errors.JobUnderWay: Problem(409, "job-under-way", "Such a job is under way"),
    vault_errors.JobEnded: Problem(409, "job-ended", "The job is not in this state"),
    vault_errors.OutlookWorse: Problem(409, "outlook-worse", "More would be lost than accepted"),
    vault_errors.SweepHeld: Problem(409, "sweep-held", "The sweep waits for a person"),
    vault_errors.IdempotencyInFlight: Problem(
        409, "idempotency-in-flight", "The first request is still running"
    ),
    vault_errors.PreconditionFailed: Problem(412, "precondition-failed", "Changed meanwhile"),
    vault_errors.TooLarge: Problem(413, "too-large", "The document is too large"),
    vault_errors.MediaTypeNotAllowed: Problem(
        415, "media-type-not-allowed", "The class does not take this type"
    ),
    RangeNotSatisfiable: Problem(416, "range-not-satisfiable", "The range cannot be served"),
    vault_errors.IdempotencyMismatch: Problem(
        422, "idempotency-mismatch", "The Idempotency-Key belongs to another request"
    ),
    vault_errors.UnknownClass: Problem(422, "unknown-class", "There is no such class"),
    vault_errors.InvalidName: Problem(422, "invalid-name", "The name cannot be used"),
    vault_errors.InvalidInput: Problem(422, "invalid-input", "A value cannot be used"),
    vault_errors.SignInDelayed: Problem(429, "sign-in-delayed", "Too many wrong tries"),
    vault_errors.IntegrityFailure: Problem(500, "integrity", "The stored document is damaged"),
    vault_errors.NotReplicated: Problem(UNAVAILABLE, "not-replicated", "Not confirmed yet"),
    vault_errors.Unavailable: Problem(UNAVAILABLE, "unavailable", "Try again later"),
    vault_errors.SiteFenced: Problem(UNAVAILABLE, "site-fenced", "This site was failed over"),
    vault_errors.StandbyAway: Problem(UNAVAILABLE, "standby-away", "The standby is away"),
    vault_errors.PeerAway: Problem(UNAVAILABLE, "peer-away", "The other site is away"),
    ProviderUnavailable: Problem(UNAVAILABLE, "provider-unavailable", "The provider is away"),
    StoreUnavailable: Problem(UNAVAILABLE, "store-unavailable", "The object store is away"),
    StoreError: Problem(UNAVAILABLE, "store-unavailable", "The object store cannot be used"),
    KeyServiceUnavailable: Problem(UNAVAILABLE, "keys-unavailable", "The keys are away"),
    KeyManagementError: Problem(UNAVAILABLE, "keys-unavailable", "The keys cannot be used"),
}

UNEXPECTED: Final = Problem(500, "internal", "An unexpected error")

_INTERNAL: Final = {
    StoreError: "an object store did not answer as it should; an operator sees which in the log",
    KeyManagementError: "the key service did not answer as it should; see the log of the service",
}
"""What the caller is told where the error's own words name sites, keys or versions."""


def problem_of(exc: Exception) -> Problem:
    """The line for `exc`: its own class's, or that of the nearest ancestor in the table."""
    return next(
        (PROBLEMS[ancestor] for ancestor in type(exc).__mro__ if ancestor in PROBLEMS), UNEXPECTED
    )


def answer(request: Request, exc: Exception) -> Response:
    """`exc` as a response."""
    problem = problem_of(exc)
    # Whoever comes back from a provider has its answer in their address bar.
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    if problem.retry_later:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if isinstance(exc, vault_errors.SignInDelayed):
        headers["Retry-After"] = str(exc.seconds)
    if problem.status == 401:  # noqa: PLR2004 (RFC 9110 §15.5.2: with WWW-Authenticate)
        headers["WWW-Authenticate"] = 'Bearer realm="strongroom"'
    if isinstance(exc, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{exc.size_bytes}"
    if isinstance(exc, vault_errors.IntegrityFailure):
        metrics.INTEGRITY_FAILURES.inc()
    return _response(request, problem, _detail(exc), headers)


async def answer_domain_error(request: Request, exc: Exception) -> Response:
    """Handler for every class in the table."""
    if problem_of(exc).status >= 500:  # noqa: PLR2004
        _log.error("request failed", exc_info=exc)
    return answer(request, exc)


async def answer_unexpected_error(request: Request, exc: Exception) -> Response:
    """Handler for everything else: a defect; the log has the traceback without its values."""
    _log.error("unexpected error", exc_info=exc)
    return _response(request, UNEXPECTED, "the log of the service has this request id", {})


async def answer_invalid_request(request: Request, exc: Exception) -> Response:
    """Handler for FastAPI's own validation: where, as far as the place is ours, and what."""
    assert isinstance(exc, RequestValidationError)
    places = sorted({_place(error) for error in exc.errors()})
    detail = "does not fit the API's description: " + "; ".join(places)
    problem = Problem(422, "invalid-input", "A value cannot be used")
    return _response(request, problem, detail, {})


async def answer_http_exception(request: Request, exc: Exception) -> Response:
    """Handler for the framework's own refusals: unknown path, wrong method."""
    assert isinstance(exc, HTTPException)
    slug = {404: "not-found", 405: "method-not-allowed"}.get(exc.status_code, "bad-request")
    problem = Problem(exc.status_code, slug, str(exc.detail))
    return _response(
        request, problem, "see /docs for what this API offers", dict(exc.headers or {})
    )


def answer_not_modified(_request: Request, exc: Exception) -> Response:
    """Handler for `NotModified`."""
    assert isinstance(exc, NotModified)
    return Response(status_code=304, headers={"ETag": exc.etag, "Cache-Control": "no-store"})


def _response(
    request: Request, problem: Problem, detail: str, headers: Mapping[str, str]
) -> Response:
    body: dict[str, Any] = {
        "type": f"urn:strongroom:problem:{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
    }
    return JSONResponse(body, problem.status, dict(headers), media_type=MEDIA_TYPE)


def _detail(exc: Exception) -> str:
    for family, words in _INTERNAL.items():
        if isinstance(exc, family):
            return words
    return str(exc)


def _place(error: Mapping[str, Any]) -> str:
    """Kind of place and error, never a name that the caller chose (extra fields, dict keys)."""
    location = error["loc"][0] if error["loc"] else "request"
    field = error["loc"][1] if len(error["loc"]) > 1 else None
    chosen_by_caller = error["type"] == "extra_forbidden" or not isinstance(field, str)
    return (
        f"{location}: {error['type']}"
        if chosen_by_caller
        else (f"{location}.{field}: {error['type']}")
    )


def refused_credential(exc: CredentialRefused) -> Unauthenticated:
    """One answer for all reasons but a malformed key, which is no secret."""
    if exc.reason == "malformed":
        return Unauthenticated(
            "this is neither an API key, which starts with sr_ and has four parts, nor a session's token"
        )
    return Unauthenticated(
        "this API key or session is not valid; sign in again, or ask an administrator for a new key"
    )
