"""Any S3 as a site, by minio's client.

minio has no public call for single parts or for what was left open, so its private ones are used, in this
file only; `tests/unit/test_s3_private_methods.py` fails when a new release changes them. What the
connections do when a site is dead stands in `pool.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.datatypes import Part
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError

from vault.objects.pool import connection_pool
from vault.objects.store import (
    Bytes,
    Capabilities,
    ObjectMissing,
    PendingUpload,
    StoredObject,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
)

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 30.0
_SKIP_BYTES: Final = 2**20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MISSING: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchUpload", "InvalidRange"})
_MISCONFIGURED: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "MethodNotAllowed",
        "NoSuchBucket",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)

_UNKNOWN_TO_PLAIN_STORES: Final = frozenset({"NotImplemented", "MethodNotAllowed"})

_CODE_OF: Final = {403: "AccessDenied", 404: "NoSuchKey", 416: "InvalidRange"}


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
    ) -> None:
        """Connects to nothing yet.

        Args:
            endpoint: ``HOST:PORT``.
            ca_file: PEM of the authority that signed the endpoint's certificate; None: the system's.
            connections: pooled connections; more are opened when needed.
            connect_seconds, read_seconds: time-outs; the second is between two reads, and for
                sending one body.
        """
        self.site = site
        self._bucket = bucket
        # Our own connections: minio's wait 300 s and repeat PUT and DELETE five times.
        pool = connection_pool(
            connections=connections,
            connect_seconds=connect_seconds,
            read_seconds=read_seconds,
            tls=tls,
            ca_file=ca_file,
        )
        # The region is given, or each client would first ask for the bucket's.
        self._client = Minio(
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            secure=tls,
            http_client=pool,
        )

    def prepare(self) -> None:
        """Make the bucket if it is missing, and see that we may ask whether it keeps versions.

        For the start only.
        """
        with _translated(self.site):
            if not self._client.bucket_exists(bucket_name=self._bucket):
                self._make_bucket()
            self._has_versions()

    def put(self, key: str, body: Bytes) -> None:
        with _translated(self.site):
            self._client._put_object(self._bucket, key, cast("bytes", body), headers={})  # noqa: SLF001

    def begin_parts(self, key: str) -> _S3Upload:
        return _S3Upload(self._client, self.site, self._bucket, key)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> _S3Reader:
        with _translated(self.site):
            response = self._client.get_object(
                bucket_name=self._bucket, object_name=key, offset=offset, length=length or 0
            )
            return _S3Reader(self.site, response, offset, length)

    def size(self, key: str) -> int:
        with _translated(self.site):
            found = self._client.stat_object(bucket_name=self._bucket, object_name=key)
            # Not `found.size`: that is 0 when the answer tells none.
            return int((found.metadata or {}).get("Content-Length", ""))

    def delete(self, key: str) -> None:
        with suppress(ObjectMissing), _translated(self.site):
            for version in self._versions_of(key):
                self._client.remove_object(
                    bucket_name=self._bucket, object_name=key, version_id=version
                )

    def list(self, prefix: str = "", start_after: str = "") -> Iterator[StoredObject]:
        with _translated(self.site):
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
            with _translated(self.site):
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

    def abort_pending(self, key: str, upload_id: str) -> None:
        _abort(self._client, self.site, self._bucket, key, upload_id)

    def check(self) -> None:
        with _translated(self.site):
            if not self._client.bucket_exists(bucket_name=self._bucket):
                raise StoreMisconfigured(self.site, "there is no such bucket")

    def probe(self) -> Capabilities:
        self.check()
        key = f"probe/{uuid4()}"
        with _translated(self.site):
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

    def __init__(self, client: Minio, site: str, bucket: str, key: str) -> None:
        self._client = client
        self._site = site
        self._bucket = bucket
        self._key = key
        self._parts: dict[int, Part] = {}
        with _translated(site):
            self.upload_id = client._create_multipart_upload(bucket, key, {})  # noqa: SLF001

    def put_part(self, number: int, body: Bytes) -> None:
        with self._writing():
            etag = self._client._upload_part(  # noqa: SLF001
                self._bucket, self._key, cast("bytes", body), None, self.upload_id, number
            )
        self._parts[number] = Part(number, etag, size=len(body))

    def complete(self) -> None:
        parts = [part for _, part in sorted(self._parts.items())]
        with self._writing():
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
        found = self._client.stat_object(bucket_name=self._bucket, object_name=self._key)
        if found.size != sum(part.size or 0 for part in self._parts.values()):
            raise StoreUnavailable(self._site, "the parts did not become the object")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What a write finds missing is our own upload: somebody swept it."""
        try:
            with _translated(self._site):
                yield
        except ObjectMissing as exc:
            raise StoreUnavailable(self._site, "the upload is gone") from exc


class _S3Reader:
    """The body of one GET."""

    def __init__(self, site: str, response: Any, offset: int, length: int | None) -> None:
        self._site = site
        self._response = response
        # http.client's own: urllib3's `readinto` copies each segment twice on its way.
        self._body: HTTPResponse = response._original_response  # noqa: SLF001
        self.is_partial: bool = response.status == 206  # noqa: PLR2004 (RFC 9110 §15.3.7)
        # rclone serves the range and says where it lies, but with status 200.
        self._is_range = "Content-Range" in response.headers
        try:
            self.object_size_bytes = self._whole_size()
            whole = self.object_size_bytes - offset
            self._left = whole if length is None else min(length, whole)
            if not self._is_range:
                self._skip(offset)
        except BaseException:
            self.close()
            raise

    def readinto(self, buffer: memoryview) -> int:
        wanted = buffer[: max(self._left, 0)]
        filled = 0
        with _translated(self._site):
            while filled < len(wanted):
                got = self._body.readinto(wanted[filled:])
                if not got:
                    raise StoreUnavailable(self._site, "the answer was cut short")
                filled += got
        self._left -= filled
        return filled

    def close(self) -> None:
        if not self._body.isclosed():
            self._response.close()  # with its connection, on which bytes may still come
        self._response.release_conn()

    def _whole_size(self) -> int:
        if self._is_range:
            return int(self._response.headers["Content-Range"].rpartition("/")[2])
        return int(self._response.headers.get("Content-Length", ""))

    def _skip(self, size_bytes: int) -> None:
        """A store that ignored the range sends everything; what was not asked for is read away."""
        buffer = memoryview(bytearray(min(size_bytes, _SKIP_BYTES)))
        while size_bytes > 0:
            got = self._body.readinto(buffer[:size_bytes])
            if not got:
                raise StoreUnavailable(self._site, "the answer was cut short")
            size_bytes -= got


def _abort(client: Minio, site: str, bucket: str, key: str, upload_id: str) -> None:
    with suppress(ObjectMissing), _translated(site):
        client._abort_multipart_upload(bucket, key, upload_id)  # noqa: SLF001


@contextmanager
def _translated(site: str) -> Iterator[None]:
    """Turn what minio, urllib3 and the system raise into the store's own errors."""
    try:
        yield
    except S3Error as exc:
        raise _own_error(site, exc.code or "") from exc
    except InvalidResponseError as exc:
        # An answer that is not XML by its header: only the status tells (rclone's are text/xml).
        raise _own_error(site, _CODE_OF.get(exc._code, str(exc._code))) from exc  # noqa: SLF001
    except (MinioException, HTTPError, HTTPException, OSError, ParseError, ValueError) as exc:
        raise StoreUnavailable(site, f"no proper answer ({type(exc).__name__})") from exc


def _own_error(site: str, code: str) -> StoreError:
    if code in _MISSING:
        return ObjectMissing(site, "no such object")
    if code in _MISCONFIGURED:
        return StoreMisconfigured(site, f"the store refuses us ({code})")
    return StoreUnavailable(site, f"the store cannot do it now ({code})")
