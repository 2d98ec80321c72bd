"""Those who are told: a webhook's receiver and a mail server, real ones on loopback.

The receiver checks signatures with the package of the Standard Webhooks project, the mail server is aiosmtpd;
both know nothing of our senders.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from standardwebhooks import Webhook
from typing_extensions import override

from tests.servers.s3 import free_port


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> Any:
        """What it says. Raises: WebhookVerificationError: it does not bear this secret's signature."""
        return Webhook(secret).verify(self.body, self.headers)

    @property
    def id(self) -> str:
        """Of the notice."""
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Takes webhooks in.

    Attributes:
        status, headers, answer: what it says to each.
        open: cleared, it keeps everybody waiting.
    """

    port: int
    scheme: str = "http"
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    received: list[Received] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where it takes them."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks"


@contextmanager
def receiving(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver for the time of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body))
            receiver.open.wait()
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(receiver.answer)

        @override
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # who hangs up is expected to
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(server.server_port, scheme="https" if tls else "http")
    receiver.open.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """What a mail server took.

    Attributes:
        refused: recipients that it does not know.
        over_tls: of each message, whether it came over TLS.
    """

    port: int
    refused: set[str] = field(default_factory=set)
    envelopes: list[Envelope] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)

    def raw(self) -> bytes:
        """All messages, as they came over the wire."""
        return b"".join(bytes(envelope.content or b"") for envelope in self.envelopes)  # type: ignore[arg-type]

    def messages(self) -> list[EmailMessage]:
        """All messages, parsed."""
        return [
            message_from_bytes(bytes(envelope.content or b""), EmailMessage, policy=policy.default)  # type: ignore[arg-type]
            for envelope in self.envelopes
        ]

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or refuse one in words that may hold anything."""
        if address in self.refused:
            return "550 canary-of-the-peer: no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 (aiosmtpd's name)
        self, server: Any, session: Session, envelope: Envelope
    ) -> str:
        """Take a message."""
        self.envelopes.append(envelope)
        self.over_tls.append(server.transport.get_extra_info("cipher") is not None)
        return "250 OK"


@contextmanager
def mail_server(
    tls: ssl.SSLContext | None = None,
    *,
    implicit: bool = False,
    login: tuple[str, str] | None = None,
) -> Iterator[Mailbox]:
    """A mail server for the time of the block.

    Args:
        tls: offers STARTTLS and takes nothing without it; with `implicit`, speaks nothing but TLS.
        login: whom it asks for.
    """

    def authenticate(_s: Any, _session: Any, _e: Any, _mechanism: str, data: Any) -> AuthResult:
        given = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode())
        return AuthResult(success=given == login, handled=False)

    mailbox = Mailbox(free_port())
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=mailbox.port,
        ssl_context=tls if implicit else None,
        tls_context=None if implicit else tls,
        require_starttls=tls is not None and not implicit,
        authenticator=authenticate if login else None,
        auth_required=login is not None,
        auth_require_tls=not implicit,
    )
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()
