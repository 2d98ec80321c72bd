"""Any S3 as a site, by minio's client.

minio has no public call for single parts or for what was left open, so its private ones are used, in this
file only; `tests/unit/test_s3_private_methods.py` fails when a new release changes them. What the
connections do when a site is dead stands in `pool.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4
from xml.etree.ElementTree import Element, ParseError, fromstring

from minio import Minio
from minio.credentials.credentials import Credentials
from minio.datatypes import Part
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import DictType
from typing_extensions import override

from vault import clock
from vault.objects.pool import connection_pool
from vault.objects.s3errors import translated, within_upload
from vault.objects.s3lock import Lock, last_end, lock_headers, lock_in, time_at_store
from vault.objects.s3reader import S3Reader
from vault.objects.store import (
    PART_SIZE_BYTES,
    Bytes,
    Capabilities,
    ObjectLocked,
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


_SHA256: Final = "x-amz-content-sha256"
_NO_LOCK_CODE: Final = "ObjectLockConfigurationNotFoundError"
_NO_LOCK: Final = (
    "the bucket has no object lock, which the site's object_lock asks for: switch it on for the bucket "
    "(versioning first), name a bucket that is not there yet, or set object_lock to false"
)

_REMEMBERED_FOR: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class _Versioning:
    """Whether the bucket keeps versions, as it said at that moment."""

    is_kept: bool
    asked_at: datetime


class _Client(Minio):
    """minio's client, which takes the SHA-256 of a body from whoever gives it as `_SHA256`.

    minio itself overwrites that header: with a SHA-256 of its own over HTTP, and over HTTPS with
    UNSIGNED-PAYLOAD beside an MD5, which costs more than twice as much.
    """

    def __init__(self, *, wants_md5: bool, **given: Any) -> None:
        """`wants_md5`: keep the MD5 over HTTPS; Amazon demands one for objects that are locked."""
        super().__init__(**given)
        self._hashes_itself = wants_md5 and self._base_url.is_https

    @override
    def _build_headers(
        self,
        host: str,
        headers: DictType | None = None,
        body: bytes | None = None,
        creds: Credentials | None = None,
    ) -> tuple[DictType, datetime]:
        known = (headers or {}).pop(_SHA256, None)
        if known is None or not body or self._hashes_itself:
            return super()._build_headers(host, headers, body, creds)
        headers, date = super()._build_headers(host, headers, None, creds)  # as for no body at all
        headers.pop("Content-MD5", None)
        return headers | {"Content-Length": str(len(body)), _SHA256: known}, date


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
        object_lock: bool = False,
        connections: int = 32,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        first_byte_seconds: float = FIRST_BYTE_SECONDS,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        """Connects to nothing yet.

        Args:
            endpoint: ``HOST:PORT``.
            ca_file: PEM of the authority that signed the endpoint's certificate; None: the system's.
            object_lock: whether the bucket has to be one that can lock objects.
            connections: pooled connections; more are opened when needed.
            connect_seconds: to connect.
            read_seconds: between two reads of a body; also to send one body, and for the answer to a
                write or to a listing, behind which a store may have much to do.
            first_byte_seconds: for the answer's head of `open`, `size` and `check`, so that a hung
                site is left for the other one soon; never longer than `read_seconds`.
        """
        self.site = site
        self._bucket = bucket
        self._object_lock = object_lock
        self._now = now
        self._versioning: _Versioning | None = None

        def client(head_seconds: float) -> Minio:
            # The region is given, or each client would first ask for the bucket's.
            return _Client(
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
                wants_md5=object_lock,
            )

        self._client = client(read_seconds)
        self._reads = client(min(first_byte_seconds, read_seconds))

    def prepare(self) -> None:
        """Also sees that we may ask whether the bucket keeps versions."""
        self._versioning = None
        with translated(self.site):
            if not self._client.bucket_exists(bucket_name=self._bucket):
                self._make_bucket()
            self._has_versions()
            if self._object_lock and not self._can_lock():
                raise StoreMisconfigured(self.site, _NO_LOCK)

    def put(
        self,
        key: str,
        body: Bytes,
        *,
        locked_until: datetime | None = None,
        sha256: bytes | None = None,
    ) -> None:
        headers = self._lock(locked_until) | _digest(sha256)
        with translated(self.site):
            self._client._put_object(self._bucket, key, cast("bytes", body), headers=headers)  # noqa: SLF001

    def begin_parts(self, key: str, *, locked_until: datetime | None = None) -> _S3Upload:
        headers = self._lock(locked_until)
        with translated(self.site):
            upload_id = self._client._create_multipart_upload(self._bucket, key, headers)  # noqa: SLF001
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
            if self._has_versions() or self._was_only_hidden(key):
                self._delete_versions(key)

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
                with suppress(ObjectLocked):  # a bucket that locks everything by itself
                    self.delete(key)

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(bucket_name=self._bucket, object_lock=self._object_lock)
        except S3Error as exc:
            # Another process that starts at the same time was first.
            if exc.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _lock(self, until: datetime | None) -> DictType:
        return lock_headers(until if until is not None and until > self._now() else None)

    def _has_versions(self) -> bool:
        """Whether a delete would leave older versions behind; asked at most once in a minute.

        A no that has grown wrong since then is noticed by `_was_only_hidden`.
        """
        known, now = self._versioning, self._now()
        if known is None or not timedelta(0) <= now - known.asked_at < _REMEMBERED_FOR:
            known = self._versioning = _Versioning(self._ask_for_versions(), now)
        return known.is_kept

    def _ask_for_versions(self) -> bool:
        """A refusal is not a no: taken for one, every delete would only hide the ciphertext."""
        try:
            status = self._client.get_bucket_versioning(bucket_name=self._bucket).status
        except S3Error as exc:
            if exc.code in _UNKNOWN_TO_PLAIN_STORES:
                return False
            raise
        return status in ("Enabled", "Suspended")

    def _was_only_hidden(self, key: str) -> bool:
        """Delete plainly; whether the store says that it just put a delete marker on top."""
        answer = self._client._execute("DELETE", self._bucket, key)  # noqa: SLF001
        hidden = bool(answer.headers.get("x-amz-delete-marker") == "true")
        if hidden:
            self._versioning = None
        return hidden

    def _delete_versions(self, key: str) -> None:
        locks: list[Lock] = []
        for version in self._versions_of(key):
            try:
                self._client.remove_object(
                    bucket_name=self._bucket, object_name=key, version_id=version
                )
            except S3Error as exc:
                if exc.code not in ("NoSuchKey", "NoSuchVersion"):
                    locks.append(self._lock_behind(exc, key, version))
        if locks:
            raise ObjectLocked(self.site, last_end(locks))

    def _versions_of(self, key: str) -> Iterator[str]:
        """Ids of all versions and delete markers.

        Not by minio's `list_objects`, which cannot read the date of a delete marker at Versity.
        """
        after: DictType = {}
        while True:
            query: DictType = {"versions": "", "prefix": key, **after}
            page = _xml(self._client._execute("GET", self._bucket, query_params=query))  # noqa: SLF001
            for found in (*page.iterfind("{*}Version"), *page.iterfind("{*}DeleteMarker")):
                if found.findtext("{*}Key") == key:
                    yield found.findtext("{*}VersionId") or "null"
            if page.findtext("{*}IsTruncated") != "true":
                return
            after = {
                "key-marker": page.findtext("{*}NextKeyMarker") or "",
                "version-id-marker": page.findtext("{*}NextVersionIdMarker") or "",
            }

    def _lock_behind(self, refusal: S3Error, key: str, version: str) -> Lock:
        """The lock for which this version was not deleted; raises the refusal if it has none.

        Stores refuse a locked version as they refuse one that we may not delete, so they are asked. Not by
        HEAD, which tells both at once, but at Versity for the newest version only.
        """
        at = time_at_store(refusal.response.headers, self._now())
        for what in ("retention", "legal-hold"):
            if (lock := lock_in(self._told_of(what, key, version), at)) is not None:
                return lock
        raise refusal

    def _told_of(self, what: str, key: str, version: str) -> Element | None:
        query: DictType = {what: "", "versionId": version}
        try:
            return _xml(self._client._execute("GET", self._bucket, key, query_params=query))  # noqa: SLF001
        except (S3Error, ServerError, InvalidResponseError, ParseError):
            return None  # it has none, or does not tell: the refusal then stands

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
            return self._can_lock()
        except (S3Error, InvalidResponseError, ServerError):
            return False

    def _can_lock(self) -> bool:
        """Whether the bucket takes locks, with or without a rule for all its objects."""
        query: DictType = {"object-lock": ""}
        try:
            found = _xml(self._client._execute("GET", self._bucket, query_params=query))  # noqa: SLF001
        except S3Error as exc:
            if exc.code in _UNKNOWN_TO_PLAIN_STORES or exc.code == _NO_LOCK_CODE:
                return False
            raise
        return found.findtext("{*}ObjectLockEnabled") == "Enabled"

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

    def put_part(self, number: int, body: Bytes, *, sha256: bytes | None = None) -> None:
        with within_upload(self._site):
            etag = self._client._upload_part(  # noqa: SLF001
                self._bucket,
                self._key,
                cast("bytes", body),
                _digest(sha256),
                self.upload_id,
                number,
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


def _digest(sha256: bytes | None) -> DictType:
    return {} if sha256 is None else {_SHA256: sha256.hex()}


def _xml(answer: Any) -> Element:
    return fromstring(answer.data)  # noqa: S314 (minio parses the same answers by the same parser)


def _abort(client: Minio, site: str, bucket: str, key: str, upload_id: str) -> None:
    with suppress(UploadMissing), within_upload(site):
        client._abort_multipart_upload(bucket, key, upload_id)  # noqa: SLF001
