"""Preconditions, ranges and idempotency: what the headers promise is kept (RFC 9110 §13, §14)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import create_engine, text

from api.embedded import DatabaseUrls
from api.settings import KmsSettings
from tests.api.helpers import named, upload
from tests.running import RunningService

MIB = 2**20


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", -7, None),
        ("bytes=100-", 100, None),
        (f"bytes={MIB - 60}-{MIB + 60}", MIB - 60, MIB + 61),
        (f"bytes={2 * MIB}-99999999", 2 * MIB, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_gives_just_these_bytes(
    service: RunningService, header: str, start: int, stop: int | None
) -> None:
    content = os.urandom(3 * MIB)
    path = f"/v1/documents/{upload(service.demo, content)['id']}/content"
    part = service.demo.get(path, headers={"Range": header})
    assert part.status_code == 206
    assert part.content == content[start:stop]
    first = start % len(content)
    assert (
        part.headers["content-range"] == f"bytes {first}-{first + len(part.content) - 1}/{3 * MIB}"
    )


@pytest.mark.parametrize("header", ["bytes=3-", "bytes=7-9"])
def test_a_range_behind_the_end_is_a_416(service: RunningService, header: str) -> None:
    path = f"/v1/documents/{upload(service.demo, b'abc')['id']}/content"
    answer = service.demo.get(path, headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */3"


@pytest.mark.parametrize(
    "header",
    [
        "bytes=2-1",
        "bytes=a-b",
        "lines=1-2",
        "bytes=0-0,2-2",
        "bytes",
        "bytes=--1",
        "bytes=" + "9" * 400 + "-",
    ],
)
def test_a_range_that_means_nothing_is_ignored_or_refused(
    service: RunningService, header: str
) -> None:
    path = f"/v1/documents/{upload(service.demo, b'abc')['id']}/content"
    answer = service.demo.get(path, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, b"abc") or answer.status_code == 416


def test_an_empty_document_has_no_ranges_but_is_whole(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'')['id']}/content"
    assert service.demo.get(path).content == b""
    assert service.demo.get(path, headers={"Range": "bytes=0-0"}).status_code == 416


def test_if_range_serves_the_whole_when_the_version_is_another(service: RunningService) -> None:
    document = upload(service.demo, b"first version")
    path = f"/v1/documents/{document['id']}/content"
    etag = service.demo.head(path).headers["etag"]
    same = service.demo.get(path, headers={"Range": "bytes=0-4", "If-Range": etag})
    assert (same.status_code, same.content) == (206, b"first")
    service.demo.put(path, content=b"second version")
    other = service.demo.get(path, headers={"Range": "bytes=0-4", "If-Range": etag})
    assert (other.status_code, other.content) == (200, b"second version")


def test_if_none_match_spares_the_bytes(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'abc')['id']}/content"
    etag = service.demo.get(path).headers["etag"]
    assert not etag.startswith("W/")
    unchanged = service.demo.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert service.demo.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert service.demo.get(path, headers={"If-None-Match": "*"}).status_code == 304


def test_head_tells_what_get_would(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'abc')['id']}/content"
    head, get = service.demo.head(path), service.demo.get(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("etag", "content-length", "content-type", "content-disposition"):
        assert head.headers[name] == get.headers[name]
    assert get.headers["x-content-type-options"] == "nosniff"
    assert get.headers["cache-control"] == "no-store"


def test_a_stale_if_match_loses(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'one')['id']}/content"
    etag = service.demo.head(path).headers["etag"]
    won = service.demo.put(path, content=b"two", headers={"If-Match": etag})
    lost = service.demo.put(path, content=b"three", headers={"If-Match": etag})
    assert (won.status_code, lost.status_code) == (201, 412)
    assert service.demo.get(path).content == b"two"
    assert (
        service.demo.put(path, content=b"x", headers={"If-Match": '"no-uuid"'}).status_code == 412
    )


def test_a_stale_if_match_on_metadata_loses(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'x')['id']}"
    etag = service.demo.get(path).headers["etag"]
    won = service.demo.patch(path, json={"name": "a"}, headers={"If-Match": etag})
    lost = service.demo.patch(path, json={"name": "b"}, headers={"If-Match": etag})
    assert (won.status_code, lost.status_code) == (200, 412)
    assert service.demo.delete(path, headers={"If-Match": etag}).status_code == 412


def test_of_many_writers_with_one_if_match_exactly_one_wins(service: RunningService) -> None:
    path = f"/v1/documents/{upload(service.demo, b'zero')['id']}/content"
    etag = service.demo.head(path).headers["etag"]

    def put(number: int) -> int:
        return service.demo.put(
            path, content=f"{number}".encode(), headers={"If-Match": etag}
        ).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(put, range(8)))
    assert statuses == [201] + [412] * 7


def test_concurrent_versions_get_numbers_without_gaps(service: RunningService) -> None:
    document = upload(service.demo, b"1")
    path = f"/v1/documents/{document['id']}"

    def put(number: int) -> int:
        answer = service.demo.put(f"{path}/content", content=f"{number}".encode())
        return int(answer.json()["version"]["number"])

    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(pool.map(put, range(16)))
    assert numbers == list(range(2, 18))


def test_a_replayed_create_answers_with_the_first_document(service: RunningService) -> None:
    key = {"Idempotency-Key": "invoice-4711"}
    first = upload(service.demo, b"same body", headers=key)
    again = upload(service.demo, b"same body", headers=key)
    assert again["id"] == first["id"]
    assert again["receipt"] == first["receipt"]
    assert len(service.demo.get("/v1/documents").json()["items"]) == 1


@pytest.mark.parametrize("change", ["body", "name", "class"])
def test_an_idempotency_key_used_for_another_request_is_refused(
    service: RunningService, change: str
) -> None:
    service.admin.post("/v1/classes", json={"name": "other"})
    key = {"Idempotency-Key": "k"}
    upload(service.demo, b"body", name="a", headers=key)
    answer = service.demo.post(
        "/v1/documents",
        params={"class": "other"} if change == "class" else {},
        content=b"BODY" if change == "body" else b"body",
        headers={**named("b" if change == "name" else "a"), **key},
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:strongroom:problem:idempotency-mismatch"


def test_an_idempotency_key_belongs_to_its_principal(service: RunningService) -> None:
    other = _another_application(service)
    one = upload(service.demo, b"x", headers={"Idempotency-Key": "k"})
    two = upload(other, b"x", headers={"Idempotency-Key": "k"})
    assert one["id"] != two["id"]


def test_a_second_request_while_the_first_runs_is_a_409(
    service: RunningService, database_urls: DatabaseUrls
) -> None:
    go_on = threading.Event()
    headers = {**named("a"), "Idempotency-Key": "k"}

    def slow() -> Iterator[bytes]:
        yield bytes(3 * MIB)
        go_on.wait(30)
        yield b"end"

    def post(content: Iterator[bytes] | bytes) -> int:
        return service.demo.post("/v1/documents", content=content, headers=headers).status_code

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, slow())
        _wait_for_claim(database_urls)
        second = post(b"other")
        go_on.set()
        assert (first.result(30), second) == (201, 409)


def test_a_failed_create_frees_its_idempotency_key(service: RunningService) -> None:
    service.admin.post("/v1/classes", json={"name": "small", "max_size_bytes": 2})
    key = {**named("a"), "Idempotency-Key": "k"}
    refused = service.demo.post("/v1/documents?class=small", content=b"long", headers=key)
    assert refused.status_code == 413
    assert (
        upload(service.demo, b"xx", params={"class": "small"}, headers=key)["version"]["number"]
        == 1
    )


def _wait_for_claim(database_urls: DatabaseUrls) -> None:
    owner = create_engine(database_urls.owner, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        for _ in range(200):
            if connection.execute(text("SELECT count(*) FROM idempotency_keys")).scalar_one():
                return
            time.sleep(0.05)
    raise AssertionError("the first request never claimed its key")


def _another_application(service: RunningService) -> httpx.Client:
    new = {"name": "second", "scopes": ["read", "write"], "department": "demo"}
    principal = service.admin.post("/v1/principals", json=new).json()
    issued = service.admin.post("/v1/api-keys", json={"principal_id": principal["id"]}).json()
    return service.client(issued["token"])
