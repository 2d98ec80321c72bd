"""/v1/keys and /v1/jobs: KEKs and their life, shred epochs, and the long work on them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.keyshapes import (
    EpochShape,
    ExportedKeyShape,
    JobShape,
    KekShape,
    NewRecoveryKeyShape,
    PublicKeysShape,
    RecoveryKeyShape,
    ReleasedVersionShape,
    SealKeyShape,
)
from api.routers.paging import PageSize, PageToken
from api.shapes import PageShape
from keymgmt.provider import Purpose
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.jobs import JobKind
from vault.model import Page
from vault.paging import PageRequest

router = APIRouter(prefix="/v1", tags=["keys"])

Lister = Annotated[Actor, allowed_to(Action.KEY_LIST)]
Rotator = Annotated[Actor, allowed_to(Action.KEY_ROTATE)]
Rewrapper = Annotated[Actor, allowed_to(Action.KEY_REWRAP)]
Retirer = Annotated[Actor, allowed_to(Action.KEY_RETIRE)]
Shredder = Annotated[Actor, allowed_to(Action.KEY_SHRED)]
Driller = Annotated[Actor, allowed_to(Action.KEY_DRILL)]
Registrar = Annotated[Actor, allowed_to(Action.KEY_REGISTER_RECOVERY)]
Exporter = Annotated[Actor, allowed_to(Action.KEY_EXPORT)]
JobLister = Annotated[Actor, allowed_to(Action.JOB_LIST)]
JobStopper = Annotated[Actor, allowed_to(Action.JOB_STOP)]


@router.get("/keys")
def list_keks(services: ServicesOf, actor: Lister) -> PageShape[KekShape]:
    """The KEKs, one for each purpose; always a single page."""
    return PageShape[KekShape].of(Page(tuple(services.keks.list(actor)), None), KekShape.of)


@router.get("/keys/public")
def list_public_keys(services: ServicesOf) -> PublicKeysShape:
    """The public halves of all signing keys, as a JWK Set (RFC 7517, RFC 8037). Needs no API key."""
    return PublicKeysShape.of(services.signing_keys.published())


@router.post("/keys/signing/rotate", status_code=201)
def rotate_signing_key(services: ServicesOf, actor: Rotator) -> PublicKeysShape:
    """Sign with a new key from now on; the earlier ones stay published."""
    services.signing_keys.rotate(actor)
    return PublicKeysShape.of(services.signing_keys.published())


@router.post("/keys/seal/rotate", status_code=201)
def rotate_seal_key(services: ServicesOf, actor: Rotator) -> SealKeyShape:
    """Seal principals and API keys with a new key; those that bear their seals are sealed anew."""
    return SealKeyShape(id=services.seal_upkeep.rotate(actor))


@router.get("/keys/recovery")
def list_recovery_keys(services: ServicesOf, actor: Lister) -> PageShape[RecoveryKeyShape]:
    """The registered recovery keys, the one that counts first; always a single page."""
    found = tuple(services.recovery_keys.list(actor))
    return PageShape[RecoveryKeyShape].of(Page(found, None), RecoveryKeyShape.of)


@router.post("/keys/recovery", status_code=202)
def register_recovery_key(
    services: ServicesOf, actor: Registrar, new: NewRecoveryKeyShape
) -> JobShape:
    """Seal every data key to this key as well, from now on, and by a job those that are stored."""
    return JobShape.of(services.recovery_keys.register(actor, new.public_key))


@router.get("/keys/epochs")
def list_epochs(
    services: ServicesOf, actor: Lister, page_size: PageSize = 100, page_token: PageToken = None
) -> PageShape[EpochShape]:
    """Shred epochs with their signed certificates, newest first."""
    page = services.epochs.list(actor, PageRequest(page_size, page_token))
    return PageShape[EpochShape].of(page, EpochShape.of)


@router.get("/keys/epochs/next")
def list_released_versions(
    services: ServicesOf, actor: Lister, page_size: PageSize = 100, page_token: PageToken = None
) -> PageShape[ReleasedVersionShape]:
    """What the next epoch would shred: versions that were purged, newest first."""
    page = services.epochs.waiting(actor, PageRequest(page_size, page_token))
    return PageShape[ReleasedVersionShape].of(page, ReleasedVersionShape.of)


@router.post("/keys/epochs", status_code=202)
def shred(services: ServicesOf, actor: Shredder) -> JobShape:
    """Begin a shred epoch: afterwards no copy of a wrapped key from before opens anything."""
    return JobShape.of(services.jobs.start(actor, JobKind.SHRED))


@router.post("/keys/drill", status_code=202)
def drill(services: ServicesOf, actor: Driller) -> JobShape:
    """Begin a key fire-drill: every data key is opened once and held to its commitment."""
    return JobShape.of(services.jobs.start(actor, JobKind.DRILL))


@router.post("/keys/{purpose}/rotate", status_code=201)
def rotate_kek(services: ServicesOf, actor: Rotator, purpose: Purpose) -> KekShape:
    """Add a version to a KEK; it wraps from now on."""
    services.keks.rotate(actor, purpose)
    return KekShape.of(services.keks.status(purpose))


@router.post("/keys/documents/rewrap", status_code=202)
def rewrap(services: ServicesOf, actor: Rewrapper) -> JobShape:
    """Begin to move every data key under the newest version; no object is touched."""
    return JobShape.of(services.jobs.start(actor, JobKind.REWRAP))


@router.post("/keys/{purpose}/retire")
def retire_kek(services: ServicesOf, actor: Retirer, purpose: Purpose) -> KekShape:
    """Destroy every version but the newest, for good; refused while documents are wrapped under one."""
    services.keks.retire(actor, purpose)
    return KekShape.of(services.keks.status(purpose))


@router.post("/documents/{document_id}/versions/{number}/export-key")
def export_key(
    services: ServicesOf, actor: Exporter, document_id: UUID, number: int
) -> ExportedKeyShape:
    """The data key of one version as a Tink keyset, with which its object opens without Strongroom."""
    return ExportedKeyShape.of(services.key_export.run(actor, document_id, number))


@router.get("/jobs")
def list_jobs(
    services: ServicesOf, actor: JobLister, page_size: PageSize = 100, page_token: PageToken = None
) -> PageShape[JobShape]:
    """Jobs, newest first."""
    return PageShape[JobShape].of(
        services.jobs.list(actor, PageRequest(page_size, page_token)), JobShape.of
    )


@router.get("/jobs/{job_id}")
def view_job(services: ServicesOf, actor: JobLister, job_id: UUID) -> JobShape:
    """One job: how far it is, and what came of it."""
    return JobShape.of(services.jobs.view(actor, job_id))


@router.post("/jobs/{job_id}/stop")
def stop_job(services: ServicesOf, actor: JobStopper, job_id: UUID) -> JobShape:
    """Have a job end at its next step; what it did is kept."""
    return JobShape.of(services.jobs.stop(actor, job_id))


@router.post("/jobs/{job_id}/resume")
def resume_job(services: ServicesOf, actor: JobStopper, job_id: UUID) -> JobShape:
    """Let a stopped or failed job go on from where it was."""
    return JobShape.of(services.jobs.resume(actor, job_id))
