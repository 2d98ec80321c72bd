"""How the parts of a process hang together: each is made once, out of those that it needs.

Read it by theme; each property names one part and what that is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from uuid import UUID

from api import metrics
from api.oidc.provider import OidcProvider
from api.oidc.signin import ProviderSignIn
from api.services import Services, SiteServices
from api.settings import DatabaseStandby, ScrubSettings, Settings
from keymgmt.provider import KeyProvider, Purpose
from keymgmt.unwrapcache import UnwrapCache
from replication import failover
from replication.companions import Companions
from replication.failover import Failover
from replication.leavings import Leavings
from replication.reading import Reading
from replication.resync import Resync
from replication.scrub import Pace, Scrub
from replication.sitemarks import SiteMarks
from replication.sitewatch import RESYNC_OF, SiteWatch
from replication.status import SiteStatuses
from replication.verify import Verify
from vault import keyexport
from vault.access import api_keys, role_grants, ways_in
from vault.access.api_keys import ApiKeys
from vault.access.approval_upkeep import ApprovalUpkeep
from vault.access.approvals import Approvals
from vault.access.attempts import Attempts
from vault.access.conflicts import Conflicts
from vault.access.departments import Departments
from vault.access.enrolment import Enrolments
from vault.access.explain import Explanations
from vault.access.findings import Findings
from vault.access.grants import Grants
from vault.access.identities import Identities
from vault.access.local_users import LocalUsers
from vault.access.oidc_sign_ins import OidcSignIns
from vault.access.passwords import Passwords
from vault.access.people import People
from vault.access.policy import Action
from vault.access.principals import Principals
from vault.access.role_grants import RoleGrants
from vault.access.seal_keys import SealKeys
from vault.access.seal_upkeep import SealUpkeep
from vault.access.seals import Seals
from vault.access.sessions import Sessions
from vault.access.setup import Setup
from vault.access.sign_in import SignIn
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
from vault.incidents import Incidents
from vault.inventory import Inventory
from vault.jobrun import JobRunner, Work
from vault.jobs import STARTED_BY, JobKind, Jobs, refuse_undeclared_jobs
from vault.journal import Journal
from vault.keks import Keks
from vault.keydrill import KeyDrill
from vault.keyexport import KeyExport
from vault.notices import Channel, Notices, Sender
from vault.objects.health import SiteHealth
from vault.opening import DocumentKeys
from vault.orphans import Orphans
from vault.purge import Purge
from vault.recovery import keys as recovery_keys
from vault.recovery.blobs import RecoveryBlobs
from vault.recovery.epochkeys import EpochKeys
from vault.recovery.epochs import RecoveryEpochs
from vault.recovery.epochtable import EpochTable
from vault.recovery.keys import RecoveryKeys
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


@dataclass(frozen=True)
class Executors:
    """Threads for parts at the local site, for those at the other one, and for looks at stored copies."""

    local: ThreadPoolExecutor
    peer: ThreadPoolExecutor
    look: ThreadPoolExecutor


@dataclass(frozen=True)
class Given:
    """What the parts are made over: the adapters, and what belongs to this process."""

    settings: Settings
    vault_id: UUID
    database: Database
    health: SiteHealth
    keys: KeyProvider
    drill_keys: KeyProvider
    executors: Executors
    upload_rows: UploadRows
    senders: Mapping[Channel, Sender]
    provider: OidcProvider | None


class Wiring:
    """Makes the services of one process."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._settings = given.settings
        self._vault_id = given.vault_id
        self._database = given.database
        self._service = given.database.as_service()
        self._shared = given.database.as_shared()
        self._health = given.health
        self._stores = given.health.stores
        self._keys = given.keys

    def services(self) -> Services:
        """All of them."""
        return Services(
            settings=self._settings,
            vault_id=self._vault_id,
            database=self._database,
            stores=self._stores,
            health=self._health,
            site_epoch=self._epoch,
            incidents=self._incidents,
            keys=self._keys,
            access_log=self._access_log,
            api_keys=ApiKeys(self._database, self._seals, self._findings, self._grants),
            sessions=self._sessions,
            identities=self._identities,
            oidc_sign_ins=self._oidc_sign_ins,
            provider_sign_in=self._provider_sign_in(),
            sign_in=self._sign_in(),
            enrolments=self._enrolments(),
            attempts=self._attempts,
            principals=Principals(self._shared, self._seals),
            people=People(self._shared, self._seals),
            departments=Departments(self._shared),
            role_grants=RoleGrants(self._database, self._seals, self._grants),
            approvals=self._approvals(),
            grants=self._grants,
            approval_upkeep=ApprovalUpkeep(
                self._service, self._seals, self._findings, self._notices.announce
            ),
            setup=Setup(self._shared, self._seals),
            seals=self._seals,
            seal_upkeep=SealUpkeep(
                self._service, self._keys, self._seal_keys, self._seals, self._findings
            ),
            findings=self._findings,
            explanations=Explanations(self._service, self._seals),
            conflicts=Conflicts(self._shared, self._seals),
            classes=self._classes,
            documents=Documents(self._database, self._classes),
            upload_rows=self._given.upload_rows,
            uploads=self._uploads,
            replicas=self._replicas,
            contents=Contents(self._database, self._replicas, self._document_keys),
            holds=Holds(self._database),
            journal=self._journal,
            purge=self._purge,
            sweep=Sweep(self._service, self._stores),
            idempotency=IdempotencyKeys(self._database),
            jobs=self._jobs,
            job_runner=JobRunner(self._service, self._works()),
            keks=self._keks,
            unwrap_cache=self._unwrap_cache,
            key_export=KeyExport(self._database, self._document_keys, self._grants),
            signing_keys=self._signing_keys,
            epochs=Epochs(self._service),
            rejoin=self._rejoin(),
            recovery_keys=RecoveryKeys(self._service, self._grants),
            recovery_epochs=self._recovery_epochs,
            notices=self._notices,
            senders=self._given.senders,
            sites=self._site_services(),
        )

    # Authority

    @cached_property
    def _findings(self) -> Findings:
        return Findings(self._shared, metrics.SEAL_FAILURES.inc)

    @cached_property
    def _seal_keys(self) -> SealKeys:
        return SealKeys(self._shared, self._vault_id, self._keys)

    @cached_property
    def _seals(self) -> Seals:
        return Seals(self._vault_id, self._seal_keys, self._findings)

    @cached_property
    def _grants(self) -> Grants:
        return Grants(self._database, self._seals, self._notices.announce)

    def _approvals(self) -> Approvals:
        owners = {
            Action.KEY_EXPORT: keyexport.owned,
            Action.API_KEY_ISSUE: api_keys.owned_by_vault,
            Action.ROLE_GRANT: role_grants.owned_by_vault,
            Action.CREDENTIALS_RESET: ways_in.owned_by_vault,
            Action.SITE_FAIL_OVER: failover.owned,
            Action.KEY_REGISTER_RECOVERY: recovery_keys.owned,
        }
        return Approvals(self._database, self._seals, owners, self._notices.announce)

    # Signing in

    @cached_property
    def _access_log(self) -> AccessLog:
        return AccessLog(self._shared)

    @cached_property
    def _sessions(self) -> Sessions:
        return Sessions(self._shared, self._seals, self._findings)

    @cached_property
    def _identities(self) -> Identities:
        issuer = self._settings.oidc.issuer if self._settings.oidc else None
        return Identities(self._database, self._seals, self._grants, issuer)

    @cached_property
    def _oidc_sign_ins(self) -> OidcSignIns:
        return OidcSignIns(self._shared, self._seals, self._identities, self._sessions)

    def _provider_sign_in(self) -> ProviderSignIn | None:
        provider = self._given.provider
        if provider is None:
            return None
        return ProviderSignIn(provider, self._oidc_sign_ins, self._access_log)

    @cached_property
    def _local_users(self) -> LocalUsers:
        return LocalUsers(self._shared, self._vault_id, self._keys, self._seals, self._findings)

    @cached_property
    def _passwords(self) -> Passwords:
        return Passwords()

    @cached_property
    def _attempts(self) -> Attempts:
        return Attempts(self._shared)

    def _sign_in(self) -> SignIn:
        return SignIn(
            self._shared,
            self._seals,
            self._local_users,
            self._passwords,
            self._attempts,
            self._sessions,
        )

    def _enrolments(self) -> Enrolments:
        return Enrolments(
            self._database,
            self._seals,
            self._local_users,
            self._passwords,
            self._attempts,
            self._grants,
        )

    # Documents

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self._shared, self._statuses.without_object_lock)

    @cached_property
    def _uploads(self) -> Uploads:
        return Uploads(
            self._database,
            self._classes,
            self._given.upload_rows,
            self._sealing(),
            Commits(self._database, self._epoch),
            self._keks,
            self._document_keys,
        )

    def _sealing(self) -> Sealing:
        local = self._settings.local_site
        (peer,) = (site for site in self._stores if site != local)
        return Sealing(
            vault_id=self._vault_id,
            health=self._health,
            local_site=local,
            peer_site=peer,
            keys=self._keys,
            recovery=self._recovery_epochs,
            standby_streams=_standby_check(self._settings, self._database),
            executor=self._given.executors.local,
            peer_executor=self._given.executors.peer,
        )

    @cached_property
    def _replicas(self) -> Replicas:
        return Replicas(self._health, self._settings.local_site, self._incidents)

    @cached_property
    def _purge(self) -> Purge:
        return Purge(self._service, sorted(self._stores))

    # Keys

    @cached_property
    def _unwrap_cache(self) -> UnwrapCache:
        return UnwrapCache()

    @cached_property
    def _document_keys(self) -> DocumentKeys:
        return DocumentKeys(self._vault_id, self._service, self._keys, self._unwrap_cache)

    @cached_property
    def _keks(self) -> Keks:
        rewrite = CatalogueRewrite(
            self._service, self._catalogue_writer, self._entries, self._recovery_epochs
        )
        move = {
            Purpose.DOCUMENTS: rewrite.for_documents,
            Purpose.LOG: self._signing_keys.reseal,
            Purpose.AUTHORITY: self._move_authority,
            Purpose.BACKUPS: rewrite.for_backups,
        }
        return Keks(self._service, self._keys, move)

    def _move_authority(self) -> None:
        """What is wrapped under the KEK `authority`."""
        self._seal_keys.rewrap()
        self._local_users.rewrap()

    @cached_property
    def _signing_keys(self) -> SigningKeys:
        return SigningKeys(self._service, self._keys)

    @cached_property
    def _wrapped_keys(self) -> WrappedKeys:
        return WrappedKeys(self._service, self._vault_id)

    @cached_property
    def _rewrap(self) -> Rewrap:
        return Rewrap(self._keys, self._wrapped_keys)

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self._service)

    @cached_property
    def _catalogue_writer(self) -> CatalogueWriter:
        executor = self._given.executors.local
        return CatalogueWriter(self._vault_id, self._keys, self._stores, executor)

    def _shred(self) -> Shred:
        return Shred(
            database=self._service,
            vault_id=self._vault_id,
            keys=self._keys,
            keks=self._keks,
            wrapped_keys=self._wrapped_keys,
            rewrap=self._rewrap,
            recovery_epochs=self._recovery_epochs,
            recovery_sealing=self._recovery_sealing,
            entries=self._entries,
            catalogue=self._catalogue_writer,
            signing_keys=self._signing_keys,
            cache=self._unwrap_cache,
        )

    def _rejoin(self) -> Rejoin:
        catalogues = Catalogues(self._vault_id, self._stores)
        return Rejoin(
            self._service, self._keys, catalogues, self._entries, self._epoch_table, self._purge
        )

    # Recovery

    @cached_property
    def _epoch_table(self) -> EpochTable:
        return EpochTable(self._service)

    @cached_property
    def _recovery_epochs(self) -> RecoveryEpochs:
        epoch_keys = EpochKeys(self._vault_id, self._keys, self._stores)
        return RecoveryEpochs(self._epoch_table, epoch_keys)

    @cached_property
    def _recovery_sealing(self) -> RecoverySealing:
        blobs = RecoveryBlobs(self._service, self._vault_id)
        return RecoverySealing(self._service, self._keys, self._recovery_epochs, blobs)

    # Sites

    @cached_property
    def _epoch(self) -> SiteEpoch:
        return SiteEpoch(self._shared, self._settings.local_site)

    @cached_property
    def _incidents(self) -> Incidents:
        return Incidents(self._service)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._service, self._epoch)

    @cached_property
    def _inventory(self) -> Inventory:
        return Inventory(self._service)

    @cached_property
    def _marks(self) -> SiteMarks:
        return SiteMarks(self._service, self._vault_id, self._health)

    @cached_property
    def _companions(self) -> Companions:
        return Companions(self._service, self._health)

    @cached_property
    def _sweep_holds(self) -> SweepHolds:
        return SweepHolds(self._service)

    @cached_property
    def _reading(self) -> Reading:
        look = self._given.executors.look
        return Reading(self._health, self._inventory, self._incidents, look)

    @cached_property
    def _verify(self) -> Verify:
        return Verify(self._service, self._inventory, self._reading, sorted(self._stores))

    @cached_property
    def _pace(self) -> Pace:
        return _pace(self._settings.scrub)

    @cached_property
    def _statuses(self) -> SiteStatuses:
        return SiteStatuses(
            database=self._service,
            health=self._health,
            journal=self._journal,
            sweep_holds=self._sweep_holds,
            local_site=self._settings.local_site,
            period=self._pace.period,
        )

    def _scrub(self) -> Scrub:
        return Scrub(
            health=self._health,
            inventory=self._inventory,
            incidents=self._incidents,
            companions=self._companions,
            leavings=Leavings(self._service, self._health),
            reading=self._reading,
            pace=self._pace,
        )

    def _resync(self) -> Resync:
        return Resync(
            health=self._health,
            inventory=self._inventory,
            incidents=self._incidents,
            journal=self._journal,
            companions=self._companions,
            marks=self._marks,
            executor=self._given.executors.look,
        )

    def _watch(self) -> SiteWatch:
        return SiteWatch(
            health=self._health,
            marks=self._marks,
            incidents=self._incidents,
            jobs=self._jobs,
            scrub_every=self._pace.every,
        )

    def _site_services(self) -> SiteServices:
        return SiteServices(
            inventory=self._inventory,
            marks=self._marks,
            watch=self._watch(),
            verify=self._verify,
            failover=Failover(self._service, self._grants),
            sweep_holds=self._sweep_holds,
            orphans=Orphans(self._service, sorted(self._stores)),
            statuses=self._statuses,
        )

    # Notices

    @cached_property
    def _notices(self) -> Notices:
        return Notices(self._shared, self._given.senders)

    # Jobs

    @cached_property
    def _jobs(self) -> Jobs:
        return Jobs(self._service)

    def _works(self) -> dict[JobKind, Work]:
        """Raises: UndeclaredJob: a kind of job says not what starting it needs."""
        refuse_undeclared_jobs(JobKind, STARTED_BY)
        resync = self._resync()
        return {
            JobKind.SCRUB: self._scrub().run,
            JobKind.VERIFY: self._verify.run,
            **{kind: partial(resync.run, site) for site, kind in RESYNC_OF.items()},
            JobKind.REWRAP: self._rewrap.run,
            JobKind.DRILL: KeyDrill(self._given.drill_keys, self._wrapped_keys).run,
            JobKind.RECOVERY: self._recovery_sealing.run,
            JobKind.SHRED: self._shred().run,
        }


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
