"""Kill -9 at random moments: what was acknowledged is there, what was not is whole or invisible.

Each loop serves the same home, loads it from several threads and kills the service, or its PostgreSQL,
at a random moment. The next loop compares what it finds with what the threads sent.
"""

from __future__ import annotations

import hashlib
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a loop that failed can be run again)
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import func, literal, select, update
from typing_extensions import override

from api.bootstrap import build
from api.services import Services
from api.settings import KmsSettings, Settings
from replication.leavings import Leavings
from tests.api.helpers import named, upload
from tests.process import PROGRAM, ServeProcess, wait_until
from tests.replicating import make_all_due, work_off
from vault.objects.keys import object_key
from vault.tables import processes, versions

UPLOADERS: Final = 4
CHUNK_BYTES: Final = 100_000
LIMITS: Final = (0, 100, 16 * 2**10, 2**20, 2**20, 8 * 2**20, 20 * 2**20)
"""Upper limits of sizes, each as likely as the others, so that small bodies are frequent."""


@dataclass(frozen=True)
class Body:
    """Bytes that can be made again."""

    seed: int
    size_bytes: int

    def content(self) -> bytes:
        """The bytes."""
        return Random(self.seed).randbytes(self.size_bytes)

    def chunks(self) -> Iterator[bytes]:
        """The bytes, for a body that does not announce its length."""
        content = self.content()
        for start in range(0, len(content), CHUNK_BYTES):
            yield content[start : start + CHUNK_BYTES]


@dataclass(frozen=True)
class Create:
    """A document to be filed; no two of a test have the same name."""

    name: str
    body: Body
    chunked: bool
    idempotency_key: str | None

    @property
    def target(self) -> str:
        """What its content will be found under."""
        return self.name

    def send(self, client: httpx.Client) -> httpx.Response:
        """Send it."""
        headers = named(self.name)
        if self.idempotency_key:
            headers["Idempotency-Key"] = self.idempotency_key
        content = self.body.chunks() if self.chunked else self.body.content()
        return client.post("/v1/documents", content=content, headers=headers)


@dataclass(frozen=True)
class AddVersion:
    """A further version of a document that was acknowledged."""

    document_id: str
    body: Body
    chunked: bool

    @property
    def target(self) -> str:
        """What its content will be found under."""
        return self.document_id

    def send(self, client: httpx.Client) -> httpx.Response:
        """Send it."""
        content = self.body.chunks() if self.chunked else self.body.content()
        return client.put(f"/v1/documents/{self.document_id}/content", content=content)


@dataclass
class Ledger:
    """What clients know, for any number of threads.

    Attributes:
        sent: (document's name or id, SHA-256) of every body that a request was begun with.
        acknowledged: SHA-256 by (document id, version number) of every 201.
        unanswered: creates with an Idempotency-Key that have to be sent again.
        surprises: answers that no client should get.
    """

    sent: set[tuple[str, str]] = field(default_factory=set)
    acknowledged: dict[tuple[str, int], str] = field(default_factory=dict)
    unanswered: set[Create] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)

    def attempt(self, client: httpx.Client, request: Create | AddVersion) -> None:
        """Send a request and note what is known then. Raises: httpx.TransportError."""
        digest = hashlib.sha256(request.body.content()).hexdigest()
        self.sent.add((request.target, digest))
        if isinstance(request, Create) and request.idempotency_key:
            self.unanswered.add(request)
        answer = request.send(client)
        if answer.status_code == 201:
            document = answer.json()
            self.acknowledged[document["id"], document["version"]["number"]] = digest
            self.unanswered.discard(request)
        elif not _may_be_sent_again(answer):
            self.surprises.append(f"{request}: {answer.status_code} {answer.text}")


class Uploader(threading.Thread):
    """Sends one request after the other until told to stop or cut off."""

    def __init__(self, serve: ServeProcess, ledger: Ledger, random: Random) -> None:
        super().__init__(daemon=True)
        self._serve = serve
        self._ledger = ledger
        self._random = random
        self.stopping = threading.Event()

    @override
    def run(self) -> None:
        """Upload."""
        with self._serve.client() as client:
            while not self.stopping.is_set():
                try:
                    self._ledger.attempt(client, self._request())
                except httpx.TransportError:
                    return

    def _request(self) -> Create | AddVersion:
        random = self._random
        body = Body(random.getrandbits(64), random.randint(0, random.choice(LIMITS)))
        chunked = random.random() < 0.5
        known = list(self._ledger.acknowledged)
        if known and random.random() < 0.3:
            return AddVersion(random.choice(known)[0], body, chunked)
        key = f"{body.seed:x}" if random.random() < 0.3 else None
        return Create(f"{body.seed:x}.bin", body, chunked, key)


@dataclass
class Findings:
    """What the vault has shown so far: SHA-256 by (document id, version number)."""

    read: dict[tuple[str, int], str] = field(default_factory=dict)

    def compare(self, client: httpx.Client, ledger: Ledger) -> None:
        """Read in full every version not read before, and judge all."""
        documents = list(_documents(client))
        for document in documents:
            for number in range(1, document["version"]["number"] + 1):
                if (document["id"], number) not in self.read:
                    self._read(client, ledger, document, number)
        acknowledged = ledger.acknowledged.items()
        assert {key: digest for key, digest in acknowledged if self.read.get(key) != digest} == {}
        names = Counter(document["name"] for document in documents)
        assert [name for name, count in names.items() if count > 1] == [], "sent once, there twice"

    def _read(
        self, client: httpx.Client, ledger: Ledger, document: dict[str, Any], number: int
    ) -> None:
        digest = _digest(client, document["id"], number)
        target = document["name"] if number == 1 else document["id"]
        assert (target, digest) in ledger.sent, "nobody sent this content to this document"
        self.read[document["id"], number] = digest


@pytest.mark.parametrize(
    ("loops", "seed"), [(6, 20_240_601), pytest.param(200, 20_240_602, marks=pytest.mark.soak)]
)
def test_a_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_nothing_half(
    tmp_path: Path, loops: int, seed: int
) -> None:
    print(f"seed {seed}")
    random, ledger, findings = Random(seed), Ledger(), Findings()
    with ServeProcess(tmp_path) as serve:
        for _ in range(loops):
            _load_and_kill(serve, ledger, random)
            _start_perhaps_only_at_the_second_attempt(serve, random)
            _send_again(serve, ledger)
            with serve.client() as client:
                findings.compare(client, ledger)
            assert ledger.surprises == []
        _expect_retries_to_succeed(serve, ledger)
        with serve.client() as client:
            Findings().compare(client, ledger)
        serve.stop()
        assert ledger.acknowledged
        with _services(serve) as services:
            _expect_no_stray_object(services, serve.home)


@pytest.mark.parametrize("milestone", ["passwords.json", "data.new", "data", "run"])
def test_a_first_start_killed_at_any_moment_can_be_repeated(tmp_path: Path, milestone: str) -> None:
    serve = ServeProcess(tmp_path)
    with closing(serve):
        serve.launch()
        assert wait_until((serve.home / "postgres" / milestone).exists, 60)
        serve.kill()
        serve.start()
        with serve.client() as client:
            upload(client, b"it works")


def test_first_keys_are_out_before_anything_can_hide_them(tmp_path: Path) -> None:
    dies_after_making_keys = (
        "from api import server; server.run = lambda *_: os.kill(os.getpid(), 9)"
    )
    program = f"import os; {dies_after_making_keys}; {PROGRAM}"
    with closing(ServeProcess(tmp_path, program=program)) as killed:
        killed.launch()
        assert killed.process.wait(60) == -signal.SIGKILL
        shown = dict(re.findall(r"^(admin|api) key: (\S+)$", killed.output("stdout"), re.MULTILINE))
    with ServeProcess(tmp_path) as serve:
        assert serve.client(shown["admin"]).get("/v1/principals").status_code == 200
        assert serve.client(shown["api"]).get("/v1/documents").status_code == 200


def _load_and_kill(serve: ServeProcess, ledger: Ledger, random: Random) -> None:
    uploaders = [Uploader(serve, ledger, Random(random.getrandbits(64))) for _ in range(UPLOADERS)]
    for uploader in uploaders:
        uploader.start()
    time.sleep(random.uniform(0.05, 1.5))
    if random.random() < 0.25:
        serve.postmaster().kill()
        time.sleep(random.uniform(0, 0.5))
    serve.kill()
    for uploader in uploaders:
        uploader.stopping.set()
        uploader.join(60)
        assert not uploader.is_alive(), "a client hangs"


def _start_perhaps_only_at_the_second_attempt(serve: ServeProcess, random: Random) -> None:
    if random.random() < 0.15:
        serve.launch()
        time.sleep(random.uniform(0, 1.5))
        serve.kill()
    serve.start()


def _send_again(serve: ServeProcess, ledger: Ledger) -> None:
    with serve.client() as client:
        for request in list(ledger.unanswered):
            ledger.attempt(client, request)


def _expect_retries_to_succeed(serve: ServeProcess, ledger: Ledger) -> None:
    """A key whose first request died with its process is free once the process counts as dead."""
    serve.stop()
    with _services(serve) as services:
        _age_processes(services)
    serve.start()
    _send_again(serve, ledger)
    assert ledger.unanswered == set()
    assert ledger.surprises == []


def _expect_no_stray_object(services: Services, home: Path) -> None:
    """After sweep and replication each site holds the objects of all versions, and nothing else."""
    _age_processes(services)
    while services.sweep.run():
        pass
    make_all_due(services)
    work_off(services)
    leavings = Leavings(services.database.as_service(), services.health, grace=timedelta(hours=-1))
    rows = services.database.as_service().execute(select(versions.c.object_id), {})
    wanted = {object_key(row.object_id) for row in rows}
    for site, store in services.stores.items():
        assert {stored.key for stored in store.list("objects/")} == wanted, site
        leavings.clear(site)  # of copies that were killed, which a scrub drops after a day
        assert list(store.pending()) == [], site
        incoming = home / f"site-{site}" / ".incoming"
        assert [path for path in incoming.rglob("*") if path.is_file()] == []


@contextmanager
def _services(serve: ServeProcess) -> Iterator[Services]:
    """The flows over a home that nobody serves."""
    settings = Settings(home=serve.home, kms=KmsSettings(key_file=serve.root_key_file))
    with build(settings) as services:
        yield services


def _age_processes(services: Services) -> None:
    """As if five minutes had gone by since the last heartbeat."""
    long_ago = func.now() - literal(timedelta(hours=1))
    services.database.as_service().execute(update(processes).values(alive_until=long_ago), {})


def _may_be_sent_again(answer: httpx.Response) -> bool:
    in_flight = "idempotency-in-flight" in answer.text
    return answer.status_code == 503 or (answer.status_code == 409 and in_flight)


def _documents(client: httpx.Client) -> Iterator[dict[str, Any]]:
    token: str | None = None
    while True:
        given = {"page_size": "1000"} | ({"page_token": token} if token else {})
        page = client.get("/v1/documents", params=given).raise_for_status().json()
        yield from page["items"]
        if (token := page["next_page_token"]) is None:
            return


def _digest(client: httpx.Client, document_id: str, number: int) -> str:
    digest = hashlib.sha256()
    path = f"/v1/documents/{document_id}/versions/{number}/content"
    with client.stream("GET", path) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_bytes():
            digest.update(chunk)
    return digest.hexdigest()
