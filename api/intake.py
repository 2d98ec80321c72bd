"""Pulling a request's body and pushing it through an upload, which works on threads.

A small body is one hop to a thread. A large one goes in batches: while one is sealed and sent, the next
is received.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from anyio import CancelScope, to_thread

from api import metrics
from vault.model import Document
from vault.uploads import Upload

BATCH_BYTES: Final = 2**20


async def take_in(open_upload: Callable[[], Upload], chunks: AsyncIterator[bytes]) -> Document:
    """Run an upload with the body's chunks; on any failure nothing of it stays.

    Raises:
        Whatever opening, writing and finishing the upload raise, and `ClientDisconnect`.
    """
    batches = _batches(chunks)
    first = await anext(batches)
    second = await anext(batches, None)
    if second is None:
        return await to_thread.run_sync(_take_in_whole, open_upload, first)
    upload = await to_thread.run_sync(open_upload)
    try:
        await to_thread.run_sync(_write, upload, first + second)
        await _push(upload, batches)
        return await to_thread.run_sync(upload.finish)
    except BaseException:
        with CancelScope(shield=True):
            await to_thread.run_sync(upload.abort)
        raise


async def _push(upload: Upload, batches: AsyncIterator[list[bytes]]) -> None:
    """Write each batch while the next one is on its way in."""
    writing: asyncio.Future[None] | None = None
    try:
        async for batch in batches:
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(to_thread.run_sync(_write, upload, batch))
        if writing is not None:
            await writing
    except BaseException:
        if writing is not None:
            with CancelScope(shield=True):
                await asyncio.wait([writing])
        raise


def _take_in_whole(open_upload: Callable[[], Upload], body: Sequence[bytes]) -> Document:
    upload = open_upload()
    try:
        _write(upload, body)
        return upload.finish()
    except BaseException:
        upload.abort()
        raise


def _write(upload: Upload, batch: Sequence[bytes]) -> None:
    for chunk in batch:
        upload.write(chunk)
        metrics.RECEIVED_BYTES.inc(len(chunk))


async def _batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Chunks in lists of about `BATCH_BYTES`; at least one list, perhaps an empty one."""
    batch: list[bytes] = []
    size = 0
    async for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch
