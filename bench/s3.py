"""The store under test, reached with the plain client: for floors, and to clear away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import urllib3
from minio import Minio

from bench.payload import LargeBody
from bench.plan import MIB

REGION: Final = "us-east-1"
PART_SIZE_BYTES: Final = 8 * MIB


@dataclass(frozen=True)
class Bucket:
    """One bucket and who may use it."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str

    def client(self) -> Minio:
        """A client with as many pooled connections as a service has threads."""
        pool = urllib3.PoolManager(maxsize=64)
        return Minio(
            self.endpoint,
            self.access_key,
            self.secret_key,
            secure=False,
            region=REGION,
            http_client=pool,
        )


def put_large(client: Minio, bucket: str, key: str, body: LargeBody, parallel: int) -> None:
    """The raw client's own upload of `body`, in parts of 8 MiB."""
    client.put_object(
        bucket,
        key,
        body.reader(),
        body.size_bytes,
        part_size=PART_SIZE_BYTES,
        num_parallel_uploads=parallel,
    )
