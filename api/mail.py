"""Notices by mail: one short message in Chinese and English that holds ids only.

TLS is demanded on the way to the mail server, and its certificate checked; only a server on loopback may do
without. A server that offers no STARTTLS gets nothing: somebody in between may have taken the offer out.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from typing_extensions import override

from api.settings import MailTls, SmtpSettings
from vault.notices import NotDelivered, Notice, NoticeKind, Sender

STEP_SECONDS: Final = 10.0
"""For each step of the conversation. A server that takes nearly that long for a dozen of them outlasts the
lease: then another try begins, and the mail may come twice."""

_PORTS: Final = {MailTls.STARTTLS: 587, MailTls.IMPLICIT: 465, MailTls.NONE: 25}

_WORDS: Final = {
    NoticeKind.APPROVAL_REQUESTED: ("有一项审批请求等待处理", "an approval is asked for"),
    NoticeKind.APPROVAL_DECIDED: ("一项审批请求已有结果", "an approval was decided"),
    NoticeKind.APPROVAL_ESCALATED: ("一项审批请求已升级处理", "an approval was escalated"),
    NoticeKind.APPROVAL_EXPIRED: ("一项审批请求已过期", "an approval has expired"),
    NoticeKind.GRANT_REVOKED: ("一项授权已被撤销", "a grant was revoked"),
}

_log = logging.getLogger(__name__)


class Mail(Sender):
    """Sends by one mail server, with a connection for each message. Safe for threads."""

    def __init__(self, given: SmtpSettings, *, tls: ssl.SSLContext, public_url: str | None) -> None:
        """Connects to nothing yet."""
        self._given = given
        self._tls = tls
        self._public_url = public_url

    @override
    def send(self, notice: Notice) -> None:
        """As `Sender.send`: the server took it for at least one of those it is meant for.

        Raises:
            NotDelivered: the server is away, cannot be trusted, or refused.
        """
        try:
            with self._connected() as server:
                refused = server.send_message(self._message(notice))
        except OSError as exc:  # smtplib's own errors are OSErrors too
            raise NotDelivered(_slug(exc)) from exc
        if refused:
            _log.warning("%d of %d recipients were refused", len(refused), len(self._given.to))

    def _connected(self) -> smtplib.SMTP:
        given = self._given
        port = given.port or _PORTS[given.tls]
        if given.tls is MailTls.IMPLICIT:
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                given.host, port, timeout=STEP_SECONDS, context=self._tls
            )
        else:
            server = smtplib.SMTP(given.host, port, timeout=STEP_SECONDS)
        try:
            self._introduce(server)
        except BaseException:
            server.close()
            raise
        return server

    def _introduce(self, server: smtplib.SMTP) -> None:
        if self._given.tls is MailTls.STARTTLS:
            server.starttls(context=self._tls)
        if self._given.username is not None and self._given.password is not None:
            server.login(self._given.username, self._given.password.get_secret_value())

    def _message(self, notice: Notice) -> EmailMessage:
        chinese, english = _WORDS[notice.kind]
        message = EmailMessage()
        message["From"] = self._given.sender
        message["To"] = ", ".join(self._given.to)
        message["Subject"] = f"Strongroom: {chinese} / {english}"
        message["Date"] = format_datetime(notice.at)
        # The same at each try: a mailbox can tell a repetition.
        message["Message-ID"] = f"<{notice.id}@strongroom.invalid>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(self._text(notice, chinese, english), cte="base64")
        return message

    def _text(self, notice: Notice, chinese: str, english: str) -> str:
        lines = [
            f"{chinese}。详情请登录系统查看。",
            f"Strongroom: {english}. Sign in to see what it is about.",
            "",
            f"{notice.kind}  {notice.subject_id}",
        ]
        if self._public_url is not None:
            lines.append(self._public_url)
        return "\n".join(lines) + "\n"


def _slug(exc: OSError) -> str:
    """Why, in a word; what the server said stays unsaid."""
    for kind, slug in _SLUGS:
        if isinstance(exc, kind):
            return slug
    if isinstance(exc, smtplib.SMTPResponseException):
        return f"status-{exc.smtp_code}"
    return "unreachable"


_SLUGS: Final = (
    (smtplib.SMTPAuthenticationError, "login-refused"),
    (smtplib.SMTPRecipientsRefused, "recipients-refused"),
    (smtplib.SMTPSenderRefused, "sender-refused"),
    (smtplib.SMTPNotSupportedError, "not-supported"),
    (ssl.SSLError, "tls"),
    (TimeoutError, "timeout"),
)
