"""Notices by webhook, as Standard Webhooks has it: small signed POSTs that hold ids only.

The URL is the operator's setting. No caller can give, change or see it, so nobody can point the service at
an address of their choice (server-side request forgery); a redirect, by which the receiver could, is not
followed. Of the answer only the status counts; its body is never read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import Callable, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Final

import anyio
import httpx
from pydantic import SecretStr
from typing_extensions import override

from vault import clock
from vault.notices import NotDelivered, Notice, Sender

CONNECT_SECONDS: Final = 3.0
TOTAL_SECONDS: Final = 15.0
"""For the whole of it, also where the receiver sends a byte now and then."""

_PREFIX: Final = "whsec_"


class Webhook(Sender):
    """Posts to one URL. Safe for threads."""

    def __init__(
        self,
        url: str,
        secrets: Sequence[SecretStr],
        *,
        tls: ssl.SSLContext,
        total_seconds: float = TOTAL_SECONDS,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        """Connects to nothing yet.

        Args:
            secrets: each ``whsec_`` and base64. While one is replaced there are two, and each signs: a
                receiver that knows either is content.
        """
        self._url = url
        self._secrets = secrets
        self._tls = tls
        self._total_seconds = total_seconds
        self._now = now

    @override
    def send(self, notice: Notice) -> None:
        """As `Sender.send`.

        Raises:
            NotDelivered: the answer was not 2xx, or there was none in time; final for 410.
        """
        body = _body(notice)
        try:
            status = anyio.run(self._post, body, self._headers(notice, body))
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise NotDelivered("timeout") from exc
        except (httpx.HTTPError, OSError) as exc:
            raise NotDelivered("tls" if _is_of_tls(exc) else "unreachable") from exc
        _judge(status)

    def _headers(self, notice: Notice, body: bytes) -> dict[str, str]:
        sent_at = int(self._now().timestamp())
        signed = b"%s.%d.%s" % (str(notice.id).encode(), sent_at, body)
        return {
            "content-type": "application/json",
            "user-agent": "strongroom",
            "webhook-id": str(notice.id),
            "webhook-timestamp": str(sent_at),
            "webhook-signature": " ".join(_signature(secret, signed) for secret in self._secrets),
        }

    async def _post(self, body: bytes, headers: dict[str, str]) -> int:
        """The status. Asynchronous because only so the whole can be given a time, and be ended in it."""
        timeout = httpx.Timeout(self._total_seconds, connect=CONNECT_SECONDS)
        with anyio.fail_after(self._total_seconds):
            async with (
                httpx.AsyncClient(verify=self._tls, timeout=timeout, trust_env=False) as client,
                client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                return answer.status_code


def _body(notice: Notice) -> bytes:
    payload = {
        "type": notice.kind.value,
        "timestamp": notice.at.isoformat(),
        "data": {"id": str(notice.subject_id)},
    }
    return json.dumps(payload, separators=(",", ":")).encode()


def _signature(secret: SecretStr, signed: bytes) -> str:
    key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _judge(status: int) -> None:
    if httpx.codes.is_success(status):
        return
    if status == HTTPStatus.GONE:
        raise NotDelivered("gone", is_final=True)
    raise NotDelivered(f"status-{status}")


def _is_of_tls(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, ssl.SSLError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
