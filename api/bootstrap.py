"""The composition root: settings in, services out. The only place that names concrete adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from api import metrics
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.settings import (
    DatabaseStandby,
    KmsKind,
    KmsRole,
    KmsSettings,
    ScrubSettings,
    Settings,
    SettingsError,
    SiteKind,
    SiteSettings,
    credentials_folder,
)
from keymgmt.errors import KeyServiceUnavailable
from keymgmt.local import LocalKeyring, create_keyring
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.recoverykey import RecoveryPrivateKey
from keymgmt.rootkey import CREDENTIAL_NAME, RootKey, create_root_key, load_root_key
from keymgmt.transit import TransitProvider
from keymgmt.transitsession import TransitSession
from keymgmt.unwrapcache import UnwrapCache
from migrations.run import is_current, upgrade
from replication.companions import Companions
from replication.failover import Failover
from replication.leavings import Leavings
from replication.reading import Reading
from replication.resync import Resync
from replication.scrub import Pace, Scrub
from replication.sitemarks import MarkState, SiteMarks, marked_sites
from replication.sitewatch import RESYNC_OF, SiteWatch
from replication.status import SiteStatuses
from replication.verify import Verify
from vault.access.api_keys import ApiKeys
from vault.access.explain import Explanations
from vault.access.findings import Findings
from vault.access.principals import Principals
from vault.access.seal_keys import SealKeys
from vault.access.seal_upkeep import SealUpkeep
from vault.access.seals import Seals
from vault.accesslog.writer import AccessLog
from vault.catalogue import Catalogues
from vault.catalogue_writer import CatalogueRewrite, CatalogueWriter
from vault.classes import Classes
from vault.commit import Commits
from vault.contents import Contents
from vault.database import Database
from vault.documents import Documents
from vault.entries import Entries
from vault.holds import Holds
from vault.idempotency import IdempotencyKeys
from vault.identity import holds_documents, vault_id_of
from vault.incidents import Incidents
from vault.inventory import Inventory
from vault.jobrun import JobRunner, Work
from vault.jobs import JobKind, Jobs
from vault.journal import Journal
from vault.keks import Keks
from vault.keydrill import KeyDrill
from vault.keyexport import KeyExport
from vault.objects.directory import DirectoryStore
from vault.objects.health import SiteHealth
from vault.objects.s3 import S3Store
from vault.objects.store import ObjectStore, StoreError, StoreMisconfigured
from vault.opening import DocumentKeys
from vault.orphans import Orphans
from vault.purge import Purge
from vault.recovery.blobs import RecoveryBlobs
from vault.recovery.epochkeys import EpochKeys
from vault.recovery.epochs import RecoveryEpochs
from vault.recovery.epochtable import EpochTable
from vault.recovery.keys import RecoveryKeys
from vault.recovery.rekey import Rekey
from vault.recovery.restore import Restore
from vault.recovery.sealing import RecoverySealing
from vault.rejoin import Rejoin
from vault.replicas import Replicas
from vault.rewrap import Rewrap
from vault.sealing import Sealing
from vault.shred import Epochs, Shred
from vault.signing_keys import SigningKeys
from vault.siteepoch import SiteEpoch
from vault.sweep import Sweep
from vault.sweephold import SweepHolds
from vault.upload_rows import UploadRows
from vault.uploads import Uploads
from vault.wrapped_keys import WrappedKeys

PART_THREADS = 16
"""Threads that send and hash parts, for all uploads of a process together."""

LOOK_THREADS = 4
"""Threads that read copies back, for all scrubs and verifications of a process together."""

_log = logging.getLogger(__name__)


class UnsafeStart(Exception):
    """The service would run unsafely; the message says what to change."""


@dataclass(frozen=True)
class Services:
    """Everything a process works with. Made by `build`, closed with it."""

    settings: Settings
    vault_id: UUID
    database: Database
    stores: Mapping[str, ObjectStore]
    health: SiteHealth
    site_epoch: SiteEpoch
    incidents: Incidents
    keys: KeyProvider
    access_log: AccessLog
    api_keys: ApiKeys
    principals: Principals
    seals: Seals
    seal_upkeep: SealUpkeep
    findings: Findings
    explanations: Explanations
    classes: Classes
    documents: Documents
    upload_rows: UploadRows
    uploads: Uploads
    replicas: Replicas
    contents: Contents
    holds: Holds
    journal: Journal
    purge: Purge
    sweep: Sweep
    idempotency: IdempotencyKeys
    jobs: Jobs
    job_runner: JobRunner
    keks: Keks
    unwrap_cache: UnwrapCache
    key_export: KeyExport
    signing_keys: SigningKeys
    epochs: Epochs
    rejoin: Rejoin
    recovery_keys: RecoveryKeys
    recovery_epochs: RecoveryEpochs
    sites: SiteServices

    @property
    def local_store(self) -> ObjectStore:
        """The store of the site this process serves."""
        return self.stores[self.settings.local_site]


@dataclass(frozen=True)
class SiteServices:
    """What sees to both sites holding the same."""

    inventory: Inventory
    marks: SiteMarks
    watch: SiteWatch
    verify: Verify
    failover: Failover
    sweep_holds: SweepHolds
    orphans: Orphans
    statuses: SiteStatuses


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
            _service_url(settings, stack),
            connections=settings.database_connections,
            name=f"strongroom-{settings.local_site}",
        )
        stack.callback(database.dispose)
        _refuse_unsafe_database(database)
        vault_id = vault_id_of(database.as_shared())
        keys, drill_keys = _open_keys(settings, database, vault_id)
        health = SiteHealth(_open_stores(settings, marked_sites(database.as_shared())))
        executors = _Executors(
            stack.enter_context(ThreadPoolExecutor(PART_THREADS, "part")),
            stack.enter_context(ThreadPoolExecutor(PART_THREADS, "peer-part")),
            stack.enter_context(ThreadPoolExecutor(LOOK_THREADS, "look")),
        )
        rows = UploadRows(database.as_shared(), settings.local_site)
        rows.start(alone=settings.is_embedded)
        stack.callback(rows.stop)
        services = _wire(settings, vault_id, database, health, keys, drill_keys, executors, rows)
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
class _Executors:
    """Threads for parts at the local site, for those at the other one, and for looks at stored copies."""

    local: ThreadPoolExecutor
    peer: ThreadPoolExecutor
    look: ThreadPoolExecutor


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
        database = Database(_service_url(settings, stack), connections=8)
        stack.callback(database.dispose)
        _refuse_unsafe_database(database)
        stores = _open_stores(settings, marked_sites(database.as_shared()))
        chosen = site or settings.local_site
        if chosen not in stores:
            raise SettingsError(f"there is no such site; they are {' and '.join(sorted(stores))}")
        service = database.as_service()
        vault_id = vault_id_of(database.as_shared())
        restore = Restore(service, vault_id, stores[chosen], private)

        def rekey() -> Rekey:
            keys, _ = _open_keys(settings, database, vault_id, is_new=True)
            keks, epoch_keys = Keks(service, keys, {}), EpochKeys(vault_id, keys, stores)
            return Rekey(service, restore, keys, keks, epoch_keys)

        yield Offline(restore, rekey)


def _wire(
    settings: Settings,
    vault_id: UUID,
    database: Database,
    health: SiteHealth,
    keys: KeyProvider,
    drill_keys: KeyProvider,
    executors: _Executors,
    rows: UploadRows,
) -> Services:
    stores = health.stores
    service, shared = database.as_service(), database.as_shared()
    (peer_site,) = (site for site in stores if site != settings.local_site)
    epoch = SiteEpoch(shared, settings.local_site)
    incidents = Incidents(service)
    epoch_table = EpochTable(service)
    recovery = RecoveryEpochs(epoch_table, EpochKeys(vault_id, keys, stores))
    sealing = Sealing(
        vault_id=vault_id,
        health=health,
        local_site=settings.local_site,
        peer_site=peer_site,
        keys=keys,
        recovery=recovery,
        standby_streams=_standby_check(settings, database),
        executor=executors.local,
        peer_executor=executors.peer,
    )
    commits = Commits(database, epoch)
    cache = UnwrapCache()
    replicas = Replicas(health, settings.local_site, incidents)
    document_keys = DocumentKeys(vault_id, service, keys, cache)
    purge = Purge(service, sorted(stores))
    entries = Entries(service)
    catalogues = Catalogues(vault_id, stores)
    writer = CatalogueWriter(vault_id, keys, stores, executors.local)
    rewrite = CatalogueRewrite(service, writer, entries, recovery)
    signing_keys = SigningKeys(service, keys)
    findings = Findings(shared, metrics.SEAL_FAILURES.inc)
    seal_keys = SealKeys(shared, vault_id, keys)
    seals = Seals(vault_id, seal_keys, findings)
    api_keys = ApiKeys(shared, seals, findings)
    move = {
        Purpose.DOCUMENTS: rewrite.for_documents,
        Purpose.LOG: signing_keys.reseal,
        Purpose.AUTHORITY: seal_keys.rewrap,
        Purpose.BACKUPS: rewrite.for_backups,
    }
    keks = Keks(service, keys, move)
    wrapped_keys = WrappedKeys(service, vault_id)
    rewrap = Rewrap(keys, wrapped_keys)
    recovery_sealing = RecoverySealing(service, keys, recovery, RecoveryBlobs(service, vault_id))
    journal, jobs = Journal(service, epoch), Jobs(service)
    inventory, marks = Inventory(service), SiteMarks(service, vault_id, health)
    companions, sweep_holds = Companions(service, health), SweepHolds(service)
    reading = Reading(health, inventory, incidents, executors.look)
    verify = Verify(service, inventory, reading, sorted(stores))
    pace = _pace(settings.scrub)
    statuses = SiteStatuses(
        database=service,
        health=health,
        journal=journal,
        sweep_holds=sweep_holds,
        local_site=settings.local_site,
        period=pace.period,
    )
    classes = Classes(shared, statuses.without_object_lock)
    scrub = Scrub(
        health=health,
        inventory=inventory,
        incidents=incidents,
        companions=companions,
        leavings=Leavings(service, health),
        reading=reading,
        pace=pace,
    )
    resync = Resync(
        health=health,
        inventory=inventory,
        incidents=incidents,
        journal=journal,
        companions=companions,
        marks=marks,
        executor=executors.look,
    )
    works: dict[JobKind, Work] = {
        JobKind.SCRUB: scrub.run,
        JobKind.VERIFY: verify.run,
        **{kind: partial(resync.run, site) for site, kind in RESYNC_OF.items()},
        JobKind.REWRAP: rewrap.run,
        JobKind.DRILL: KeyDrill(drill_keys, wrapped_keys).run,
        JobKind.RECOVERY: recovery_sealing.run,
        JobKind.SHRED: Shred(
            database=service,
            vault_id=vault_id,
            keys=keys,
            keks=keks,
            wrapped_keys=wrapped_keys,
            rewrap=rewrap,
            recovery_epochs=recovery,
            recovery_sealing=recovery_sealing,
            entries=entries,
            catalogue=writer,
            signing_keys=signing_keys,
            cache=cache,
        ).run,
    }
    return Services(
        settings=settings,
        vault_id=vault_id,
        database=database,
        stores=stores,
        health=health,
        site_epoch=epoch,
        incidents=incidents,
        keys=keys,
        access_log=AccessLog(shared),
        api_keys=api_keys,
        principals=Principals(shared, seals),
        seals=seals,
        seal_upkeep=SealUpkeep(shared, keys, seal_keys, seals, findings),
        findings=findings,
        explanations=Explanations(shared, seals),
        classes=classes,
        documents=Documents(database, classes),
        upload_rows=rows,
        uploads=Uploads(database, classes, rows, sealing, commits, keks, document_keys),
        replicas=replicas,
        contents=Contents(database, replicas, document_keys),
        holds=Holds(database),
        journal=journal,
        purge=purge,
        sweep=Sweep(service, stores),
        idempotency=IdempotencyKeys(database),
        jobs=jobs,
        job_runner=JobRunner(service, works),
        keks=keks,
        unwrap_cache=cache,
        key_export=KeyExport(database, document_keys),
        signing_keys=signing_keys,
        epochs=Epochs(service),
        rejoin=Rejoin(service, keys, catalogues, entries, epoch_table, purge),
        recovery_keys=RecoveryKeys(service),
        recovery_epochs=recovery,
        sites=SiteServices(
            inventory=inventory,
            marks=marks,
            watch=SiteWatch(
                health=health,
                marks=marks,
                incidents=incidents,
                jobs=jobs,
                scrub_every=pace.every,
            ),
            verify=verify,
            failover=Failover(service),
            sweep_holds=sweep_holds,
            orphans=Orphans(service, sorted(stores)),
            statuses=statuses,
        ),
    )


def _refuse_foreign_sites(services: Services) -> None:
    """A site that is another's must not be filled with ours. One that is away is met later."""
    for site in services.stores:
        with suppress(StoreError):
            if services.sites.marks.look(site) is MarkState.FOREIGN:
                raise UnsafeStart(
                    f"site {site} bears the mark of another vault or site: correct the site's bucket "
                    "or path; if it is really meant, remove the object site/mark there"
                )


def _standby_check(settings: Settings, database: Database) -> Callable[[], bool] | None:
    """For `sync` uploads. The embedded database is one, and says so."""
    if settings.is_embedded or settings.database_standby is DatabaseStandby.MANAGED:
        return None

    def streams() -> bool:
        standby = database.standby()
        return standby.configured and standby.streaming

    return streams


def _pace(given: ScrubSettings) -> Pace:
    return Pace(
        period=timedelta(days=given.period_days),
        every=timedelta(hours=given.every_hours),
        objects_per_second=given.objects_per_second,
        bytes_per_second=given.mib_per_second * 2**20,
    )


def _service_url(settings: Settings, stack: ExitStack) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    urls: DatabaseUrls = stack.enter_context(EmbeddedPostgres(settings.home)).urls
    upgrade(urls.owner)
    return urls.service


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


def _open_keys(
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


def _open_stores(settings: Settings, marked: set[str]) -> dict[str, ObjectStore]:
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
