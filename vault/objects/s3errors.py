"""What minio, urllib3 and the system raise, as the store's own errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Final
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error
from urllib3.exceptions import HTTPError

from vault.objects.store import (
    ObjectMissing,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    UploadMissing,
)

_MISSING: Final = frozenset({"NoSuchKey", "NoSuchVersion", "InvalidRange"})
_MISCONFIGURED: Final = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "InvalidBucketState",
        "InvalidRequest",
        "MethodNotAllowed",
        "NoSuchBucket",
        "NotImplemented",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)

_UPLOAD_MISSING: Final = "no such multipart upload"

_CODE_OF: Final = {403: "AccessDenied", 404: "NoSuchKey", 416: "InvalidRange"}


@contextmanager
def translated(site: str) -> Iterator[None]:
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


@contextmanager
def within_upload(site: str) -> Iterator[None]:
    """The same, where what is missing can only be the upload itself: rclone does not say it in XML."""
    try:
        with translated(site):
            yield
    except ObjectMissing as exc:
        raise UploadMissing(site, _UPLOAD_MISSING) from exc


def _own_error(site: str, code: str) -> StoreError:
    if code in _MISSING:
        return ObjectMissing(site, "no such object")
    if code == "NoSuchUpload":
        return UploadMissing(site, _UPLOAD_MISSING)
    if code in _MISCONFIGURED:
        return StoreMisconfigured(site, f"the store refuses us ({code})")
    return StoreUnavailable(site, f"the store cannot do it now ({code})")
