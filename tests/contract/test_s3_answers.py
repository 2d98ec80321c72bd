"""Answers an S3 may give that no real server gives on request: each ends in one of the store's own errors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers.canned import CannedServer, Request, answer, canned, error
from vault.objects.s3 import S3Store
from vault.objects.store import (
    PART_SIZE_BYTES,
    ObjectLocked,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)

MIB = 2**20
KEY = "objects/aa/x"


def read(store: S3Store, offset: int, length: int) -> bytes:
    buffer = memoryview(bytearray(length))
    with closing(store.open(KEY, offset, length)) as reader:
        return bytes(buffer[: reader.readinto(buffer)])


CALLS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put(KEY, b"x"),
    "begin_parts": lambda store: store.begin_parts(KEY),
    "resume_parts": lambda store: store.resume_parts(KEY, "upload"),
    "open": lambda store: read(store, 1, 2),
    "size": lambda store: store.size(KEY),
    "list": lambda store: list(store.list()),
    "pending": lambda store: list(store.pending()),
    "delete": lambda store: store.delete(KEY),
    "abort_pending": lambda store: store.abort_pending(KEY, "upload"),
    "check": lambda store: store.check(),
    "prepare": lambda store: store.prepare(),
    "probe": lambda store: store.probe(),
}

USELESS: dict[str, bytes] = {
    "cut at once": b"",
    "not HTTP": b"220 mail.example ESMTP\r\n",
    "an error in broken XML": answer(503, "<oops"),
    "an error in HTML": answer(502, "<html>bad gateway</html>", Content_Type="text/html"),
    "an error without a body": answer(500),
    "slow down": error(503, "SlowDown"),
}


def store_at(server: CannedServer, **options: Any) -> S3Store:
    return S3Store(
        "a",
        endpoint=server.endpoint,
        bucket="bucket",
        access_key="access",
        secret_key="secret",
        tls=False,
        **options,
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("useless", USELESS)
def test_a_useless_answer_makes_the_store_unavailable(call: str, useless: str) -> None:
    with canned(USELESS[useless]) as server, pytest.raises(StoreUnavailable):
        CALLS[call](store_at(server))


@pytest.mark.parametrize(
    "call", sorted(CALLS.keys() - {"size", "check"})
)  # answers to HEAD have no body
def test_an_answer_cut_in_its_body_makes_the_store_unavailable(call: str) -> None:
    with canned(answer(200, "<", Content_Length="1000")) as server, pytest.raises(StoreUnavailable):
        CALLS[call](store_at(server))


def test_an_answer_without_a_size_is_not_taken_for_an_empty_object() -> None:
    with canned(b"HTTP/1.1 200 OK\r\n\r\n") as server, pytest.raises(StoreUnavailable):
        store_at(server).size(KEY)


@pytest.mark.parametrize("call", ["begin_parts", "resume_parts", "list", "pending"])
def test_a_result_in_broken_xml_makes_the_store_unavailable(call: str) -> None:
    with canned(answer(200, "<oops")) as server, pytest.raises(StoreUnavailable):
        CALLS[call](store_at(server))


def test_an_object_of_unknown_length_is_refused() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with canned(chunked) as server, pytest.raises(StoreUnavailable):
        store_at(server).open(KEY)


def test_a_store_that_ignores_the_range_still_gives_just_these_bytes() -> None:
    with canned(answer(200, "0123456789")) as server:
        assert read(store_at(server), 3, 4) == b"3456"
        with closing(store_at(server).open(KEY, 3, 4)) as reader:
            assert reader.object_size_bytes == 10


@pytest.mark.parametrize("head", [answer(404), answer(200, Content_Length="7")])
def test_a_completion_that_fails_with_status_200_is_not_taken_for_success(head: bytes) -> None:
    def respond(request: Request) -> bytes:
        if request.method == "HEAD":
            return head
        if request.method == "PUT":
            return answer(200, ETag='"e"')
        if "uploads=" in request.target:
            return answer(200, "<Result><UploadId>upload</UploadId></Result>")
        return error(200, "InternalError")

    with canned(respond) as server:
        upload = store_at(server).begin_parts(KEY)
        upload.put_part(1, b"ciphertext")
        with pytest.raises(StoreUnavailable):
            upload.complete()


def parts_page(numbers: range, *, is_truncated: bool, next_marker: int) -> bytes:
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>e{number}</ETag><Size>{PART_SIZE_BYTES}</Size></Part>"
        for number in numbers
    )
    return answer(
        200,
        f"<Result><IsTruncated>{str(is_truncated).lower()}</IsTruncated>"
        f"<NextPartNumberMarker>{next_marker}</NextPartNumberMarker>{listed}</Result>",
    )


@pytest.mark.parametrize("overlap", [0, 1])  # rclone lists the marker's own part again
@pytest.mark.parametrize("skip", [0, 1])  # and its next marker is one too high
def test_parts_are_listed_page_by_page_without_a_gap(overlap: int, skip: int) -> None:
    def respond(request: Request) -> bytes:
        marker = int(parse_qs(urlsplit(request.target).query).get("part-number-marker", ["0"])[0])
        last = min(marker + 1000, 2500)
        numbers = range(marker + 1 - (overlap if marker else 0), last + 1)
        return parts_page(numbers, is_truncated=last < 2500, next_marker=last + skip)

    with canned(respond) as server:
        assert store_at(server).resume_parts(KEY, "upload").parts_done == 2500
        assert len(server.requests) == 3


def test_a_listing_of_parts_that_never_ends_is_left() -> None:
    endless = parts_page(range(1, 3), is_truncated=True, next_marker=2)
    with canned(endless) as server:
        assert store_at(server).resume_parts(KEY, "upload").parts_done == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_ciphertext_does_not_follow_a_redirect(status: int) -> None:
    with canned(answer(200)) as elsewhere:
        redirect = answer(status, Location=f"http://{elsewhere.endpoint}/x")
        with canned(redirect) as server, pytest.raises(StoreError):
            store_at(server).put(KEY, b"ciphertext")
        assert elsewhere.requests == []


def test_a_write_is_never_repeated() -> None:
    with canned(b"") as server:
        with pytest.raises(StoreUnavailable):
            store_at(server).put(KEY, b"x")
        assert len(server.requests) == 1


def test_a_read_is_repeated_once_when_the_connection_breaks() -> None:
    with canned(b"") as server:
        with pytest.raises(StoreUnavailable):
            store_at(server).size(KEY)
        assert len(server.requests) == 2


def test_a_read_that_timed_out_is_not_repeated() -> None:
    def respond(_: Request) -> bytes:
        time.sleep(2)
        return b""

    with canned(respond) as server:
        with pytest.raises(StoreUnavailable):
            store_at(server, read_seconds=0.3).size(KEY)
        assert len(server.requests) == 1


def test_the_body_of_an_answer_that_ends_its_connection_may_pause_too() -> None:
    def respond(_: Request) -> Iterator[bytes]:
        yield answer(200, "ab", Content_Length="4")
        time.sleep(0.6)
        yield b"cd"

    with canned(respond) as server:
        assert read(store_at(server, first_byte_seconds=0.2), 0, 4) == b"abcd"


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with canned(answer(200)) as proxy, canned(answer(200)) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.endpoint}")
        monkeypatch.delenv("no_proxy", raising=False)
        store_at(server).put(KEY, b"x")
        assert proxy.requests == []


def test_a_slow_line_may_take_longer_than_a_connection() -> None:
    with canned(answer(200), bytes_per_second=8 * MIB) as server:
        store_at(server, connect_seconds=0.3).put(KEY, bytes(PART_SIZE_BYTES))
        assert server.requests[0].body_size_bytes == PART_SIZE_BYTES


def test_a_receiver_that_stalls_is_away_within_the_read_time_out() -> None:
    with canned(answer(200), bytes_per_second=1024) as server:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store_at(server, read_seconds=0.5).put(KEY, bytes(PART_SIZE_BYTES))
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (error(403, "AccessDenied"), StoreMisconfigured),
        (error(503, "SlowDown"), StoreUnavailable),
    ],
)
@pytest.mark.parametrize("call", ["prepare", "delete"])
def test_a_bucket_that_may_keep_versions_is_not_taken_for_one_that_does_not(
    call: str, refusal: bytes, expected: type[StoreError]
) -> None:
    def respond(request: Request) -> bytes:
        return refusal if "versioning" in request.target else answer(200)

    with canned(respond) as server:
        with pytest.raises(expected):
            CALLS[call](store_at(server))
        assert not any(request.method == "DELETE" for request in server.requests)


def test_a_plain_store_that_knows_no_versions_is_fine() -> None:
    def respond(request: Request) -> bytes:
        return error(501, "NotImplemented") if "versioning" in request.target else answer(200)

    with canned(respond) as server:
        store_at(server).prepare()
        store_at(server).delete(KEY)
        assert server.requests[-1].method == "DELETE"


VERSIONED = answer(
    200, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
)
UNVERSIONED = answer(200, "<VersioningConfiguration/>")


class Clock:
    """Stands still unless it is set."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def asked_for_versioning(server: CannedServer) -> int:
    return sum("versioning=" in request.target for request in server.requests)


@pytest.mark.parametrize("versioning", [VERSIONED, UNVERSIONED, error(501, "NotImplemented")])
def test_whether_a_bucket_keeps_versions_is_asked_once_in_a_minute(versioning: bytes) -> None:
    def respond(request: Request) -> bytes:
        return versioning if "versioning=" in request.target else answer(200, "<Result/>")

    clock = Clock()
    with canned(respond) as server:
        store = store_at(server, now=clock)
        for seconds, asked in ((0, 1), (30, 1), (59, 1), (60, 2), (61, 2), (-1, 3), (58, 3)):
            clock.time = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
            store.delete(KEY)
            assert asked_for_versioning(server) == asked


def test_a_refusal_to_say_whether_versions_are_kept_is_not_remembered() -> None:
    refused = True

    def respond(request: Request) -> bytes:
        if "versioning=" in request.target:
            return error(403, "AccessDenied") if refused else UNVERSIONED
        return answer(200)

    with canned(respond) as server:
        store = store_at(server, now=Clock())
        for _ in range(2):
            with pytest.raises(StoreMisconfigured):
                store.delete(KEY)
        refused = False
        store.delete(KEY)
        assert asked_for_versioning(server) == 3


def test_a_bucket_that_began_to_keep_versions_within_the_minute_is_noticed() -> None:
    versions = "".join(
        f"<Version><Key>{KEY}</Key><VersionId>{id_}</VersionId></Version>" for id_ in "12"
    )
    marker = f"<DeleteMarker><Key>{KEY}</Key><VersionId>m</VersionId></DeleteMarker>"
    other = f"<Version><Key>{KEY}-other</Key><VersionId>o</VersionId></Version>"

    def respond(request: Request) -> bytes:
        if "versioning=" in request.target:
            return UNVERSIONED
        if "versions=" in request.target:
            return answer(200, f"<Result>{versions}{marker}{other}</Result>")
        return answer(204, x_amz_delete_marker="true")

    with canned(respond) as server:
        store_at(server, now=Clock()).delete(KEY)
        deleted = [request.target for request in server.requests if request.method == "DELETE"]
    assert [target.partition("versionId=")[2] for target in deleted] == ["", "1", "2", "m"]


def test_versions_are_listed_page_by_page() -> None:
    def respond(request: Request) -> bytes:
        marker = parse_qs(urlsplit(request.target).query).get("version-id-marker", ["0"])[0]
        return answer(
            200,
            f"<R xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><IsTruncated>{str(marker != '2').lower()}"
            f"</IsTruncated><NextKeyMarker>{KEY}</NextKeyMarker><NextVersionIdMarker>{int(marker) + 1}"
            f"</NextVersionIdMarker><Version><Key>{KEY}</Key><VersionId>v{marker}</VersionId></Version></R>",
        )

    with canned(respond) as server:
        assert list(store_at(server)._versions_of(KEY)) == ["v0", "v1", "v2"]


def test_a_lock_is_sent_with_the_object_itself_in_whole_seconds() -> None:
    clock = Clock()
    until = clock.time + timedelta(seconds=10, microseconds=1)
    with canned(answer(200, "<Result><UploadId>upload</UploadId></Result>")) as server:
        store = store_at(server, now=clock)
        store.put(KEY, b"x", locked_until=until.astimezone(timezone(timedelta(hours=8))))
        store.begin_parts(KEY, locked_until=until)
        assert len(server.requests) == 2
        for request in server.requests:
            assert request.headers["x-amz-object-lock-mode"] == "COMPLIANCE"
            assert request.headers["x-amz-object-lock-retain-until-date"] == "2030-01-01T00:00:11Z"
        store.put(KEY, b"x", locked_until=clock.time)
        store.put(KEY, b"x")
        for request in server.requests[2:]:
            assert not any("object-lock" in name for name in request.headers)


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def refused(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code></Error>"
    return answer(status, body, Date="Tue, 01 Jan 2030 11:00:00 GMT")


DENIED = refused(403, "AccessDenied")
NO_LOCK = error(404, "NoSuchObjectLockConfiguration")


def retention(until: str) -> bytes:
    return answer(
        200,
        "<Retention xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Mode>COMPLIANCE</Mode>"
        f"<RetainUntilDate>{until}</RetainUntilDate></Retention>",
    )


def legal_hold(status: str) -> bytes:
    return answer(200, f"<LegalHold><Status>{status}</Status></LegalHold>")


def undeletable(refusal: bytes, told: bytes, held: bytes) -> Callable[[Request], bytes]:
    """A bucket with one version, whose delete is refused."""

    def respond(request: Request) -> bytes:
        if request.method == "DELETE":
            return refusal
        if "versions=" in request.target:
            key = parse_qs(urlsplit(request.target).query)["prefix"][0]
            version = f"<Version><Key>{key}</Key><VersionId>1</VersionId></Version>"
            return answer(200, f"<R>{version}</R>")
        if "versioning=" in request.target:
            return VERSIONED
        if "retention=" in request.target:
            return told
        return held if "legal-hold=" in request.target else answer(200, "probe")

    return respond


def delete_refused(refusal: bytes, told: bytes, held: bytes) -> StoreError:
    """What a delete of one version raises when the store answers the questions so."""
    with canned(undeletable(refusal, told, held)) as server, pytest.raises(StoreError) as raised:
        store_at(server, now=Clock()).delete(KEY)
    return raised.value


@pytest.mark.parametrize("refusal", [DENIED, refused(400, "InvalidRequest"), error(403, "Other")])
@pytest.mark.parametrize(
    ("told", "held", "until"),
    [
        (retention("2030-01-01T12:00:00Z"), NO_LOCK, NOON),
        (retention("2030-01-01T12:00:00.000000000Z"), answer(500), NOON),  # RGW's form
        (retention("2030-01-01T20:00:00+08:00"), NO_LOCK, NOON),
        (retention("some day"), NO_LOCK, None),
        (retention("2029-01-01T00:00:00Z"), legal_hold("ON"), None),
        (NO_LOCK, legal_hold("ON"), None),
        (answer(503), legal_hold("ON"), None),
    ],
)
def test_a_lock_is_told_from_a_missing_permission(
    refusal: bytes, told: bytes, held: bytes, until: datetime | None
) -> None:
    raised = delete_refused(refusal, told, held)
    assert isinstance(raised, ObjectLocked)
    assert raised.until == until


@pytest.mark.parametrize(
    ("told", "held"),
    [
        (NO_LOCK, NO_LOCK),
        (retention("2030-01-01T10:59:59Z"), legal_hold("OFF")),  # by the store's clock
        (DENIED, DENIED),
        (answer(500), answer(500)),
        (answer(200, "<oops"), answer(200, "")),
        (error(501, "NotImplemented"), error(405, "MethodNotAllowed")),
    ],
)
def test_a_store_that_tells_of_no_lock_is_believed_to_refuse_us(told: bytes, held: bytes) -> None:
    assert isinstance(delete_refused(DENIED, told, held), StoreMisconfigured)
    assert isinstance(delete_refused(refused(503, "SlowDown"), told, held), StoreUnavailable)


def test_a_bucket_that_locks_everything_by_itself_can_be_probed() -> None:
    locks_all = undeletable(DENIED, retention("2030-01-02T00:00:00Z"), NO_LOCK)

    def respond(request: Request) -> bytes:
        if "object-lock=" in request.target:
            return answer(200, "<R><ObjectLockEnabled>Enabled</ObjectLockEnabled></R>")
        if "uploads=" in request.target:
            return answer(200, "<R><UploadId>upload</UploadId></R>")
        return answer(204) if "uploadId=" in request.target else locks_all(request)

    with canned(respond) as server:
        assert store_at(server).probe().object_lock
        assert any(request.method == "DELETE" for request in server.requests)


@pytest.mark.parametrize(
    ("lock", "can_lock"),
    [
        ("<ObjectLockEnabled>Enabled</ObjectLockEnabled>", True),  # Amazon's, without a rule
        ("<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule/>", True),  # Versity's
        ("<Name>bucket</Name>", False),  # rclone's: a listing
    ],
)
def test_a_lock_configuration_is_known_by_its_own_element(lock: str, can_lock: bool) -> None:
    configuration = f"<R xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{lock}</R>"

    def respond(request: Request) -> bytes:
        return answer(200, configuration) if "object-lock=" in request.target else answer(200)

    with canned(respond) as server:
        assert store_at(server)._can_lock() == can_lock


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (error(403, "AccessDenied"), StoreMisconfigured),
        (error(404, "ObjectLockConfigurationNotFoundError"), StoreMisconfigured),
        (error(501, "NotImplemented"), StoreMisconfigured),
        (error(503, "SlowDown"), StoreUnavailable),
        (b"", StoreUnavailable),
    ],
)
def test_locks_that_are_asked_for_and_not_confirmed_stop_the_start(
    refusal: bytes, expected: type[StoreError]
) -> None:
    def respond(request: Request) -> bytes:
        if "object-lock=" in request.target:
            return refusal
        return UNVERSIONED if "versioning=" in request.target else answer(200)

    with canned(respond) as server, pytest.raises(expected):
        store_at(server, object_lock=True).prepare()


def test_a_given_digest_is_sent_as_it_is_and_nothing_is_hashed_again() -> None:
    with canned(answer(200, "<R><UploadId>upload</UploadId></R>", ETag='"e"')) as server:
        store = store_at(server)
        store.put(KEY, b"body", sha256=bytes(32))
        store.begin_parts(KEY).put_part(1, b"body", sha256=bytes(32))
        store.put(KEY, b"body")
    sent = [request.headers for request in server.requests if request.method == "PUT"]
    assert [headers["x-amz-content-sha256"] for headers in sent] == [
        *(bytes(32).hex(), bytes(32).hex(), hashlib.sha256(b"body").hexdigest())
    ]
    assert {headers["content-length"] for headers in sent} == {"4"}
