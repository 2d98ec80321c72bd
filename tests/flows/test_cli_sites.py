"""`strongroom site …` against the running service: words, JSON, exit codes, and questions before acts."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import text
from typer.main import get_command

from api.cli import app
from api.settings import KmsSettings
from tests.api.helpers import upload
from tests.api.test_damage import flip, object_file
from tests.api.test_sites import park, put_orphans, sites
from tests.flows.test_cli import Cli
from tests.process import PROGRAM, wait_until
from tests.replicating import make_all_due, work_off
from tests.running import RunningService
from vault.sweephold import HoldReason, hold

COMMANDS = {
    *("status", "verify", "scrub", "resync", "failover", "admit"),
    *("incidents", "orphans", "confirm-sweep", "retry-parked"),
}


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture
def admin(service: RunningService) -> Cli:
    return Cli(service.url, service.admin_key)


@pytest.fixture
def demo(service: RunningService) -> Cli:
    return Cli(service.url, service.demo_key)


@contextmanager
def working(service: RunningService, *, copies: bool = True) -> Iterator[None]:
    """Jobs, and copies if wanted, are done meanwhile, each on a thread, as a worker does them."""
    ended = Event()

    def copy() -> None:
        while not ended.wait(0.05):
            make_all_due(service.services)
            work_off(service.services)

    def run_jobs() -> None:
        while not ended.wait(0.05):
            service.services.job_runner.run_one()

    threads = [Thread(target=each) for each in ((copy, run_jobs) if copies else (run_jobs,))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def at_a_terminal(cli: Cli, answer: str, *words: str) -> tuple[int, str]:
    """Run in a process whose standard input is a terminal, at which somebody types; code and output."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env={**cli.environment, "PATH": os.defpath, "LC_ALL": "C.UTF-8"},
    ) as process:
        os.write(master, f"{answer}\n".encode())
        output, _ = process.communicate(timeout=60)
    os.close(slave)
    os.close(master)
    return process.returncode, output


# Help


def test_every_command_has_an_example_and_json() -> None:
    (group,) = [found for name, found in _commands(get_command(app)) if name == "site"]
    commands = dict(_commands(group))
    assert set(commands) == COMMANDS
    for name, command in commands.items():
        assert "Example: strongroom site" in command.help, name
        assert any("--json" in each.opts for each in command.params), name


def _commands(group: Any) -> list[tuple[str, Any]]:
    return list(group.commands.items())


# Status


def test_status_is_a_table_with_amounts_for_people(admin: Cli, service: RunningService) -> None:
    upload(service.demo, b"x" * 3000)
    shown = admin.run("site", "status").stdout
    assert "a (local)" in shown
    assert "KiB" in shown
    assert "1 of 1" in shown
    assert "0 of 1" in shown
    assert "no scrub has gone through yet" in shown
    as_json = admin.json("site", "status")
    assert [each["name"] for each in as_json["sites"]] == ["a", "b"]


def test_status_is_refused_without_the_scope(demo: Cli) -> None:
    assert demo.json("site", "status", exit_code=1)["status"] == 403


def test_a_service_that_is_away_is_exit_2() -> None:
    Cli("http://127.0.0.1:9", "sr_a_b_c").run("site", "retry-parked", exit_code=2)


# Verify


def test_verify_of_a_document_tells_each_copy(admin: Cli, service: RunningService) -> None:
    document = upload(service.demo, b"y" * 1000)
    admin.run("site", "verify", document["id"], exit_code=1)
    work_off(service.services)
    assert admin.run("site", "verify", document["id"]).stdout.count("verified") == 2
    flip(object_file(service, document), 50)
    found = admin.json("site", "verify", document["id"], exit_code=1)
    assert [copy["state"] for copy in found["items"]] == ["damaged", "verified"]


def test_verify_wants_a_document_or_all(admin: Cli) -> None:
    admin.run("site", "verify", exit_code=2)
    admin.run("site", "verify", "0198c0de-0000-7000-8000-000000000000", "--all", exit_code=2)
    admin.run("site", "verify", "0198c0de-0000-7000-8000-000000000000", exit_code=1)


def test_verify_all_says_100_per_cent_only_if_it_is(admin: Cli, service: RunningService) -> None:
    documents = [upload(service.demo, b"z%d" % number) for number in range(3)]
    work_off(service.services)
    with working(service, copies=False):
        whole = admin.run("site", "verify", "--all").stdout
        assert "site a: 100 % verified, 3 of 3" in whole
        assert "site b: 100 % verified, 3 of 3" in whole
        object_file(service, documents[0]).unlink()
        broken = admin.run("site", "verify", "--all", exit_code=1).stdout
        assert "site a: 66.6 % verified, 2 of 3 (1 missing)" in broken
        assert documents[0]["id"] in broken
        as_json = admin.json("site", "verify", "--all", exit_code=1)
    assert as_json["job"]["state"] == "done"
    assert documents[0]["id"] == as_json["incidents"][0]["document_id"]
    assert [each["kind"] for each in as_json["incidents"]] == ["missing"]


def test_verify_all_lists_what_it_met_though_it_is_repaired_by_now(
    admin: Cli, service: RunningService
) -> None:
    before, during = (upload(service.demo, b"v%d" % number) for number in range(2))
    work_off(service.services)
    object_file(service, before).unlink()
    admin.run("site", "verify", before["id"], exit_code=1)
    work_off(service.services)
    object_file(service, during).unlink()
    with working(service):
        found = admin.json("site", "verify", "--all", exit_code=1)
        (incident,) = found["incidents"]
        assert incident["document_id"] == during["id"]
        assert wait_until(lambda: not admin.json("site", "incidents", "--open")["items"], 20)
        assert admin.json("site", "verify", "--all")["incidents"] == []


# Scrub and resync


def test_scrub_exits_1_if_it_found_something(admin: Cli, service: RunningService) -> None:
    document = upload(service.demo, b"s" * 100)
    work_off(service.services)
    with working(service):
        assert admin.json("site", "scrub")["result"]["sites"]["a"]["compared"] == 1
        object_file(service, document).unlink()
        found = admin.json("site", "scrub", exit_code=1)
    assert found["result"]["sites"]["a"]["missing"] == 1


def test_resync_fills_a_site_and_knows_the_others(admin: Cli, service: RunningService) -> None:
    upload(service.demo, b"r" * 100)
    work_off(service.services)
    folder = service.services.settings.sites.b.path
    assert folder is not None
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    with working(service):
        ended = admin.json("site", "resync", "b")
        assert (ended["state"], ended["result"]["missing"]) == ("done", 1)
        admin.run("site", "verify", "--all")
    admin.run("site", "resync", "c", exit_code=1)
    admin.run("site", "resync", "../a", exit_code=2)


# Failover


def test_failover_without_a_terminal_says_what_it_means_and_does_nothing(
    admin: Cli, service: RunningService
) -> None:
    upload(service.demo, b"only at a" * 1000)
    result = admin.run("site", "failover", "b", exit_code=2)
    assert "1 stored version (8.8 KiB) has no copy there that counts" in result.stdout
    assert "--yes" in result.stderr
    outlook = admin.json("site", "failover", "b", exit_code=2)
    assert outlook["only_elsewhere"] == 1
    assert not sites(service)["a"]["is_fenced"]


def test_failover_asks_at_a_terminal(admin: Cli, service: RunningService) -> None:
    upload(service.demo, b"only at a")
    code, output = at_a_terminal(admin, "n", "site", "failover", "b")
    assert code == 2, output
    assert output.index("has no copy there") < output.index("Fail over to site b?")
    assert not sites(service)["a"]["is_fenced"]
    code, output = at_a_terminal(admin, "y", "site", "failover", "b")
    assert code == 0, output
    assert sites(service)["a"]["is_fenced"]


def test_failover_and_back_with_yes(admin: Cli, service: RunningService) -> None:
    shown = admin.run("site", "failover", "b", "--yes").stdout
    assert "every stored version has a copy there" in shown
    assert "site b goes on alone" in shown
    status = admin.run("site", "status").stdout
    assert "fenced" in status
    assert "site confirm-sweep" in status
    admin.run("site", "admit", "a")
    assert admin.json("site", "confirm-sweep")["sweep_hold"] is None
    assert not sites(service)["a"]["is_fenced"]
    result = admin.run("--json", "site", "failover", "a", "--yes")
    assert '"only_elsewhere": 0' in result.stdout
    assert "If site a goes on alone" in result.stderr
    assert sites(service)["b"]["is_fenced"]
    admin.run("site", "failover", "c", "--yes", exit_code=1)


# Incidents, orphans, parked work


def test_incidents_can_be_narrowed(admin: Cli, service: RunningService) -> None:
    one, two = (upload(service.demo, b"i%d" % number) for number in range(2))
    work_off(service.services)
    for document in (one, two):
        object_file(service, document).unlink()
        admin.run("site", "verify", document["id"], exit_code=1)
    assert len(admin.json("site", "incidents", "--open")["items"]) == 2
    (found,) = admin.json("site", "incidents", "--document", one["id"])["items"]
    assert found["document_id"] == one["id"]
    assert "missing" in admin.run("site", "incidents").stdout
    work_off(service.services)
    assert admin.json("site", "incidents", "--open")["items"] == []
    assert len(admin.json("site", "incidents", "--page-size", "1", "--all")["items"]) == 2


def test_orphans_are_removed_only_if_it_is_said(admin: Cli, service: RunningService) -> None:
    put_orphans(service, 1)
    assert "6 B" in admin.run("site", "orphans").stdout
    admin.run("site", "orphans", "--remove", exit_code=2)
    with service.services.database.as_service().transaction() as connection:
        hold(connection, HoldReason.DATABASE)
    refused = admin.json("site", "orphans", "--remove", "--yes", exit_code=1)
    assert refused["type"].endswith("sweep-held")
    admin.run("site", "confirm-sweep")
    assert admin.json("site", "orphans", "--remove", "--yes") == {"count": 1}


def test_parked_work_is_tried_again(admin: Cli, service: RunningService) -> None:
    upload(service.demo, b"parked")
    park(service)
    assert admin.json("site", "retry-parked") == {"count": 1}
    with service.services.database.as_service().transaction() as connection:
        waiting = "SELECT count(*) FROM journal WHERE parked_at IS NULL AND due_at <= now()"
        assert connection.execute(text(waiting)).scalar_one() == 1


# Classes


def test_a_class_says_what_happens_when_the_other_site_is_away(admin: Cli) -> None:
    options = ("--durability", "sync", "--if-peer-away", "degrade")
    added = admin.json("class", "add", "contracts", *options)
    assert (added["durability"], added["if_peer_away"]) == ("sync", "degrade")
    assert "degrade" in admin.run("class", "list").stdout
    refused = admin.json("class", "add", "worm", "--worm-days", "30", exit_code=1)
    assert "object lock" in refused["detail"]
