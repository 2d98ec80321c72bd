"""minio's private methods are as `vault/objects/s3.py` calls them; a new release may change that."""

from __future__ import annotations

from inspect import signature

import pytest
from minio import Minio

EXPECTED = {
    "_put_object": ["self", "bucket_name", "object_name", "data", "headers"],
    "_create_multipart_upload": ["self", "bucket_name", "object_name", "headers"],
    "_upload_part": [
        *("self", "bucket_name", "object_name", "data", "headers", "upload_id", "part_number"),
    ],
    "_complete_multipart_upload": ["self", "bucket_name", "object_name", "upload_id", "parts"],
    "_abort_multipart_upload": ["self", "bucket_name", "object_name", "upload_id"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_private_method_still_takes_what_we_pass(name: str) -> None:
    parameters = list(signature(getattr(Minio, name)).parameters)
    assert parameters[: len(EXPECTED[name])] == EXPECTED[name]


def test_the_listing_of_open_uploads_still_takes_prefix_and_markers() -> None:
    parameters = signature(Minio._list_multipart_uploads).parameters
    assert {"prefix", "key_marker", "upload_id_marker"} <= set(parameters)
