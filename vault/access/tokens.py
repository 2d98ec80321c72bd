"""Tokens that are shown to be recognised: of API keys, of sessions, of enrolments.

```
<kind>_<id, hex>_<secret, 43 base64url>_<checksum, 8 hex>
```
The secret has 256 random bits, so one SHA-256 at rest is enough: there is nothing to guess. The checksum
(CRC-32 of what stands before it) tells a mistyped token from a wrong one without asking the database, and
lets scanners recognise a leaked one.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vault.access.credentials import CredentialRefused


class TokenKind(StrEnum):
    """What a token opens; its first part."""

    API_KEY = "sr"
    SESSION = "ss"
    ENROLMENT = "se"


_FORMS: Final = {
    kind: re.compile(rf"{kind}_([0-9a-f]{{{digits}}})_([A-Za-z0-9_-]{{43}})_([0-9a-f]{{8}})")
    for kind, digits in (
        (TokenKind.API_KEY, 16),
        (TokenKind.SESSION, 32),
        (TokenKind.ENROLMENT, 32),
    )
}

_ANYWHERE: Final = re.compile(r"(?:sr_[0-9a-f]{16}|s[se]_[0-9a-f]{32})_[A-Za-z0-9_-]{16}")


@dataclass(frozen=True)
class Token:
    """A token's parts.

    Attributes:
        id: of the row it belongs to, 16 or 32 hex digits.
        secret_sha256: what is stored of the secret.
    """

    id: str
    secret_sha256: bytes


def make_token(kind: TokenKind, row_id: str) -> tuple[str, bytes]:
    """A fresh token for a row, and the digest to store; the token is shown once and kept nowhere."""
    secret = secrets.token_urlsafe(32)
    body = f"{kind}_{row_id}_{secret}"
    return f"{body}_{_checksum(body)}", _digest(secret)


def parse_token(text: str, kind: TokenKind) -> Token:
    """The parts of a well-formed token of a kind. Raises: CredentialRefused("malformed")."""
    match = _FORMS[kind].fullmatch(text)
    if match is None or _checksum(text.rpartition("_")[0]) != match[3]:
        raise CredentialRefused("malformed")
    return Token(match[1], _digest(match[2]))


def holds_token(text: str) -> bool:
    """Whether something that looks like a token of ours stands anywhere in a text, whole or cut short."""
    return _ANYWHERE.search(text) is not None


def is_session_token(text: str) -> bool:
    """Whether this means to be a session's token."""
    return text.startswith(f"{TokenKind.SESSION}_")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
