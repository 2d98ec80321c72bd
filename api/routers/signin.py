"""Signing in, stepping up, changing one's password, and enrolment.

All of it is plain `def`: checking a password takes a tenth of a second of a processor.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request, Response

from api import cookies
from api.auth import allowed_to, came_by_cookie, refuse_cross_site
from api.dependencies import ServicesOf
from api.signinshapes import (
    AppSecretShape,
    BegunSessionShape,
    ConfirmationShape,
    EnrolmentShape,
    IssuedEnrolmentShape,
    NewPasswordShape,
    RecoveryCodesShape,
    SignInShape,
    StepUpShape,
)
from vault import clock
from vault.access.policy import Action
from vault.access.sessions import BegunSession
from vault.accesslog.event import Actor

router = APIRouter(prefix="/v1", tags=["signing in"])

CredentialsResetter = Annotated[Actor, allowed_to(Action.CREDENTIALS_RESET)]
SignedIn = Annotated[Actor, allowed_to(Action.SESSION_OWN)]


@router.post("/sessions/password", status_code=201)
def sign_in(
    services: ServicesOf, request: Request, response: Response, given: SignInShape
) -> BegunSessionShape:
    """Begin a session with name, password and code. A session in the browser's cookie ends with it."""
    if given.as_cookie:
        refuse_cross_site(request)
    begun = services.sign_in.by_password(
        given.name,
        given.shown(),
        at=clock.now(),
        request_id=request.state.request_id,
        replaces=cookies.session_token(request) if given.as_cookie else None,
    )
    return _answer(request, response, begun, as_cookie=given.as_cookie)


@router.post("/sessions/step-up")
def step_up(
    services: ServicesOf, actor: SignedIn, request: Request, response: Response, given: StepUpShape
) -> BegunSessionShape:
    """Prove once more who you are; the session goes on under a new token."""
    begun = services.sign_in.step_up(actor, given.shown(), at=clock.now())
    return _answer(request, response, begun, as_cookie=came_by_cookie(request))


@router.post("/me/password")
def change_password(
    services: ServicesOf,
    actor: SignedIn,
    request: Request,
    response: Response,
    given: NewPasswordShape,
) -> BegunSessionShape:
    """Change your password; all your sessions end, and a fresh one begins."""
    new = given.new.get_secret_value()
    begun = services.sign_in.change_password(actor, given.shown(), new, at=clock.now())
    return _answer(request, response, begun, as_cookie=came_by_cookie(request))


@router.post("/people/{principal_id}/enrolment", status_code=201)
def issue_enrolment(
    services: ServicesOf, actor: CredentialsResetter, response: Response, principal_id: UUID
) -> IssuedEnrolmentShape:
    """Let a person enrol, for the first time or anew; what they signed in with before is gone."""
    _keep_nowhere(response)
    return IssuedEnrolmentShape.of(services.enrolments.issue(actor, principal_id))


@router.post("/enrolment")
def begin_enrolment(
    services: ServicesOf, response: Response, given: EnrolmentShape
) -> AppSecretShape:
    """Choose a password, and get the secret for the authenticator app. Counts once it is confirmed."""
    _keep_nowhere(response)
    token, password = given.token.get_secret_value(), given.password.get_secret_value()
    return AppSecretShape.of(services.enrolments.begin(token, password))


@router.post("/enrolment/confirm")
def confirm_enrolment(
    services: ServicesOf, response: Response, given: ConfirmationShape
) -> RecoveryCodesShape:
    """Show a code of the app; password and app count from now on, and the token no more."""
    _keep_nowhere(response)
    token, code = given.token.get_secret_value(), given.totp.get_secret_value()
    codes = services.enrolments.confirm(token, code, at=clock.now())
    return RecoveryCodesShape(recovery_codes=codes)


def _answer(
    request: Request, response: Response, begun: BegunSession, *, as_cookie: bool
) -> BegunSessionShape:
    _keep_nowhere(response)
    if as_cookie:
        cookies.set_session(request, response, begun.token)
    return BegunSessionShape.begun(begun, with_token=not as_cookie)


def _keep_nowhere(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"
