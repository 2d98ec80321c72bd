"""The HTTP client behind the command line: authenticates, streams, resumes, and explains refusals."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from werkzeug.http import parse_options_header

DEFAULT_URL: Final = "http://127.0.0.1:8300"
CHUNK_BYTES: Final = 2**20
ATTEMPTS: Final = 4

Progress = Callable[[int, int | None], None]
"""Told of bytes done so far and, where known, of all."""


class Refused(Exception):
    """The service said no, or found something wrong; `problem` is its answer (RFC 9457)."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('title', 'refused')}: {problem.get('detail', '')}")
        self.problem = problem

    @property
    def is_temporary(self) -> bool:
        """Whether the same may succeed later."""
        return bool(self.problem.get("status") == httpx.codes.SERVICE_UNAVAILABLE)


class Unreachable(Exception):
    """No answer from the service, or none that it would give."""


class Interrupted(Exception):
    """A transfer that broke off and may be resumed."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is now whole."""

    path: Path
    size_bytes: int
    sha256: str


class Client:
    """Calls one service with one API key. Proxy variables are ignored: a vault is called directly."""

    def __init__(self, url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(60, connect=5),
            trust_env=False,
        )

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One call; the answer's JSON. Reads are repeated when the service is briefly away.

        Raises:
            Refused, Unreachable.
        """
        for attempt in _attempts(ATTEMPTS if method == "GET" else 1):
            with attempt:
                return self._once(method, path, **options)
        raise AssertionError  # tenacity re-raises

    def pages(self, method: str, path: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The pages of a list, one after the other. `options` go where the method has them."""
        where = "params" if method == "GET" else "json"
        token = options.get("page_token")
        while True:
            given = {k: v for k, v in {**options, "page_token": token}.items() if v is not None}
            page = self.call(method, path, **{where: given})
            yield page
            token = page["next_page_token"]
            if token is None:
                return

    def upload(
        self,
        method: str,
        path: str,
        source: BinaryIO,
        name: str,
        size_bytes: int | None,
        headers: dict[str, str],
        progress: Progress,
    ) -> Any:
        """Stream `source` to the service. Raises: Refused, Unreachable."""
        composed = unicodedata.normalize("NFC", name)
        given = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(composed, safe='')}",
            "Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream",
            **({} if size_bytes is None else {"Content-Length": str(size_bytes)}),
            **headers,
        }
        body = _told(iter(lambda: source.read(CHUNK_BYTES), b""), size_bytes, progress)
        return self._once(method, path, content=body, headers=given)

    def download(self, path: str, target: Callable[[str], Path], progress: Progress) -> Downloaded:
        """Fetch into a file, going on where an earlier attempt broke off.

        The bytes grow in `TARGET.part`; `TARGET` appears when they are all there.

        Args:
            target: the file, given the document's name.

        Raises:
            Refused, Unreachable; Interrupted after several attempts.
        """
        for attempt in _attempts(ATTEMPTS):
            with attempt:
                return self._download_once(path, target, progress)
        raise AssertionError  # tenacity re-raises

    def stream(self, path: str, sink: BinaryIO) -> None:
        """Fetch to a pipe, in one go. Raises: Refused, Unreachable, Interrupted."""
        with _reached(), self._http.stream("GET", path) as answer:
            _raise_for(answer)
            sink.writelines(_chunks(answer))

    def _download_once(
        self, path: str, target: Callable[[str], Path], progress: Progress
    ) -> Downloaded:
        with _reached():
            head = self._http.head(path)
        if head.status_code != httpx.codes.OK:
            self._once("GET", path)  # a HEAD has no words; this raises with them
        final = target(_name_in(head))
        part = _PartialFile(final, head.headers["ETag"])
        with _reached(), self._http.stream("GET", path, headers=part.resume_headers()) as answer:
            _raise_for(answer)
            part.take(answer, int(head.headers["Content-Length"]), progress)
        return part.finish()

    def _once(self, method: str, path: str, **options: Any) -> Any:
        with _reached():
            answer = self._http.request(method, path, **options)
        _raise_for(answer)
        return answer.json()


class _PartialFile:
    """`TARGET.part`, and the ETag of what it is part of in `TARGET.part.etag`."""

    def __init__(self, final: Path, etag: str) -> None:
        self._final = final
        self._part = final.with_name(final.name + ".part")
        self._mark = final.with_name(final.name + ".part.etag")
        self._etag = etag

    def resume_headers(self) -> dict[str, str]:
        """What asks for the rest only; nothing if there is no part of this very version."""
        with suppress(FileNotFoundError):
            size = self._part.stat().st_size
            if size and self._mark.read_text() == self._etag:
                return {"Range": f"bytes={size}-", "If-Range": self._etag}
        return {}

    def take(self, answer: httpx.Response, size_bytes: int, progress: Progress) -> None:
        """Append, or start anew when the service sent the whole. Raises: Interrupted."""
        self._mark.write_text(self._etag)
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        with self._part.open("ab" if resumed else "wb") as file:
            progress(file.tell(), size_bytes)
            for chunk in _chunks(answer):
                file.write(chunk)
                progress(file.tell(), size_bytes)
            file.flush()
            os.fsync(file.fileno())
            if file.tell() != size_bytes:
                raise Interrupted("the answer ended early")

    def finish(self) -> Downloaded:
        """Give the file its name."""
        with self._part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._part.replace(self._final)
        self._mark.unlink()
        return Downloaded(self._final, self._final.stat().st_size, digest)


class _reached:  # noqa: N801 (used like a function)
    """Turns what httpx raises into `Unreachable` before an answer, `Interrupted` within one."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, httpx.RemoteProtocolError | httpx.ReadError | httpx.ReadTimeout):
            raise Interrupted("the connection was cut in the middle") from exc
        if isinstance(exc, httpx.HTTPError | httpx.InvalidURL):
            raise Unreachable(f"no answer ({type(exc).__name__}); is the service there?") from exc


def _attempts(count: int) -> Retrying:
    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(count),
        wait=wait_exponential(multiplier=0.2, max=5),
        reraise=True,
    )


def _may_pass(exc: BaseException) -> bool:
    if isinstance(exc, Refused):
        return exc.is_temporary
    return isinstance(exc, Interrupted | Unreachable)


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        problem = answer.json()
    except ValueError:
        problem = {"title": f"HTTP {answer.status_code}", "status": answer.status_code}
    raise Refused(problem)


def _chunks(answer: httpx.Response) -> Iterator[bytes]:
    # As they come: gathered into larger ones, what a cut connection had brought would be lost.
    yield from answer.iter_raw()


def _told(chunks: Iterator[bytes], size_bytes: int | None, progress: Progress) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        progress(done, size_bytes)


def _name_in(answer: httpx.Response) -> str:
    """The document's name as a file name of the current folder, whatever the service says."""
    _, parameters = parse_options_header(answer.headers.get("Content-Disposition", ""))
    return Path(parameters.get("filename", "")).name or "document"
