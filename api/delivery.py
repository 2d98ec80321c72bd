"""Handing out an opened read: while one chunk is sent, the next is fetched and decrypted on a thread."""

from __future__ import annotations

import asyncio
import logging

from anyio import CancelScope, to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from api import metrics
from vault.contents import Content
from vault.errors import IntegrityFailure, VaultError
from vault.objects.store import StoreError

_log = logging.getLogger(__name__)


class Delivery(StreamingResponse):
    """A download that closes its content at once when it ends, however it ends.

    Starlette would leave that to the garbage collector; the outcome event and the store's connection
    cannot wait so long.
    """

    def __init__(self, content: Content, status_code: int, headers: dict[str, str]) -> None:
        self._opened = content
        super().__init__((), status_code, headers)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (VaultError, StoreError) as exc:
            # The answer has begun: all that can be said now is to end it before its length.
            _log.error("a download was cut short", exc_info=exc)
        finally:
            with CancelScope(shield=True):
                await to_thread.run_sync(self._opened.close)

    @override
    async def stream_response(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        reading = self._read_ahead()
        try:
            while (chunk := await reading) is not None:
                reading = self._read_ahead()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._opened.sent(len(chunk))
                metrics.SENT_BYTES.inc(len(chunk))
        finally:
            await _ended(reading)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _read_ahead(self) -> asyncio.Future[bytes | None]:
        return asyncio.ensure_future(to_thread.run_sync(self._next_chunk))

    def _next_chunk(self) -> bytes | None:
        try:
            return self._opened.next_chunk()
        except IntegrityFailure:
            metrics.INTEGRITY_FAILURES.inc()
            raise


async def _ended(reading: asyncio.Future[bytes | None]) -> None:
    """Wait for a read that nobody asks for any more: its thread still works on the content."""
    with CancelScope(shield=True):
        await asyncio.wait([reading])
    if not reading.cancelled():
        reading.exception()  # looked at, or asyncio complains that nobody did
