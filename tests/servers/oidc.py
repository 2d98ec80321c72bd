"""A real OpenID provider as tests see it: `oidc-provider` on Node, and a browser that signs in there."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr

from api.settings import OidcSettings
from tests.process import wait_until
from tests.servers.s3 import free_port, killed_with_this_run

_SERVER: Final = Path(__file__).parent / "oidc" / "server.mjs"
MAX_REDIRECTS: Final = 10


class OidcServer:
    """One provider process on loopback, the same port at each start; what it remembers dies with it.

    Attributes:
        redirect_url: nobody listens there; the browser stops before it.
    """

    redirect_url = "http://127.0.0.1:8300/callback"

    def __init__(self, modules: Path, folder: Path) -> None:
        """Start nothing yet. `modules` is the folder that `make servers` installed."""
        self._folder = folder
        self._port = free_port()
        # With characters that have a meaning in a form and in Basic credentials.
        self._client_secret = f"{secrets.token_hex(16)}+%41 :&="
        self._process: subprocess.Popen[bytes] | None = None
        # Modules are looked for beside the file that imports them.
        shutil.copy(_SERVER, folder)
        (folder / "node_modules").symlink_to(modules / "node_modules")

    @property
    def issuer(self) -> str:
        """As it writes itself."""
        return f"http://127.0.0.1:{self._port}"

    def settings(self, algorithm: str = "RS256") -> OidcSettings:
        """Of the client whose ID tokens are signed with this algorithm."""
        return OidcSettings(
            issuer=self.issuer,
            client_id=f"vault-{algorithm}",
            client_secret=SecretStr(self._client_secret),
            redirect_url=self.redirect_url,
        )

    def start(self, auth_methods: Sequence[str] = ("client_secret_basic",)) -> None:
        """Start it with signing keys that it never had before; it answers when this returns."""
        config = self._folder / "config.json"
        config.write_text(json.dumps(self._config(auth_methods)))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(shutil.which("node")), str(self._folder / _SERVER.name), str(config)],
                stdout=log,
                stderr=log,
                env={"HOME": str(self._folder)},
                preexec_fn=killed_with_this_run(),  # noqa: PLW1509 (it takes no lock)
            )
        assert wait_until(self._answers, 60), (self._folder / "log").read_text()

    def stop(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(20)

    def restart(self, auth_methods: Sequence[str] = ("client_secret_basic",)) -> None:
        """The same provider with other signing keys."""
        self.stop()
        self.start(auth_methods)

    def _config(self, auth_methods: Sequence[str]) -> dict[str, Any]:
        rsa = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        ec = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
        return {
            "port": self._port,
            "clients": [self._client(name, auth_methods[0]) for name in ("RS256", "ES256")],
            "authMethods": list(auth_methods),
            "keys": [key.as_dict(private=True) for key in (rsa, ec)],
        }

    def _client(self, algorithm: str, auth_method: str) -> dict[str, Any]:
        return {
            "client_id": f"vault-{algorithm}",
            "client_secret": self._client_secret,
            "redirect_uris": [self.redirect_url],
            "response_types": ["code"],
            "grant_types": ["authorization_code"],
            "id_token_signed_response_alg": algorithm,
            "token_endpoint_auth_method": auth_method,
        }

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return httpx.get(f"{self.issuer}/jwks", trust_env=False).is_success
        except httpx.TransportError:
            return False


class Browser:
    """Somebody's browser: it keeps the provider's cookies, and follows redirects up to ours."""

    def __init__(self, account: str) -> None:
        """`nobody` declines to sign in."""
        self._http = httpx.Client(cookies={"as": account}, trust_env=False)

    def visit(self, url: str) -> dict[str, str]:
        """The parameters that the provider sends back."""
        for _ in range(MAX_REDIRECTS):
            answer = self._http.get(url)
            assert answer.is_redirect, answer.text
            url = str(answer.next_request.url) if answer.next_request else ""
            if url.startswith(OidcServer.redirect_url):
                return dict(parse_qsl(urlsplit(url).query))
        raise AssertionError("the provider redirects for ever")
