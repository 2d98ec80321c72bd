"""People at the command line: what they type stays hidden, and their session is theirs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyotp
import pytest
from typer.testing import CliRunner, Result

from api.cli import app
from api.client import Client
from api.settings import KmsSettings
from tests.enrolled import PASSWORD, Enrolled, Watch, enrol
from tests.flows.test_cli import Cli
from tests.people import add_person
from tests.running import RunningService


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def wei(service: RunningService, watch: Watch) -> Enrolled:
    return enrol(service, watch, "chen.wei")


class Terminal:
    """A person at one machine, with no key in the environment."""

    def __init__(self, url: str, config: Path) -> None:
        self.environment: dict[str, str | None] = {
            "STRONGROOM_URL": url,
            "STRONGROOM_API_KEY": None,
            "XDG_CONFIG_HOME": str(config),
        }

    def run(self, *words: str, typed: tuple[str, ...] = (), exit_code: int = 0) -> Result:
        lines = "".join(f"{line}\n" for line in typed)
        result = CliRunner().invoke(app, words, env=self.environment, input=lines)
        assert result.exit_code == exit_code, result.output + result.stderr
        for line in typed:
            assert line not in result.output + result.stderr, "what is typed is not shown"
        return result

    def json(self, *words: str, **options: Any) -> Any:
        return json.loads(self.run("--json", *words, **options).stdout)


@pytest.fixture
def terminal(service: RunningService, tmp_path: Path) -> Terminal:
    return Terminal(service.url, tmp_path / "config")


def saved(terminal: Terminal) -> Path:
    return Path(str(terminal.environment["XDG_CONFIG_HOME"])) / "strongroom" / "session"


def test_a_person_signs_in_steps_up_and_signs_out(terminal: Terminal, wei: Enrolled) -> None:
    assert "strongroom login" in terminal.run("whoami", exit_code=2).stderr
    shown = terminal.run("login", "chen.wei", typed=(PASSWORD, wei.code()))
    assert saved(terminal).stat().st_mode & 0o777 == 0o600
    assert saved(terminal).parent.stat().st_mode & 0o077 == 0
    kept = json.loads(saved(terminal).read_text())
    first = kept[terminal.environment["STRONGROOM_URL"]]
    assert first not in shown.output
    assert terminal.json("whoami")["name"] == "chen.wei"
    terminal.run("step-up", typed=(PASSWORD, wei.code()))
    assert saved(terminal).read_text().count("ss_") == 1
    assert first not in saved(terminal).read_text()
    assert terminal.json("whoami")["has_stepped_up"]
    terminal.run("logout")
    assert json.loads(saved(terminal).read_text()) == {}
    terminal.run("whoami", exit_code=2)


def test_a_wrong_code_is_refused_and_keeps_nothing(terminal: Terminal, wei: Enrolled) -> None:
    refused = terminal.run("login", "chen.wei", typed=(PASSWORD, "123 45"), exit_code=1)
    assert "name, password or code is not right" in refused.stderr
    assert not saved(terminal).exists()


def test_a_recovery_code_signs_in_too(terminal: Terminal, wei: Enrolled) -> None:
    typed = (PASSWORD, wei.recovery_codes[0])
    terminal.run("login", "chen.wei", "--recovery", typed=typed)
    assert terminal.json("whoami")["name"] == "chen.wei"


def test_a_person_enrols_at_the_command_line(
    terminal: Terminal, service: RunningService, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = add_person(service, "anna")
    admin = Cli(service.url, service.admin_key)
    token = admin.json("enrolment", added["id"])["token"]
    secrets: list[str] = []
    prompted = iter((token, PASSWORD, "code"))

    def answer(label: str, **_: Any) -> str:
        if label.startswith("Code"):
            return pyotp.TOTP(secrets[0]).at(watch.now())
        return next(prompted)

    original = Client.call

    def noting(self: Client, method: str, path: str, **options: Any) -> dict[str, Any]:
        found = original(self, method, path, **options)
        secrets.extend(filter(None, [found.get("secret")]))
        return found

    monkeypatch.setattr(Client, "call", noting)
    monkeypatch.setattr("typer.prompt", answer)
    shown = terminal.run("enrol")
    assert f"secret: {secrets[0]}" in shown.stderr
    assert "otpauth://totp/Strongroom:anna" in shown.stderr
    codes = [line.strip() for line in shown.stdout.splitlines() if line.startswith("  ")]
    assert len(codes) == 10
    person = Enrolled(added["id"], "anna", service, watch, secrets[0], codes)
    assert person.sign_in(recovery_code=codes[0]).status_code == 201


def test_a_password_is_changed_at_the_command_line(
    terminal: Terminal, wei: Enrolled, tmp_path: Path
) -> None:
    terminal.run("login", "chen.wei", typed=(PASSWORD, wei.code()))
    new = "a wholly different sentence"
    terminal.run("password", typed=(PASSWORD, new, new, wei.code()))
    assert terminal.json("whoami")["name"] == "chen.wei", "on with the fresh session"
    wei.password = new
    assert wei.sign_in().status_code == 201


def test_a_key_in_the_environment_goes_before_and_is_not_stepped_up(
    terminal: Terminal, wei: Enrolled, service: RunningService, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    typed = (PASSWORD, wei.code())
    terminal.run("login", "chen.wei", "--token-file", str(token_file), typed=typed)
    assert token_file.stat().st_mode & 0o777 == 0o600
    assert not saved(terminal).exists()
    terminal.environment["STRONGROOM_API_KEY"] = token_file.read_text().strip()
    assert terminal.json("whoami")["name"] == "chen.wei"
    assert "--token-file" in terminal.run("step-up", exit_code=2).stderr
    typed = (PASSWORD, wei.code())
    terminal.run("step-up", "--token-file", str(token_file), typed=typed)
    terminal.run("whoami", exit_code=1)
    terminal.environment["STRONGROOM_API_KEY"] = token_file.read_text().strip()
    terminal.run("whoami")
    terminal.environment["STRONGROOM_API_KEY"] = service.demo_key
    assert terminal.json("whoami")["name"] == "demo"


def test_a_session_is_kept_for_its_service_alone_and_not_read_when_others_could(
    terminal: Terminal, wei: Enrolled
) -> None:
    terminal.run("login", "chen.wei", typed=(PASSWORD, wei.code()))
    elsewhere = terminal.run("--url", "http://127.0.0.1:1", "whoami", exit_code=2)
    assert "strongroom login" in elsewhere.stderr, "no other service is shown the token"
    saved(terminal).chmod(0o644)
    assert "chmod 600" in terminal.run("whoami", exit_code=2).stderr
    saved(terminal).chmod(0o600)
    saved(terminal).write_text("{")
    assert "sign in again" in terminal.run("whoami", exit_code=2).stderr


def test_nothing_secret_is_an_argument() -> None:
    for command in ("login", "step-up", "password", "enrol"):
        shown = CliRunner().invoke(app, [command, "--help"]).output.lower()
        for option in ("--password", "--totp", "--code", "--token ", "--secret"):
            assert option not in shown, command
