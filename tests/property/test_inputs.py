"""Names, page tokens and headers: whatever is sent, the answer is a value or one of our refusals."""

from __future__ import annotations

import contextlib
import unicodedata
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from werkzeug.http import parse_options_header

from api.errors import BadRequest, NotModified, RangeNotSatisfiable
from api.headers import attachment, chosen_range, file_name, refuse_known
from vault import filetype
from vault.errors import InvalidInput, InvalidName, PreconditionFailed
from vault.model import Version
from vault.names import document_name
from vault.paging import _decode, _digest, _encode

KINDS = (datetime, UUID, int, str)


def version(size: int) -> Version:
    moment, some = datetime(2026, 1, 1, tzinfo=UTC), uuid4()
    return Version(
        some, 1, some, "a", 1, size, size, b"", "a/b", None, "", b"", some, moment, some, (), None
    )


@given(st.text())
def test_a_name_is_refused_or_clean(raw: str) -> None:
    try:
        name = document_name(raw)
    except InvalidName:
        return
    assert name == unicodedata.normalize("NFC", name)
    assert 1 <= len(name.encode()) <= 255
    assert not any(unicodedata.category(c) in ("Cc", "Cs") or c in "/\\" for c in name)


@given(st.text(min_size=1, max_size=60))
def test_a_name_survives_the_header_it_is_sent_in(raw: str) -> None:
    try:
        name = document_name(raw)
    except InvalidName:
        return
    header = attachment(name)
    header.encode("latin-1")
    assert parse_options_header(header)[1]["filename"] == name
    assert file_name(Headers({"content-disposition": header})) == name


@given(st.binary(max_size=100))
def test_any_content_disposition_gives_a_name_or_a_refusal(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert file_name(Headers(raw=[(b"content-disposition", raw)]))


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.integers(0, 2**31 - 1),
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
)
def test_a_page_token_comes_back_as_it_went(
    moment: datetime, some: UUID, number: int, text: str
) -> None:
    digest = _digest("list", {"a": 1})
    token = _encode((moment, some, number, text), digest)
    assert tuple(_decode(token, KINDS, digest)) == (moment, some, number, text)


@given(st.text(max_size=200))
def test_any_page_token_is_read_or_refused(token: str) -> None:
    with pytest.raises(InvalidInput):
        _decode(token, KINDS, _digest("list", {}))


@given(st.text(max_size=60), st.integers(0, 1000))
def test_any_range_stays_within_the_document(text: str, size: int) -> None:
    try:
        chosen, _ = chosen_range(Headers(raw=[(b"range", text.encode())]), version(size))
    except RangeNotSatisfiable:
        return
    assert 0 <= chosen.start <= chosen.stop <= size


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_condition_holds_or_is_one_of_ours(if_match: str, if_none_match: str) -> None:
    raw = [(b"if-match", if_match.encode()), (b"if-none-match", if_none_match.encode())]
    with contextlib.suppress(NotModified, PreconditionFailed):
        refuse_known(Headers(raw=raw), version(3))


@given(st.binary(max_size=9000))
def test_any_bytes_have_a_type(head: bytes) -> None:
    assert "/" in filetype.media_type(head)
