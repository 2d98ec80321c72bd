"""Text that others chose, before a terminal or a file system sees it.

A terminal obeys control characters (ECMA-48), C1 ones and ESC sequences among them, and bidirectional
controls make a name read as another; a file called ``.bashrc`` is obeyed by a shell.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Final

MAX_NAME_BYTES: Final = 240
"""What most file systems take (255), less room for ``.part.etag``."""

_MAX_SUFFIX_BYTES: Final = 20
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` with every character that is not seen written as an escape."""
    return "".join(c if _is_seen(c) else _escape(c) for c in text)


def printable_json(value: Any) -> str:
    """`value` as JSON on one line; unseen characters are escaped as JSON does, so it reads the same."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if _is_seen(c) else json.dumps(c)[1:-1] for c in text)


def plain_file_name(name: str) -> str:
    """A document's name as that of a visible file in the current folder."""
    last = re.split(r"[/\\]", name)[-1]
    seen = "".join(c if _is_seen(c) else "_" for c in last)
    # Neither hidden nor, given to another command, an option.
    return _clipped(seen.lstrip(".- ").rstrip()) or "document"


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) not in _UNSEEN


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _clipped(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    _, dot, suffix = name.rpartition(".")
    kept = f"{dot}{suffix}".encode()
    kept = kept if len(kept) <= _MAX_SUFFIX_BYTES else b""
    return (encoded[: MAX_NAME_BYTES - len(kept)] + kept).decode(errors="ignore")
