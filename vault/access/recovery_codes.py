"""Recovery codes: for whoever has lost the phone. Each counts once.

A code has 120 random bits, so one SHA-256 at rest is enough (NIST SP 800-63B §3.1.2.2 asks for 112).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Final

COUNT: Final = 10
_SIZE_BYTES: Final = 15
_GROUP: Final = 6


def make_codes() -> tuple[list[str], list[bytes]]:
    """Fresh codes as people write them down, and the digests to store."""
    codes = [_grouped(base64.b32encode(secrets.token_bytes(_SIZE_BYTES))) for _ in range(COUNT)]
    return codes, [digest(code) for code in codes]


def digest(code: str) -> bytes:
    """What is stored of a code, however it was typed: case, spaces and hyphens do not count."""
    typed = "".join(code.split()).replace("-", "").upper()
    return hashlib.sha256(typed.encode()).digest()


def _grouped(encoded: bytes) -> str:
    text = encoded.decode()
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))
