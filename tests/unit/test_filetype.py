"""Types are judged by content; office and OFD containers are told apart from plain archives."""

from __future__ import annotations

import io
import zipfile

import pytest

from vault import filetype


def archive(*names: str, first: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        if first is not None:
            made.writestr("mimetype", first, zipfile.ZIP_STORED)
        for name in names:
            made.writestr(name, b"<x/>", zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


OFFICE = "application/vnd.openxmlformats-officedocument."


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "application/octet-stream"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "image/jpeg"),
        ("客户档案保管管理办法".encode(), "text/plain"),
        ("客户档案".encode("gb18030"), "text/plain"),
        (archive("[Content_Types].xml", "word/document.xml"), OFFICE + "wordprocessingml.document"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), OFFICE + "spreadsheetml.sheet"),
        (
            archive("[Content_Types].xml", "ppt/presentation.xml"),
            OFFICE + "presentationml.presentation",
        ),
        (archive("OFD.xml", "Doc_0/Document.xml"), "application/ofd"),
        (
            archive("content.xml", first=b"application/vnd.oasis.opendocument.text"),
            "application/vnd.oasis.opendocument.text",
        ),
        (archive("readme.txt"), "application/zip"),
    ],
)
def test_a_document_is_what_its_first_bytes_say(head: bytes, expected: str) -> None:
    assert filetype.media_type(head) == expected


def test_only_the_first_bytes_are_looked_at() -> None:
    assert filetype.media_type(b"%PDF-1.7\n" + b"x" * 100_000) == "application/pdf"


@pytest.mark.parametrize("rest", [b"", b"\0" * 64, b"1.7\n", b"\xe0\x00\x10JFIF\x00"])
@pytest.mark.parametrize(("start", "expected"), filetype._SURE_STARTS)
def test_libmagic_says_the_same_of_what_is_told_by_its_start(
    start: bytes, expected: str, rest: bytes
) -> None:
    head = start + b"\xdb" + rest
    assert filetype.media_type(head) == expected
    assert filetype._magic().from_buffer(head) == expected
