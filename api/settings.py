"""Settings: the only reader of the environment.

`STRONGROOM_…` variables over an optional TOML file (`STRONGROOM_CONFIG`), nested by `__`. Any secret may
also be given as `…_FILE`, the path of a file that holds it. An unknown name stops the start: a mistyped
setting that is silently ignored is how vaults end up without encryption in transit.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Iterator, Mapping
from email.errors import HeaderParseError
from email.headerregistry import Address
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from typing_extensions import override

PREFIX: Final = "STRONGROOM_"
CLIENT_NAMES: Final = frozenset({"STRONGROOM_URL", "STRONGROOM_API_KEY"})
"""Read by the command line as a client, not by the service."""

TOOL_NAMES: Final = frozenset({"STRONGROOM_REQUIRE", "STRONGROOM_TEST_SERVERS"})
"""Read by the tests and the Makefile."""

MAX_PORT: Final = 65535
WEBHOOK_SECRET_BYTES: Final = (24, 64)
"""The least and the most that Standard Webhooks allows."""


class SettingsError(Exception):
    """The settings cannot be used; the message names each one and what to do."""


class SiteKind(StrEnum):
    """Where a site keeps its objects."""

    DIRECTORY = "directory"
    S3 = "s3"


class SiteSettings(BaseModel):
    """One site's object store.

    Attributes:
        object_lock: whether the bucket must be able to lock objects, for classes whose versions nobody can
            remove for a time; one that is missing is made so.
        first_byte_seconds: how long a read waits for an S3 site to begin its answer before the other site is
            asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: SiteKind = SiteKind.DIRECTORY
    path: Path | None = None
    endpoint: str | None = None
    bucket: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    region: str = "us-east-1"
    tls: bool = True
    ca_file: Path | None = None
    object_lock: bool = False
    first_byte_seconds: Annotated[float, Field(ge=0.1, le=300)] = 5.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = ("endpoint", "bucket", "access_key", "secret_key")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.kind is SiteKind.S3 and missing:
            raise ValueError(f"an s3 site also needs {', '.join(missing)}")
        if self.kind is SiteKind.DIRECTORY and self.object_lock:
            raise ValueError(
                "a folder cannot lock objects: leave object_lock out, or use an s3 site"
            )
        return self


class KmsKind(StrEnum):
    """Where key-encryption keys live."""

    LOCAL = "local"
    TRANSIT = "transit"


class KmsRole(BaseModel):
    """An AppRole of the KMS. The secret id is read from its file at each login."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    role_id: str
    secret_id_file: Path


class KmsRoles(BaseModel):
    """AppRoles by duty; a duty without one uses the service's."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    service: KmsRole | None = None
    reveal: KmsRole | None = None
    sequencer: KmsRole | None = None
    backup: KmsRole | None = None
    drill: KmsRole | None = None


class KmsSettings(BaseModel):
    """The key management.

    Attributes:
        key_file, passphrase: of the local keyring.
        address, mount, namespace, ca_file, roles: of Transit.
        key_prefix: of the KEKs' names in Transit, so that several vaults can share a mount.
        rotate_every_days: age at which the worker rotates the KEK `documents` and rewraps; None: never.
        retire_after_days: age of its newest version at which the worker destroys all others; None: never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: KmsKind = KmsKind.LOCAL
    key_file: Path | None = None
    passphrase: SecretStr | None = None
    address: str | None = None
    mount: str = "transit"
    namespace: str | None = None
    ca_file: Path | None = None
    key_prefix: str = "strongroom-"
    roles: KmsRoles = KmsRoles()
    rotate_every_days: Annotated[int | None, Field(ge=1, le=3650)] = None
    retire_after_days: Annotated[int | None, Field(ge=1, le=3650)] = None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.kind is KmsKind.LOCAL:
            return self
        if self.address is None or self.roles.service is None:
            raise ValueError("a transit KMS also needs address and roles.service")
        if not _is_private(self.address):
            raise ValueError("data keys would travel in the clear: write address as https://…")
        return self


def _split_at_commas(value: object) -> object:
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def _safe_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
        raise ValueError("is written https://…; http:// only on loopback")
    if not url.hostname or url.username is not None or url.password is not None or url.fragment:
        raise ValueError("names a host, without user, password or fragment")
    return value


def _webhook_secret(value: SecretStr) -> SecretStr:
    prefix, _, encoded = value.get_secret_value().partition("_")
    try:
        size = len(base64.b64decode(encoded, validate=True))
    except binascii.Error:
        size = 0
    if prefix != "whsec" or not WEBHOOK_SECRET_BYTES[0] <= size <= WEBHOOK_SECRET_BYTES[1]:
        raise ValueError("is whsec_ and then 24 to 64 random bytes in base64")
    return value


def _mail_address(value: str) -> str:
    try:
        address = Address(addr_spec=value.strip())
    except (HeaderParseError, ValueError, IndexError):
        raise ValueError("is written NAME@DOMAIN") from None
    if not (address.username and address.domain and value.isascii()):
        raise ValueError("is written NAME@DOMAIN, in ASCII")
    return address.addr_spec


_SafeUrl = Annotated[str, AfterValidator(_safe_url)]
_WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]
_MailAddress = Annotated[str, AfterValidator(_mail_address)]


class WebhookSettings(BaseModel):
    """Where notices are posted.

    Attributes:
        secret, old_secret: each signs; the old one while receivers are given the new one.
        ca_file: whose certificates are believed instead of the system's authorities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: _SafeUrl
    secret: _WebhookSecret
    old_secret: _WebhookSecret | None = None
    ca_file: Path | None = None


class MailTls(StrEnum):
    """How the way to the mail server is protected."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class SmtpSettings(BaseModel):
    """Who takes notices as mail, and for whom.

    Attributes:
        port: None: the usual one, 587 for `starttls`, 465 for `implicit`, 25 for `none`.
        ca_file: whose certificates are believed instead of the system's authorities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int | None, Field(ge=1, le=MAX_PORT)] = None
    tls: MailTls = MailTls.STARTTLS
    ca_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    sender: Annotated[_MailAddress, Field(validation_alias="from")]
    to: Annotated[
        tuple[_MailAddress, ...], NoDecode, BeforeValidator(_split_at_commas), Field(min_length=1)
    ]

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.tls is MailTls.NONE and not is_loopback(self.host):
            raise ValueError("mail would travel in the clear: tls is starttls or implicit")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password come together")
        return self


class NotifySettings(BaseModel):
    """How people and systems outside are told that something waits for them; nothing set: not at all.

    Attributes:
        public_url: under which people reach the service; stands in mails.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    webhook: WebhookSettings | None = None
    smtp: SmtpSettings | None = None
    public_url: _SafeUrl | None = None


class OidcSettings(BaseModel):
    """The OpenID provider at which people sign in.

    Attributes:
        issuer: exactly as the provider writes it, a slash at its end included.
        redirect_url: of ours, as registered at the provider.
        ca_file: of the authority that the provider's certificate is from; None: the system's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: Annotated[SecretStr, Field(min_length=1)]
    redirect_url: str
    ca_file: Path | None = None

    @field_validator("issuer", "redirect_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not _is_private(value):
            raise ValueError("sign-ins would travel in the clear: write it as https://…")
        url = urlsplit(value)
        if "?" in value or "#" in value or url.username is not None:
            raise ValueError("is an address without user, query and fragment")
        return value


class LogFormat(StrEnum):
    """How log lines look."""

    HUMAN = "human"
    JSON = "json"


class Sites(BaseModel):
    """The two sites; one that is not set is a folder below `home`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    a: SiteSettings = SiteSettings()
    b: SiteSettings = SiteSettings()


class DatabaseStandby(StrEnum):
    """Who sees to a second copy of an external database."""

    CHECKED = "checked"
    MANAGED = "managed"


class ScrubSettings(BaseModel):
    """How often the sites are compared with the database, and how fast.

    Attributes:
        period_days: within which every copy is read back and hashed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    period_days: Annotated[int, Field(ge=1, le=3660)] = 30
    every_hours: Annotated[int, Field(ge=1, le=720)] = 24
    objects_per_second: Annotated[int, Field(ge=1)] = 20_000
    mib_per_second: Annotated[int, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.every_hours > self.period_days * 24:
            raise ValueError("every_hours must not be longer than the period")
        return self


class Settings(BaseSettings):
    """Everything that can be set. Frozen; read once, at the start.

    Attributes:
        home: where the embedded parts keep their files.
        listen: ``HOST:PORT``.
        database_url: the service's role; None: the embedded PostgreSQL.
        database_owner_url: the owner's role, for `migrate` only.
        database_standby: `checked`: classes with the durability `sync` need PostgreSQL's own synchronous
            standby; `managed`: whoever runs the database keeps a second copy that it does not show.
        database_connections: most connections one process holds.
        oidc: None: nobody signs in at a provider.
        trusted_proxies: addresses or networks whose forwarded addresses are believed.
        threads: requests worked on at a time.
        worker_metrics_listen: ``HOST:PORT`` at which a `worker` process shows its metrics; None: nowhere.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    home: Path = Path("var")
    listen: str = "127.0.0.1:8300"
    database_url: SecretStr | None = None
    database_owner_url: SecretStr | None = None
    database_standby: DatabaseStandby = DatabaseStandby.CHECKED
    database_connections: Annotated[int, Field(ge=4, le=500)] = 32
    sites: Sites = Sites()
    local_site: Literal["a", "b"] = "a"
    kms: KmsSettings = KmsSettings()
    oidc: OidcSettings | None = None
    scrub: ScrubSettings = ScrubSettings()
    notify: NotifySettings = NotifySettings()
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_at_commas)] = ()
    threads: Annotated[int, Field(ge=4, le=500)] = 40
    log_format: LogFormat = LogFormat.HUMAN
    worker_metrics_listen: str | None = None

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("listen", "worker_metrics_listen")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not _is_host_and_port(value):
            raise ValueError("is written HOST:PORT, for instance 127.0.0.1:8300")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file come together")
        plain = self.tls_cert_file is None
        if plain and not is_loopback(self.host) and not self.trusted_proxies:
            raise ValueError(
                "plain HTTP on other than loopback carries documents in the clear: set "
                "tls_cert_file and tls_key_file, or name the TLS proxy in trusted_proxies"
            )
        return self

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on; 0: any free one."""
        return int(self.listen.rpartition(":")[2])

    @property
    def is_embedded(self) -> bool:
        """Whether PostgreSQL is the embedded one, that is: not a production set-up."""
        return self.database_url is None

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the command line says, over the environment, over the file."""
        config = os.environ.get(f"{PREFIX}CONFIG")
        return (
            init_settings,
            _Environment(settings_cls),
            TomlConfigSettingsSource(settings_cls, config),
        )


class _Environment(EnvSettingsSource):
    """The environment, where `…_FILE` of a secret stands for the file's content."""

    @override
    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        for name in _secret_names(self.settings_cls, PREFIX.lower()):
            path = variables.pop(f"{name}_file", None)
            if path is not None:
                variables[name] = _content_of(path, name)
        return variables


def load(**given: Any) -> Settings:
    """The settings, `given` ones first.

    Raises:
        SettingsError: a name is unknown, a value does not fit, or the combination is unsafe.
    """
    _refuse_unknown_names()
    config = os.environ.get(f"{PREFIX}CONFIG")
    if config is not None and not Path(config).is_file():
        raise SettingsError("STRONGROOM_CONFIG names no file; correct the path, or leave it out")
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError("\n".join(_in_words(error) for error in exc.errors())) from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"STRONGROOM_CONFIG is not TOML: {exc}") from None


def client_url_and_key() -> tuple[str | None, str | None]:
    """STRONGROOM_URL and STRONGROOM_API_KEY, for the command line as a client."""
    return os.environ.get("STRONGROOM_URL"), os.environ.get("STRONGROOM_API_KEY")


def config_folder() -> Path:
    """Where programs keep what is a user's own (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CONFIG_HOME")
    # A relative path is to be ignored, says the specification.
    return Path(given) if given and Path(given).is_absolute() else Path.home() / ".config"


def credentials_folder() -> Path | None:
    """Where systemd puts credentials (systemd.exec(5), $CREDENTIALS_DIRECTORY)."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_private(address: str) -> bool:
    """Whether what is sent to this URL can be read by others on its way."""
    try:
        url = urlsplit(address)
    except ValueError:
        return False
    host = url.hostname or ""
    return bool(host) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(host)))


def _is_host_and_port(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= MAX_PORT


def _refuse_unknown_names() -> None:
    known = {*CLIENT_NAMES, *TOOL_NAMES, f"{PREFIX}CONFIG"}
    known |= {f"{name}_FILE".upper() for name in _secret_names(Settings, PREFIX.lower())}
    for name in sorted(os.environ):
        field = name.removeprefix(PREFIX).partition("__")[0].lower()
        if name.startswith(PREFIX) and name not in known and field not in Settings.model_fields:
            raise SettingsError(f"{name} is not a setting; docs/settings.md lists them")


def _secret_names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The variables, lower case, whose values are secrets."""
    for name, field in model.model_fields.items():
        if field.annotation in (SecretStr, SecretStr | None):
            yield f"{prefix}{name}"
        for inner in _models_in(field.annotation):
            yield from _secret_names(inner, f"{prefix}{name}__")


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a field may hold: its own, or those of a union."""
    for found in (annotation, *get_args(annotation)):
        if isinstance(found, type) and issubclass(found, BaseModel):
            yield found


def _content_of(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"{name.upper()}_FILE cannot be read: {type(exc).__name__}; is it there, and ours?"
        ) from None


def _in_words(error: Any) -> str:
    name = PREFIX + "__".join(str(part).upper() for part in error["loc"])
    return f"{name.rstrip('_')}: {error['msg'].removeprefix('Value error, ')}"
