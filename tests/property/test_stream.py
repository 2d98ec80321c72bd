"""The object format at any size, cut into any chunks, read in any range, damaged anywhere."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keymgmt.datakey import DataKey
from keymgmt.errors import DecryptionFailed
from keymgmt.stream import (
    HEADER_SIZE_BYTES,
    MAX_SEGMENTS,
    SEGMENT_SIZE_BYTES,
    SealingStream,
    ciphertext_size,
    open_range,
    plaintext_size,
)
from tests.sealed_objects import (
    BINDING,
    FIRST_SEGMENT,
    FULL_SEGMENT,
    MemoryObject,
    MemorySink,
    open_whole,
    pattern,
    seal,
)

KEY = DataKey.generate()
PLAINTEXT = pattern(FIRST_SEGMENT + 3 * FULL_SEGMENT + 100)

near_boundaries = st.builds(
    lambda segments, step: FIRST_SEGMENT + segments * FULL_SEGMENT + step,
    st.integers(0, 3),
    st.integers(-40, 40),
)
sizes = st.integers(0, 200) | near_boundaries

fewer_examples = settings(max_examples=60, deadline=None)


@cache
def sealed(size: int) -> bytes:
    return seal(KEY, PLAINTEXT[:size])


@fewer_examples
@given(size=sizes, data=st.data())
def test_any_chunking_opens_to_what_was_written(size: int, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, size) | near_boundaries, max_size=6))
    edges = sorted({0, size, *(cut for cut in cuts if cut <= size)})
    sink = MemorySink()
    stream = SealingStream(KEY, BINDING, sink)
    for begin, end in pairwise(edges):
        stream.write(PLAINTEXT[begin:end])
    stream.finish()
    assert b"".join(open_whole(KEY, bytes(sink.ciphertext), size)) == PLAINTEXT[:size]


@fewer_examples
@given(size=sizes, data=st.data())
def test_a_range_gives_its_bytes_and_fetches_only_what_they_need(
    size: int, data: st.DataObject
) -> None:
    positions = st.integers(0, size) | near_boundaries.filter(lambda position: position <= size)
    start, stop = sorted(data.draw(st.tuples(positions, positions)))
    stored = MemoryObject(sealed(size))
    pieces = open_range(
        KEY,
        BINDING,
        ciphertext_size=len(stored.ciphertext),
        fetch=stored.fetch,
        start=start,
        stop=stop,
    )
    assert b"".join(pieces) == PLAINTEXT[start:stop]
    assert stored.fetched == needed(start, stop, size)
    assert all(reader.closed for reader in stored.readers)


def needed(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """The fetches that a range costs, counted out by hand."""
    if start == stop and size > 0:
        return []
    first = 0 if start < FIRST_SEGMENT else 1 + (start - FIRST_SEGMENT) // FULL_SEGMENT
    end, segments = FIRST_SEGMENT, 1
    while end < stop:
        end, segments = end + FULL_SEGMENT, segments + 1
    offset = first * SEGMENT_SIZE_BYTES
    length = min(segments * SEGMENT_SIZE_BYTES, ciphertext_size(size)) - offset
    return [(0, length)] if first == 0 else [(0, HEADER_SIZE_BYTES), (offset, length)]


@fewer_examples
@given(size=sizes, data=st.data())
def test_any_flipped_bit_is_refused_before_its_segment_is_seen(
    size: int, data: st.DataObject
) -> None:
    altered = bytearray(sealed(size))
    offset = data.draw(st.integers(0, len(altered) - 1))
    altered[offset] ^= 1 << data.draw(st.integers(0, 7))
    pieces = open_range(
        KEY,
        BINDING,
        ciphertext_size=len(altered),
        fetch=MemoryObject(bytes(altered)).fetch,
        start=0,
        stop=size,
    )
    seen = [next(pieces) for _ in range(offset // SEGMENT_SIZE_BYTES)]
    assert PLAINTEXT.startswith(b"".join(seen))
    with pytest.raises(DecryptionFailed):
        next(pieces)


@fewer_examples
@given(size=sizes, data=st.data())
def test_any_other_length_is_refused(size: int, data: st.DataObject) -> None:
    whole = sealed(size)
    length = data.draw(st.integers(0, len(whole) + 100))
    assume(length != len(whole))
    altered = whole[:length].ljust(length, b"\x00")
    with pytest.raises(DecryptionFailed):
        open_whole(KEY, altered, plaintext_size(length))


@given(size=st.integers(0, 2**51) | sizes)
def test_sizes_are_inverse_to_each_other(size: int) -> None:
    assert plaintext_size(ciphertext_size(size)) == size


@given(size=st.integers(0, MAX_SEGMENTS * SEGMENT_SIZE_BYTES) | sizes)
def test_a_size_is_refused_exactly_if_no_object_has_it(size: int) -> None:
    roughly = size // SEGMENT_SIZE_BYTES
    guesses = [size - HEADER_SIZE_BYTES - 16 * n for n in range(roughly, roughly + 3)]
    matching = [guess for guess in guesses if guess >= 0 and ciphertext_size(guess) == size]
    if matching:
        assert [plaintext_size(size)] == matching
    else:
        with pytest.raises(DecryptionFailed):
            plaintext_size(size)
