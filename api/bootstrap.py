"""The composition root: settings in, services out, and no start that would be unsafe.

`adapters` makes what settings ask for, `wiring` the parts over it; nothing is global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import text

from api.adapters import open_keys, open_provider, open_senders, open_stores, service_url
from api.services import Services
from api.settings import Settings, SettingsError
from api.wiring import Executors, Given, Wiring
from keymgmt.provider import Purpose
from keymgmt.recoverykey import RecoveryPrivateKey
from migrations.run import is_current
from replication.sitemarks import MarkState, marked_sites
from vault.database import Database
from vault.identity import vault_id_of
from vault.keks import Keks
from vault.objects.health import SiteHealth
from vault.objects.store import StoreError
from vault.recovery.epochkeys import EpochKeys
from vault.recovery.rekey import Rekey
from vault.recovery.restore import Restore
from vault.upload_rows import UploadRows

PART_THREADS = 16
"""Threads that send and hash parts, for all uploads of a process together."""

LOOK_THREADS = 4
"""Threads that read copies back, for all scrubs and verifications of a process together."""


class UnsafeStart(Exception):
    """The service would run unsafely; the message says what to change."""


@contextmanager
def build(settings: Settings, *, adopt_authority: bool = False) -> Iterator[Services]:
    """The services, for as long as the block runs.

    Args:
        adopt_authority: seal all principals and API keys as they stand first.

    Raises:
        SealsLost, UnsafeStart, SettingsError: not with these settings.
        EmbeddedDatabaseError, DatabaseUnavailable, StoreError, KeyManagementError: not now.
    """
    with ExitStack() as stack:
        database = Database(
            service_url(settings, stack),
            connections=settings.database_connections,
            name=f"strongroom-{settings.local_site}",
        )
        stack.callback(database.dispose)
        _refuse_unsafe_database(database)
        vault_id = vault_id_of(database.as_shared())
        keys, drill_keys = open_keys(settings, database, vault_id)
        health = SiteHealth(open_stores(settings, marked_sites(database.as_shared())))
        executors = Executors(
            stack.enter_context(ThreadPoolExecutor(PART_THREADS, "part")),
            stack.enter_context(ThreadPoolExecutor(PART_THREADS, "peer-part")),
            stack.enter_context(ThreadPoolExecutor(LOOK_THREADS, "look")),
        )
        rows = UploadRows(database.as_shared(), settings.local_site)
        rows.start(alone=settings.is_embedded)
        stack.callback(rows.stop)
        given = Given(
            settings,
            vault_id,
            database,
            health,
            keys,
            drill_keys,
            executors,
            upload_rows=rows,
            senders=open_senders(settings.notify),
            provider=open_provider(settings.oidc),
        )
        services = Wiring(given).services()
        services.keks.reconcile()
        mark = partial(services.keks.rotate, None, Purpose.AUTHORITY)
        services.seal_upkeep.prepare(mark, adopt=adopt_authority)
        services.site_epoch.adopt()
        services.sites.sweep_holds.look()
        _refuse_foreign_sites(services)
        if settings.is_embedded:
            services.job_runner.take_over_all()
            services.journal.take_over_all()
        health.start()
        stack.callback(health.stop)
        yield services


@dataclass(frozen=True)
class Offline:
    """A copy of the database and one site, opened with the recovery key and without the KMS.

    Attributes:
        rekey: makes what brings the vault under the KMS of the settings, which must be a new one.
    """

    restore: Restore
    rekey: Callable[[], Rekey]


@contextmanager
def open_offline(
    settings: Settings, private: RecoveryPrivateKey, site: str | None
) -> Iterator[Offline]:
    """What recovers a vault, for as long as the block runs. Raises: as `build`."""
    with ExitStack() as stack:
        database = Database(service_url(settings, stack), connections=8)
        stack.callback(database.dispose)
        _refuse_unsafe_database(database)
        stores = open_stores(settings, marked_sites(database.as_shared()))
        chosen = site or settings.local_site
        if chosen not in stores:
            raise SettingsError(f"there is no such site; they are {' and '.join(sorted(stores))}")
        service = database.as_service()
        vault_id = vault_id_of(database.as_shared())
        restore = Restore(service, vault_id, stores[chosen], private)

        def rekey() -> Rekey:
            keys, _ = open_keys(settings, database, vault_id, is_new=True)
            keks, epoch_keys = Keks(service, keys, {}), EpochKeys(vault_id, keys, stores)
            return Rekey(service, restore, keys, keks, epoch_keys)

        yield Offline(restore, rekey)


def _refuse_foreign_sites(services: Services) -> None:
    """A site that is another's must not be filled with ours. One that is away is met later."""
    for site in services.stores:
        with suppress(StoreError):
            if services.sites.marks.look(site) is MarkState.FOREIGN:
                raise UnsafeStart(
                    f"site {site} bears the mark of another vault or site: correct the site's bucket "
                    "or path; if it is really meant, remove the object site/mark there"
                )


def _refuse_unsafe_database(database: Database) -> None:
    row = database.as_shared().execute(_SAFETY, {})[0]
    if row.is_superuser:
        raise UnsafeStart(
            "STRONGROOM_DATABASE_URL connects as a superuser, who may change the access log: use "
            "a login that is a member of the role strongroom_service"
        )
    if row.passes_rows:
        raise UnsafeStart(
            "STRONGROOM_DATABASE_URL connects as a login that row-level security does not bind: it has "
            "BYPASSRLS, or owns the tables, or is a member of a role that does; use one that is a member of "
            "the role strongroom_service and of nothing else"
        )
    if row.fsync != "on" or row.full_page_writes != "on":
        raise UnsafeStart(
            "PostgreSQL runs with fsync or full_page_writes off: what it acknowledges can be lost"
        )
    if not is_current(database.engine):
        raise UnsafeStart("the database's tables are of another version: run `strongroom migrate`")


_SAFETY = text(
    """
    SELECT current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
           EXISTS (
               SELECT FROM pg_roles
               WHERE (rolsuper OR rolbypassrls OR rolname = 'strongroom_owner'
                      OR oid IN (SELECT relowner FROM pg_class
                                 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')))
                 AND pg_has_role(current_user, oid, 'MEMBER')) AS passes_rows"""
)
