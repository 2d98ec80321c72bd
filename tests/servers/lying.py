"""An OpenID provider that says what a test has it say, truly signed or not."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from joserfc import jws
from joserfc.jwk import Key, RSAKey
from pydantic import SecretStr
from typing_extensions import override

from api.oidc.bounded import Limits
from api.oidc.idtoken import VerifiedIdentity
from api.oidc.provider import OidcProvider, Pending
from api.settings import OidcSettings
from tests.servers.canned import CannedServer, Request, answer, canned

NOW: Final = datetime(2026, 5, 4, 12, tzinfo=UTC)
CLIENT_ID: Final = "vault"
ACCESS_TOKEN: Final = "access-token"
KEY: Final = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


@dataclass
class LyingProvider:
    """Discovery, keys and tokens as a test wants them.

    Attributes:
        metadata: over what an honest provider would publish.
        keys: published.
        instead: whole answers, by path.
    """

    server: CannedServer | None = None
    scheme: str = "http"
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=lambda: [public(KEY)])
    instead: dict[str, bytes | Iterator[bytes]] = field(default_factory=dict)
    token: object = None

    @property
    def issuer(self) -> str:
        """The address of its server."""
        assert self.server is not None
        return f"{self.scheme}://{self.server.endpoint}"

    def client(
        self,
        limits: Limits | None = None,
        *,
        issuer: str | None = None,
        ca_file: Path | None = None,
    ) -> OidcProvider:
        """Our side, at `NOW`."""
        settings = OidcSettings(
            issuer=issuer or self.issuer,
            client_id=CLIENT_ID,
            client_secret=SecretStr("secret"),
            redirect_url="http://127.0.0.1:8300/callback",
            ca_file=ca_file,
        )
        return OidcProvider(settings, now=lambda: NOW, limits=limits)

    def claims(self, pending: Pending, **changed: Any) -> dict[str, Any]:
        """Those of an honest token, but for `changed`; None leaves one out."""
        second = int(NOW.timestamp())
        honest = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "alice",
            "nonce": pending.nonce,
            "iat": second,
            "exp": second + 60,
            "auth_time": second,
        }
        return {name: value for name, value in (honest | changed).items() if value is not None}

    def sign_in(
        self,
        *,
        key: Key = KEY,
        header: dict[str, Any] | None = None,
        params: dict[str, str | None] | None = None,
        step_up: bool = False,
        **changed: Any,
    ) -> VerifiedIdentity:
        """One sign-in, honest but for what is given: of the token's claims, its header, the redirect."""
        client = self.client()
        _, pending = client.begin(step_up=step_up)
        self.token = signed(self.claims(pending, **changed), key, header)
        return client.finish(self.params(pending, **(params or {})), pending)

    def sign_in_with(self, forge: Any) -> VerifiedIdentity:
        """One sign-in with whatever `forge` makes of an honest token's claims."""
        client = self.client()
        _, pending = client.begin()
        self.token = forge(self.claims(pending))
        return client.finish(self.params(pending), pending)

    def params(self, pending: Pending, **changed: str | None) -> dict[str, str]:
        """Those of an honest redirect, but for `changed`; None leaves one out."""
        honest = {"state": pending.state, "code": "code", "iss": self.issuer}
        return {name: value for name, value in (honest | changed).items() if value is not None}

    def respond(self, request: Request) -> bytes | Iterator[bytes]:
        """What goes over the wire."""
        path = request.target.partition("?")[0]
        if path in self.instead:
            return self.instead[path]
        if path == "/jwks":
            return as_json({"keys": self.keys})
        if path == "/token":
            tokens = {"access_token": ACCESS_TOKEN, "token_type": "Bearer", "id_token": self.token}
            return as_json(tokens)
        return as_json(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }


@contextmanager
def lying_provider() -> Iterator[LyingProvider]:
    """One for the time of the block."""
    liar = LyingProvider()
    with canned(liar.respond) as server:
        liar.server = server
        yield liar


def as_json(content: object, status: int = 200, **headers: str) -> bytes:
    """An answer."""
    return answer(status, json.dumps(content), Content_Type="application/json", **headers)


class _Anything(jws.JWSRegistry):
    """Signs under every header, as a liar does."""

    @override
    def check_header(self, header: dict[str, Any]) -> None:
        """Let it pass."""

    @override
    def get_alg(self, name: str) -> Any:
        """Whatever is asked for."""
        return self.algorithms[name]


def public(key: Key) -> dict[str, Any]:
    """The key as a provider publishes it."""
    return dict(key.as_dict(private=False))


def signed(claims: dict[str, Any], key: Key = KEY, header: dict[str, Any] | None = None) -> str:
    """A token; by default one that names its key."""
    header = {"alg": "RS256", "kid": key.kid} if header is None else header
    return jws.serialize_compact(header, json.dumps(claims), key, registry=_Anything())


def unsigned(claims: dict[str, Any], algorithm: str = "none") -> str:
    """A token that says it needs no signature."""
    return f"{_part({'alg': algorithm, 'kid': KEY.kid})}.{_part(claims)}."


def signed_with_the_public_key(claims: dict[str, Any]) -> str:
    """A token whose HMAC anybody can make: its key is what the provider publishes."""
    text = f"{_part({'alg': 'HS256', 'kid': KEY.kid})}.{_part(claims)}"
    mac = hmac.digest(KEY.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{_base64(mac)}"


def _part(content: dict[str, Any]) -> str:
    return _base64(json.dumps(content).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
