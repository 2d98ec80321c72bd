"""From settings to the adapters that they ask for: database, keys, stores. Nothing else names them."""

from __future__ import annotations

import logging
import ssl
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from uuid import UUID

from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.mail import Mail
from api.oidc.provider import OidcProvider
from api.settings import (
    KmsKind,
    KmsRole,
    KmsSettings,
    NotifySettings,
    OidcSettings,
    Settings,
    SettingsError,
    SiteKind,
    SiteSettings,
    credentials_folder,
)
from api.webhook import Webhook
from keymgmt.errors import KeyServiceUnavailable
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.rootkey import CREDENTIAL_NAME, RootKey, create_root_key, load_root_key
from keymgmt.transit import TransitProvider
from keymgmt.transitsession import TransitSession
from migrations.run import upgrade
from vault.database import Database
from vault.identity import holds_documents
from vault.notices import Channel, Sender
from vault.objects.directory import DirectoryStore
from vault.objects.s3 import S3Store
from vault.objects.store import ObjectStore, StoreError, StoreMisconfigured

_log = logging.getLogger(__name__)


def service_url(settings: Settings, stack: ExitStack) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    urls: DatabaseUrls = stack.enter_context(EmbeddedPostgres(settings.home)).urls
    upgrade(urls.owner)
    return urls.service


def open_keys(
    settings: Settings, database: Database, vault_id: UUID, *, is_new: bool = False
) -> tuple[KeyProvider, KeyProvider]:
    """The keys for the service, and for its drills. All KEKs exist afterwards.

    Args:
        is_new: a keyring may be made although there are documents, which it cannot open.
    """
    if settings.kms.kind is KmsKind.TRANSIT:
        roles = settings.kms.roles
        keys = _open_transit(settings.kms, roles.service)
        drill_keys = _open_transit(settings.kms, roles.drill) if roles.drill else keys
    else:
        keys = drill_keys = _open_keyring(settings, database, vault_id, is_new=is_new)
    for purpose in Purpose:
        keys.create_key(purpose)
    return keys, drill_keys


def _open_transit(kms: KmsSettings, role: KmsRole | None) -> KeyProvider:
    assert kms.address is not None
    assert role is not None
    session = TransitSession(
        kms.address,
        role_id=role.role_id,
        secret_id=partial(_secret_id, role.secret_id_file),
        namespace=kms.namespace,
        ca_file=kms.ca_file,
    )
    return TransitProvider(session, mount=kms.mount, prefix=kms.key_prefix)


def _secret_id(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise KeyServiceUnavailable(
            f"the secret id's file cannot be read: {type(exc).__name__}; is it there, and ours?"
        ) from None


def _open_keyring(
    settings: Settings, database: Database, vault_id: UUID, *, is_new: bool
) -> KeyProvider:
    path = settings.home / "keys" / "keyring.json"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never made anew beside documents that only the lost one could open.
    is_first_start = not path.exists() and (is_new or not holds_documents(database.as_service()))
    root_key = _root_key(settings, vault_id, may_create=is_first_start and settings.is_embedded)
    if is_first_start:
        create_keyring(path, root_key)
    return LocalKeyring(path, root_key)


def _root_key(settings: Settings, vault_id: UUID, *, may_create: bool) -> RootKey:
    path = settings.kms.key_file or _default_key_file(vault_id)
    passphrase = settings.kms.passphrase.get_secret_value() if settings.kms.passphrase else None
    folder = credentials_folder()
    has_credential = folder is not None and (folder / CREDENTIAL_NAME).exists()
    if may_create and not has_credential and not path.exists():
        _log.warning("a root key was made at %s; without it no document opens: keep a copy", path)
        return create_root_key(path, data_folder=settings.home, passphrase=passphrase)
    return load_root_key(
        path, data_folder=settings.home, passphrase=passphrase, credentials_folder=folder
    )


def _default_key_file(vault_id: UUID) -> Path:
    return Path.home() / ".local" / "share" / "strongroom" / str(vault_id) / "root.key"


def open_stores(settings: Settings, marked: set[str]) -> dict[str, ObjectStore]:
    """Both sites' stores, prepared where they answer: each site serves without the other.

    Raises: StoreMisconfigured: the local one.
    """
    stores = {
        site: _open_store(site, given, settings.home)
        for site, given in (("a", settings.sites.a), ("b", settings.sites.b))
    }
    for site, store in stores.items():
        try:
            _prepare(store, was_there=site in marked)
        except StoreError as exc:
            if isinstance(exc, StoreMisconfigured) and site == settings.local_site:
                raise
            _log.warning("a site cannot be used just now: %s", exc)
    return stores


def _prepare(store: ObjectStore, *, was_there: bool) -> None:
    """A folder that vanished, say a disk that is not mounted, must not be taken for an empty one."""
    if was_there and isinstance(store, DirectoryStore):
        store.check()
    else:
        store.prepare()


def _open_store(site: str, given: SiteSettings, home: Path) -> ObjectStore:
    if given.kind is SiteKind.DIRECTORY:
        return DirectoryStore(site, given.path or home / f"site-{site}")
    if not (given.endpoint and given.bucket and given.access_key and given.secret_key):
        raise SettingsError(f"site {site} is not complete")
    return S3Store(
        site,
        endpoint=given.endpoint,
        bucket=given.bucket,
        access_key=given.access_key.get_secret_value(),
        secret_key=given.secret_key.get_secret_value(),
        region=given.region,
        tls=given.tls,
        ca_file=given.ca_file,
        object_lock=given.object_lock,
        first_byte_seconds=given.first_byte_seconds,
    )


def open_provider(oidc: OidcSettings | None) -> OidcProvider | None:
    """The provider at which people sign in; it is not asked yet. Raises: SettingsError."""
    return OidcProvider(oidc) if oidc is not None else None


def open_senders(notify: NotifySettings) -> dict[Channel, Sender]:
    """A sender for each channel that is set up. Raises: SettingsError: a CA file cannot be used."""
    senders: dict[Channel, Sender] = {}
    if notify.webhook is not None:
        given = notify.webhook
        secrets = [secret for secret in (given.secret, given.old_secret) if secret is not None]
        tls = _trusting(given.ca_file, "WEBHOOK")
        senders[Channel.WEBHOOK] = Webhook(given.url, secrets, tls=tls)
    if notify.smtp is not None:
        tls = _trusting(notify.smtp.ca_file, "SMTP")
        senders[Channel.SMTP] = Mail(notify.smtp, tls=tls, public_url=notify.public_url)
    return senders


def _trusting(ca_file: Path | None, channel: str) -> ssl.SSLContext:
    """The system's authorities, or those of the file instead."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise SettingsError(
            f"STRONGROOM_NOTIFY__{channel}__CA_FILE cannot be used: {type(exc).__name__}; is it there, "
            "and PEM?"
        ) from None
