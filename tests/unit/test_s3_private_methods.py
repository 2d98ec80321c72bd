"""minio's private names are as `vault/objects/s3.py` uses them; a new release may change that."""

from __future__ import annotations

from inspect import Signature, signature

import pytest
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.error import InvalidResponseError

from vault.objects.s3 import _SHA256, _Client

# As called: positional arguments (the client itself first), then keywords.
CALLS: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "_put_object": ((None, "bucket", "key", b""), {"headers": {}}),
    "_create_multipart_upload": ((None, "bucket", "key", {}), {}),
    "_upload_part": ((None, "bucket", "key", b"", None, "upload", 1), {}),
    "_complete_multipart_upload": ((None, "bucket", "key", "upload", []), {}),
    "_abort_multipart_upload": ((None, "bucket", "key", "upload"), {}),
    "_build_headers": ((None, "host", {}, b"", None), {}),
    "_list_parts": ((None, "bucket", "key", "upload"), {"part_number_marker": "0"}),
    "_execute": ((None, "GET", "bucket", "key"), {"query_params": {"versions": ""}}),
    "_list_multipart_uploads": (
        (None, "bucket"),
        {"prefix": "", "key_marker": None, "upload_id_marker": None},
    ),
}

POSITIONS = {
    "_put_object": ["self", "bucket_name", "object_name", "data"],
    "_create_multipart_upload": ["self", "bucket_name", "object_name", "headers"],
    "_upload_part": [
        *("self", "bucket_name", "object_name", "data", "headers", "upload_id", "part_number"),
    ],
    "_complete_multipart_upload": ["self", "bucket_name", "object_name", "upload_id", "parts"],
    "_abort_multipart_upload": ["self", "bucket_name", "object_name", "upload_id"],
    "_build_headers": ["self", "host", "headers", "body", "creds"],
    "_list_parts": ["self", "bucket_name", "object_name", "upload_id"],
    "_execute": ["self", "method", "bucket_name", "object_name"],
    "_list_multipart_uploads": ["self", "bucket_name"],
}


def _signature(name: str) -> Signature:
    return signature(getattr(Minio, name))


@pytest.mark.parametrize("name", CALLS)
def test_a_private_method_needs_no_more_than_we_pass(name: str) -> None:
    positional, keywords = CALLS[name]
    _signature(name).bind(*positional, **keywords)


@pytest.mark.parametrize("name", POSITIONS)
def test_what_we_pass_by_position_still_means_the_same(name: str) -> None:
    assert list(_signature(name).parameters)[: len(POSITIONS[name])] == POSITIONS[name]


def test_an_answer_that_is_not_xml_still_carries_its_status() -> None:
    assert InvalidResponseError(404, "text/xml", None)._code == 404


def test_urllib3_still_validates_a_connection_before_it_sends() -> None:
    assert list(signature(urllib3.HTTPConnectionPool._validate_conn).parameters) == ["self", "conn"]


def test_urllib3_still_hands_out_the_answer_below_its_own() -> None:
    assert "original_response" in signature(urllib3.HTTPResponse).parameters
    assert hasattr(urllib3.HTTPResponse(), "_original_response")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("locks", [False, True])
def test_minio_still_signs_the_digest_that_its_headers_name(*, tls: bool, locks: bool) -> None:
    client = _Client(wants_md5=locks, endpoint="host:1", access_key="a", secret_key="s", secure=tls)
    headers, _ = client._build_headers(
        "host:1", {_SHA256: "digest"}, b"body", Credentials("a", "s")
    )
    assert headers["Content-Length"] == "4"
    assert headers[_SHA256] == ("UNSIGNED-PAYLOAD" if tls and locks else "digest")
    assert ("Content-MD5" in headers) == (tls and locks)
