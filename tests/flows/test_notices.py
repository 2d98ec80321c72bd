"""Notices reach real receivers: once as a rule, again after a failure or a kill, never with more than ids."""

from __future__ import annotations

import base64
import json
import logging
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from standardwebhooks import WebhookVerificationError

from api import metrics
from api.bootstrap import build
from api.services import Services
from api.settings import KmsSettings, NotifySettings, Settings, SettingsError
from api.webhook import Webhook
from api.worker import Worker
from tests.api.helpers import upload
from tests.flows.test_worker_metrics import worker_of
from tests.process import wait_until
from tests.running import running
from tests.servers.canned import Request, canned
from tests.servers.certificate import self_made_certificate
from tests.servers.receivers import Mailbox, Receiver, mail_server, receiving
from tests.servers.s3 import free_port
from vault import clock
from vault.database import DatabaseRefused
from vault.notices import SCHEDULE, Channel, NotDelivered, Notice, NoticeKind, Notices, Outcome

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OLD_SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
GUIDE = Path(__file__).parents[2] / "docs" / "production.md"


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """That of a server on 127.0.0.1."""
    return self_made_certificate(tmp_path)[0]


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """What a server has to show the certificate with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


@contextmanager
def notifying(settings: Settings, **notify: Any) -> Iterator[Services]:
    """The services with channels set up."""
    given = NotifySettings.model_validate(notify)
    with build(settings.model_copy(update={"notify": given})) as services:
        yield services


def to(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"url": receiver.url, "secret": SECRET, **more}


def by_mail(mailbox: Mailbox, **more: Any) -> dict[str, Any]:
    given = {"host": "127.0.0.1", "port": mailbox.port, "from": "vault@example.org"}
    return {**given, "to": ("head@example.org", "deputy@example.org"), **more}


def announce(
    services: Services,
    kind: NoticeKind = NoticeKind.APPROVAL_REQUESTED,
    subject: UUID | None = None,
) -> UUID:
    subject = subject or uuid4()
    with services.database.as_shared().transaction() as connection:
        services.notices.announce(connection, kind, subject)
    return subject


def deliver(services: Services) -> list[Outcome]:
    """Until none is due."""
    outcomes: list[Outcome] = []
    for channel, sender in services.senders.items():
        while (outcome := services.notices.deliver_due(channel, sender)) is not None:
            outcomes.append(outcome)
    return outcomes


def rows(owner: Engine) -> list[Any]:
    with owner.begin() as connection:
        return list(connection.execute(text("SELECT * FROM notifications ORDER BY at")))


def make_all_due(owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(text("UPDATE notifications SET next_at = now()"))


# Webhooks


def test_a_webhook_is_delivered_once_and_verifies_with_the_project_s_own_package(
    settings: Settings, receiver: Receiver
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        subject = announce(services)
        assert deliver(services) == [Outcome.DELIVERED]
        assert deliver(services) == []
    (received,) = receiver.received
    told = received.verified(SECRET)
    assert (told["type"], told["data"]) == ("approval.requested", {"id": str(subject)})
    assert received.headers["content-type"] == "application/json"


def test_a_webhook_that_was_changed_or_signed_with_another_secret_does_not_verify(
    settings: Settings, receiver: Receiver
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        deliver(services)
    (received,) = receiver.received
    for forged in (
        replace(received, body=received.body.replace(b"requested", b"decided")),
        replace(received, headers={**received.headers, "webhook-id": str(uuid4())}),
    ):
        with pytest.raises(WebhookVerificationError):
            forged.verified(SECRET)
    with pytest.raises(WebhookVerificationError):
        received.verified(OLD_SECRET)


def test_while_a_secret_is_replaced_a_webhook_verifies_with_either(
    settings: Settings, receiver: Receiver
) -> None:
    with notifying(settings, webhook=to(receiver, old_secret=OLD_SECRET)) as services:
        announce(services)
        deliver(services)
    (received,) = receiver.received
    assert received.verified(SECRET) == received.verified(OLD_SECRET)


def test_a_receiver_that_was_down_gets_it_when_it_is_up(settings: Settings, owner: Engine) -> None:
    port = free_port()
    webhook = {"url": f"http://127.0.0.1:{port}/hooks", "secret": SECRET}
    with notifying(settings, webhook=webhook) as services:
        announce(services)
        assert deliver(services) == [Outcome.FAILED]
        (row,) = rows(owner)
        assert row.last_error == "unreachable"
        assert row.next_at > clock.now()
        with receiving(port) as receiver:
            make_all_due(owner)
            assert deliver(services) == [Outcome.DELIVERED]
            assert [received.id for received in receiver.received] == [str(row.id)]


def test_pauses_grow_and_after_the_last_try_a_notice_is_parked_and_kept(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    receiver.status, receiver.answer = 500, b"canary-of-the-peer"
    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        for pause in SCHEDULE:
            assert deliver(services) == [Outcome.FAILED]
            (row,) = rows(owner)
            left = (row.next_at - clock.now()).total_seconds()
            assert 0.5 * pause.total_seconds() < left <= 1.2 * pause.total_seconds()
            make_all_due(owner)
        assert deliver(services) == [Outcome.PARKED]
        make_all_due(owner)
        assert deliver(services) == []
    (row,) = rows(owner)
    assert (row.last_error, row.delivered_at) == ("status-500", None)
    assert len({received.id for received in receiver.received}) == 1


def test_a_receiver_that_is_gone_for_good_parks_at_once_and_it_shows_in_the_metrics(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    receiver.status = 410
    with notifying(settings, webhook=to(receiver)) as services, running(services) as served:
        announce(services)
        assert deliver(services) == [Outcome.PARKED]
        Worker(services).look_after_notices()
        shown = httpx.get(f"{served.url}/metrics", trust_env=False).text
    assert 'strongroom_notifications_parked{channel="webhook"} 1.0' in shown
    assert 'strongroom_notifications_parked{channel="smtp"} 0.0' in shown
    assert 'strongroom_notifications_waiting{channel="webhook"} 0.0' in shown
    assert rows(owner)[0].last_error == "gone"


def test_the_guide_s_statement_has_parked_notices_sent_again(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    (statement,) = re.findall(r"```sql\n(UPDATE notifications.+?)```", GUIDE.read_text(), re.DOTALL)
    receiver.status = 410
    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        deliver(services)
        with owner.begin() as connection:
            connection.execute(text(statement))
        receiver.status = 200
        assert deliver(services) == [Outcome.DELIVERED]


def test_a_redirect_is_not_followed(settings: Settings, receiver: Receiver, owner: Engine) -> None:
    with receiving() as elsewhere, notifying(settings, webhook=to(receiver)) as services:
        receiver.status, receiver.headers = 307, {"Location": elsewhere.url}
        announce(services)
        assert deliver(services) == [Outcome.FAILED]
        assert elsewhere.received == []
    assert rows(owner)[0].last_error == "status-307"


def test_a_receiver_s_certificate_is_checked(
    settings: Settings, owner: Engine, tls: ssl.SSLContext, certificate: Path
) -> None:
    with receiving(tls=tls) as receiver:
        with notifying(settings, webhook=to(receiver)) as services:
            announce(services)
            assert deliver(services) == [Outcome.FAILED]
            assert rows(owner)[0].last_error == "tls"
            assert receiver.received == []
        make_all_due(owner)
        with notifying(settings, webhook=to(receiver, ca_file=certificate)) as services:
            assert deliver(services) == [Outcome.DELIVERED]


def test_an_answer_s_body_is_not_waited_for(settings: Settings) -> None:
    def endless(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            time.sleep(0.02)
            yield b"x"

    with canned(endless) as server:
        webhook_to(server.endpoint).send(a_notice())


def test_a_receiver_that_drips_its_answer_is_left_when_the_time_is_over() -> None:
    def dripping(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nX: "
        while True:
            time.sleep(0.02)
            yield b"x"

    with canned(dripping) as server, pytest.raises(NotDelivered, match="timeout"):
        webhook_to(server.endpoint, total_seconds=0.5).send(a_notice())


def webhook_to(endpoint: str, **more: Any) -> Webhook:
    url = f"http://{endpoint}/hooks"
    return Webhook(url, [SecretStr(SECRET)], tls=ssl.create_default_context(), **more)


def a_notice() -> Notice:
    return Notice(uuid4(), clock.now(), NoticeKind.GRANT_REVOKED, uuid4())


# Mail


@pytest.mark.parametrize("kind", NoticeKind)
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_a_mail_comes_over_tls_in_both_languages_and_reads_back(
    settings: Settings, tls: ssl.SSLContext, certificate: Path, kind: NoticeKind, *, implicit: bool
) -> None:
    with mail_server(tls, implicit=implicit) as mailbox:
        smtp = by_mail(mailbox, ca_file=certificate, tls="implicit" if implicit else "starttls")
        url = "https://vault.example.org/"
        with notifying(settings, smtp=smtp, public_url=url) as services:
            subject = announce(services, kind)
            assert deliver(services) == [Outcome.DELIVERED]
            assert deliver(services) == []
    (message,) = mailbox.messages()
    body = message.get_content()
    assert re.fullmatch(r"Strongroom: [\u4e00-\u9fff]+ / an? [a-z ]+", message["Subject"])
    assert "详情请登录系统查看" in body
    assert "Sign in to see what it is about." in body
    assert f"{kind}  {subject}\n{url}" in body.replace("\r\n", "\n")
    assert message["To"] == "head@example.org, deputy@example.org"
    assert mailbox.over_tls == [True]


def test_a_mail_server_whose_certificate_nobody_vouches_for_gets_nothing(
    settings: Settings, owner: Engine, tls: ssl.SSLContext
) -> None:
    with mail_server(tls) as mailbox, notifying(settings, smtp=by_mail(mailbox)) as services:
        announce(services)
        assert deliver(services) == [Outcome.FAILED]
    assert mailbox.envelopes == []
    assert rows(owner)[0].last_error == "tls"


def test_a_mail_server_that_offers_no_starttls_gets_nothing(
    settings: Settings, owner: Engine
) -> None:
    with mail_server() as mailbox, notifying(settings, smtp=by_mail(mailbox)) as services:
        announce(services)
        assert deliver(services) == [Outcome.FAILED]
    assert mailbox.envelopes == []
    assert rows(owner)[0].last_error == "not-supported"


def test_a_mail_server_may_ask_for_a_login(
    settings: Settings, owner: Engine, tls: ssl.SSLContext, certificate: Path
) -> None:
    with mail_server(tls, login=("vault", "right")) as mailbox:
        for password, expected in (("wrong", Outcome.FAILED), ("right", Outcome.DELIVERED)):
            smtp = by_mail(mailbox, ca_file=certificate, username="vault", password=password)
            with notifying(settings, smtp=smtp) as services:
                if expected is Outcome.FAILED:
                    announce(services)
                make_all_due(owner)
                assert deliver(services) == [expected]
    assert rows(owner)[0].last_error == "login-refused"
    assert len(mailbox.envelopes) == 1


def test_one_recipient_that_is_refused_keeps_no_mail_from_the_others(
    settings: Settings, owner: Engine
) -> None:
    with mail_server() as mailbox:
        mailbox.refused.add("deputy@example.org")
        with notifying(settings, smtp=by_mail(mailbox, tls="none")) as services:
            announce(services)
            assert deliver(services) == [Outcome.DELIVERED]
            mailbox.refused.add("head@example.org")
            announce(services)
            assert deliver(services) == [Outcome.FAILED]
    assert [envelope.rcpt_tos for envelope in mailbox.envelopes] == [["head@example.org"]]
    assert rows(owner)[1].last_error == "recipients-refused"


# The outbox


def test_every_channel_gets_every_notice_and_none_waits_for_another(
    settings: Settings, receiver: Receiver
) -> None:
    receiver.status = 503
    with (
        mail_server() as mailbox,
        notifying(settings, webhook=to(receiver), smtp=by_mail(mailbox, tls="none")) as services,
    ):
        announce(services)
        assert sorted(deliver(services)) == [Outcome.DELIVERED, Outcome.FAILED]
        assert len(mailbox.envelopes) == len(receiver.received) == 1


def announce_and_roll_back(services: Services) -> None:
    with services.database.as_shared().transaction() as connection:
        services.notices.announce(connection, NoticeKind.APPROVAL_DECIDED, uuid4())
        raise RuntimeError("changed my mind")


def test_what_was_rolled_back_is_never_told(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        with pytest.raises(RuntimeError, match="changed my mind"):
            announce_and_roll_back(services)
        assert deliver(services) == []
    assert rows(owner) == []
    assert receiver.received == []


def test_without_channels_nothing_is_written(services: Services, owner: Engine) -> None:
    announce(services)
    assert rows(owner) == []


def test_many_workers_at_once_deliver_each_notice_once(
    settings: Settings, receiver: Receiver
) -> None:
    def work(services: Services) -> None:
        together.wait()
        deliver(services)

    together = threading.Barrier(8)
    with (
        notifying(settings, webhook=to(receiver)) as one,
        notifying(settings, webhook=to(receiver)) as other,
        ThreadPoolExecutor(8) as pool,
    ):
        subjects = {str(announce(one)) for _ in range(40)}
        for done in [pool.submit(work, services) for services in (one, other) * 4]:
            done.result()
        deliver(one)  # what each found in another's hands at its last look
    counts = Counter(received.id for received in receiver.received)
    assert set(counts.values()) == {1}
    assert {received.verified(SECRET)["data"]["id"] for received in receiver.received} == subjects


def test_a_worker_killed_in_the_middle_leaves_the_notice_to_the_next_under_the_same_id(
    settings: Settings, receiver: Receiver, owner: Engine, tmp_path: Path
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        receiver.open.clear()
        command = worker_of(settings, tmp_path, free_port())
        notify = {
            "STRONGROOM_NOTIFY__WEBHOOK__URL": receiver.url,
            "STRONGROOM_NOTIFY__WEBHOOK__SECRET": SECRET,
        }
        command = replace(command, environment={**command.environment, **notify})
        log = tmp_path / "killed.log"
        with (
            log.open("w") as output,
            command.popen("worker", stdout=output, stderr=output) as process,
        ):
            came = wait_until(lambda: len(receiver.received) == 1, 60)
            process.kill()
        assert came, log.read_text()
        receiver.open.set()
        assert deliver(services) == []  # leased to the dead one
        make_all_due(owner)
        assert deliver(services) == [Outcome.DELIVERED]
    first, second = receiver.received
    assert first.id == second.id
    assert first.body == second.body


def test_who_comes_back_after_the_lease_settles_a_success_but_no_failure(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    """The sender below is so slow that another process takes over and finishes in between."""

    class Slow:
        def send(self, notice: Notice) -> None:
            make_all_due(owner)
            assert deliver(services) == [Outcome.DELIVERED]
            raise NotDelivered("timeout")

    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        services.notices.deliver_due(Channel.WEBHOOK, Slow())
        (row,) = rows(owner)
        assert row.delivered_at is not None
        assert (row.last_error, row.parked_at) == (None, None)


def test_a_sender_with_a_defect_costs_a_try_and_stops_nobody(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    class Broken:
        def send(self, notice: Notice) -> None:
            raise ZeroDivisionError

    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        assert services.notices.deliver_due(Channel.WEBHOOK, Broken()) is Outcome.FAILED
    assert rows(owner)[0].last_error == "defect"


def test_no_words_of_the_other_side_fit_into_the_table(
    settings: Settings, receiver: Receiver
) -> None:
    class Talkative:
        def send(self, notice: Notice) -> None:
            raise NotDelivered("550 No such mailbox: Wang Xiaoming")

    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
        with pytest.raises(DatabaseRefused):
            services.notices.deliver_due(Channel.WEBHOOK, Talkative())


def test_delivered_notices_go_after_thirty_days_and_others_stay(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        for _ in range(3):
            announce(services)
        with owner.begin() as connection:
            for column, days in (("delivered_at", 31), ("delivered_at", 29), ("parked_at", 99)):
                connection.execute(
                    text(
                        f"UPDATE notifications SET {column} = now() - interval '{days} days' WHERE id = "
                        "(SELECT id FROM notifications WHERE delivered_at IS NULL LIMIT 1)"
                    )
                )
        services.notices.expire()
    assert sorted(row.parked_at is None for row in rows(owner)) == [False, True]


def test_a_running_worker_delivers_and_counts(settings: Settings, receiver: Receiver) -> None:
    def count() -> float:
        labels = {"channel": "webhook", "outcome": "delivered"}
        return metrics.REGISTRY.get_sample_value("strongroom_notifications_total", labels) or 0

    before = count()
    with notifying(settings, webhook=to(receiver)) as services:
        worker = Worker(services)
        worker.start()
        try:
            announce(services)
            assert wait_until(lambda: count() == before + 1, 20)
        finally:
            worker.stop()
    assert len(receiver.received) == 1


# What must not be told


def test_a_notice_holds_ids_and_nothing_else(
    settings: Settings, receiver: Receiver, owner: Engine
) -> None:
    """Whatever is known of the subject, its name and who asked for it, stays inside."""
    canary = "Wang Xiaoming 110101199003070000.txt"
    with (
        mail_server() as mailbox,
        notifying(settings, webhook=to(receiver), smtp=by_mail(mailbox, tls="none")) as services,
        running(services) as served,
    ):
        document = upload(served.demo, b"content", name=canary)
        announce(services, subject=UUID(document["id"]))
        assert deliver(services) == [Outcome.DELIVERED] * 2
    (received,) = receiver.received
    told = json.loads(received.body)
    assert told == {
        "type": "approval.requested",
        "timestamp": told["timestamp"],
        "data": {"id": document["id"]},
    }
    (message,) = mailbox.messages()
    everything = f"{received} {mailbox.raw()!r} {message.get_content()} {rows(owner)}"
    for word in ("Xiaoming", "110101199003070000", "demo"):
        assert word not in everything


def test_secrets_and_the_other_side_s_words_never_reach_the_log(
    settings: Settings,
    receiver: Receiver,
    tls: ssl.SSLContext,
    certificate: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.status, receiver.answer = 500, b"canary-of-the-peer"
    with mail_server(tls, login=("vault", "right")) as mailbox:
        smtp = by_mail(mailbox, ca_file=certificate, username="vault", password="canary-password")
        webhook = to(receiver, old_secret=OLD_SECRET)
        with notifying(settings, webhook=webhook, smtp=smtp) as services:
            announce(services)
            assert deliver(services) == [Outcome.FAILED] * 2
            shown = repr(services.settings)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("vault")]
    assert sorted(ours) == [
        "a notice by smtp was not taken: login-refused",
        "a notice by webhook was not taken: status-500",
    ]
    sent = [record for record in caplog.records if not record.name.startswith("mail.log")]
    logged = " ".join(record.getMessage() for record in sent) + shown
    for secret in (SECRET, OLD_SECRET, "canary-password", "canary-of-the-peer"):
        assert secret.removeprefix("whsec_") not in logged


def test_a_ca_file_that_is_not_there_stops_the_start(
    settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    webhook = to(receiver, ca_file=tmp_path / "none.pem")
    with (
        pytest.raises(SettingsError, match="NOTIFY__WEBHOOK__CA_FILE"),
        notifying(settings, webhook=webhook),
    ):
        pass


def test_a_channel_that_is_taken_out_keeps_what_it_owes_in_sight(
    settings: Settings, receiver: Receiver
) -> None:
    with notifying(settings, webhook=to(receiver)) as services:
        announce(services)
    with build(settings) as services:
        assert services.senders == {}
        assert services.notices.outbox()[Channel.WEBHOOK].waiting == 1
        assert Notices(services.database.as_shared(), ()).outbox()[Channel.SMTP].waiting == 0
