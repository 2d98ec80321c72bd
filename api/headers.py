"""HTTP headers that carry meaning here: names, entity tags, ranges.

Parsing is werkzeug's; what a strong tag, a single range and a name in any script mean is decided here
(RFC 9110 §8.8, §13, §14; RFC 6266, RFC 8187).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import Headers
from werkzeug.http import parse_etags, parse_options_header, parse_range_header

from api.errors import BadRequest, NotModified, RangeNotSatisfiable
from vault.errors import PreconditionFailed
from vault.model import ByteRange, Version

_ASCII_FALLBACK: Final = str.maketrans({'"': "_", "\\": "_", "%": "_"})


def file_name(headers: Headers) -> str:
    """The name in Content-Disposition, `filename*` before `filename`.

    Raises:
        BadRequest: there is none.
    """
    raw = headers.get("content-disposition", "")
    # Clients write UTF-8 straight into the header; the server handed it over as Latin-1.
    with suppress(UnicodeDecodeError):
        raw = raw.encode("latin-1").decode("utf-8")
    _, parameters = parse_options_header(raw)
    name = parameters.get("filename")
    if not name:
        raise BadRequest(
            "name the document: Content-Disposition: attachment; filename*=UTF-8''contract.pdf"
        )
    return name


def attachment(name: str) -> str:
    """Content-Disposition for a download, with an ASCII fallback for old clients."""
    ascii_name = (
        name.encode("ascii", "replace").decode().replace("?", "_").translate(_ASCII_FALLBACK)
    )
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"


def version_etag(version: Version) -> str:
    """The strong entity tag of a version's bytes."""
    return f'"{version.id}"'


def revision_etag(revision: int) -> str:
    """The strong entity tag of a document's metadata."""
    return f'"r{revision}"'


def expected_versions(if_match: str | None) -> frozenset[UUID] | None:
    """The versions that If-Match names; None for no header and for ``*``.

    A tag that is not ours matches nothing.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    return frozenset(filter(None, map(_uuid, parse_etags(if_match).as_set())))


def expected_revision(if_match: str | None) -> int | None:
    """The revision that If-Match names; None for no header and for ``*``. Raises: PreconditionFailed."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = parse_etags(if_match).as_set()
    revisions = [tag.removeprefix("r") for tag in tags if tag.startswith("r")]
    if len(revisions) != 1 or not revisions[0].isdecimal():
        raise PreconditionFailed
    return int(revisions[0])


def refuse_known(headers: Headers, version: Version) -> None:
    """Raises: NotModified when If-None-Match names the version, PreconditionFailed by If-Match."""
    if_match = headers.get("if-match")
    expected = expected_versions(if_match)
    if expected is not None and version.id not in expected:
        raise PreconditionFailed
    if_none_match = headers.get("if-none-match")
    if if_none_match is None:
        return
    tags = parse_etags(if_none_match)
    if tags.star_tag or str(version.id) in tags.as_set(include_weak=True):
        raise NotModified(version_etag(version))


def chosen_range(headers: Headers, version: Version) -> tuple[ByteRange, bool]:
    """Which bytes to serve, and whether they are a part (206).

    More than one range, another unit or a range that cannot be read is ignored, as RFC 9110 §14.2 allows:
    the whole is served.

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    whole = ByteRange(0, version.size_bytes)
    wanted = parse_range_header(headers.get("range"), make_inclusive=False)
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return whole, False
    if not _if_range_holds(headers.get("if-range"), version):
        return whole, False
    (start, stop), size = wanted.ranges[0], version.size_bytes
    if start < 0:
        return ByteRange(max(size + start, 0), size), True
    if start >= size:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, min(stop or size, size)), True


def _if_range_holds(if_range: str | None, version: Version) -> bool:
    # A date is weaker than our tags: versions of one second would be taken for each other.
    return if_range is None or if_range.strip() == version_etag(version)


def _uuid(tag: str) -> UUID | None:
    try:
        return UUID(tag)
    except ValueError:
        return None
