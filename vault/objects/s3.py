"""Any S3 as a site, by minio's client.

minio has no public call for single parts or for what was left open, so its private ones are used, in this
file only; `tests/unit/test_s3_private_methods.py` fails when a new release changes them. What the
connections do when a site is dead stands in `pool.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

from minio import Minio
from minio.datatypes import Part
from minio.error import InvalidResponseError, S3Error, ServerError

from vault.objects.pool import connection_pool
from vault.objects.s3errors import translated, within_upload
from vault.objects.s3reader import S3Reader
from vault.objects.store import (
    PART_SIZE_BYTES,
    Bytes,
    Capabilities,
    ObjectMissing,
    PendingUpload,
    StoredObject,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    UploadMissing,
)

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 30.0
FIRST_BYTE_SECONDS: Final = 5.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_UNKNOWN_TO_PLAIN_STORES: Final = frozenset({"NotImplemented", "MethodNotAllowed"})


class S3Store:
    """Objects in one bucket of one S3 endpoint."""

    def __init__(
        self,
        site: str,
        *,
        endpoint: str,
        bucket: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        tls: bool = True,
        ca_file: Path | None = None,
        connections: int = 32,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        first_byte_seconds: float = FIRST_BYTE_SECONDS,
    ) -> None:
        """Connects to nothing yet.

        Args:
            endpoint: ``HOST:PORT``.
            ca_file: PEM of the authority that signed the endpoint's certificate; None: the system's.
            connections: pooled connections; more are opened when needed.
            connect_seconds: to connect.
            read_seconds: between two reads of a body; also to send one body, and for the answer to a
                write or to a listing, behind which a store may have much to do.
            first_byte_seconds: for the answer's head of `open`, `size` and `check`, so that a hung
                site is left for the other one soon; never longer than `read_seconds`.
        """
        self.site = site
        self._bucket = bucket

        def client(head_seconds: float) -> Minio:
            # The region is given, or each client would first ask for the bucket's.
            return Minio(
                endpoint=endpoint,
                access_key=access_key,
                secret_key=secret_key,
                region=region,
                secure=tls,
                # Our own connections: minio's wait 300 s and repeat PUT and DELETE five times.
                http_client=connection_pool(
                    connections=connections,
                    connect_seconds=connect_seconds,
                    head_seconds=head_seconds,
                    body_seconds=read_seconds,
                    tls=tls,
                    ca_file=ca_file,
                ),
            )

        self._client = client(read_seconds)
        self._reads = client(min(first_byte_seconds, read_seconds))

    def prepare(self) -> None:
        """Also sees that we may ask whether the bucket keeps versions."""
        with translated(self.site):
            if not self._client.bucket_exists(bucket_name=self._bucket):
                self._make_bucket()
            self._has_versions()

    def put(self, key: str, body: Bytes) -> None:
        with translated(self.site):
            self._client._put_object(self._bucket, key, cast("bytes", body), headers={})  # noqa: SLF001

    def begin_parts(self, key: str) -> _S3Upload:
        with translated(self.site):
            upload_id = self._client._create_multipart_upload(self._bucket, key, {})  # noqa: SLF001
        return _S3Upload(self._client, self.site, self._bucket, key, upload_id, [])

    def resume_parts(self, key: str, upload_id: str) -> _S3Upload:
        with within_upload(self.site):
            parts = _full_parts(self._listed_parts(key, upload_id))
        return _S3Upload(self._client, self.site, self._bucket, key, upload_id, parts)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> S3Reader:
        with translated(self.site):
            response = self._reads.get_object(
                bucket_name=self._bucket, object_name=key, offset=offset, length=length or 0
            )
            return S3Reader(self.site, response, offset, length)

    def size(self, key: str) -> int:
        with translated(self.site):
            found = self._reads.stat_object(bucket_name=self._bucket, object_name=key)
            # Not `found.size`: that is 0 when the answer tells none.
            return int((found.metadata or {}).get("Content-Length", ""))

    def delete(self, key: str) -> None:
        with suppress(ObjectMissing), translated(self.site):
            for version in self._versions_of(key):
                self._client.remove_object(
                    bucket_name=self._bucket, object_name=key, version_id=version
                )

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        with translated(self.site):
            for found in self._client.list_objects(
                bucket_name=self._bucket,
                prefix=prefix,
                recursive=True,
                start_after=start_after or None,
            ):
                yield StoredObject(found.object_name, found.size, found.last_modified)

    def pending(self, prefix: str = "") -> Iterator[PendingUpload]:
        marker: dict[str, Any] = {}
        while True:
            with translated(self.site):
                page = self._client._list_multipart_uploads(  # noqa: SLF001
                    self._bucket, prefix=prefix, **marker
                )
            for found in page.uploads:
                yield PendingUpload(
                    found.object_name, found.upload_id or "", found.initiated_time or _EPOCH
                )
            if not page.is_truncated:
                return
            marker = {
                "key_marker": page.next_key_marker,
                "upload_id_marker": page.next_upload_id_marker,
            }

    def _listed_parts(self, key: str, upload_id: str) -> Iterator[Part]:
        """The upload's parts, page by page.

        The next page starts behind the last part of this one: rclone's own marker skips parts.
        """
        last = 0
        while True:
            page = self._client._list_parts(  # noqa: SLF001
                self._bucket, key, upload_id, part_number_marker=str(last)
            )
            found = [part for part in page.parts if part.part_number > last]
            yield from found
            if not (page.is_truncated and found):
                return
            last = found[-1].part_number

    def abort_pending(self, key: str, upload_id: str) -> None:
        _abort(self._client, self.site, self._bucket, key, upload_id)

    def check(self) -> None:
        with translated(self.site):
            if not self._reads.bucket_exists(bucket_name=self._bucket):
                raise StoreMisconfigured(self.site, "there is no such bucket")

    def probe(self) -> Capabilities:
        self.check()
        key = f"probe/{uuid4()}"
        with translated(self.site):
            try:
                self.put(key, b"probe")
                return Capabilities(
                    conditional_put=self._refuses_overwrite(key),
                    versioning=self._has_versions(),
                    object_lock=self._has_object_lock(),
                    partial_content=self._answers_206(key),
                    lists_pending_uploads=self._lists_pending(key),
                )
            finally:
                self.delete(key)

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(bucket_name=self._bucket)
        except S3Error as exc:
            # Another process that starts at the same time was first.
            if exc.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _has_versions(self) -> bool:
        """Whether a delete would leave older versions behind.

        A refusal is not a no: taken for one, every delete would only hide the ciphertext.
        """
        try:
            status = self._client.get_bucket_versioning(bucket_name=self._bucket).status
        except S3Error as exc:
            if exc.code in _UNKNOWN_TO_PLAIN_STORES:
                return False
            raise
        return status in ("Enabled", "Suspended")

    def _versions_of(self, key: str) -> Iterator[str | None]:
        if not self._has_versions():
            yield None
            return
        for found in self._client.list_objects(
            bucket_name=self._bucket, prefix=key, recursive=True, include_version=True
        ):
            if found.object_name == key:
                yield found.version_id

    def _refuses_overwrite(self, key: str) -> bool:
        try:
            self._client._put_object(  # noqa: SLF001
                self._bucket, key, b"other", headers={"If-None-Match": "*"}
            )
        except S3Error as exc:
            return bool(exc.code == "PreconditionFailed")
        except (InvalidResponseError, ServerError):
            return False
        return False

    def _has_object_lock(self) -> bool:
        try:
            found = self._client.get_object_lock_config(bucket_name=self._bucket)
        except ValueError:
            return True  # there is a lock configuration, without a default rule
        except (S3Error, InvalidResponseError, ServerError):
            return False
        return found.mode is not None

    def _answers_206(self, key: str) -> bool:
        with closing(self.open(key, 1, 2)) as reader:
            return reader.is_partial

    def _lists_pending(self, key: str) -> bool:
        upload = self.begin_parts(key)
        try:
            return any(found.upload_id == upload.upload_id for found in self.pending("probe/"))
        except StoreError:
            return False
        finally:
            upload.abort()


class _S3Upload:
    """One multipart upload."""

    def __init__(
        self, client: Minio, site: str, bucket: str, key: str, upload_id: str, done: list[Part]
    ) -> None:
        self._client = client
        self._site = site
        self._bucket = bucket
        self._key = key
        self.upload_id = upload_id
        self._parts = {part.part_number: part for part in done}
        self.parts_done = len(done)

    def put_part(self, number: int, body: Bytes) -> None:
        with within_upload(self._site):
            etag = self._client._upload_part(  # noqa: SLF001
                self._bucket, self._key, cast("bytes", body), None, self.upload_id, number
            )
        self._parts[number] = Part(number, etag, size=len(body))

    def complete(self) -> None:
        parts = [part for _, part in sorted(self._parts.items())]
        with within_upload(self._site):
            self._client._complete_multipart_upload(  # noqa: SLF001
                self._bucket, self._key, self.upload_id, parts
            )
        self._require_object()

    def abort(self) -> None:
        _abort(self._client, self._site, self._bucket, self._key, self.upload_id)

    def _require_object(self) -> None:
        """Look for the object: a completion may fail with status 200, which minio takes for success.

        Source: Amazon S3 API Reference, CompleteMultipartUpload.
        """
        try:
            with translated(self._site):
                found = self._client.stat_object(bucket_name=self._bucket, object_name=self._key)
        except ObjectMissing as exc:
            raise self._no_object() from exc
        if found.size != sum(part.size or 0 for part in self._parts.values()):
            raise self._no_object()

    def _no_object(self) -> StoreUnavailable:
        return StoreUnavailable(self._site, "the parts did not become the object")


def _full_parts(parts: Iterable[Part]) -> list[Part]:
    """Those from 1 on without a gap that have the size of a part."""
    full: list[Part] = []
    for part in parts:
        if part.part_number != len(full) + 1 or part.size != PART_SIZE_BYTES:
            break
        full.append(part)
    return full


def _abort(client: Minio, site: str, bucket: str, key: str, upload_id: str) -> None:
    with suppress(UploadMissing), within_upload(site):
        client._abort_multipart_upload(bucket, key, upload_id)  # noqa: SLF001
