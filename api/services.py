"""Everything a process works with, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from api.oidc.signin import ProviderSignIn
from api.settings import Settings
from keymgmt.provider import KeyProvider
from keymgmt.unwrapcache import UnwrapCache
from replication.failover import Failover
from replication.sitemarks import SiteMarks
from replication.sitewatch import SiteWatch
from replication.status import SiteStatuses
from replication.verify import Verify
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
from vault.access.oidc_sign_ins import OidcSignIns
from vault.access.people import People
from vault.access.principals import Principals
from vault.access.role_grants import RoleGrants
from vault.access.seal_upkeep import SealUpkeep
from vault.access.seals import Seals
from vault.access.sessions import Sessions
from vault.access.setup import Setup
from vault.access.sign_in import SignIn
from vault.accesslog.writer import AccessLog
from vault.classes import Classes
from vault.contents import Contents
from vault.database import Database
from vault.documents import Documents
from vault.holds import Holds
from vault.idempotency import IdempotencyKeys
from vault.incidents import Incidents
from vault.inventory import Inventory
from vault.jobrun import JobRunner
from vault.jobs import Jobs
from vault.journal import Journal
from vault.keks import Keks
from vault.keyexport import KeyExport
from vault.notices import Channel, Notices, Sender
from vault.objects.health import SiteHealth
from vault.objects.store import ObjectStore
from vault.orphans import Orphans
from vault.purge import Purge
from vault.recovery.epochs import RecoveryEpochs
from vault.recovery.keys import RecoveryKeys
from vault.rejoin import Rejoin
from vault.replicas import Replicas
from vault.shred import Epochs
from vault.signing_keys import SigningKeys
from vault.siteepoch import SiteEpoch
from vault.sweep import Sweep
from vault.sweephold import SweepHolds
from vault.upload_rows import UploadRows
from vault.uploads import Uploads


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
    sessions: Sessions
    identities: Identities
    oidc_sign_ins: OidcSignIns
    provider_sign_in: ProviderSignIn | None
    sign_in: SignIn
    enrolments: Enrolments
    attempts: Attempts
    principals: Principals
    people: People
    departments: Departments
    role_grants: RoleGrants
    approvals: Approvals
    grants: Grants
    approval_upkeep: ApprovalUpkeep
    setup: Setup
    seals: Seals
    seal_upkeep: SealUpkeep
    findings: Findings
    explanations: Explanations
    conflicts: Conflicts
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
    notices: Notices
    senders: Mapping[Channel, Sender]
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
