"""Names of documents: what a person may call one, and what would mislead the next reader.

A name is 1 to 255 bytes of UTF-8 in Unicode's composed form (NFC, UAX #15). Control characters break
headers and terminals; bidirectional controls make `cod.exe` read as `exe.doc` (CVE-2021-42574). Neither
they, nor separators of paths or lines, nor private-use characters have a place in a name. Unassigned ones
are let through: newer CJK extensions hold rare characters of people's names before our tables know them.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from vault.errors import InvalidName, InvalidValue

MAX_NAME_BYTES: Final = 255
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
_BIDI_CONTROLS: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def document_name(raw: str) -> str:
    """`raw` in NFC, if it may name a document.

    Raises:
        InvalidName: says which rule it breaks, never the name.
    """
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in raw):
        raise InvalidName("the name holds control, line-separating or private-use characters")
    name = unicodedata.normalize("NFC", raw).strip()
    if not name or name in {".", ".."}:
        raise InvalidName("the name is empty")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidName(f"the name is longer than {MAX_NAME_BYTES} bytes of UTF-8")
    if not _BIDI_CONTROLS.isdisjoint(name):
        raise InvalidName("the name holds bidirectional controls, which make it read as another")
    if "/" in name or "\\" in name:
        raise InvalidName("the name holds a path separator; send the last part only")
    return name


def display_text(raw: str, kind: str, max_characters: int) -> str:
    """`raw` in NFC, if it may stand where people read it: one line, nothing that misleads.

    Raises:
        InvalidValue: says which rule it breaks, never the text.
    """
    text = unicodedata.normalize("NFC", raw).strip()
    if not text or len(text) > max_characters:
        raise InvalidValue(f"a {kind} has 1 to {max_characters} characters")
    if any(unicodedata.category(character) in _REFUSED_CATEGORIES for character in text):
        raise InvalidValue(f"the {kind} holds control, line-separating or private-use characters")
    if not _BIDI_CONTROLS.isdisjoint(text):
        raise InvalidValue(
            f"the {kind} holds bidirectional controls, which make it read as another"
        )
    return text


def is_label(raw: str) -> bool:
    """Whether this may name a class, department or principal."""
    return _LABEL.fullmatch(raw) is not None


def label(raw: str, kind: str) -> str:
    """`raw`, if it may name a class, department or principal: 1 to 64 of ``a-z 0-9 . _ -``.

    Raises:
        InvalidValue: it may not.
    """
    if not is_label(raw):
        raise InvalidValue(
            f"a {kind} is named by 1 to 64 characters a-z, 0-9, '.', '_' and '-', "
            "starting and ending with a letter or digit"
        )
    return raw
