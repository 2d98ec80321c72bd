"""Calls that most API tests make."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx


def named(name: str) -> dict[str, str]:
    """The header that names a document."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def upload(
    client: httpx.Client,
    content: bytes,
    *,
    name: str = "document.bin",
    params: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """File a document that is expected to be taken."""
    answer = client.post(
        "/v1/documents", content=content, params=params, headers={**named(name), **(headers or {})}
    )
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created
