"""The object format: exactly Tink's streaming AEAD ``AES256_GCM_HKDF_1MB`` with RAW output prefix.

Whoever has the data key and the associated data can read an object with any Tink library.

    offset              width           what
    0                   1               header length: 40
    1                   32              salt
    33                  7               nonce prefix
    40                  <= 2^20 - 40    segment 0: ciphertext and its 16-byte tag
    i * 2^20, i >= 1    <= 2^20         segment i: ciphertext and its 16-byte tag

    key      HKDF-SHA256(data key, salt, info = associated data), 32 bytes; RFC 5869
    nonce    nonce prefix (7) | i (4, big-endian) | 1 in the last segment, 0 before it (1)
    seal     AES-256-GCM, no associated data of its own, 16-byte tag; NIST SP 800-38D

Every segment but the last is full. The last one may be full too, and is empty in an empty document
only. Index and last-flag in the nonce refuse segments that were reordered, dropped or appended: the
STREAM construction (Hoang et al. 2015, https://eprint.iacr.org/2015/189).

Why counting nonces are safe: a data key seals one version only and each object draws a fresh salt, so
no two objects share an AES key; inside one object an index is used up even if storing its segment
fails.

Does not handle: key commitment (`commitment`, to be checked first), the choice of format (pinned beside
the wrapped key, never read from the object), retries (they resend stored ciphertext).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from contextlib import closing
from enum import IntEnum
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.secret import KEY_SIZE_BYTES

SEGMENT_SIZE_BYTES: Final = 2**20
HEADER_SIZE_BYTES: Final = 40
TAG_SIZE_BYTES: Final = 16
MAX_SEGMENTS: Final = 2**32
"""As many as the index in the nonce can tell apart: 4 PiB."""

_FULL_SEGMENT: Final = SEGMENT_SIZE_BYTES - TAG_SIZE_BYTES
"""Plaintext bytes in a full segment; segment 0 holds `HEADER_SIZE_BYTES` fewer."""

_HEADER: Final = struct.Struct(">B32s7s")
_NONCE: Final = struct.Struct(">7sI?")


class ObjectFormat(IntEnum):
    """How an object is laid out; the number is what the version's row keeps."""

    TINK_AES256_GCM_HKDF_1MB = 1


class SegmentSink(Protocol):
    """Where sealed segments go, in order."""

    def space(self) -> memoryview:
        """At least `SEGMENT_SIZE_BYTES` writable bytes for the segment that comes next."""

    def filled(self, size_bytes: int) -> None:
        """That many bytes of the last `space` are now ciphertext."""


class CiphertextReader(Protocol):
    """Bytes of one object, in order."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes than it holds only at the end of the object."""

    def close(self) -> None: ...


Fetch = Callable[[int, int], CiphertextReader]
"""Opens the object's ciphertext at an offset, for a length, both in bytes."""


def ciphertext_size(plaintext_size: int) -> int:
    """Size in bytes of the object that holds `plaintext_size` bytes."""
    segments = max(1, -(-(HEADER_SIZE_BYTES + plaintext_size) // _FULL_SEGMENT))
    return HEADER_SIZE_BYTES + plaintext_size + segments * TAG_SIZE_BYTES


def plaintext_size(ciphertext_size: int) -> int:
    """Size in bytes of what an object of `ciphertext_size` bytes holds.

    Raises:
        DecryptionFailed: no object has that size.
    """
    segments = max(1, -(-ciphertext_size // SEGMENT_SIZE_BYTES))
    last_segment = ciphertext_size - (segments - 1) * SEGMENT_SIZE_BYTES
    smallest = HEADER_SIZE_BYTES + TAG_SIZE_BYTES if segments == 1 else TAG_SIZE_BYTES + 1
    if last_segment < smallest or segments > MAX_SEGMENTS:
        raise DecryptionFailed
    return ciphertext_size - HEADER_SIZE_BYTES - segments * TAG_SIZE_BYTES


class _SegmentCipher:
    """AES-256-GCM under the key of one object."""

    def __init__(self, data_key: DataKey, associated_data: bytes, header: bytes) -> None:
        """Raises: DecryptionFailed if the header is of another format."""
        size, salt, self._nonce_prefix = _HEADER.unpack(header)
        if size != HEADER_SIZE_BYTES:
            # Neither key nor nonce depends on this byte, so nothing else would notice.
            raise DecryptionFailed
        hkdf = HKDF(SHA256(), KEY_SIZE_BYTES, salt=salt, info=associated_data)
        self._aead = AESGCM(hkdf.derive(data_key.reveal_to_keymgmt()))

    def seal_into(
        self, space: memoryview, plaintext: memoryview, *, index: int, last: bool
    ) -> None:
        self._aead.encrypt_into(self._nonce(index, last), plaintext, None, space)

    def open(self, segment: memoryview, *, index: int, last: bool) -> bytes:
        """Raises: DecryptionFailed."""
        try:
            return self._aead.decrypt(self._nonce(index, last), segment, None)
        except InvalidTag as exc:
            raise DecryptionFailed from exc

    def _nonce(self, index: int, last: bool) -> bytes:
        return _NONCE.pack(self._nonce_prefix, index, last)


class SealingStream:
    """Seals one version's bytes while they arrive: `write` …, then `finish`.

    A full segment is sealed only when a byte follows it, since the last one has another nonce. Each
    byte is copied at most once before it is sealed; whole segments inside one chunk not at all.
    For one thread at a time. After any error the object is lost and the stream closed: start anew
    under a fresh data key.
    """

    def __init__(self, data_key: DataKey, associated_data: bytes, sink: SegmentSink) -> None:
        """Nothing is asked of the sink before the first segment is complete."""
        header = bytes([HEADER_SIZE_BYTES]) + os.urandom(HEADER_SIZE_BYTES - 1)
        self._cipher = _SegmentCipher(data_key, associated_data, header)
        self._sink = sink
        self._unsent_header = header
        self._index = 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._is_closed = False

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the bytes that come next; the chunk may be reused once the call returned.

        Raises:
            ValueError: the stream is closed, or longer than `MAX_SEGMENTS`.
            Whatever the sink raises.
        """
        self._refuse_if_closed()
        rest = memoryview(chunk).cast("B")
        while rest:
            if self._held_size == self._capacity:
                self._seal_held(last=False)
            if self._held_size == 0 and len(rest) > self._capacity:
                rest = self._seal_first_of(rest)
            else:
                rest = self._hold(rest)

    def finish(self) -> None:
        """Seal the last segment; an empty document has one too.

        Raises:
            ValueError: the stream is closed, or longer than `MAX_SEGMENTS`.
            Whatever the sink raises.
        """
        self._refuse_if_closed()
        self._is_closed = True
        self._seal_held(last=True)

    @property
    def _capacity(self) -> int:
        """Plaintext bytes that the current segment holds when full."""
        return _FULL_SEGMENT - len(self._unsent_header)

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ValueError("the stream is closed")

    def _hold(self, rest: memoryview) -> memoryview:
        taken = bytes(rest[: self._capacity - self._held_size])
        self._held.append(taken)
        self._held_size += len(taken)
        return rest[len(taken) :]

    def _seal_held(self, *, last: bool) -> None:
        held, self._held, self._held_size = self._held, [], 0
        self._seal(memoryview(b"".join(held)), last=last)

    def _seal_first_of(self, rest: memoryview) -> memoryview:
        capacity = self._capacity
        self._seal(rest[:capacity], last=False)
        return rest[capacity:]

    def _seal(self, plaintext: memoryview, *, last: bool) -> None:
        try:
            self._seal_into_sink(plaintext, last=last)
        except BaseException:
            self._is_closed = True
            raise

    def _seal_into_sink(self, plaintext: memoryview, *, last: bool) -> None:
        if self._index == MAX_SEGMENTS:
            raise ValueError("an object has at most 2^32 segments")
        header, self._unsent_header = self._unsent_header, b""
        index, self._index = self._index, self._index + 1
        end = len(header) + len(plaintext) + TAG_SIZE_BYTES
        space = self._sink.space()
        space[: len(header)] = header
        self._cipher.seal_into(space[len(header) : end], plaintext, index=index, last=last)
        self._sink.filled(end)


def open_range(
    data_key: DataKey,
    associated_data: bytes,
    *,
    ciphertext_size: int,
    fetch: Fetch,
    start: int,
    stop: int,
) -> Generator[bytes]:
    """Plaintext bytes `start` up to, and without, `stop`: one bytes object for each segment.

    Fetches the segments that hold the range and the header: in one go if segment 0 is among them,
    else in two. Every reader is closed, also if the generator is closed early. An empty document
    yields nothing and is authenticated all the same; any other empty range fetches nothing.

    Args:
        ciphertext_size: size of the whole object in bytes, from a source other than the object:
            it says which segment is the last one, so truncation is noticed at the end only.
        fetch: may be called twice; nothing is fetched a second time.

    Raises:
        DecryptionFailed: the bytes are not those that were sealed, or too few, or the range
            reaches past the end. Nothing of the failing segment is yielded.
        Whatever `fetch` and its readers raise.
    """
    size = plaintext_size(ciphertext_size)
    if not 0 <= start <= stop <= size:
        raise DecryptionFailed
    if start == stop and size > 0:
        return
    wanted = range(_segment_of(start), _segment_of(stop - 1) + 1)
    offset = wanted.start * SEGMENT_SIZE_BYTES
    end = min(wanted.stop * SEGMENT_SIZE_BYTES, ciphertext_size)
    separate_header = _fetch_header(fetch) if wanted.start > 0 else None
    with closing(fetch(offset, end - offset)) as reader:
        cipher = _SegmentCipher(data_key, associated_data, separate_header or _read_header(reader))
        buffer = memoryview(bytearray(min(SEGMENT_SIZE_BYTES, end - offset)))
        for index in wanted:
            segment = buffer[: _segment_size(index, ciphertext_size)]
            _read_exactly(reader, segment)
            last = (index + 1) * SEGMENT_SIZE_BYTES >= ciphertext_size
            plaintext = cipher.open(segment, index=index, last=last)
            if piece := _clip(plaintext, index, start, stop):
                yield piece


def _segment_of(position: int) -> int:
    """Index of the segment that holds this byte of the plaintext."""
    return (HEADER_SIZE_BYTES + position) // _FULL_SEGMENT


def _segment_size(index: int, ciphertext_size: int) -> int:
    """Bytes of ciphertext and tag in a segment."""
    begin = index * SEGMENT_SIZE_BYTES if index else HEADER_SIZE_BYTES
    return min((index + 1) * SEGMENT_SIZE_BYTES, ciphertext_size) - begin


def _clip(plaintext: bytes, index: int, start: int, stop: int) -> bytes:
    """What of segment `index` lies in the range; no copy where that is all of it."""
    begin = max(0, index * _FULL_SEGMENT - HEADER_SIZE_BYTES)
    return plaintext[max(0, start - begin) : stop - begin]


def _fetch_header(fetch: Fetch) -> bytes:
    with closing(fetch(0, HEADER_SIZE_BYTES)) as reader:
        return _read_header(reader)


def _read_header(reader: CiphertextReader) -> bytes:
    header = bytearray(HEADER_SIZE_BYTES)
    _read_exactly(reader, memoryview(header))
    return bytes(header)


def _read_exactly(reader: CiphertextReader, buffer: memoryview) -> None:
    """Raises: DecryptionFailed if there is less."""
    if reader.readinto(buffer) != len(buffer):
        raise DecryptionFailed
