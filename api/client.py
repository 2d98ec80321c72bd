"""The HTTP client behind the command line: authenticates, waits where that may help, explains refusals.

Nothing of the environment is trusted (`trust_env=False`): a proxy variable left in a shell would hand the
API key and documents to a third machine, and on loopback it would just fail. Certificates are checked
against the system's store, so that an organisation's own authority works; OpenSSL reads SSL_CERT_FILE.

    ClientError
    ├── Refused             the service said no, or found damage
    │   └── Unavailable     503: the same may succeed later
    ├── Unreachable         no answer, or one that broke off
    ├── UnexpectedAnswer    something answers, but not as Strongroom does
    ├── FileUnusable        a file of this machine cannot be read, written or named
    └── NotConfigured       no key, or a URL that must not be used
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential
from typing_extensions import override
from werkzeug.http import parse_date

from api.settings import is_loopback
from vault import clock

DEFAULT_URL: Final = "http://127.0.0.1:8300"
ATTEMPTS: Final = 4
MAX_WAIT_SECONDS: Final = 30.0
"""A service that asks for a longer pause is not waited for: a person or a scheduler decides."""

TIMEOUT: Final = httpx.Timeout(60, connect=5)
"""Seconds without a byte, not for the whole."""

_PROBLEM: Final = "application/problem+json"
_backoff: Final = wait_exponential(multiplier=0.2, max=5)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class ClientError(Exception):
    """A command did not succeed; the text says what to do."""

    def as_problem(self) -> dict[str, Any]:
        """In the form of RFC 9457, also where no service was heard."""
        return {"title": "The command could not run", "detail": str(self)}


class Refused(ClientError):
    """The service said no, or found something wrong; `problem` is its answer."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("title", "refused")))
        self.problem = problem

    @override
    def as_problem(self) -> dict[str, Any]:
        """The service's own answer, unchanged."""
        return self.problem


class Unavailable(Refused):
    """The service, or what it needs, is away for now."""

    def __init__(self, problem: dict[str, Any], retry_after_seconds: float | None) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


class Unreachable(ClientError):
    """No answer from the service, or one that broke off."""


class UnexpectedAnswer(ClientError):
    """Something answers, but not as Strongroom does: a proxy, or another service."""


class FileUnusable(ClientError):
    """A file of this machine cannot be read, written or named."""


class NotConfigured(ClientError):
    """No API key, or a URL that must not be used."""


class Client:
    """Calls one service with one API key. A context manager; for one thread."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        anonymous: bool = False,
        tell: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open nothing yet.

        Args:
            anonymous: for what nobody has to be signed in for.
            tell: hears why and how long the client waits.

        Raises:
            NotConfigured.
        """
        self._url = _usable_url(url)
        known = {} if anonymous else {"Authorization": f"Bearer {_usable_key(api_key)}"}
        self._http = httpx.Client(
            base_url=self._url,
            # Byte counts and ranges are of the document, so nobody may compress on the way.
            headers={**known, "Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            trust_env=False,
            verify=ssl.create_default_context(),
        )
        self._tell = tell
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """One call; the answer's JSON. Only a GET is repeated: its loss is known to change nothing.

        Raises:
            Refused, Unreachable, UnexpectedAnswer.
        """
        if method == "GET":
            return self.patiently(self._once, method, path, **options)
        return self._once(method, path, **options)

    def pages(self, method: str, path: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pages of a list, one after the other. `options` go where the method has them.

        Raises:
            Refused, Unreachable, UnexpectedAnswer.
        """
        where = "params" if method == "GET" else "json"
        given = {name: value for name, value in options.items() if value is not None}
        while True:
            page = self.call(method, path, **{where: given})
            yield page
            if page.get("next_page_token") is None:
                return
            given["page_token"] = page["next_page_token"]

    @contextmanager
    def opened(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """A GET whose body is still to be read; what breaks within the block is `Unreachable`.

        Raises:
            Refused, Unreachable, UnexpectedAnswer.
        """
        with self._reached(), self._http.stream("GET", path, headers=headers) as answer:
            _raise_for(answer)
            yield answer

    def patiently(
        self,
        work: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Do `work`, which may be repeated, up to `ATTEMPTS` times. Raises: what `work` raises."""
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause_seconds,
            before_sleep=self._announce,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(work, *args, **kwargs)

    def _once(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._reached():
            answer = self._http.request(method, path, **options)
        _raise_for(answer)
        if answer.status_code == HTTPStatus.NO_CONTENT:
            return {}
        found = _json_object(answer)
        if found is None:
            raise UnexpectedAnswer("the answer is not Strongroom's; is STRONGROOM_URL right?")
        return found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as exc:
            reason = str(exc) or type(exc).__name__
            raise Unreachable(
                f"no whole answer from {self._url}: {reason}; is the service there?"
            ) from exc

    def _announce(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        self._tell(f"{state.outcome.exception()}; again in {state.next_action.sleep:.1f} s")


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Retry-After, in seconds or as a date (RFC 9110 §10.2.3); None if absent or unreadable."""
    if header is None:
        return None
    if header.isdecimal():
        return float(header)
    moment = parse_date(header)
    return None if moment is None else max((moment - now).total_seconds(), 0.0)


def _usable_url(raw: str) -> httpx.URL:
    try:
        url = httpx.URL(raw)
    except httpx.InvalidURL as exc:
        raise NotConfigured("the URL of the service cannot be read") from exc
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        raise NotConfigured(f"the URL of the service is written like {DEFAULT_URL}")
    if url.scheme == "http" and not is_loopback(url.host):
        raise NotConfigured(
            "plain HTTP to another machine carries the API key and documents in the clear; "
            "use https://"
        )
    return url


def _usable_key(key: str | None) -> str:
    if not key:
        raise NotConfigured(
            "sign in with `strongroom login NAME`, or set STRONGROOM_API_KEY to a key; the first start "
            "printed one"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise NotConfigured("STRONGROOM_API_KEY is not an API key; one starts with sr_")
    return key


def _may_pass(exc: BaseException) -> bool:
    if isinstance(exc, Unavailable):
        return (exc.retry_after_seconds or 0.0) <= MAX_WAIT_SECONDS
    return isinstance(exc, Unreachable)


def _pause_seconds(state: RetryCallState) -> float:
    exc = state.outcome.exception() if state.outcome else None
    asked = exc.retry_after_seconds if isinstance(exc, Unavailable) else None
    return _backoff(state) if asked is None else asked


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    problem = _json_object(answer) if _media_type(answer) == _PROBLEM else None
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
        # A load balancer's has no problem in it, and passes like our own.
        pause = retry_after_seconds(answer.headers.get("Retry-After"), clock.now())
        raise Unavailable(problem or {"title": "Service Unavailable", "status": 503}, pause)
    if problem is None:
        raise UnexpectedAnswer(
            f"HTTP {answer.status_code}, and not from Strongroom; is STRONGROOM_URL right?"
        )
    raise Refused(problem)


def _media_type(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _json_object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
