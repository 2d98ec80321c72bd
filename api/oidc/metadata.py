"""What a provider publishes: its metadata (OpenID Connect Discovery 1.0 §3) and its keys, read and judged."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from api.oidc.errors import Fault, ProviderUnavailable
from api.settings import is_loopback


@dataclass(frozen=True)
class ProviderMetadata:
    """What we use of it.

    Attributes:
        announces_issuer: every answer to a redirect names who gives it (RFC 9207 §3).
        wants_secret_in_body: it takes `client_secret_post` and no `client_secret_basic`.
    """

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    announces_issuer: bool
    wants_secret_in_body: bool


def fetch_metadata(client: httpx.Client, issuer: str) -> ProviderMetadata:
    """Ask the issuer for its metadata. Raises: ProviderUnavailable."""
    document = fetch_object(client, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    # §4.3: or a provider could have another one's answers believed as its own.
    if document.get("issuer") != issuer:
        raise ProviderUnavailable(Fault.OTHER_ISSUER)
    methods = document.get("token_endpoint_auth_methods_supported")
    return ProviderMetadata(
        authorization_endpoint=_endpoint(document, "authorization_endpoint", issuer),
        token_endpoint=_endpoint(document, "token_endpoint", issuer),
        jwks_uri=_endpoint(document, "jwks_uri", issuer),
        announces_issuer=bool(document.get("authorization_response_iss_parameter_supported")),
        wants_secret_in_body=isinstance(methods, list)
        and "client_secret_basic" not in methods
        and "client_secret_post" in methods,
    )


def fetch_keys(client: httpx.Client, metadata: ProviderMetadata) -> list[Any]:
    """The keys that the provider signs with just now, as it wrote them. Raises: ProviderUnavailable."""
    keys = fetch_object(client, metadata.jwks_uri).get("keys")
    if not isinstance(keys, list):
        raise ProviderUnavailable(Fault.MALFORMED)
    return keys


def fetch_object(client: httpx.Client, url: str) -> dict[str, Any]:
    """A JSON object. Raises: ProviderUnavailable."""
    try:
        answer = client.get(url, headers={"Accept": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ProviderUnavailable(Fault.UNREACHABLE) from exc
    if answer.status_code != HTTPStatus.OK:
        raise ProviderUnavailable(Fault.STATUS)
    found = json_of(answer)
    if not isinstance(found, dict):
        raise ProviderUnavailable(Fault.MALFORMED)
    return found


def json_of(answer: httpx.Response) -> object:
    """The body as JSON. Raises: ProviderUnavailable."""
    try:
        found: object = answer.json()
    except (ValueError, RecursionError):  # the latter of "[[[[…"
        raise ProviderUnavailable(Fault.MALFORMED) from None
    return found


def _endpoint(document: dict[str, Any], name: str, issuer: str) -> str:
    try:
        url = httpx.URL(document[name])
    except (KeyError, TypeError, httpx.InvalidURL) as exc:
        raise ProviderUnavailable(Fault.MALFORMED) from exc
    # Plain HTTP only between programs of this machine; one elsewhere has no business with our loopback.
    is_local = issuer.startswith("http:") and url.scheme == "http" and is_loopback(url.host)
    if not url.host or not (url.scheme == "https" or is_local):
        raise ProviderUnavailable(Fault.INSECURE_ENDPOINT)
    if url.userinfo or url.fragment:
        raise ProviderUnavailable(Fault.MALFORMED)
    return str(url)
