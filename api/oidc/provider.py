"""The authorization code flow with PKCE, as a confidential client (OpenID Connect Core 1.0 §3.1, RFC 7636).

`begin` gives the address to send a browser to, and what has to be remembered until it comes back; `finish`
judges what it came back with. In between nothing is kept here: who calls keeps `Pending` with the browser
that began, and takes it away before calling `finish`, so that no answer is judged twice.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote_plus

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.client import OAuth2Client

from api.oidc.bounded import Limits, bounded_client
from api.oidc.errors import Fault, ProviderUnavailable, Refusal, SignInRefused
from api.oidc.idtoken import Expected, VerifiedIdentity, same, verify_id_token
from api.oidc.metadata import ProviderMetadata, fetch_keys, fetch_metadata, json_of
from api.settings import OidcSettings, SettingsError
from vault import clock

SECRET_BYTES: Final = 32
"""Of state, nonce and code verifier each."""

STEP_UP_MAX_AGE_SECONDS: Final = 300
"""Since the person proved who they are; we ask for zero, and they take their time at the provider."""

METADATA_TTL: Final = timedelta(seconds=60)
"""Strangers can begin sign-ins; the provider shall not hear of each one."""


@dataclass(frozen=True)
class Pending:
    """A sign-in that was begun. All of it is secret until it is used.

    Attributes:
        max_age: most seconds since the person proved who they are; None: any.
    """

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    code_verifier: str = field(repr=False)
    max_age: int | None


class OidcProvider:
    """One provider, at which we are one client. Safe for threads."""

    def __init__(
        self,
        settings: OidcSettings,
        *,
        now: Callable[[], datetime] = clock.now,
        limits: Limits | None = None,
    ) -> None:
        """Ask nothing yet. Raises: SettingsError."""
        self._settings = settings
        self._now = now
        self._limits = limits or Limits()
        self._context = _trust(settings)
        self._remembered: tuple[datetime, ProviderMetadata] | None = None

    def begin(self, *, step_up: bool = False) -> tuple[str, Pending]:
        """Where to send the browser, and what to remember.

        Args:
            step_up: the person has to prove anew who they are.

        Raises:
            ProviderUnavailable.
        """
        pending = Pending(
            state=secrets.token_urlsafe(SECRET_BYTES),
            nonce=secrets.token_urlsafe(SECRET_BYTES),
            code_verifier=secrets.token_urlsafe(SECRET_BYTES),
            max_age=STEP_UP_MAX_AGE_SECONDS if step_up else None,
        )
        with bounded_client(self._context, self._limits) as client:
            metadata = self._metadata(client)
            url, _ = self._oauth(client).create_authorization_url(
                metadata.authorization_endpoint,
                state=pending.state,
                nonce=pending.nonce,
                code_verifier=pending.code_verifier,
                **({"prompt": "login", "max_age": "0"} if step_up else {}),
            )
        return url, pending

    def finish(self, params: Mapping[str, str], pending: Pending) -> VerifiedIdentity:
        """Who came back. Not to be repeated: a code can be redeemed once.

        Args:
            params: of the redirect; a name that stands there twice is to be refused before.

        Raises:
            SignInRefused, ProviderUnavailable.
        """
        _check_state(params, pending)  # 1. an answer to this question; nothing is asked for others
        with bounded_client(self._context, self._limits) as client:
            metadata = self._metadata(client)  # 2. what the provider says of itself
            _check_response_issuer(
                params, metadata, self._settings.issuer
            )  # 3. not another's answer
            code = _code(params)  # 4. and not a refusal
            token, access_token = self._redeem(client, metadata, code, pending)  # 5.
            keys = fetch_keys(client, metadata)  # 6. never remembered: a withdrawn key ends at once
        return verify_id_token(token, access_token, keys, self._expected(pending))  # 7.

    def _metadata(self, client: httpx.Client) -> ProviderMetadata:
        now, remembered = self._now(), self._remembered
        if remembered is not None and timedelta() <= now - remembered[0] < METADATA_TTL:
            return remembered[1]
        metadata = fetch_metadata(client, self._settings.issuer)
        self._remembered = (now, metadata)
        return metadata

    def _oauth(self, client: httpx.Client) -> OAuth2Client:
        """Authlib's rules, on our client: its own integration of httpx bounds nothing."""
        return OAuth2Client(
            client,
            self._settings.client_id,
            redirect_uri=self._settings.redirect_url,
            scope="openid",
            code_challenge_method="S256",
        )

    def _redeem(
        self, client: httpx.Client, metadata: ProviderMetadata, code: str, pending: Pending
    ) -> tuple[str, str | None]:
        oauth = self._oauth(client)
        oauth.register_compliance_hook("access_token_response", _only_tokens)
        try:
            answer = oauth.fetch_token(
                metadata.token_endpoint,
                grant_type="authorization_code",
                code=code,
                code_verifier=pending.code_verifier,
                **self._credentials(metadata),
            )
        except httpx.InvalidURL as exc:
            raise ProviderUnavailable(Fault.UNREACHABLE) from exc
        except (AuthlibBaseError, ValueError, TypeError, OverflowError, RecursionError):
            raise ProviderUnavailable(Fault.MALFORMED) from None
        return _tokens(answer)

    def _credentials(self, metadata: ProviderMetadata) -> dict[str, Any]:
        client_id, secret = (
            self._settings.client_id,
            self._settings.client_secret.get_secret_value(),
        )
        if metadata.wants_secret_in_body:
            return {"auth": httpx.Auth(), "client_id": client_id, "client_secret": secret}
        # RFC 6749 §2.3.1 has both form-encoded first; Authlib's own way leaves that out.
        return {"auth": httpx.BasicAuth(quote_plus(client_id), quote_plus(secret))}

    def _expected(self, pending: Pending) -> Expected:
        return Expected(
            issuer=self._settings.issuer,
            client_id=self._settings.client_id,
            nonce=pending.nonce,
            max_age=None if pending.max_age is None else timedelta(seconds=pending.max_age),
            now=self._now(),
        )


def _trust(settings: OidcSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        raise SettingsError(
            "STRONGROOM_OIDC__CA_FILE cannot be used; is it there, readable, and PEM?"
        ) from exc


def _check_state(params: Mapping[str, str], pending: Pending) -> None:
    if not same(params.get("state"), pending.state):
        raise SignInRefused(Refusal.STATE)


def _check_response_issuer(
    params: Mapping[str, str], metadata: ProviderMetadata, issuer: str
) -> None:
    """RFC 9207 §2.4, against a code of one provider that is sent to another. Of errors, too."""
    if "iss" not in params and not metadata.announces_issuer:
        return
    if params.get("iss") != issuer:
        raise SignInRefused(Refusal.RESPONSE_ISSUER)


def _code(params: Mapping[str, str]) -> str:
    if "error" in params:
        raise SignInRefused(Refusal.ERROR_RESPONSE)
    code = params.get("code")
    if not code:
        raise SignInRefused(Refusal.CODE_MISSING)
    return code


def _only_tokens(answer: httpx.Response) -> httpx.Response:
    """Authlib takes a token out of any answer below 500, and an error's words into its own."""
    if answer.status_code not in (HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED):
        raise ProviderUnavailable(Fault.STATUS)
    found = json_of(answer)
    if not isinstance(found, dict):
        raise ProviderUnavailable(Fault.MALFORMED)
    if answer.status_code == HTTPStatus.OK and "error" not in found:
        return answer
    if found.get("error") == "invalid_grant":
        raise SignInRefused(Refusal.CODE_REFUSED)
    raise ProviderUnavailable(Fault.CLIENT_REFUSED)


def _tokens(answer: Mapping[str, Any]) -> tuple[str, str | None]:
    token, access_token = answer.get("id_token"), answer.get("access_token")
    if not isinstance(token, str) or not isinstance(access_token, str | None):
        raise SignInRefused(Refusal.TOKEN_MALFORMED)
    return token, access_token
