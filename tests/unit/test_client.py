"""The command line's client against a server whose answers a test chooses."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from typing_extensions import override

from api.client import (
    ATTEMPTS,
    Client,
    FileUnusable,
    NotConfigured,
    Refused,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    retry_after_seconds,
)
from api.commands.names import plain_file_name, printable, printable_json
from api.download import PartialFile, fetch
from api.upload import open_source

CONTENT: Final = os.urandom(300_000)
ETAG: Final = '"v1"'
NOW: Final = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)

Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Answers each request as `answer` says, given method and headers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.answer: Callable[[dict[str, str]], Answer] = lambda _: (200, {}, b"{}")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            @override
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self._serve()

            def do_POST(self) -> None:
                outer.bodies.append(self._body())
                self._serve()

            def _serve(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append(headers)
                status, answered, body = outer.answer(headers)
                self.send_response(status)
                # Announced: a client that kept this connection would race with its end.
                framing = {"Content-Length": str(len(body)), "Connection": "close"}
                for name, value in {**framing, **answered}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def _body(self) -> bytes:
                if "content-length" in self.headers:
                    return self.rfile.read(int(self.headers["content-length"]))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(server: Server, waits: list[float]) -> Iterator[Client]:
    with Client(server.url, "sr_key", sleep=waits.append) as made:
        yield made


def problem(status: int, **headers: str) -> Answer:
    body = json.dumps({"title": "No", "status": status, "detail": "d"}).encode()
    return status, {"Content-Type": "application/problem+json", **headers}, body


def serve_ranges(headers: dict[str, str]) -> Answer:
    """CONTENT, or the part that Range asks for if If-Range holds."""
    if "range" not in headers or headers["if-range"] != ETAG:
        return 200, {"ETag": ETAG}, CONTENT
    start = int(headers["range"].removeprefix("bytes=").rstrip("-"))
    if start >= len(CONTENT):
        return problem(416)
    part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return 206, {"ETag": ETAG, "Content-Range": part}, CONTENT[start:]


def fetch_into(client: Client, target: Path, *, force: bool = False) -> None:
    with PartialFile(target, force=force) as part:
        fetch(client, "/x", part, lambda *_: None)
        part.finish()


def leave_part(target: Path, content: bytes, etag: str = ETAG) -> None:
    target.with_name(target.name + ".part").write_bytes(content)
    target.with_name(target.name + ".part.etag").write_text(etag)


def test_a_503_is_waited_for_as_long_as_it_asks(
    client: Client, server: Server, waits: list[float]
) -> None:
    answers = iter([problem(503, **{"Retry-After": "7"}), (200, {}, b'{"a": 1}')])
    server.answer = lambda _: next(answers)
    assert client.call("GET", "/x") == {"a": 1}
    assert waits == [7.0]


def test_a_503_that_asks_for_too_long_is_not_waited_for(
    client: Client, server: Server, waits: list[float]
) -> None:
    server.answer = lambda _: problem(503, **{"Retry-After": "3600"})
    with pytest.raises(Unavailable):
        client.call("GET", "/x")
    assert waits == []


@pytest.mark.parametrize(("method", "requests"), [("GET", ATTEMPTS), ("POST", 1)])
def test_only_a_get_is_repeated(client: Client, server: Server, method: str, requests: int) -> None:
    server.answer = lambda _: problem(503)
    with pytest.raises(Unavailable):
        client.call(method, "/x")
    assert len(server.requests) == requests


def test_a_refusal_is_final_and_keeps_the_problem_as_it_came(
    client: Client, server: Server
) -> None:
    server.answer = lambda _: problem(404)
    with pytest.raises(Refused) as refused:
        client.call("GET", "/x")
    assert refused.value.as_problem() == {"title": "No", "status": 404, "detail": "d"}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer", [(200, {}, b"<html>"), (200, {}, b"[1]"), (404, {}, b"[]"), (302, {}, b"")]
)
def test_what_is_not_strongroom_is_told_from_a_refusal(
    client: Client, server: Server, answer: Answer
) -> None:
    server.answer = lambda _: answer
    with pytest.raises(UnexpectedAnswer):
        client.call("GET", "/x")


def test_a_proxy_of_the_environment_is_not_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Client(server.url, "sr_key", sleep=lambda _: None) as client:
        assert client.call("GET", "/x") == {}


@pytest.mark.parametrize(
    "url", ["vault.example", "ftp://127.0.0.1", "http://vault.example", "http://a:b@127.0.0.1", ""]
)
def test_a_url_that_would_show_the_key_or_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(NotConfigured):
        Client(url, "sr_key")


@pytest.mark.parametrize("key", [None, "", "sr_\n", "钥", "a b"])
def test_a_key_that_no_header_can_carry_is_refused(key: str | None) -> None:
    with pytest.raises(NotConfigured):
        Client("http://127.0.0.1:1", key)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        ("Mon, 23 Nov 2026 17:00:09 GMT", 9.0),
        ("Mon, 23 Nov 2026 16:00:00 GMT", 0.0),
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


@pytest.mark.parametrize("kept", [0, 1, 150_000, len(CONTENT)])
def test_a_part_of_the_same_version_is_completed(
    client: Client, server: Server, tmp_path: Path, kept: int
) -> None:
    server.answer = serve_ranges
    leave_part(tmp_path / "x", CONTENT[:kept])
    fetch_into(client, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert server.requests[0].get("range") == (f"bytes={kept - 1}-" if kept > 1 else None)


@pytest.mark.parametrize("etag", ['"v0"', "", 'W/"v1"', '"v1"\r\nX: y'])
def test_a_part_of_another_version_is_started_anew(
    client: Client, server: Server, tmp_path: Path, etag: str
) -> None:
    server.answer = serve_ranges
    leave_part(tmp_path / "x", b"other bytes", etag)
    fetch_into(client, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"v2"', "Content-Range": f"bytes 9-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"ETag": ETAG, "Content-Range": f"bytes 8-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"ETag": ETAG},
        {"ETag": ETAG, "Content-Encoding": "gzip"},
    ],
)
def test_a_part_that_was_not_asked_for_is_not_appended(
    client: Client, server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.answer = lambda _: (206, headers, CONTENT[9:])
    leave_part(tmp_path / "x", CONTENT[:10])
    with pytest.raises(UnexpectedAnswer):
        fetch_into(client, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_an_answer_that_ends_early_leaves_nothing_under_the_name(
    client: Client, server: Server, tmp_path: Path, waits: list[float]
) -> None:
    server.answer = lambda _: (200, {"ETag": ETAG, "Content-Length": "300000"}, CONTENT[:1000])
    with pytest.raises(Unreachable):
        fetch_into(client, tmp_path / "x")
    assert len(waits) == ATTEMPTS - 1
    assert not (tmp_path / "x").exists()


def test_every_byte_that_came_before_a_cut_is_kept(
    client: Client, server: Server, tmp_path: Path
) -> None:
    def a_third_at_a_time(headers: dict[str, str]) -> Answer:
        status, answered, body = serve_ranges(headers)
        return status, {**answered, "Content-Length": str(len(body))}, body[:100_000]

    server.answer = a_third_at_a_time
    fetch_into(client, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    begun = [headers.get("range") for headers in server.requests]
    assert begun == [None, "bytes=100000-", "bytes=200000-"]


def test_a_refused_download_leaves_no_file(client: Client, server: Server, tmp_path: Path) -> None:
    server.answer = lambda _: problem(404)
    with pytest.raises(Refused):
        fetch_into(client, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_do_not_write_into_one_part(tmp_path: Path) -> None:
    with (
        PartialFile(tmp_path / "x", force=False),
        pytest.raises(FileUnusable, match="another get"),
        PartialFile(tmp_path / "x", force=False),
    ):
        pass


def test_a_file_that_appeared_meanwhile_is_not_replaced(
    client: Client, server: Server, tmp_path: Path
) -> None:
    server.answer = serve_ranges
    with PartialFile(tmp_path / "x", force=False) as part:
        fetch(client, "/x", part, lambda *_: None)
        (tmp_path / "x").write_bytes(b"mine")
        with pytest.raises(FileUnusable):
            part.finish()
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_force_does_not_replace_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(FileUnusable, match="not a file"):
        PartialFile(tmp_path / "x", force=True)


def test_a_link_laid_under_the_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "x.part").symlink_to(tmp_path / "victim")
    with pytest.raises(FileUnusable), PartialFile(tmp_path / "x", force=False):
        pass
    assert (tmp_path / "victim").read_bytes() == b"precious"


def send(client: Client, file: Path, meanwhile: Callable[[], object] = lambda: None) -> Any:
    with open_source(str(file), None) as source:
        meanwhile()
        return client.call(
            "POST", "/x", headers=source.headers(), content=source.chunks(lambda *_: None)
        )


def test_a_file_is_sent_with_its_length_and_its_name_in_nfc(
    client: Client, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "e\u0301.pdf").write_bytes(CONTENT)
    send(client, tmp_path / "e\u0301.pdf")
    assert server.bodies == [CONTENT]
    sent = server.requests[0]
    assert sent["content-length"] == str(len(CONTENT))
    assert sent["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9.pdf"
    assert sent["content-type"] == "application/pdf"


def test_a_pipe_is_sent_whole(client: Client, server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(CONTENT,))
    writer.start()
    send(client, tmp_path / "pipe")
    writer.join()
    assert server.bodies == [CONTENT]
    assert "content-length" not in server.requests[0]


@pytest.mark.parametrize("size", [1, len(CONTENT) + 1])
def test_a_file_that_changes_while_it_is_sent_is_not_filed(
    client: Client, server: Server, tmp_path: Path, size: int
) -> None:
    file = tmp_path / "x"
    file.write_bytes(CONTENT)
    with pytest.raises(FileUnusable, match="changed"):
        send(client, file, lambda: os.truncate(file, size))
    assert CONTENT not in server.bodies


def test_a_name_that_is_not_utf_8_is_refused_in_words(client: Client, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"\xff.pdf")
    file.write_bytes(b"x")
    with pytest.raises(FileUnusable, match="UTF-8"):
        send(client, file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("合同\u3000一.pdf", "合同\u3000一.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\boot.ini", "boot.ini"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("..", "document"),
        ("a\x1b[2J\u202e.txt", "a_[2J_.txt"),
        ("合" * 100 + ".pdf", "合" * 78 + ".pdf"),
    ],
)
def test_a_document_s_name_becomes_a_plain_file_name(name: str, expected: str) -> None:
    assert plain_file_name(name) == expected


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b]0;x\x07\x9b1m\u202eb 合") == "a\\x1b]0;x\\x07\\x9b1m\\u202eb 合"


def test_json_is_escaped_for_the_terminal_and_reads_the_same() -> None:
    value = {"name": "\x9b1m \u202e \U000e0001 合 \\"}
    printed = printable_json(value)
    assert json.loads(printed) == value
    assert printed.isprintable()
