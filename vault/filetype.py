"""What a document is, judged by its first bytes and nothing else.

libmagic comes with the `pylibmagic` wheel, loaded by hand: importing that package patches `ctypes` and
puts an empty entry (the current folder) into the library path of every child process. Its libmagic 5.41
sees many office documents as plain zip archives, so the entries that say which (ECMA-376 part 2 §10.1,
ODF 1.3 part 2 §3.3, GB/T 33190) are looked up here.
"""

from __future__ import annotations

import ctypes
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from magic import Magic

SNIFF_BYTES: Final = 8192
"""How much of a document is looked at; more settled none of the samples that less did not."""

TEXT_SNIFF_BYTES: Final = 1024
"""How much is looked at where no byte is zero, as in text: libmagic's regular expressions take milliseconds
for 8 KiB of it, and what marks HTML, XML, RTF or mail stands at the start."""

UNKNOWN: Final = "application/octet-stream"
_EMPTY: Final = "application/x-empty"

_SURE_STARTS: Final = (
    (b"%PDF-", "application/pdf"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
)
"""What libmagic says of the commonest scans too, only later: it tries all it knows."""

_ZIP_START: Final = b"PK\x03\x04"
_CONTAINERS: Final = (
    (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    (b"OFD.xml", "application/ofd"),
)
_ODF_START: Final = b"mimetypeapplication/vnd.oasis.opendocument."

_per_thread = threading.local()
_loading = threading.Lock()


def media_type(head: bytes) -> str:
    """The media type of a document that starts with `head` (at most `SNIFF_BYTES` are looked at)."""
    head = head[:SNIFF_BYTES]
    for start, found in _SURE_STARTS:
        if head.startswith(start):
            return found
    if head.startswith(_ZIP_START):
        return _zip_media_type(head)
    if b"\0" not in head:
        head = head[:TEXT_SNIFF_BYTES]
    sniffed: str = _magic().from_buffer(head)
    return UNKNOWN if sniffed == _EMPTY or "/" not in sniffed else sniffed


def _zip_media_type(head: bytes) -> str:
    if head[30:].startswith(_ODF_START):
        kind = head[30 + len("mimetype") :].split(b"PK", 1)[0]
        return kind.decode("ascii", errors="ignore")
    for entry in _entry_names(head):
        for start, found in _CONTAINERS:
            if entry.startswith(start):
                return found
    return "application/zip"


def _entry_names(head: bytes) -> list[bytes]:
    """Names in the local file headers within reach (APPNOTE.TXT §4.3.7)."""
    names = []
    at = head.find(_ZIP_START)
    while at != -1:
        length = int.from_bytes(head[at + 26 : at + 28], "little")
        names.append(head[at + 30 : at + 30 + length])
        at = head.find(_ZIP_START, at + 4)
    return names


def _magic() -> Magic:
    """This thread's cookie: libmagic's are not safe to share."""
    if not hasattr(_per_thread, "magic"):
        _per_thread.magic = _load()
    magic: Magic = _per_thread.magic
    return magic


def _load() -> Magic:
    spec = find_spec("pylibmagic")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    with _loading:
        # Loaded first and globally, so that python-magic's own search by soname finds this one.
        ctypes.CDLL(str(folder / "libmagic.so.1"), mode=ctypes.RTLD_GLOBAL)
        from magic import Magic  # noqa: PLC0415 (must come after the library is there)

        return Magic(mime=True, magic_file=str(folder / "magic.mgc"))
