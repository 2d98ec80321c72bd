"""Everything at once: processes killed at random moments, and a peer that is stopped, killed, emptied and
corrupted while documents come in. In the end both sites hold every acknowledged document, read back."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from random import Random  # noqa: TID251 (seeded, so that a run that failed can be run again)
from typing import Final

import pytest

from tests.api.helpers import named
from tests.flows.sites import (
    Folder,
    Gateway,
    TwoSites,
    age_processes,
    agree,
    all_verified,
    drained,
    expected,
    flipped,
    found_incidents,
    notice,
    parked,
    settle,
    verify_all,
    working,
)
from tests.flows.test_kill import (
    Findings,
    Ledger,
    Uploader,
    _documents,
    _expect_no_stray_object,
    _services,
)
from tests.process import ServeProcess, wait_until
from tests.running import RunningService

MIB: Final = 2**20
SIZES: Final = (0, 100, 4_000, 16_000, 100_000, MIB)


@pytest.mark.parametrize(
    ("loops", "seed"), [(5, 20_261_126), pytest.param(300, 20_261_127, marks=pytest.mark.soak)]
)
def test_processes_killed_at_any_moment_leave_both_sites_whole(
    tmp_path: Path, loops: int, seed: int
) -> None:
    print(f"seed {seed}")
    random, ledger, findings = Random(seed), Ledger(), Findings()
    with ServeProcess(tmp_path) as serve:
        peer = Folder("b", serve.home / "site-b")
        for _ in range(loops):
            _load_disturb_and_kill(serve, peer, ledger, random)
            serve.start()
            peer.start()
            with serve.client() as client:
                findings.compare(client, ledger)
            assert ledger.surprises == []
        assert ledger.acknowledged
        with serve.client() as client:
            safe = wait_until(lambda: all(_durable_on(client)), 120)
            assert safe, "a backlog did not drain by itself"
        serve.stop()
        with _services(serve) as services:
            _expect_no_stray_object(services, serve.home)
            assert verify_all(services) == all_verified(services)
            assert parked(services) == 0
            assert found_incidents(services) == []


def _durable_on(client: object) -> Iterator[bool]:
    for document in _documents(client):  # type: ignore[arg-type]
        yield document["version"]["durable_on"] == ["a", "b"]


def _load_disturb_and_kill(
    serve: ServeProcess, peer: Folder, ledger: Ledger, random: Random
) -> None:
    uploaders = [Uploader(serve, ledger, Random(random.getrandbits(64))) for _ in range(3)]
    for uploader in uploaders:
        uploader.start()
    time.sleep(random.uniform(0.05, 1))
    if random.random() < 0.5:
        peer.stop()
        time.sleep(random.uniform(0, 1.5))
        if random.random() < 0.5:
            peer.start()
            time.sleep(random.uniform(0, 1.5))
    serve.kill()
    for uploader in uploaders:
        uploader.stopping.set()
        uploader.join(60)
        assert not uploader.is_alive(), "a client hangs"


@pytest.mark.parametrize("count", [120, pytest.param(1000, marks=pytest.mark.soak)])
def test_uploads_go_on_while_a_site_is_stopped_killed_emptied_and_corrupted(
    sites: TwoSites, at_a: RunningService, count: int
) -> None:
    random = Random(count)
    troubles = _Troubles(sites, at_a, random)
    bodies = [random.randbytes(random.choice(SIZES)) for _ in range(count)]
    for number in range(0, count, 40):
        bodies[number] = random.randbytes(random.randrange(8 * MIB, 20 * MIB))
    sent: dict[str, bytes] = {}
    begun = threading.Semaphore(0)

    def send(body: bytes) -> None:
        begun.acquire()
        answer = at_a.demo.post("/v1/documents", content=body, headers=named("x"))
        assert answer.status_code == 201, answer.text
        sent[answer.json()["id"]] = body

    rounds = max(1, count // 250)
    each = -(-count // (rounds * len(troubles.all)))
    with working(at_a.services), ThreadPoolExecutor(3) as pool:
        sending = [pool.submit(send, body) for body in bodies]
        try:
            for trouble in troubles.all * rounds:
                begun.release(each)
                trouble()
        finally:
            begun.release(count)  # so that nobody waits for ever
        wait(sending)
        for future in sending:
            future.result()
        assert drained(at_a.services, 240), "a backlog did not drain by itself"
        assert wait_until(lambda: ("emptied", "b") not in _open(at_a), 60)
        first = verify_all(at_a.services)
        assert drained(at_a.services, 60)
    assert len(sent) == count == len(expected(at_a.services))
    assert first["a"] == {"verified": count}
    assert verify_all(at_a.services) == all_verified(at_a.services)
    kinds = Counter(found_incidents(at_a.services))
    print(f"incidents: {dict(kinds)}; first verification: {first}")
    assert kinds["emptied", "b"] >= 1
    assert kinds["damaged", "b"] >= 1
    assert {site for _, site in kinds} == {"b"}
    assert (parked(at_a.services), _open(at_a)) == (0, [])
    _read_all(at_a, sent)
    age_processes(at_a.services)
    at_a.services.sweep.run()
    settle(at_a.services)
    assert agree(sites, expected(at_a.services))


class _Troubles:
    """What befalls site b."""

    def __init__(self, sites: TwoSites, service: RunningService, random: Random) -> None:
        self._b = sites.b
        self._service = service
        self._random = random
        self.all: tuple[Callable[[], None], ...] = (
            self.stopped,
            self.killed,
            self.emptied,
            self.corrupted,
        )

    def stopped(self) -> None:
        """Gone in good order, and back."""
        if isinstance(self._b, Gateway):
            self._b.server.stop(signal.SIGTERM)
            self._b._is_stopped = True
        else:
            self._b.stop()
        time.sleep(2)
        self._b.start()
        self._some_progress()

    def killed(self) -> None:
        """Gone in the middle of whatever it does, and back, three times."""
        for _n in range(3):
            self._b.stop()
            time.sleep(self._random.uniform(0.1, 0.8))
            self._b.start()
            time.sleep(self._random.uniform(0.1, 0.8))
        self._some_progress()

    def emptied(self) -> None:
        """Objects and mark gone."""
        before = found_incidents(self._service.services).count(("emptied", "b"))
        for path in list(self._b.root.iterdir()):
            if path.name != ".incoming":
                shutil.rmtree(path, ignore_errors=True)
        assert wait_until(
            lambda: found_incidents(self._service.services).count(("emptied", "b")) > before, 20
        ), "nobody noticed"
        assert wait_until(lambda: ("emptied", "b") not in _open(self._service), 90)

    def corrupted(self) -> None:
        """One bit of some objects."""
        self._some_progress()
        for object_id in self._random.sample(sorted(self._b.objects()), 5):
            with suppress(OSError):
                self._b.damage(object_id, lambda data: flipped(data, len(data) // 2))

    def _some_progress(self) -> None:
        wait_until(lambda: len(self._b.objects()) > 10, 30)


def _open(service: RunningService) -> list[tuple[str, str]]:
    return found_incidents(service.services, open_only=True)


def _read_all(service: RunningService, sent: dict[str, bytes]) -> None:
    notice(service.services)
    for document_id, body in sent.items():
        answer = service.demo.get(f"/v1/documents/{document_id}/content")
        assert answer.content == body
