"""A session with the KMS: logged in by AppRole, renewed in time, logged in again when its token died.

For HashiCorp Vault and OpenBao. What they answer is judged here as far as it is about the KMS itself; 400 and
404 are for the caller to interpret. Nothing foreign leaves this module: exceptions of requests carry the
token and the body, so ours are raised after those are gone, not out of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hvac
import requests
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)
from typing_extensions import override

from keymgmt.errors import KeyAccessDenied, KeyServiceUnavailable

ATTEMPTS: Final = 3
ATTEMPTS_SECONDS: Final = 2.0
"""No attempt is begun after this time; the last one may still take its own."""

RENEW_AFTER: Final = 2 / 3
"""Share of its lease after which a token is renewed."""

FRESH_SECONDS: Final = 60.0
"""A token this young has the policies that its AppRole has now."""

CAPABILITIES: Final = "sys/capabilities-self"
"""Answers any living token, if the policy has this path."""

_ANSWERS: Final = frozenset({200, 204, 400, 404, 413})
"""413: a batch too large for the KMS."""

_TRANSIENT: Final = frozenset({412, 429, 500, 502, 503, 504})
"""412: a standby that lags behind; 500: a node that has just been unsealed; 503: sealed."""

_DENIED: Final = 403


class Body:
    """What is sent. Shows nothing of itself: it may hold keys."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields


@dataclass(frozen=True, repr=False)
class Answer:
    """What came back. Shows nothing of itself: it may hold keys.

    Attributes:
        status: 200, 204, 400, 404 or 413; with another status no answer is made.
        data: the part `data` of the JSON, of a login `auth`; empty without one.
    """

    status: int
    data: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the KMS did what was asked."""
        return self.status < 300  # noqa: PLR2004 (RFC 9110 §15.3)


class _MayPass(Exception):
    """Worth another attempt within the call; `KeyServiceUnavailable` after the last."""


class _TokenRefused(Exception):
    """403: a dead token or a missing permission, which are not told apart."""


@dataclass(repr=False)
class _Token:
    text: str
    lease_seconds: float
    renewable: bool
    since: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        return time.monotonic() > self.since + self.lease_seconds * RENEW_AFTER

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self.since + FRESH_SECONDS

    @override
    def __repr__(self) -> str:
        return "_Token(****)"


class TransitSession:
    """Calls to one KMS under one AppRole. Safe for threads."""

    def __init__(
        self,
        address: str,
        *,
        role_id: str,
        secret_id: Callable[[], str],
        namespace: str | None = None,
        ca_file: Path | None = None,
        connect_seconds: float = 2.0,
        read_seconds: float = 10.0,
        connections: int = 32,
    ) -> None:
        """Connects to nothing yet.

        Args:
            address: ``https://HOST:PORT``.
            secret_id: asked at each login, so that a replaced file counts at once; raises
                `KeyServiceUnavailable` if there is none.
            ca_file: PEM of the authority that signed the KMS's certificate; None: the system's.
        """
        session = requests.Session()
        session.trust_env = False  # a proxy variable would hand token and keys to a third machine
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=connections, max_retries=0))
        session.verify = str(ca_file) if ca_file else True
        self._client = hvac.Client(
            url=address,
            token="",
            session=session,
            timeout=(connect_seconds, read_seconds),
            namespace=namespace,
            verify=session.verify,
            # A redirect would take the token to a host that nobody configured.
            allow_redirects=False,
            adapter=RawAdapter,
            ignore_exceptions=True,
        )
        self._role_id = role_id
        self._secret_id = secret_id
        self._patience_seconds = connect_seconds + read_seconds
        self._lock = threading.Lock()
        self._token: _Token | None = None

    def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        capability: str = "update",
        repeatable: bool = True,
    ) -> Answer:
        """One call, logged in; repeated while the KMS is about to come back, if that is harmless.

        Args:
            path: after ``/v1/``.
            capability: what a policy must grant on `path`, for the message.

        Raises:
            KeyAccessDenied: a fresh token is refused too.
            KeyServiceUnavailable: no answer, or none that means anything.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_MayPass),
            stop=stop_after_attempt(ATTEMPTS if repeatable else 1)
            | stop_after_delay(ATTEMPTS_SECONDS),
            wait=wait_exponential(multiplier=0.1, max=1),
            reraise=True,
        )
        try:
            return retrying(self._call_logged_in, method, path, body or Body(), capability)
        except _MayPass as exc:
            raise KeyServiceUnavailable(str(exc)) from None

    def _call_logged_in(self, method: str, path: str, body: Body, capability: str) -> Answer:
        token = self._living_token()
        try:
            return self._send(method, path, body, token)
        except _TokenRefused:
            if token.is_fresh and self._lives(token):
                raise KeyAccessDenied(path, capability) from None
        fresh = self._log_in_instead_of(token)
        try:
            return self._send(method, path, body, fresh)
        except _TokenRefused:
            raise KeyAccessDenied(path, capability) from None

    def _living_token(self) -> _Token:
        with self._alone():
            if self._token is None:
                self._token = self._log_in()
            elif self._token.is_due:
                self._token = self._renewed(self._token)
            return self._token

    def _lives(self, token: _Token) -> bool:
        """Whether 403 was not about the token: a login for each would pile up tokens at the KMS."""
        try:
            return self._send("post", CAPABILITIES, Body(paths=[CAPABILITIES]), token).ok
        except _TokenRefused:
            return False

    def _log_in_instead_of(self, refused: _Token) -> _Token:
        with self._alone():
            if self._token is refused:
                self._token = self._log_in()
            assert self._token is not None
            return self._token

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One thread logs in. While the KMS hangs, the others must not queue up for a time-out each."""
        if not self._lock.acquire(timeout=self._patience_seconds):
            raise KeyServiceUnavailable("the KMS does not answer in time")
        try:
            yield
        finally:
            self._lock.release()

    def _log_in(self) -> _Token:
        body = Body(role_id=self._role_id, secret_id=self._secret_id())
        with suppress(_TokenRefused):
            answer = self._send("post", "auth/approle/login", body, None)
            if answer.ok:
                return _token_of(answer)
        raise KeyServiceUnavailable(
            "the KMS refuses the AppRole's credentials: issue a new secret id"
        )

    def _renewed(self, token: _Token) -> _Token:
        """The same token with a new lease, or another one where it nears its end."""
        if token.renewable:
            try:
                answer = self._send("post", "auth/token/renew-self", Body(), token)
            except (_TokenRefused, _MayPass):
                return self._log_in()  # a lease that just ended is answered with 500
            if answer.ok:
                renewed = _token_of(answer)
                # Near the token's greatest age each lease is shorter than the one before.
                if renewed.lease_seconds > token.lease_seconds / 2:
                    return renewed
        return self._log_in()

    def _send(self, method: str, path: str, body: Body, token: _Token | None) -> Answer:
        response = self._response(method, path, body, token)
        if response.status_code == _DENIED:
            raise _TokenRefused
        if response.status_code in _ANSWERS:
            return Answer(response.status_code, _data_of(response))
        kind = _MayPass if response.status_code in _TRANSIENT else KeyServiceUnavailable
        raise kind(f"the KMS answers {response.status_code}; is it sealed?")

    def _response(
        self, method: str, path: str, body: Body, token: _Token | None
    ) -> requests.Response:
        failure: Exception
        try:
            found: requests.Response = self._client.adapter.request(
                method,
                f"/v1/{path}",
                headers={"X-Vault-Token": token.text} if token else {},
                json=body.fields or None,
            )
        except requests.Timeout:
            failure = KeyServiceUnavailable("the KMS does not answer in time")
        except requests.exceptions.SSLError:
            failure = KeyServiceUnavailable("the KMS's certificate is not one that we trust")
        except (requests.RequestException, OSError, ValueError):
            failure = _MayPass("the KMS cannot be reached")
        else:
            return found
        raise failure


def _token_of(answer: Answer) -> _Token:
    try:
        return _Token(
            answer.data["client_token"],
            float(answer.data["lease_duration"]),
            bool(answer.data["renewable"]),
        )
    except (KeyError, TypeError, ValueError):
        raise KeyServiceUnavailable("the KMS gave no token; is this address one?") from None


def _data_of(response: requests.Response) -> Mapping[str, Any]:
    """The part that counts of the answer's JSON; empty where there is none, as in a proxy's page."""
    try:
        found = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    parts = [found.get("data"), found.get("auth")] if isinstance(found, dict) else []
    return next((part for part in parts if isinstance(part, dict)), {})
