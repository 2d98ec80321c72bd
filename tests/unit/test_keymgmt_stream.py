"""The object format: one with Tink's, and nothing that was tampered with gets through."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import pairwise

import pytest
from typing_extensions import override

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.stream import (
    HEADER_SIZE_BYTES,
    MAX_SEGMENTS,
    SEGMENT_SIZE_BYTES,
    TAG_SIZE_BYTES,
    SealingStream,
    ciphertext_size,
    open_range,
    plaintext_size,
)
from tests.sealed_objects import (
    BINDING,
    FIRST_SEGMENT,
    FULL_SEGMENT,
    SIZES_AT_BOUNDARIES,
    MemoryObject,
    MemoryReader,
    MemorySink,
    TinkPeer,
    open_whole,
    pattern,
    seal,
)

THREE_SEGMENTS = FIRST_SEGMENT + FULL_SEGMENT + 1000
THREE_FULL_SEGMENTS = FIRST_SEGMENT + 2 * FULL_SEGMENT

KEY = DataKey.generate()
PLAINTEXT = pattern(THREE_SEGMENTS)
SEALED = seal(KEY, PLAINTEXT)


def flipped(ciphertext: bytes, offset: int) -> bytes:
    altered = bytearray(ciphertext)
    altered[offset] ^= 1
    return bytes(altered)


def segments(ciphertext: bytes) -> list[bytes]:
    """The first one with the header."""
    edges = [*range(0, len(ciphertext), SEGMENT_SIZE_BYTES), len(ciphertext)]
    return [ciphertext[begin:end] for begin, end in pairwise(edges)]


# One with Tink's


@pytest.mark.parametrize("size", SIZES_AT_BOUNDARIES)
def test_tink_opens_what_we_seal(size: int) -> None:
    assert TinkPeer(KEY).open(seal(KEY, pattern(size))) == pattern(size)


@pytest.mark.parametrize("size", SIZES_AT_BOUNDARIES)
def test_we_open_what_tink_seals(size: int) -> None:
    ciphertext = TinkPeer(KEY).seal(pattern(size))
    assert len(ciphertext) == ciphertext_size(size)
    assert b"".join(open_whole(KEY, ciphertext, size)) == pattern(size)


# Sealing


def test_sealing_twice_under_one_key_shares_no_salt() -> None:
    assert seal(KEY, b"x")[1:33] != seal(KEY, b"x")[1:33]


def test_a_chunk_may_be_reused_after_write() -> None:
    sink = MemorySink()
    stream = SealingStream(KEY, BINDING, sink)
    chunk = bytearray(b"one ")
    stream.write(chunk)
    chunk[:] = b"two "
    stream.write(memoryview(chunk))
    chunk[:] = b"none"
    stream.finish()
    assert open_whole(KEY, bytes(sink.ciphertext), 8) == [b"one two "]


def test_a_full_segment_is_held_back_until_a_byte_follows() -> None:
    sink = MemorySink()
    stream = SealingStream(KEY, BINDING, sink)
    stream.write(bytes(FIRST_SEGMENT))
    assert not sink.ciphertext
    stream.write(b"\x00")
    assert len(sink.ciphertext) == SEGMENT_SIZE_BYTES


def test_an_empty_chunk_changes_nothing() -> None:
    sink = MemorySink()
    stream = SealingStream(KEY, BINDING, sink)
    stream.write(bytes(FIRST_SEGMENT))
    stream.write(b"")
    assert not sink.ciphertext


def test_a_finished_stream_takes_nothing_more() -> None:
    stream = SealingStream(KEY, BINDING, MemorySink())
    stream.finish()
    with pytest.raises(ValueError, match="closed"):
        stream.finish()
    with pytest.raises(ValueError, match="closed"):
        stream.write(b"late")


def test_a_stream_whose_sink_failed_can_never_pass_for_whole() -> None:
    class FullSink(MemorySink):
        @override
        def space(self) -> memoryview:
            raise OSError("no room")

    stream = SealingStream(KEY, BINDING, FullSink())
    with pytest.raises(OSError, match="no room"):
        stream.write(bytes(2 * SEGMENT_SIZE_BYTES))
    with pytest.raises(ValueError, match="closed"):
        stream.finish()


def test_no_segment_is_sealed_past_the_last_index() -> None:
    sink = MemorySink()
    stream = SealingStream(KEY, BINDING, sink)
    stream._index = MAX_SEGMENTS - 1
    stream.write(bytes(FIRST_SEGMENT + 1))
    with pytest.raises(ValueError, match="at most 2"):
        stream.finish()
    assert len(sink.ciphertext) == SEGMENT_SIZE_BYTES


# Sizes


@pytest.mark.parametrize("size", SIZES_AT_BOUNDARIES)
def test_sizes_are_told_before_sealing_and_from_the_object(size: int) -> None:
    assert ciphertext_size(size) == len(seal(KEY, pattern(size)))
    assert plaintext_size(ciphertext_size(size)) == size


@pytest.mark.parametrize(
    "size",
    [
        -1,
        0,
        HEADER_SIZE_BYTES,
        HEADER_SIZE_BYTES + TAG_SIZE_BYTES - 1,
        SEGMENT_SIZE_BYTES + 1,
        SEGMENT_SIZE_BYTES + TAG_SIZE_BYTES,
        MAX_SEGMENTS * SEGMENT_SIZE_BYTES + TAG_SIZE_BYTES + 1,
    ],
)
def test_a_size_that_no_object_has_is_refused(size: int) -> None:
    with pytest.raises(DecryptionFailed):
        plaintext_size(size)


# Tampering: one error, and nothing of the segment that is wrong


@pytest.mark.parametrize(
    ("offset", "whole_segments"),
    [
        pytest.param(0, 0, id="header length"),
        pytest.param(1, 0, id="salt"),
        pytest.param(39, 0, id="nonce prefix"),
        pytest.param(40, 0, id="first byte of segment 0"),
        pytest.param(SEGMENT_SIZE_BYTES - 1, 0, id="tag of segment 0"),
        pytest.param(SEGMENT_SIZE_BYTES, 1, id="first byte of segment 1"),
        pytest.param(2 * SEGMENT_SIZE_BYTES - 16, 1, id="tag of segment 1"),
        pytest.param(2 * SEGMENT_SIZE_BYTES, 2, id="first byte of the last segment"),
        pytest.param(len(SEALED) - 1, 2, id="last byte"),
    ],
)
def test_a_flipped_bit_is_refused_before_its_segment_is_seen(
    offset: int, whole_segments: int
) -> None:
    pieces = open_range(
        KEY,
        BINDING,
        ciphertext_size=len(SEALED),
        fetch=MemoryObject(flipped(SEALED, offset)).fetch,
        start=0,
        stop=THREE_SEGMENTS,
    )
    before = [next(pieces) for _ in range(whole_segments)]
    with pytest.raises(DecryptionFailed):
        next(pieces)
    assert PLAINTEXT.startswith(b"".join(before))


def test_another_key_is_refused() -> None:
    with pytest.raises(DecryptionFailed):
        open_whole(DataKey.generate(), SEALED, THREE_SEGMENTS)


def test_another_binding_is_refused() -> None:
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, SEALED, THREE_SEGMENTS, BINDING + b"!")


def test_an_object_swapped_for_another_is_refused() -> None:
    other = seal(KEY, PLAINTEXT, b"binding of another version")
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, other, THREE_SEGMENTS)


def test_a_segment_of_another_object_under_the_same_key_is_refused() -> None:
    ours, theirs = segments(SEALED), segments(seal(KEY, PLAINTEXT))
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, ours[0] + theirs[1] + ours[2], THREE_SEGMENTS)


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 3, 2], [0, 1, 1, 3], [0, 1, 2, 2]], ids=str)
def test_reordered_and_repeated_segments_are_refused(order: list[int]) -> None:
    size = FIRST_SEGMENT + 3 * FULL_SEGMENT
    parts = segments(seal(KEY, pattern(size)))
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, b"".join(parts[n] for n in order), size)


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(len(SEALED) - 1, id="a byte"),
        pytest.param(2 * SEGMENT_SIZE_BYTES + 17, id="all but one byte of the last segment"),
        pytest.param(2 * SEGMENT_SIZE_BYTES, id="the last segment"),
        pytest.param(SEGMENT_SIZE_BYTES, id="two segments"),
        pytest.param(HEADER_SIZE_BYTES, id="all but the header"),
        pytest.param(HEADER_SIZE_BYTES - 1, id="part of the header"),
        pytest.param(0, id="everything"),
    ],
)
@pytest.mark.parametrize("size_follows", [False, True], ids=["size as it was", "size as it is"])
def test_an_object_cut_short_is_refused(left: int, size_follows: bool) -> None:
    cut = SEALED[:left]
    trusted = left if size_follows else len(SEALED)
    with pytest.raises(DecryptionFailed):
        list(
            open_range(
                KEY,
                BINDING,
                ciphertext_size=trusted,
                fetch=MemoryObject(cut).fetch,
                start=0,
                stop=plaintext_size(trusted),
            )
        )


def test_a_reader_that_stops_short_is_refused_whatever_the_buffer_holds() -> None:
    class ShortReader(MemoryReader):
        @override
        def readinto(self, buffer: memoryview) -> int:
            return super().readinto(buffer) - 1

    with pytest.raises(DecryptionFailed):
        list(_range(MemoryObject(SEALED), 0, 1, lambda _offset, _length: ShortReader(SEALED)))


def test_a_dropped_full_last_segment_is_refused() -> None:
    cut = seal(KEY, pattern(THREE_FULL_SEGMENTS))[: 2 * SEGMENT_SIZE_BYTES]
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, cut, plaintext_size(len(cut)))


@pytest.mark.parametrize("size", [0, 1, FIRST_SEGMENT, THREE_SEGMENTS, THREE_FULL_SEGMENTS])
@pytest.mark.parametrize("extra", [17, 1000, SEGMENT_SIZE_BYTES])
def test_an_extended_object_is_refused(size: int, extra: int) -> None:
    longer = seal(KEY, pattern(size)) + bytes(extra)
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, longer, plaintext_size(len(longer)))


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 4), (4, 4)])
def test_a_range_outside_of_the_object_is_refused(start: int, stop: int) -> None:
    stored = MemoryObject(seal(KEY, b"abc"))
    size = len(stored.ciphertext)
    with pytest.raises(DecryptionFailed):
        list(
            open_range(
                KEY, BINDING, ciphertext_size=size, fetch=stored.fetch, start=start, stop=stop
            )
        )
    assert stored.fetched == []


# Fetching


def test_an_empty_document_is_authenticated() -> None:
    sealed = seal(KEY, b"")
    assert open_whole(KEY, sealed, 0) == []
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, flipped(sealed, len(sealed) - 1), 0)


def test_each_piece_keeps_its_bytes_while_later_ones_are_read() -> None:
    pieces = open_whole(KEY, SEALED, THREE_SEGMENTS)
    assert [len(piece) for piece in pieces] == [FIRST_SEGMENT, FULL_SEGMENT, 1000]
    assert all(type(piece) is bytes for piece in pieces)
    assert b"".join(pieces) == PLAINTEXT


def test_readers_are_closed_at_the_end() -> None:
    stored = MemoryObject(SEALED)
    list(_range(stored, FIRST_SEGMENT + 1, THREE_SEGMENTS))
    assert [reader.closed for reader in stored.readers] == [True, True]


def test_readers_are_closed_when_the_caller_leaves_early() -> None:
    stored = MemoryObject(SEALED)
    pieces = _range(stored, 0, THREE_SEGMENTS)
    next(pieces)
    pieces.close()
    assert [reader.closed for reader in stored.readers] == [True]


@pytest.mark.parametrize("start", [0, FIRST_SEGMENT])
def test_readers_are_closed_when_the_object_is_damaged(start: int) -> None:
    stored = MemoryObject(flipped(SEALED, 5))
    with pytest.raises(DecryptionFailed):
        list(_range(stored, start, THREE_SEGMENTS))
    assert all(reader.closed for reader in stored.readers)


class StoreIsAway(Exception):
    """A store's own error."""


@pytest.mark.parametrize("good_fetches", [0, 1])
def test_errors_of_fetch_pass_through(good_fetches: int) -> None:
    stored = MemoryObject(SEALED)

    def fetch(offset: int, length: int) -> MemoryReader:
        if len(stored.fetched) == good_fetches:
            raise StoreIsAway
        return stored.fetch(offset, length)

    with pytest.raises(StoreIsAway):
        list(_range(stored, FIRST_SEGMENT, THREE_SEGMENTS, fetch))
    assert all(reader.closed for reader in stored.readers)


def test_errors_of_a_reader_pass_through_and_it_is_closed() -> None:
    class CutReader(MemoryReader):
        @override
        def readinto(self, buffer: memoryview) -> int:
            if len(buffer) > HEADER_SIZE_BYTES:
                raise StoreIsAway
            return super().readinto(buffer)

    reader = CutReader(SEALED)
    with pytest.raises(StoreIsAway):
        list(_range(MemoryObject(SEALED), 0, 1, lambda _offset, _length: reader))
    assert reader.closed


def _range(
    stored: MemoryObject,
    start: int,
    stop: int,
    fetch: Callable[[int, int], MemoryReader] | None = None,
) -> Generator[bytes]:
    return open_range(
        KEY,
        BINDING,
        ciphertext_size=len(stored.ciphertext),
        fetch=fetch or stored.fetch,
        start=start,
        stop=stop,
    )
