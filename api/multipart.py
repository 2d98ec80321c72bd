"""multipart/form-data uploads, streamed: part `metadata` (JSON) first, then part `content`.

python-multipart's parser does the splitting; nothing is kept on disk, and of the content never more than
one chunk in memory. Metadata comes first because it says where the bytes go.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser
from starlette.datastructures import Headers
from werkzeug.http import parse_options_header

from api.errors import BadRequest

MAX_METADATA_BYTES: Final = 65_536
MAX_HEADER_BYTES: Final = 16_384
ORDER: Final = "send two parts: first 'metadata' (JSON), then 'content' (the bytes)"


class MultipartBody:
    """One request's body. `metadata` first, then `content` to its end."""

    def __init__(self, headers: Headers, chunks: AsyncIterator[bytes]) -> None:
        """Raises: BadRequest if the Content-Type names no boundary."""
        _, parameters = parse_options_header(headers.get("content-type", ""))
        boundary = parameters.get("boundary")
        if not boundary:
            raise BadRequest("multipart/form-data needs a boundary in Content-Type")
        self._chunks = chunks
        self._parsed: deque[tuple[str, bytes]] = deque()
        self._header_bytes = 0
        self._field = b""
        self._value = b""
        self._part_headers: dict[str, str] = {}
        self._parser = MultipartParser(boundary.encode("latin-1", "replace"), self._callbacks())
        self.content_type: str | None = None

    async def metadata(self) -> dict[str, Any]:
        """The first part. Raises: BadRequest if it is another, too large, or no JSON object."""
        if (await self._event())[0] != "part:metadata":
            raise BadRequest(ORDER)
        raw = bytearray()
        while (event := await self._event())[0] == "data":
            raw += event[1]
            if len(raw) > MAX_METADATA_BYTES:
                raise BadRequest(f"the metadata is larger than {MAX_METADATA_BYTES} bytes")
        try:
            parsed = json.loads(raw)
        except (ValueError, RecursionError):
            raise BadRequest("the part 'metadata' is not JSON") from None
        if not isinstance(parsed, dict):
            raise BadRequest("the part 'metadata' is a JSON object")
        if (await self._event())[0] != "part:content":
            raise BadRequest(ORDER)
        self.content_type = self._part_headers.get("content-type")
        return parsed

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the second part. Raises: BadRequest if the body ends early or goes on."""
        while (event := await self._event())[0] == "data":
            yield event[1]
        if (await self._event())[0] != "end":
            raise BadRequest(ORDER)

    async def _event(self) -> tuple[str, bytes]:
        while not self._parsed:
            try:
                chunk = await anext(self._chunks)
                self._parser.write(chunk)
            except StopAsyncIteration:
                raise BadRequest("the multipart body ends before its closing boundary") from None
            except MultipartParseError:
                raise BadRequest(
                    "the body is not multipart/form-data as its boundary says"
                ) from None
        return self._parsed.popleft()

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_headers.clear,
            "on_header_field": self._take_field,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, start, stop: self._parsed.append(
                ("data", data[start:stop])
            ),
            "on_part_end": lambda: self._parsed.append(("part-end", b"")),
            "on_end": lambda: self._parsed.append(("end", b"")),
        }

    def _take_field(self, data: bytes, start: int, stop: int) -> None:
        self._count_header(stop - start)
        self._field += data[start:stop]

    def _take_value(self, data: bytes, start: int, stop: int) -> None:
        self._count_header(stop - start)
        self._value += data[start:stop]

    def _count_header(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > MAX_HEADER_BYTES:
            raise BadRequest(f"the headers of the parts are larger than {MAX_HEADER_BYTES} bytes")

    def _end_header(self) -> None:
        self._part_headers[self._field.decode("latin-1").lower()] = self._value.decode("latin-1")
        self._field = self._value = b""

    def _end_headers(self) -> None:
        disposition = self._part_headers.get("content-disposition", "")
        name = parse_options_header(disposition)[1].get("name", "")
        known = name if name in ("metadata", "content") else "unknown"
        self._parsed.append((f"part:{known}", b""))
