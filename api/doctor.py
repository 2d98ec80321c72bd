"""Doctor: every setting and dependency looked at, each finding with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import text
from typing_extensions import override

from api import health
from api.bootstrap import UnsafeStart, build
from api.embedded import EmbeddedDatabaseError
from api.home import HomeInUse, lock_home
from api.services import Services
from api.settings import KmsKind, Settings, SettingsError, is_loopback
from keymgmt.errors import KeyManagementError
from keymgmt.provider import KeyProvider, Purpose
from replication.status import Status
from vault.database import Database
from vault.errors import VaultError
from vault.objects.store import StoreError
from vault.recovery.epochs import RecoveryEpochs
from vault.tables import SHARED


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        ok: False where something has to be done.
    """

    about: str
    ok: bool
    words: str

    @override
    def __str__(self) -> str:
        return f"{'ok   ' if self.ok else 'WRONG'}  {self.about}: {self.words}"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


_REMEDY: Final = {
    "DatabaseUnavailable": "start PostgreSQL, or correct STRONGROOM_DATABASE_URL",
    "NotReplicated": "bring PostgreSQL's standby back (docs/production.md); until then nothing is taken",
    "fenced": "send callers to the other site, or let this one serve again: strongroom site admit",
    "StoreUnavailable": "start the store, make room on it, or correct the site's endpoint or path",
    "StoreMisconfigured": "correct the site's bucket, object_lock, access_key and secret_key",
    "KeyServiceUnavailable": "bring the KMS, or the keyring file, back; unseal the KMS",
    "KeyAccessDenied": "grant what docs/policies/service.hcl has",
}

_FORBIDDEN_GRANTS: Final = text(
    """
    SELECT table_name, privilege_type FROM information_schema.role_table_grants
    WHERE grantee IN ('strongroom_service', current_user) AND table_schema = 'public'
      AND (privilege_type IN ('TRUNCATE', 'TRIGGER', 'REFERENCES')
           OR table_name = 'access_events' AND privilege_type IN ('UPDATE', 'DELETE'))"""
)


_OPEN = text(
    """
    SELECT relname AS name FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
      AND (relkind IN ('r', 'p') AND NOT relname = ANY(:shared)
               AND NOT (relrowsecurity AND relforcerowsecurity)
           OR relkind = 'v' AND NOT 'security_invoker=true' = ANY(coalesce(reloptions, '{}'))
           OR relkind = 'm')
    ORDER BY relname"""
)
"""A view reads with its owner's rights unless it says otherwise, a materialised one in any case."""

_SEARCHES_BY_INDEX = text(
    """
    SELECT proleakproof AS trusted FROM pg_proc
    WHERE oid = 'pg_catalog.texticlike(text, text)'::regprocedure"""
)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a thing that cannot be reached is a finding, not an end."""
    findings = [_transport(settings)]
    try:
        with lock_home(settings.home), build(settings) as services:
            findings += _examine_running(services)
    except HomeInUse as exc:
        findings.append(Finding("home", ok=False, words=f"{exc}; then ask /readyz of that process"))
    except (
        SettingsError,
        UnsafeStart,
        EmbeddedDatabaseError,
        VaultError,
        StoreError,
        KeyManagementError,
    ) as exc:
        findings.append(Finding("start", ok=False, words=_with_remedy(exc)))
    return findings


def _examine_running(services: Services) -> Iterator[Finding]:
    for check in health.check(services):
        words = (
            "answers" if check.ok else f"{check.state}: {_REMEDY.get(check.state, 'see the log')}"
        )
        yield Finding(check.name, check.ok, words)
    yield _grants(services)
    yield _second_wall(services)
    if services.settings.kms.kind is KmsKind.TRANSIT:
        yield _kms_policy(services.keys)
        yield _kms_roles(services.settings)
    for site, store in services.stores.items():
        yield _capabilities(site, store.probe)
    yield from _sites(services.sites.statuses.current())
    yield _object_lock(services.classes.locking(), services.sites.statuses.without_object_lock())
    yield _recovery(services.recovery_epochs)
    if services.settings.is_embedded:
        words = (
            "embedded: one copy; a `sync` document survives the loss of either object folder, not that "
            "of the database: back up the home folder"
        )
        yield Finding("database", ok=True, words=words)
    else:
        yield _standby(services.database)


def _sites(status: Status) -> Iterator[Finding]:
    for site in status.sites:
        words = (
            f"epoch {site.epoch} of {status.epoch}, {'fenced' if site.is_fenced else 'may write'}"
        )
        if site.parked:
            words += f"; {site.parked} parked: see `site incidents`, then `site retry-parked`"
        yield Finding(f"site-{site.name}-epoch", ok=not site.parked, words=words)
    if status.sweep_hold is None:
        yield Finding("sweep", ok=True, words="runs")
    else:
        words = f"held ({status.sweep_hold.why}): see docs/sites.md, then `site confirm-sweep`"
        yield Finding("sweep", ok=False, words=words)


def _object_lock(classes: list[str], lacking: list[str]) -> Finding:
    if not classes:
        return Finding("object-lock", ok=True, words="no class asks for it")
    if lacking:
        words = (
            f"site {' and site '.join(lacking)} cannot lock objects, or is away; {', '.join(classes)} "
            "asks for it: set object_lock and see docs/sites.md"
        )
        return Finding("object-lock", ok=False, words=words)
    return Finding(
        "object-lock", ok=True, words=f"both sites lock the versions of {len(classes)} classes"
    )


def _transport(settings: Settings) -> Finding:
    if settings.tls_cert_file is not None:
        return Finding("transport", ok=True, words="TLS")
    if is_loopback(settings.host):
        return Finding("transport", ok=True, words="plain HTTP, reachable from this machine only")
    return Finding("transport", ok=True, words="plain HTTP behind the trusted proxies named")


def _grants(services: Services) -> Finding:
    rows = services.database.as_shared().execute(_FORBIDDEN_GRANTS, {})
    if not rows:
        return Finding(
            "grants", ok=True, words="the service may not alter, truncate or edit events"
        )
    found = ", ".join(f"{row.privilege_type} on {row.table_name}" for row in rows)
    return Finding("grants", ok=False, words=f"revoke {found} from the service's role")


def _second_wall(services: Services) -> Finding:
    rows = services.database.as_shared().execute(_OPEN, {"shared": list(SHARED)})
    if rows:
        found = ", ".join(row.name for row in rows)
        words = f"{found}: no row-level security, or a view without security_invoker"
        return Finding("second-wall", ok=False, words=words)
    words = "every table of a department has row-level security"
    if not services.database.as_shared().execute(_SEARCHES_BY_INDEX, {})[0].trusted:
        words += "; searches by name use no index: have a superuser run migrations/roles.sql"
    return Finding("second-wall", ok=True, words=words)


def _standby(database: Database) -> Finding:
    try:
        standby = database.standby()
    except VaultError as exc:
        return Finding("standby", ok=False, words=_with_remedy(exc))
    if not standby.configured:
        words = (
            "PostgreSQL has no synchronous standby: what was acknowledged is lost with its server"
        )
        return Finding("standby", ok=True, words=words)
    if not standby.streaming:
        words = f"the synchronous standby is not connected; {_REMEDY['NotReplicated']}"
        return Finding("standby", ok=False, words=words)
    return Finding("standby", ok=True, words="connected; each commit waits for it")


def _kms_policy(keys: KeyProvider) -> Finding:
    try:
        missing = keys.missing_permissions(list(Purpose))
    except KeyManagementError as exc:
        return Finding("kms-policy", ok=False, words=_with_remedy(exc))
    if missing:
        return Finding("kms-policy", ok=False, words=f"the policy lacks {', '.join(missing)}")
    return Finding("kms-policy", ok=True, words="grants all that the service does")


def _kms_roles(settings: Settings) -> Finding:
    roles = settings.kms.roles
    shared = [duty for duty in type(roles).model_fields if getattr(roles, duty) is None]
    words = (
        f"the service's role serves for {', '.join(shared)} too"
        if shared
        else "each duty has its own"
    )
    unused = [duty for duty in ("reveal", "sequencer", "backup") if getattr(roles, duty)]
    if unused:
        words += f"; nothing uses {', '.join(unused)} yet"
    return Finding("kms-roles", ok=True, words=words)


def _recovery(epochs: RecoveryEpochs) -> Finding:
    try:
        if epochs.newest() is None:
            words = "no recovery key: if the KMS is lost, so are the documents (docs/recovery.md)"
            return Finding("recovery", ok=True, words=words)
        missing = epochs.missing_at()
    except StoreError as exc:
        return Finding("recovery", ok=False, words=_with_remedy(exc))
    if missing:
        words = f"site {' and '.join(missing)} lacks the epoch key: register the recovery key again"
        return Finding("recovery", ok=False, words=words)
    return Finding("recovery", ok=True, words="every site has the epoch key")


def _capabilities(site: str, probe: Callable[[], Any]) -> Finding:
    try:
        found = asdict(probe())
    except StoreError as exc:
        return Finding(f"site-{site}", ok=False, words=_with_remedy(exc))
    offered = ", ".join(name for name, there in found.items() if there) or "plain S3 only"
    return Finding(f"site-{site}", ok=True, words=f"offers {offered}")


def _with_remedy(exc: Exception) -> str:
    remedy = _REMEDY.get(type(exc).__name__)
    return f"{exc}; {remedy}" if remedy else str(exc)
