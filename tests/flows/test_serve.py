"""What `make run` promises, seen from outside the process."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.api.helpers import named, upload
from tests.process import Account, ServeProcess, descendants, wait_until
from tests.servers.certificate import self_made_certificate

DEPENDENCIES = {"database", "keys", "site-a", "site-b"}
COULD_NOT_RUN = 2


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeProcess]:
    """The service on an empty home."""
    with ServeProcess(tmp_path) as process:
        yield process


def test_a_document_comes_back_and_each_dependency_is_up(serve: ServeProcess) -> None:
    with serve.client() as client:
        assert _round_trip(client) == {
            "status": "ready",
            "dependencies": dict.fromkeys(DEPENDENCIES, "up"),
        }


def test_a_folder_with_a_long_name_spaces_chinese_and_a_comma_serves(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*[f"客户档案, of a long name {n} " * 3 for n in range(5)])
    folder.mkdir(parents=True)
    with ServeProcess(folder) as serve, serve.client() as client:
        _round_trip(client)


def test_keys_of_the_first_start_stay_valid_and_are_printed_only_once(serve: ServeProcess) -> None:
    keys = (serve.admin_key, serve.demo_key)
    assert all(keys)
    with serve.client() as client:
        document = upload(client, b"kept")
    serve.restart()
    for key in keys:
        assert key not in serve.output("stdout")
    assert "key: " not in serve.output("stdout")
    with serve.client() as client, serve.client(serve.admin_key) as admin:
        assert client.get(f"/v1/documents/{document['id']}/content").content == b"kept"
        assert admin.get("/v1/principals").is_success


def test_a_killed_parent_leaves_no_postgres_behind(serve: ServeProcess) -> None:
    with serve.client() as client:
        upload(client, b"a connection is open")
    left = serve.kill()
    assert [process for process in left if process.name == "postgres"]
    assert wait_until(lambda: not any(process.lives for process in left), 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_ends_everything_in_order(
    serve: ServeProcess, number: signal.Signals
) -> None:
    started = descendants(serve.process.pid)
    assert serve.stop(number) == 0
    assert "Traceback" not in serve.output("stderr")
    assert [process for process in started if process.lives] == []
    assert not (serve.home / "postgres" / "run").is_symlink(), "the folder of the socket stays"


def test_a_second_instance_on_the_same_home_is_refused(serve: ServeProcess) -> None:
    second = serve.command_line.run("serve", "--listen", "127.0.0.1:0")
    assert second.returncode == COULD_NOT_RUN
    assert f"in use by process {serve.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    with serve.client() as client:
        _round_trip(client)


def test_an_unknown_setting_stops_the_start_before_anything_is_made(tmp_path: Path) -> None:
    environment = {"STRONGROOM_TSL_CERT_FILE": "/somewhere"}
    serve = ServeProcess(tmp_path, environment=environment)
    refused = serve.command_line.run("serve")
    assert refused.returncode == COULD_NOT_RUN
    assert "STRONGROOM_TSL_CERT_FILE" in refused.stderr
    assert not serve.home.exists()


def test_plain_http_for_other_machines_is_refused(tmp_path: Path) -> None:
    refused = ServeProcess(tmp_path).command_line.run("serve", "--listen", "0.0.0.0:0")
    assert refused.returncode == COULD_NOT_RUN
    assert "TLS" in refused.stderr.upper()


def test_a_port_in_use_is_told_clearly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = ServeProcess(tmp_path).command_line.run("serve", "--listen", address)
    assert refused.returncode == COULD_NOT_RUN
    assert f"cannot listen on {address}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_of_two_starts_at_once_on_one_port_the_loser_is_told_clearly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        options = ("--listen", f"127.0.0.1:{free.getsockname()[1]}")
    with ExitStack() as both:
        starts = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            start = ServeProcess(tmp_path / name, options=options)
            starts.append(both.enter_context(closing(start)))
            start.launch()
        assert wait_until(lambda: any(start.has_ended for start in starts), 60)
        (loser,) = (start for start in starts if start.has_ended)
        assert loser.process.returncode == COULD_NOT_RUN
        assert "cannot listen" in loser.output("stderr")
        assert "Traceback" not in loser.output("stderr")


def test_tls_serves_and_strangers_do_not_believe_the_certificate(tmp_path: Path) -> None:
    certificate, key = self_made_certificate(tmp_path)
    environment = {
        "STRONGROOM_TLS_CERT_FILE": str(certificate),
        "STRONGROOM_TLS_KEY_FILE": str(key),
    }
    trusting = ssl.create_default_context(cafile=certificate)
    with ServeProcess(tmp_path, environment=environment, verify=trusting) as serve:
        assert serve.url.startswith("https://")
        with serve.client() as client:
            _round_trip(client)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{serve.url}/healthz", trust_env=False)
        with pytest.raises(httpx.TransportError):
            httpx.get(serve.url.replace("https", "http") + "/healthz", trust_env=False)


def test_an_upload_is_finished_after_sigterm(serve: ServeProcess) -> None:
    half = os.urandom(5 * 2**20)

    def body() -> Iterator[bytes]:
        yield half
        serve.process.terminate()
        time.sleep(1)
        assert not serve.has_ended
        yield half

    with serve.client() as client:
        answer = client.post("/v1/documents", content=body(), headers=named("slow.bin"))
    assert answer.status_code == 201, answer.text
    serve.process.wait(30)
    serve.start()
    with serve.client() as client:
        location = answer.headers["Location"]
        assert client.get(f"{location}/content").content == half + half


def test_doctor_finds_a_stopped_home_in_order(serve: ServeProcess) -> None:
    serve.stop()
    doctor = serve.command_line.run("doctor", "--json")
    findings = json.loads(doctor.stdout)["findings"]
    assert [finding for finding in findings if not finding["ok"]] == []
    assert {finding["about"] for finding in findings} >= DEPENDENCIES | {"grants", "transport"}
    assert doctor.returncode == 0


def test_doctor_finds_a_missing_root_key(serve: ServeProcess) -> None:
    serve.stop()
    serve.root_key_file.unlink()
    doctor = serve.command_line.run("doctor", "--json")
    wrong = [f for f in json.loads(doctor.stdout)["findings"] if not f["ok"]]
    assert [finding["about"] for finding in wrong] == ["start"]
    assert "root.key" in wrong[0]["words"]
    assert doctor.returncode == 1


def test_metrics_count_requests_and_bytes(serve: ServeProcess) -> None:
    with serve.client() as client:
        document = upload(client, b"12345")
        client.get(f"/v1/documents/{document['id']}/content")
        lines = client.get("/metrics").text.splitlines()
    created = 'strongroom_requests_total{method="POST",route="/v1/documents",status="201"} 1.0'
    assert created in lines
    assert "strongroom_received_bytes_total 5.0" in lines
    assert "strongroom_sent_bytes_total 5.0" in lines


def test_a_dead_database_is_answered_with_503_and_the_next_start_has_it_all(
    serve: ServeProcess,
) -> None:
    with serve.client() as client:
        document = upload(client, b"kept")
        serve.postmaster().kill()
        began = time.monotonic()
        for answer in (
            client.get("/v1/documents"),
            client.get(f"/v1/documents/{document['id']}/content"),
            client.post("/v1/documents", content=b"small", headers=named("a")),
            client.post("/v1/documents", content=bytes(3 * 2**20), headers=named("b")),
            client.get("/readyz"),
        ):
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
        assert time.monotonic() - began < 10
        assert answer.json()["dependencies"]["database"] != "up"
        assert client.get("/healthz").is_success
    serve.restart()
    with serve.client() as client:
        assert client.get(f"/v1/documents/{document['id']}/content").content == b"kept"
        assert len(client.get("/v1/documents").json()["items"]) == 1


def test_postgres_does_not_run_as_root(serve: ServeProcess) -> None:
    assert Path(f"/proc/{serve.postmaster().pid}").stat().st_uid != 0


def test_it_serves_an_ordinary_user() -> None:
    account = None if os.geteuid() else _nobody()
    with tempfile.TemporaryDirectory() as folder:
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        with ServeProcess(Path(folder), account=account) as serve, serve.client() as client:
            assert Path(f"/proc/{serve.process.pid}").stat().st_uid != 0
            _round_trip(client)


def _round_trip(client: httpx.Client) -> object:
    """File a document and fetch it; returns what /readyz says."""
    content = os.urandom(100_000)
    document = upload(client, content)
    assert client.get(f"/v1/documents/{document['id']}/content").content == content
    return client.get("/readyz").json()


def _nobody() -> Account:
    """The account nobody with an interpreter that it can reach; root's own may lie below /root."""
    entry = pwd.getpwnam("nobody")
    import_path = os.pathsep.join([str(Path(__file__).parents[2]), sysconfig.get_path("purelib")])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        account = Account(entry.pw_uid, entry.pw_gid, interpreter, import_path)
        if _can_run(account):
            return account
    pytest.skip("the account nobody can reach no interpreter of this version and the checkout")


def _can_run(account: Account) -> bool:
    try:
        found = subprocess.run(
            [account.interpreter, "-c", "import api, sqlalchemy, cryptography"],
            cwd="/",
            env={"PYTHONPATH": account.import_path},
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            check=False,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return False
    return found.returncode == 0
