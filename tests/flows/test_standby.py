"""A real primary with a synchronous standby: what is acknowledged, what is not, and what a failover keeps."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Self
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from api.bootstrap import build
from api.doctor import _examine_running, examine
from api.services import Services
from api.settings import KmsSettings, Settings, Sites, SiteSettings
from migrations.run import upgrade
from tests.api.helpers import named, upload
from tests.process import descendants, wait_until
from tests.proxy import proxied
from tests.running import RunningService
from tests.servers import standby
from tests.servers.standby import PostgresPair
from vault.context import SERVICE
from vault.database import Database, PreparedStatement, Standby
from vault.errors import DatabaseUnavailable, NotReplicated
from vault.upload_rows import BATCH

NEVER = 3600.0
SOON = 1.0

INSERT = "INSERT INTO processes (id, alive_until) VALUES (gen_random_uuid(), now()) RETURNING id"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[PostgresPair]:
    """A primary and its synchronous standby, migrated."""
    with PostgresPair(tmp_path / "pair") as started:
        upgrade(started.urls.owner)
        yield started


@pytest.fixture
def settings(tmp_path: Path, pair: PostgresPair, keyring: KmsSettings) -> Settings:
    """Two folders as two sites, and both servers of the pair in the database's URL."""
    return Settings(
        home=tmp_path / "home",
        listen="127.0.0.1:0",
        database_url=SecretStr(pair.urls.service),
        sites=Sites(
            a=SiteSettings(path=tmp_path / "site-a"), b=SiteSettings(path=tmp_path / "site-b")
        ),
        kms=keyring,
    )


def by_transaction(database: Database) -> None:
    with database.as_service().transaction() as connection:
        connection.execute(text(INSERT))


def by_statement(database: Database) -> None:
    database.as_service().execute(text(INSERT), {})


def by_prepared_statement(database: Database) -> None:
    insert = INSERT.replace("gen_random_uuid()", ":id")
    database.execute_prepared(
        SERVICE, PreparedStatement("enter", insert, {"id": "uuid"}), {"id": str(uuid4())}
    )


WAYS = [by_transaction, by_statement, by_prepared_statement]


def rows(pair: PostgresPair) -> int:
    return int(pair.ask("SELECT count(*) FROM processes"))


def seconds_of(commit: Callable[[Database], None], database: Database) -> float:
    begun = time.monotonic()
    with pytest.raises(NotReplicated):
        commit(database)
    return time.monotonic() - begun


# --- one commit ---------------------------------------------------------------------------------


def test_a_commit_without_its_standby_ends_and_is_not_acknowledged(pair: PostgresPair) -> None:
    database = Database(pair.urls.service, connections=4, commit_seconds=SOON)
    for commit in WAYS:
        commit(database)
    pair.standby.pause()
    waited = [seconds_of(commit, database) for commit in WAYS]
    print("a commit ended after", [f"{seconds:.2f} s" for seconds in waited])
    assert all(SOON <= seconds < SOON + 3 for seconds in waited)
    assert rows(pair) == 6, "what was cancelled is committed here all the same"
    pair.standby.go_on()
    assert wait_until(pair.is_synchronous, 30)
    for commit in WAYS:
        commit(database)
    database.dispose()


@pytest.mark.parametrize("commit", WAYS)
def test_a_wait_that_somebody_else_cancels_is_not_acknowledged(
    pair: PostgresPair, commit: Callable[[Database], None]
) -> None:
    database = Database(pair.urls.service, connections=4, commit_seconds=NEVER)
    pair.standby.kill()
    # A role or database that hides warnings must not hide this one.
    pair.execute("ALTER ROLE strongroom_service SET client_min_messages = 'error'")
    cancelled: list[bool] = []

    def cancel() -> None:
        waiting = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        cancelled.append(wait_until(lambda: bool(pair.ask(waiting)), 10))

    outside = threading.Thread(target=cancel)
    outside.start()
    seconds_of(commit, database)
    outside.join()
    assert cancelled == [True]
    assert rows(pair) == 1
    database.dispose()


def test_a_statement_that_takes_long_is_left_alone(pair: PostgresPair) -> None:
    database = Database(pair.urls.service, connections=4, commit_seconds=0.3)
    database.as_shared().execute(text("SELECT pg_sleep(2)"), {})
    database.dispose()


def test_a_server_that_hangs_does_not_keep_a_commit_for_ever(pair: PostgresPair) -> None:
    with proxied(pair.primary.port) as proxy:
        url = make_url(pair.urls.service).set(query={"host": f"127.0.0.1:{proxy.port}"})
        address = url.render_as_string(hide_password=False)
        database = Database(address, connections=4, commit_seconds=SOON)
        by_statement(database)
        proxy.misbehaviour.hang = True
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            by_statement(database)
        assert time.monotonic() - begun < SOON + 8
        proxy.misbehaviour.hang = False
        by_statement(database)
        database.dispose()


# --- what can be known of the standby -----------------------------------------------------------


@pytest.mark.parametrize("role", ["unprivileged", "monitor"])
def test_the_standby_is_seen_by_either_kind_of_role(pair: PostgresPair, role: str) -> None:
    if role == "monitor":
        pair.execute("GRANT pg_monitor TO strongroom_service")
    database = Database(pair.urls.service, connections=2)
    for names in ("b", "FIRST 1 (B, other)", 'ANY 1 ("b")', "*"):
        pair.wait_for_standby(names)
        assert database.standby() == Standby(configured=True, streaming=True)
    pair.standby.kill()
    assert wait_until(lambda: not database.standby().streaming, 20)
    assert database.standby() == Standby(configured=True, streaming=False)
    pair.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    pair.execute("SELECT pg_reload_conf()")
    assert wait_until(lambda: not database.standby().configured, 5)
    database.dispose()


def test_a_standby_of_another_name_does_not_count(pair: PostgresPair) -> None:
    database = Database(pair.urls.service, connections=2)
    pair.execute("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere, bb'")
    pair.execute("SELECT pg_reload_conf()")
    assert wait_until(lambda: not database.standby().streaming, 5)
    database.dispose()


@pytest.mark.parametrize("weaker", ["off", "local", "remote_write"])
def test_a_commit_that_does_not_wait_for_the_standbys_disk_does_not_count(
    pair: PostgresPair, weaker: str
) -> None:
    pair.execute(f"ALTER ROLE strongroom_service SET synchronous_commit = '{weaker}'")
    database = Database(pair.urls.service, connections=2)
    assert database.standby() == Standby(configured=False, streaming=False)
    database.dispose()


def test_doctor_says_whether_there_is_a_standby(pair: PostgresPair, settings: Settings) -> None:
    def said() -> tuple[bool, str]:
        with build(settings) as services:
            (found,) = [f for f in _examine_running(services) if f.about == "standby"]
        return found.ok, found.words

    assert said() == (True, "connected; each commit waits for it")
    with build(settings) as services:
        pair.standby.kill()
        assert wait_until(lambda: not services.database.standby().streaming, 20)
        (away,) = [f for f in _examine_running(services) if f.about == "standby"]
        services.database._watch._seconds = SOON
    assert not away.ok
    assert "not connected" in away.words
    pair.execute("ALTER SYSTEM RESET synchronous_standby_names")
    pair.execute("SELECT pg_reload_conf()")
    ok, words = said()
    assert ok
    assert "no synchronous standby" in words


def test_doctor_of_a_stopped_service_names_a_standby_that_is_away(
    pair: PostgresPair, settings: Settings
) -> None:
    pair.standby.kill()
    wrong = [finding for finding in examine(settings) if not finding.ok]
    assert [finding.about for finding in wrong] == ["start"]
    assert "standby" in wrong[0].words


# --- the service --------------------------------------------------------------------------------


@pytest.fixture
def impatient(service: RunningService) -> RunningService:
    """The service with a shorter bound, for the tests' sake."""
    service.services.database._watch._seconds = SOON
    return service


def objects(services: Services) -> list[str]:
    return [stored.key for stored in services.local_store.list("objects/")]


def documents(pair: PostgresPair) -> int:
    return int(pair.ask("SELECT count(*) FROM documents"))


def refused(answer: httpx.Response) -> bool:
    body = answer.json()
    return (
        answer.status_code == 503
        and body["type"] == "urn:strongroom:problem:not-replicated"
        and int(answer.headers["Retry-After"]) > 0
    )


def test_cut_off_from_its_standby_the_service_acknowledges_nothing_and_then_goes_on(
    pair: PostgresPair, impatient: RunningService
) -> None:
    demo = impatient.demo
    before = upload(demo, b"before")
    pair.standby.pause()
    key = {"Idempotency-Key": "the same each time"}
    for headers in ({}, key, key):
        begun = time.monotonic()
        answer = demo.post("/v1/documents", content=b"cut", headers=named("cut") | headers)
        assert refused(answer), answer.text
        assert time.monotonic() - begun < SOON + 5
    assert refused(demo.get(f"/v1/documents/{before['id']}/content")), (
        "nor a read without its event"
    )
    pair.standby.go_on()
    assert wait_until(pair.is_synchronous, 30)
    after = upload(demo, b"cut", name="cut", headers=key)
    assert demo.get(f"/v1/documents/{after['id']}/content").content == b"cut"
    assert demo.get(f"/v1/documents/{before['id']}/content").content == b"before"


def test_many_uploads_at_once_are_all_refused_within_the_bound(
    pair: PostgresPair, impatient: RunningService
) -> None:
    rows = impatient.services.upload_rows
    rows._reserved.clear()  # the next upload has to reserve
    pair.standby.pause()

    def seconds(n: int) -> float:
        begun = time.monotonic()
        answer = impatient.demo.post("/v1/documents", content=b"x", headers=named(str(n)))
        assert answer.status_code == 503, answer.text
        return time.monotonic() - begun

    with ThreadPoolExecutor(24) as clients:
        longest = max(clients.map(seconds, range(24)))
    print(f"24 uploads without the standby: 503 within {longest:.1f} s")
    assert longest < 2 * SOON + 8
    reserved = int(pair.ask("SELECT count(*) FROM uploads"))
    assert reserved <= 4 * BATCH, "each refusal left a batch of rows behind"
    pair.standby.go_on()
    assert wait_until(pair.is_synchronous, 30)
    upload(impatient.demo, b"x")


def test_a_commit_that_no_standby_confirmed_keeps_its_object_and_is_one_document(
    pair: PostgresPair, impatient: RunningService
) -> None:
    content = secrets.token_bytes(4 * 2**20)

    def cutting() -> Iterator[bytes]:
        yield content[: 3 * 2**20]
        # Only once the upload has begun and its key is claimed; the commit is all that is left.
        claimed = "SELECT count(*) FROM idempotency_keys"
        assert wait_until(lambda: pair.ask(claimed) == 1, 20)
        pair.standby.pause()
        yield content[3 * 2**20 :]

    headers = named("precious") | {"Idempotency-Key": "once"}
    answer = impatient.demo.post("/v1/documents", content=cutting(), headers=headers)
    assert refused(answer), answer.text
    assert documents(pair) == 1, "committed here, and visible"
    assert len(objects(impatient.services)) == 1, "what a committed row names is not deleted"
    again = impatient.demo.post("/v1/documents", content=content, headers=headers)
    assert refused(again), "the repeated request must not acknowledge it either"
    pair.standby.go_on()
    assert wait_until(pair.is_synchronous, 30)
    document = upload(impatient.demo, content, headers=headers)
    assert impatient.demo.get(f"/v1/documents/{document['id']}/content").content == content
    assert documents(pair) == 1
    assert len(objects(impatient.services)) == 1


def test_a_new_version_that_no_standby_confirmed_keeps_its_object(
    pair: PostgresPair, impatient: RunningService
) -> None:
    document = upload(impatient.demo, b"first")
    path = f"/v1/documents/{document['id']}/content"

    def cutting() -> Iterator[bytes]:
        yield b"sec"
        pair.standby.pause()
        yield b"ond"

    version = document["version"]["number"]
    etag = {"If-Match": impatient.demo.get(path).headers["ETag"]}
    assert refused(impatient.demo.put(path, content=cutting(), headers=etag))
    pair.standby.go_on()
    assert wait_until(pair.is_synchronous, 30)
    assert impatient.demo.get(path).content == b"second"
    assert impatient.demo.put(path, content=b"second", headers=etag).status_code == 412
    assert (
        impatient.demo.get(path.replace("content", f"versions/{version}/content")).content
        == b"first"
    )


@pytest.fixture
def sure(service: RunningService) -> str:
    """A class whose uploads are acknowledged once both sites have them."""
    for rules in ({"name": "sure"}, {"name": "nearly-sure", "if_peer_away": "degrade"}):
        answer = service.admin.post("/v1/classes", json={**rules, "durability": "sync"})
        assert answer.status_code == 201, answer.text
    return "sure"


def filed(service: RunningService, class_name: str) -> httpx.Response:
    parameters = {"class": class_name}
    return service.demo.post("/v1/documents", params=parameters, content=b"x", headers=named("x"))


def is_standby_away(answer: httpx.Response) -> bool:
    problem = answer.json()["type"].rpartition(":")[2]
    return (answer.status_code, problem) == (
        503,
        "standby-away",
    ) and "Retry-After" in answer.headers


def test_without_its_standby_a_sync_class_is_refused_before_the_body(
    pair: PostgresPair, service: RunningService, sure: str
) -> None:
    assert filed(service, sure).json()["version"]["durable_on"] == ["a", "b"]
    pair.standby.kill()
    assert wait_until(lambda: not service.services.database.standby().streaming, 20)
    service.services.database._watch._seconds = SOON
    assert is_standby_away(filed(service, sure))
    pair.execute("ALTER SYSTEM RESET synchronous_standby_names")
    pair.execute("SELECT pg_reload_conf()")
    assert wait_until(lambda: not service.services.database.standby().configured, 5)
    assert is_standby_away(filed(service, sure))
    assert filed(service, "general").status_code == 201


def test_a_class_that_may_degrade_goes_on_without_a_standby_and_says_so(
    pair: PostgresPair, service: RunningService, sure: str
) -> None:
    pair.execute("ALTER SYSTEM RESET synchronous_standby_names")
    pair.execute("SELECT pg_reload_conf()")
    assert wait_until(lambda: not service.services.database.standby().configured, 5)
    taken = filed(service, "nearly-sure")
    assert taken.status_code == 201
    assert taken.json()["version"]["durable_on"] == ["a", "b"], "the objects are at both sites"
    degraded = "SELECT detail ->> 'degraded' FROM access_events WHERE type = 'api:document:created'"
    assert pair.ask(degraded) == "true"


def test_a_standby_that_is_taken_out_in_mid_upload_is_noticed_by_the_commit(
    pair: PostgresPair, service: RunningService, sure: str
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"be"
        pair.execute("ALTER SYSTEM RESET synchronous_standby_names")
        pair.execute("SELECT pg_reload_conf()")
        assert wait_until(lambda: not service.services.database.standby().configured, 5)
        yield b"gun"

    parameters, headers = {"class": sure}, named("x")
    answer = service.demo.post(
        "/v1/documents", params=parameters, content=chunks(), headers=headers
    )
    assert is_standby_away(answer)
    assert documents(pair) == 0


class Load:
    """Clients that upload, each document until it is acknowledged, with an Idempotency-Key of its own."""

    def __init__(self, service: RunningService, clients: int, class_name: str = "general") -> None:
        self.acknowledged: dict[str, bytes] = {}
        self.refusals = self.given_up = 0
        self._service = service
        self._parameters = {"class": class_name}
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        with self._service.client(self._service.demo_key) as client:
            while not self._stopping.is_set():
                content = secrets.token_bytes(20_000)
                self._until_acknowledged(client, content)

    def _until_acknowledged(self, client: httpx.Client, content: bytes) -> None:
        headers = named("loaded") | {"Idempotency-Key": secrets.token_hex(16)}
        until = time.monotonic() + 60
        while time.monotonic() < until:
            answer = client.post(
                "/v1/documents", params=self._parameters, content=content, headers=headers
            )
            if answer.status_code == 201:
                self.acknowledged[answer.json()["id"]] = sha256(content).digest()
                return
            assert answer.status_code in (409, 503), answer.text
            self.refusals += 1
            time.sleep(0.05)
        self.given_up += 1

    def goes_on(self, further: int, seconds: float = 60) -> float:
        """Wait for `further` acknowledgements; returns the seconds that took."""
        begun, goal = time.monotonic(), len(self.acknowledged) + further
        assert wait_until(lambda: len(self.acknowledged) >= goal, seconds), (
            "the service stands still"
        )
        return time.monotonic() - begun


def check_all(service: RunningService, pair: PostgresPair, *loads: Load) -> None:
    assert not any(load.given_up for load in loads), "a key looked in use for ever"
    acknowledged = {each: digest for load in loads for each, digest in load.acknowledged.items()}
    for document, digest in acknowledged.items():
        answer = service.demo.get(f"/v1/documents/{document}/content")
        assert answer.status_code == 200, f"an acknowledged upload is missing: {answer.text}"
        assert sha256(answer.content).digest() == digest
    assert documents(pair) == len(acknowledged), "each was repeated until it was one document"


def test_a_primary_killed_under_load_loses_no_acknowledged_upload(
    pair: PostgresPair, impatient: RunningService, sure: str
) -> None:
    with Load(impatient, clients=3) as load, Load(impatient, clients=3, class_name=sure) as surely:
        load.goes_on(50)
        surely.goes_on(50)
        pair.primary.kill()
        before = len(load.acknowledged)
        pair.promote()
        seconds = load.goes_on(100)
        print(f"{before} before; 100 more within {seconds:.2f} s of the promotion")
        # The one server that is left keeps no second copy of a commit.
        kept = len(surely.acknowledged)
        load.goes_on(50)
        assert len(surely.acknowledged) == kept
        # The old primary comes back as the new one's standby, while the service works.
        pair.rewind_standby()
        pair.wait_for_standby()
        load.goes_on(50)
        surely.goes_on(50)
    check_all(impatient, pair, load, surely)
    assert impatient.services.database.standby() == Standby(configured=True, streaming=True)


def test_a_primary_that_was_cut_off_from_its_standby_first_loses_no_acknowledged_upload(
    pair: PostgresPair, impatient: RunningService
) -> None:
    """The order of a real partition: the link goes, commits wait, and the standby is promoted."""
    with Load(impatient, clients=5) as load:
        load.goes_on(50)
        pair.standby.pause()
        time.sleep(0.2)
        before = len(load.acknowledged)
        time.sleep(2 * SOON)
        assert len(load.acknowledged) == before, "nothing is acknowledged meanwhile"
        pair.primary.kill()
        pair.standby.go_on()
        pair.promote()
        load.goes_on(50)
        # Rewinding may refuse or not; a new base backup always does.
        pair.copy_standby()
        pair.wait_for_standby()
        load.goes_on(50)
    check_all(impatient, pair, load)


OWNED_BY_A_RUN = """
import sys, pathlib
from tests.servers.standby import PostgresPair
with PostgresPair(pathlib.Path(sys.argv[1])) as pair:
    pair.standby.pause()
    print(pair.primary.port, flush=True)
    sys.stdin.read()
"""


def test_both_servers_end_with_the_run_even_when_paused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNED_BY_A_RUN, str(tmp_path / "pair")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        servers = descendants(process.pid)
        assert sum(server.name == "postgres" for server in servers) > 10
        process.kill()
    assert wait_until(lambda: not any(server.lives for server in servers), 20)


def test_the_guide_has_the_commands_that_are_run() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "production.md").read_text(encoding="utf-8")
    run = Path(standby.__file__).read_text(encoding="utf-8")
    options = set(re.findall(r'"(--[a-z-]+)', run)) - {"--no-sync"}  # which spares tests the disk
    statements = set(re.findall(r"(?:ALTER SYSTEM (?:RE)?SET|SELECT pg_|CREATE ROLE) ?\w+", run))
    assert options >= {"--write-recovery-conf", "--target-pgdata"}
    for said in (*options, *statements, *standby._REWIND_FUNCTIONS, "pg_basebackup", "pg_rewind"):
        assert said in guide, f"{said} is run, and the guide does not say so"
