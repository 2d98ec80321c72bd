"""Settings: an unknown name, an unsafe combination or an unreadable secret stops the start, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.settings import Settings, SettingsError, SiteKind, load


def test_the_defaults_are_embedded_and_local() -> None:
    settings = load()
    assert settings.is_embedded
    assert (settings.host, settings.port) == ("127.0.0.1", 8300)
    assert settings.sites.a.kind is settings.sites.b.kind is SiteKind.DIRECTORY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRONGROOM_LISTN", "127.0.0.1:1"),
        ("STRONGROOM_SITES__C__KIND", "s3"),
        ("STRONGROOM_SITES__A__PAHT", "/x"),
        ("STRONGROOM_KMS__KIND", "transit-typo"),
        ("STRONGROOM_LISTEN", "no-port"),
        ("STRONGROOM_LISTEN", "127.0.0.1:99999"),
        ("STRONGROOM_LISTEN", "0.0.0.0:8300"),
        ("STRONGROOM_TLS_CERT_FILE", "/x"),
        ("STRONGROOM_TRUSTED_PROXIES", "not-an-address"),
        ("STRONGROOM_SITES__B__KIND", "s3"),
        ("STRONGROOM_LOCAL_SITE", "c"),
        ("STRONGROOM_DATABASE_URL_FILE", "/no/such/file"),
        ("STRONGROOM_CONFIG", "/no/such/file"),
    ],
)
def test_what_does_not_fit_stops_the_start_and_names_itself(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="STRONGROOM"):
        load()


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://hidden-canary\n")
    monkeypatch.setenv("STRONGROOM_DATABASE_URL_FILE", str(tmp_path / "url"))
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://hidden-canary"
    assert "hidden-canary" not in repr(settings)


def test_a_file_gives_what_the_environment_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "strongroom.toml"
    config.write_text('listen = "127.0.0.1:1"\nthreads = 7\n[sites.b]\npath = "/b"\n')
    monkeypatch.setenv("STRONGROOM_CONFIG", str(config))
    monkeypatch.setenv("STRONGROOM_LISTEN", "127.0.0.1:2")
    settings = load()
    assert (settings.port, settings.threads, settings.sites.b.path) == (2, 7, Path("/b"))


def test_an_unknown_name_in_the_file_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text('lisen = "127.0.0.1:1"\n')
    monkeypatch.setenv("STRONGROOM_CONFIG", str(tmp_path / "c.toml"))
    with pytest.raises(SettingsError, match="LISEN"):
        load()


def test_plain_http_behind_a_named_proxy_is_allowed() -> None:
    assert Settings(listen="0.0.0.0:8300", trusted_proxies=("10.0.0.7",)).port == 8300


def test_no_refusal_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_SITES__A__SECRET_KEY", "canary-secret")
    monkeypatch.setenv("STRONGROOM_SITES__A__KIND", "s3")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "canary-secret" not in str(refused.value)


def test_a_folder_cannot_be_asked_for_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_SITES__A__OBJECT_LOCK", "true")
    with pytest.raises(SettingsError, match="a folder cannot lock objects"):
        load()


WEBHOOK_SECRET = "whsec_" + "Y2FuYXJ5" * 4


def set_notify(monkeypatch: pytest.MonkeyPatch, **given: str) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"STRONGROOM_NOTIFY__{name}", value)


def test_channels_for_notices_are_set_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, content in (("secret", WEBHOOK_SECRET), ("password", "canary")):
        (tmp_path / name).write_text(f"{content}\n")
    set_notify(
        monkeypatch,
        WEBHOOK__URL="https://hooks.example.org/vault",
        WEBHOOK__SECRET_FILE=str(tmp_path / "secret"),
        SMTP__HOST="mail.example.org",
        SMTP__USERNAME="vault",
        SMTP__PASSWORD_FILE=str(tmp_path / "password"),
        SMTP__FROM="vault@example.org",
        SMTP__TO="head@example.org, deputy@example.org",
        PUBLIC_URL="https://vault.example.org",
    )
    notify = load().notify
    assert notify.webhook is not None
    assert notify.webhook.secret.get_secret_value() == WEBHOOK_SECRET
    assert notify.smtp is not None
    assert notify.smtp.to == ("head@example.org", "deputy@example.org")
    assert notify.smtp.password is not None
    assert notify.smtp.password.get_secret_value() == "canary"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK__URL", "http://hooks.example.org/"),
        ("WEBHOOK__URL", "https://user:canary@hooks.example.org/"),
        ("WEBHOOK__URL", "file:///etc/passwd"),
        ("WEBHOOK__URL", "https:///canary"),
        ("WEBHOOK__SECRET", "whsec_Y2FuYXJ5"),
        ("WEBHOOK__SECRET", "Y2FuYXJ5" * 4),
        ("WEBHOOK__SECRET", "whsec_canary!!"),
        ("WEBHOOK__OLD_SECRET", "canary"),
        ("WEBHOOK__SECRT", "canary"),
        ("SMTP__TLS", "none"),
        ("SMTP__TLS", "canary"),
        ("SMTP__PORT", "0"),
        ("SMTP__PASSWORD", "canary"),
        ("SMTP__FROM", "canary"),
        ("SMTP__FROM", "a@example.org\nBcc: canary@example.org"),
        ("SMTP__SENDER", "canary@example.org"),
        ("SMTP__TO", ","),
        ("SMTP__TO", "a@example.org,canary"),
        ("PUBLIC_URL", "http://canary.example.org"),
    ],
)
def test_a_channel_that_would_be_unsafe_or_useless_stops_the_start_without_an_echo(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    set_notify(
        monkeypatch,
        WEBHOOK__URL="https://hooks.example.org/vault",
        WEBHOOK__SECRET=WEBHOOK_SECRET,
        SMTP__HOST="mail.example.org",
        SMTP__FROM="vault@example.org",
        SMTP__TO="head@example.org",
    )
    load()
    set_notify(monkeypatch, **{name: value})
    with pytest.raises(SettingsError, match="STRONGROOM_NOTIFY__") as refused:
        load()
    assert "canary" not in str(refused.value)


OIDC = {
    "ISSUER": "https://login.example/tenant/",
    "CLIENT_ID": "vault",
    "CLIENT_SECRET": "canary-secret",
    "REDIRECT_URL": "https://vault.example/callback",
}


def set_oidc(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    for name, value in {**OIDC, **changed}.items():
        if value is not None:
            monkeypatch.setenv(f"STRONGROOM_OIDC__{name}", value)


def test_nobody_signs_in_at_a_provider_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().oidc is None
    set_oidc(monkeypatch)
    settings = load().oidc
    assert settings is not None
    assert settings.issuer == OIDC["ISSUER"]
    assert settings.client_secret.get_secret_value() == "canary-secret"
    assert "canary-secret" not in repr(settings)


def test_a_secret_of_an_optional_part_may_come_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    set_oidc(monkeypatch, CLIENT_SECRET=None, CLIENT_SECRET_FILE=str(tmp_path / "secret"))
    settings = load().oidc
    assert settings is not None
    assert settings.client_secret.get_secret_value() == "from a file"


@pytest.mark.parametrize(
    "changed",
    [
        {"ISSUER": None},
        {"CLIENT_ID": None},
        {"CLIENT_ID": ""},
        {"CLIENT_SECRET": None},
        {"CLIENT_SECRET": ""},
        {"REDIRECT_URL": None},
        {"ISUER": "x"},
        {"ISSUER": "http://login.example"},
        {"ISSUER": "http://127.0.0.1.login.example"},
        {"ISSUER": "login.example"},
        {"ISSUER": "https://[::1"},
        {"ISSUER": "https://login.example?tenant=1"},
        {"ISSUER": "https://login.example#x"},
        {"ISSUER": "https://user@login.example"},
        {"REDIRECT_URL": "http://vault.example/callback"},
        {"REDIRECT_URL": "https://vault.example/callback#x"},
    ],
)
def test_a_provider_that_cannot_be_used_safely_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]
) -> None:
    set_oidc(monkeypatch, **changed)
    with pytest.raises(SettingsError, match="STRONGROOM_OIDC") as refused:
        load()
    assert "canary-secret" not in str(refused.value)


def test_a_provider_on_this_machine_may_be_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    set_oidc(monkeypatch, ISSUER="http://127.0.0.1:9000", REDIRECT_URL="http://localhost:8300/cb")
    assert load().oidc is not None
