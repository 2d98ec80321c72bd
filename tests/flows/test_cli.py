"""The command line against the real service: what it prints, where it stops, what it resumes."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.main import get_command
from typer.testing import CliRunner, Result

from api.cli import app
from api.settings import KmsSettings
from tests import people
from tests.api.helpers import upload
from tests.api.test_damage import flip, object_file
from tests.people import person
from tests.proxy import proxied
from tests.running import RunningService
from vault.access.roles import Role

MIB = 2**20


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


class Cli:
    """Runs commands with one key, in one folder."""

    def __init__(self, url: str, key: str) -> None:
        self.environment = {"STRONGROOM_URL": url, "STRONGROOM_API_KEY": key}

    def run(self, *words: str, exit_code: int = 0, **options: Any) -> Result:
        """Run, and hold the exit code against what is expected."""
        result = CliRunner().invoke(app, words, env=self.environment, **options)
        assert result.exit_code == exit_code, result.output + result.stderr
        return result

    def json(self, *words: str, exit_code: int = 0) -> Any:
        """Run with --json."""
        return json.loads(self.run("--json", *words, exit_code=exit_code).stdout)


@pytest.fixture
def demo(service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Cli(service.url, service.demo_key)


@pytest.fixture
def admin(service: RunningService) -> Cli:
    return Cli(service.url, service.admin_key)


def test_a_file_goes_in_and_comes_back(demo: Cli) -> None:
    content = os.urandom(3 * MIB)
    Path("合同.pdf").write_bytes(content)
    document = demo.json("put", "合同.pdf")
    assert document["name"] == "合同.pdf"
    Path("合同.pdf").unlink()
    fetched = demo.json("get", document["id"])
    assert fetched["sha256"] == hashlib.sha256(content).hexdigest()
    assert Path("合同.pdf").read_bytes() == content


def test_several_files_go_on_after_a_failure(demo: Cli) -> None:
    Path("one").write_bytes(b"1")
    Path("two").write_bytes(b"2")
    result = demo.run("put", "one", "missing", "two", exit_code=2)
    assert result.stdout.count("version 1") == 2
    assert len(demo.json("ls")["items"]) == 2


def test_standard_input_and_output(demo: Cli) -> None:
    put = demo.run("--json", "put", "-", "--name", "piped.txt", input=b"through pipes")
    document = json.loads(put.stdout)
    assert demo.run("get", document["id"], "-o", "-").stdout_bytes == b"through pipes"


def test_versions_history_bin_and_back(demo: Cli) -> None:
    Path("a.txt").write_bytes(b"one")
    document_id = demo.json("put", "a.txt")["id"]
    Path("a.txt").write_bytes(b"two")
    assert demo.json("put", "a.txt", "--version-of", document_id)["version"]["number"] == 2
    assert len(demo.json("versions", document_id)["items"]) == 2
    demo.run("rename", document_id, "b.txt")
    assert demo.json("history", document_id)["items"][0]["to"] == "b.txt"
    assert demo.json("search", "b.t")["items"][0]["id"] == document_id
    assert demo.json("rm", document_id)["state"] == "binned"
    assert demo.json("ls")["items"] == []
    assert demo.json("undelete", document_id)["state"] == "live"
    demo.run("get", document_id, "--version", "1", "-o", "first")
    assert Path("first").read_bytes() == b"one"


def test_lists_have_pages_and_all(demo: Cli, service: RunningService) -> None:
    for _ in range(5):
        upload(service.demo, b"x")
    page = demo.json("ls", "--page-size", "2")
    assert len(page["items"]) == 2
    more = demo.json("ls", "--page-size", "2", "--page-token", page["next_page_token"])
    assert len(more["items"]) == 2
    assert len(demo.json("ls", "--page-size", "2", "--all")["items"]) == 5
    assert "--page-token" in demo.run("ls", "--page-size", "2").stderr


def test_an_existing_file_is_not_overwritten(demo: Cli, service: RunningService) -> None:
    document = upload(service.demo, b"new")
    Path("document.bin").write_bytes(b"old")
    demo.run("get", document["id"], exit_code=2)
    assert Path("document.bin").read_bytes() == b"old"
    demo.run("get", document["id"], "--force")
    assert Path("document.bin").read_bytes() == b"new"


def test_an_interrupted_download_is_resumed_where_it_stopped(
    demo: Cli, service: RunningService
) -> None:
    content = os.urandom(6 * MIB)
    document = upload(service.demo, content)
    with proxied(int(service.url.rpartition(":")[2])) as proxy:
        demo.environment["STRONGROOM_URL"] = f"http://127.0.0.1:{proxy.port}"
        proxy.misbehaviour.cut_after = 4 * MIB
        proxy.misbehaviour.cuts = 1
        demo.run("get", document["id"], "-o", "whole")
    assert Path("whole").read_bytes() == content
    assert sorted(path.name for path in Path().iterdir()) == ["whole"]


def test_a_later_run_resumes_and_another_version_starts_anew(
    demo: Cli, service: RunningService
) -> None:
    content = os.urandom(6 * MIB)
    document = upload(service.demo, content)
    direct = demo.environment["STRONGROOM_URL"]
    with proxied(int(service.url.rpartition(":")[2])) as proxy:
        demo.environment["STRONGROOM_URL"] = f"http://127.0.0.1:{proxy.port}"
        proxy.misbehaviour.cut_after = MIB
        demo.run("get", document["id"], "-o", "whole", exit_code=2)
    assert not Path("whole").exists()
    assert 0 < Path("whole.part").stat().st_size < len(content)
    demo.environment["STRONGROOM_URL"] = direct
    newer = os.urandom(2 * MIB)
    service.demo.put(f"/v1/documents/{document['id']}/content", content=newer)
    demo.run("get", document["id"], "-o", "whole")
    assert Path("whole").read_bytes() == newer


def test_a_damaged_document_is_never_left_under_its_name(
    demo: Cli, service: RunningService
) -> None:
    document = upload(service.demo, os.urandom(4 * MIB))
    flip(object_file(service, document), 3 * MIB)
    problem = demo.json("get", document["id"], "-o", "whole", exit_code=1)
    assert problem["type"] == "urn:strongroom:problem:integrity"
    assert not Path("whole").exists()


def test_names_from_the_service_do_not_reach_the_terminal_raw(
    demo: Cli, service: RunningService
) -> None:
    upload(service.demo, b"x", name="[bold]not markup.txt")
    assert "[bold]not markup.txt" in demo.run("ls").stdout


def test_a_hidden_name_becomes_a_visible_file_of_this_folder(
    demo: Cli, service: RunningService
) -> None:
    document = upload(service.demo, b"x", name="..evil")
    demo.run("get", document["id"])
    assert Path("evil").read_bytes() == b"x"


def test_refusals_tell_and_exit_with_1(demo: Cli) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    result = demo.run("show", missing, exit_code=1)
    assert "not visible" in result.stderr
    assert demo.json("show", missing, exit_code=1)["status"] == 404


def test_without_key_or_service_the_exit_code_is_2(demo: Cli) -> None:
    demo.environment["STRONGROOM_URL"] = "http://127.0.0.1:1"
    assert "is the service there" in demo.run("put", __file__, exit_code=2).stderr
    demo.environment["STRONGROOM_API_KEY"] = ""
    del demo.environment["STRONGROOM_API_KEY"]
    assert "STRONGROOM_API_KEY" in demo.run("ls", exit_code=2).stderr


def test_an_administrator_s_day(admin: Cli, demo: Cli, service: RunningService) -> None:
    principal = admin.json(
        "principal", "add", "crm", "--scope", "read", "--scope", "write", "--department", "sales"
    )
    issued = admin.json("api-key", "issue", principal["id"], "--lifetime-days", "30")
    crm = Cli(service.url, issued["token"])
    assert crm.json("ls")["items"] == []
    successor = crm.json("api-key", "rotate")
    admin.run("api-key", "revoke", issued["id"])
    crm.run("ls", exit_code=1)
    assert Cli(service.url, successor["token"]).json("ls")["items"] == []
    assert len(admin.json("api-key", "list", "--principal-id", principal["id"])["items"]) == 2
    admin.run("class", "add", "scans", "--media-type", "image/*", "--bin-days", "90")
    assert admin.json("class", "show", "scans")["bin_days"] == 90
    assert {item["name"] for item in admin.json("class", "list")["items"]} == {"general", "scans"}
    document = upload(service.demo, b"x")
    hold = admin.json("hold", "place", document["id"], "--reason", "case 7")
    assert demo.json("rm", document["id"], exit_code=1)["status"] == 409
    assert len(admin.json("hold", "list")["items"]) == 1
    admin.run("hold", "release", hold["id"])
    demo.run("rm", document["id"])
    assert admin.json("principal", "disable", principal["id"])["disabled_at"] is not None
    assert len(admin.json("principal", "list")["items"]) == 3


def _commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not hasattr(group, "commands"):
        return [path]
    return [
        found
        for name, command in group.commands.items()
        for found in _commands(command, (*path, name))
    ]


def test_every_command_has_help_with_an_example_and_json() -> None:
    for path in _commands(get_command(app)):
        text = " ".join(CliRunner().invoke(app, [*path, "--help"]).output.split())
        assert "Example:" in text, path
        assert "--json" in text or path in {("serve",), ("worker",)}, path


def test_json_before_the_command_holds_for_local_commands_too() -> None:
    assert "version" in json.loads(CliRunner().invoke(app, ["--json", "version"]).stdout)


def test_a_cut_download_to_a_pipe_goes_on(demo: Cli, service: RunningService) -> None:
    content = os.urandom(6 * MIB)
    document = upload(service.demo, content)
    with proxied(int(service.url.rpartition(":")[2])) as proxy:
        demo.environment["STRONGROOM_URL"] = f"http://127.0.0.1:{proxy.port}"
        proxy.misbehaviour.cut_after, proxy.misbehaviour.cuts = 4 * MIB, 1
        result = demo.run("get", document["id"], "-o", "-")
    assert result.stdout_bytes == content
    assert hashlib.sha256(content).hexdigest() in result.stderr


def test_a_fresh_key_is_printed_in_one_piece(admin: Cli) -> None:
    principal = admin.json("principal", "add", "crm", "--scope", "admin")
    printed = admin.run("api-key", "issue", principal["id"]).stdout
    token = next(line.split()[1] for line in printed.splitlines() if line.startswith("token"))
    assert Cli(admin.environment["STRONGROOM_URL"], token).json("class", "list")["items"]


def test_keys_are_listed_rotated_and_not_destroyed_without_a_yes(admin: Cli) -> None:
    assert admin.json("key", "rotate", "documents")["latest"] == 2
    assert next(item["purpose"] for item in admin.json("key", "list")["items"]) == "documents"
    refused = admin.run("key", "retire", "documents", exit_code=2)
    assert "--yes" in refused.stderr
    assert admin.json("key", "retire", "documents", "--yes")["oldest_kept"] == 2
    assert "cannot be undone" in admin.run("key", "shred", exit_code=2).stderr
    assert admin.json("key", "shred", "--dry-run")["items"] == []


def test_a_drill_is_followed_to_its_end_and_fails_if_a_key_does_not_open(
    admin: Cli, demo: Cli, service: RunningService
) -> None:
    Path("one").write_bytes(b"1")
    demo.run("put", "one")
    with working_off_jobs(service):
        assert admin.json("key", "drill")["result"]["opened"] == 1
        with service.services.database.as_service().transaction() as connection:
            connection.execute(text("UPDATE versions SET wrapped_key = 'local:v1:AAAA'"))
        ended = admin.json("key", "drill", exit_code=1)
    assert ended["result"]["failed"] == 1
    assert [job["kind"] for job in admin.json("job", "list")["items"]] == ["drill", "drill"]


def test_a_job_can_be_left_stopped_and_resumed(admin: Cli, service: RunningService) -> None:
    assert "key retire log" in admin.run("key", "rewrap", "log", exit_code=2).stderr
    job = admin.json("key", "rewrap", "documents", "--no-wait")
    assert admin.json("job", "stop", job["id"])["state"] == "stopped"
    with working_off_jobs(service):
        assert admin.json("job", "resume", job["id"])["state"] == "done"
    assert admin.json("job", "show", job["id"])["state"] == "done"


def test_an_exported_key_goes_into_a_new_private_file_once_it_is_approved(
    demo: Cli, service: RunningService
) -> None:
    Path("one").write_bytes(b"1")
    document = demo.json("put", "one")
    token = people.exporter(service)
    exporter = Cli(service.url, token)
    words = ("key", "export-dek", document["id"], "--version", "1", "-o", "key.json")
    demo.run(*words, exit_code=1)
    exporter.run(*words, exit_code=1)
    assert not Path("key.json").exists()
    head = person(service, "head", [(Role.DEPARTMENT_HEAD, "demo")])
    asked = exporter.json(*words, "--ask", "we leave", "--purpose", "exit", exit_code=1)
    approved = head.client.post(f"/v1/approvals/{asked['id']}/approve", json={})
    assert approved.json()["state"] == "approved"
    exporter.run(*words)
    assert Path("key.json").stat().st_mode & 0o777 == 0o600
    assert json.loads(Path("key.json").read_text())["size_bytes"] == 1
    exporter.run(*words, exit_code=2)


@contextmanager
def working_off_jobs(service: RunningService) -> Iterator[None]:
    """A worker's thread for jobs."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(0.05):
            service.services.job_runner.run_one()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
