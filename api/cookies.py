"""The cookies of a browser: the session, and what binds a sign-in at a provider to the browser that began it.

On HTTPS their names begin with `__Host-`, so that browsers take them from this very host only (RFC 6265bis);
HTTP is served on loopback only. Neither is shown to scripts.
"""

from __future__ import annotations

import secrets
from typing import Final

from fastapi import Request, Response

from vault.access.oidc_sign_ins import LASTS
from vault.access.sessions import LIFETIME

COOKIE: Final = "__Host-strongroom"
PLAIN_COOKIE: Final = "strongroom"
"""Of the session, on HTTPS and on HTTP."""

SIGN_IN_COOKIE: Final = "__Host-strongroom-sign-in"
PLAIN_SIGN_IN_COOKIE: Final = "strongroom-sign-in"
"""The same on plain HTTP."""

_SECRET_BYTES: Final = 32


def session_token(request: Request) -> str | None:
    """The session that the browser came with."""
    return request.cookies.get(COOKIE if _is_secure(request) else PLAIN_COOKIE)


def set_session(request: Request, response: Response, token: str) -> None:
    """Let the browser show this session from now on; a page of another site cannot have it shown."""
    secure = _is_secure(request)
    name = COOKIE if secure else PLAIN_COOKIE
    response.set_cookie(
        name,
        token,
        max_age=int(LIFETIME.total_seconds()),
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def sign_in_secret(request: Request) -> str | None:
    """What the browser was given when it left for the provider."""
    return request.cookies.get(_sign_in_name(request))


def set_sign_in_secret(request: Request, response: Response) -> str:
    """A fresh secret for the browser, to show when it comes back; so `Lax`: it comes from another site."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    response.set_cookie(
        _sign_in_name(request),
        secret,
        max_age=int(LASTS.total_seconds()),
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )
    return secret


def forget_sign_in_secret(request: Request, response: Response) -> None:
    """It was used."""
    response.delete_cookie(
        _sign_in_name(request),
        path="/",
        secure=_is_secure(request),
        httponly=True,
        samesite="lax",
    )


def _sign_in_name(request: Request) -> str:
    return SIGN_IN_COOKIE if _is_secure(request) else PLAIN_SIGN_IN_COOKIE


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
