"""The body of one GET, of just the bytes that were asked for, whatever the store made of the range."""

from __future__ import annotations

from http.client import HTTPResponse
from typing import Any, Final

from vault.objects.s3errors import translated
from vault.objects.store import StoreUnavailable

_SKIP_BYTES: Final = 2**20


class S3Reader:
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
        with translated(self._site):
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
