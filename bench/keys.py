"""Work on many keys at a real Vault, beside the bare calls that it cannot do without."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final, Self
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, text

from api.bootstrap import build
from api.embedded import DatabaseUrls
from api.services import Services
from api.settings import KmsKind, KmsRole, KmsRoles, KmsSettings, Settings, Sites, SiteSettings
from bench import payload
from bench.plan import Plan
from bench.result import Result, at_most
from bench.world import MeasuredService, World
from keymgmt.binding import associated_data
from keymgmt.commitment import commit
from keymgmt.datakey import DataKey
from keymgmt.provider import Purpose
from keymgmt.transitsession import Body, TransitSession
from tests.servers.kms import VaultServer
from tests.servers.require import built
from vault.jobs import JobKind
from vault.wrapped_keys import WrappedKeys

PREFIX: Final = "strongroom-bench-"
BARE_BATCH: Final = 1000
"""Items a bare call carries: what the KMS does best with."""

SAMPLES: Final = 300
CLIENTS: Final = 8


def run(world: World, plan: Plan) -> Iterator[Result]:
    """Rewrap, drill and shred `plan.keys` keys; then what the KMS costs an upload and a read."""
    database = world.database()
    with (
        vault_server(world.folder) as vault,
        key_services(database, vault, world.folder) as services,
        owner_engine(database.owner) as owner,
    ):
        session = vault.session("service")
        fill(services.vault_id, PREFIX, owner, session, plan.keys)
        yield from _rewraps(services, session, plan)
        yield from _round_trips(services, session)
        yield _uploads_beside_a_rewrap(world, vault, plan)


def _rewraps(services: Services, session: TransitSession, plan: Plan) -> Iterator[Result]:
    rewraps, drills, epochs = [], [], []
    for _ in range(plan.rounds):
        services.keks.rotate(None, Purpose.DOCUMENTS)
        bare = _bare_seconds(services, session, "rewrap")
        rewraps.append((bare, job_seconds(services, JobKind.REWRAP)))
        bare = _bare_seconds(services, session, "decrypt")
        drills.append((bare, job_seconds(services, JobKind.DRILL)))
        epochs.append((rewraps[-1][1], job_seconds(services, JobKind.SHRED)))
    count, bare_calls = f"{plan.keys:,} data keys", f"floor: bare calls of {BARE_BATCH}"
    yield _slower(f"rewrap of {count}; {bare_calls}", rewraps, 4)
    yield _slower(f"drill over {count}; {bare_calls}", drills, 3)
    yield _slower(f"shred epoch over {count}; floor: a rewrap of them", epochs, 1.5)


def _slower(what: str, taken: list[tuple[float, float]], most: float) -> Result:
    """How many times as long ours takes, of (floor, ours) in seconds."""
    floor, ours = zip(*taken, strict=True)
    return Result.of_rounds(what, "s", floor=floor, ours=ours, target=at_most(most))


def _round_trips(services: Services, session: TransitSession) -> Iterator[Result]:
    """A wrap costs one round trip; a cached unwrap costs none."""
    path = f"transit/datakey/plaintext/{PREFIX}{Purpose.DOCUMENTS}"
    body = Body(context=_encoded(b"context"), bits=256)
    stored = next(iter(_wrapped_keys(services).batches()))[0]

    def unwrap() -> None:
        services.unwrap_cache.unwrap(
            services.keys,
            Purpose.DOCUMENTS,
            stored.bound.context,
            stored.bound.wrapped,
            object_format=1,
            commitment=stored.commitment,
        )

    bare = _milliseconds(lambda: session.call("post", path, body))
    made = _milliseconds(lambda: services.keys.generate_data_key(Purpose.DOCUMENTS, b"context"))
    unwrap()
    read = _milliseconds(unwrap)
    yield _slower_ms("a data key for an upload; floor: the bare call", bare, made, 1.2)
    yield _slower_ms("a cached data key for a read; floor: the bare call", bare, read, 0.05)


def _uploads_beside_a_rewrap(world: World, vault: VaultServer, plan: Plan) -> Result:
    """How long the slowest uploads of eight clients take, alone and while all keys are rewrapped."""
    prefix = "strongroom-beside-"
    with world.service(worker=True, **_kms_environment(world.folder, vault, prefix)) as service:
        with service.owner.connect() as connection:
            vault_id = connection.execute(text("SELECT vault_id FROM vault_identity")).scalar_one()
        fill(vault_id, prefix, service.owner, vault.session("service"), plan.keys)
        _slowest(service, 1.0)
        alone = _slowest(service, 2 * plan.small_seconds)
        with service.client(service.process.admin_key) as admin:
            admin.post("/v1/keys/documents/rotate", {})
            job = admin.post("/v1/keys/documents/rewrap", {})
            beside = _slowest(service, 2 * plan.small_seconds)
        # Another connection: the service has closed the first one, which was idle for too long.
        with service.client(service.process.admin_key) as admin:
            seen = admin.get(f"/v1/jobs/{job['id']}")
    assert seen["done"] > 0, seen
    what = f"slowest upload in a hundred, 8 clients, beside a rewrap of {plan.keys:,}; floor: alone"
    return _slower_ms(what, alone, beside, 2)


def _slowest(service: MeasuredService, seconds: float) -> float:
    """The 99th percentile of uploads of 16 KiB by eight clients, in milliseconds."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        sending = [pool.submit(_timed_uploads, service, seconds) for _ in range(CLIENTS)]
        taken = [each for future in sending for each in future.result()]
    return quantiles(taken, n=100)[98]


def _timed_uploads(service: MeasuredService, seconds: float) -> list[float]:
    body, taken, deadline = payload.pdf(), [], time.perf_counter() + seconds
    with service.client() as client:
        while (began := time.perf_counter()) < deadline:
            client.upload(body)
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def _kms_environment(folder: Path, vault: VaultServer, prefix: str) -> dict[str, str]:
    role_id, secret_id = vault.role("service")
    secret_id_file = folder / "secret-id-of-a-process"
    secret_id_file.write_text(secret_id)
    return {
        "STRONGROOM_KMS__KIND": "transit",
        "STRONGROOM_KMS__ADDRESS": vault.address,
        "STRONGROOM_KMS__KEY_PREFIX": prefix,
        "STRONGROOM_KMS__ROLES__SERVICE__ROLE_ID": role_id,
        "STRONGROOM_KMS__ROLES__SERVICE__SECRET_ID_FILE": str(secret_id_file),
    }


def _slower_ms(what: str, floor: float, ours: float, most: float) -> Result:
    return Result(what, "ms", floor, ours, (ours / floor,), at_most(most))


def _milliseconds(act: Callable[[], object]) -> float:
    taken = []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        act()
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


def job_seconds(services: Services, kind: JobKind) -> float:
    """How long a job takes from its start to its end."""
    services.jobs.start(None, kind)
    began = time.perf_counter()
    assert services.job_runner.run_one()
    taken = time.perf_counter() - began
    newest = text("SELECT state, error FROM jobs ORDER BY created_at DESC LIMIT 1")
    ended = services.database.as_service().execute(newest, {})[0]
    assert ended.state == "done", ended.error
    return taken


def _bare_seconds(services: Services, session: TransitSession, operation: str) -> float:
    """Just the calls: what is sent is made before, and what comes back is dropped."""
    path = f"transit/{operation}/{PREFIX}{Purpose.DOCUMENTS}"
    fields = {"partial_failure_response_code": 200} if operation == "decrypt" else {}
    bodies = [Body(**fields, batch_input=inputs) for inputs in _inputs(services)]
    began = time.perf_counter()
    for body in bodies:
        assert session.call("post", path, body).ok
    return time.perf_counter() - began


def _inputs(services: Services) -> Iterator[list[dict[str, str]]]:
    for batch in _wrapped_keys(services).batches():
        yield [
            {"ciphertext": key.bound.wrapped.text, "context": _encoded(key.bound.context)}
            for key in batch
        ]


def _wrapped_keys(services: Services) -> WrappedKeys:
    return WrappedKeys(services.database.as_service(), services.vault_id)


def fill(vault_id: UUID, prefix: str, owner: Engine, session: TransitSession, keys: int) -> None:
    """Documents with one version each, whose keys are wrapped as an upload's would be."""
    for _ in range(0, keys, BARE_BATCH):
        made = [_NewKey.of(vault_id) for _ in range(BARE_BATCH)]
        inputs = [{"plaintext": each.plaintext, "context": _encoded(each.binding)} for each in made]
        path = f"transit/encrypt/{prefix}{Purpose.DOCUMENTS}"
        answer = session.call("post", path, Body(batch_input=inputs))
        rows = {
            "ids": [each.ids[0] for each in made],
            "versions": [each.ids[1] for each in made],
            "objects": [each.ids[2] for each in made],
            "commitments": [each.commitment for each in made],
            "wrapped": [result["ciphertext"] for result in answer.data["batch_results"]],
        }
        with owner.begin() as connection:
            connection.execute(text(_DOCUMENTS), rows)
            connection.execute(text(_VERSIONS), rows)


@dataclass(frozen=True)
class _NewKey:
    """One version's ids and key. `ids`: document, version, object."""

    ids: tuple[UUID, UUID, UUID]
    binding: bytes
    plaintext: str
    commitment: bytes

    @classmethod
    def of(cls, vault_id: UUID) -> Self:
        document_id, version_id, object_id = ids = (uuid4(), uuid4(), uuid4())
        binding = associated_data(
            vault_id=vault_id, document_id=document_id, version_id=version_id, object_id=object_id
        )
        raw = os.urandom(32)
        return cls(ids, binding, _encoded(raw), commit(DataKey(raw), binding))


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@contextmanager
def owner_engine(url: str) -> Iterator[Engine]:
    """An engine, for as long as the block runs."""
    engine = create_engine(url)
    yield engine
    engine.dispose()


@contextmanager
def vault_server(folder: Path) -> Iterator[VaultServer]:
    """A real Vault, ready."""
    binary = built("vault")
    if binary is None:
        raise SystemExit("bench: there is no Vault; `make servers` builds it")
    (folder / "vault").mkdir()
    server = VaultServer(binary, folder / "vault")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def key_services(database: DatabaseUrls, vault: VaultServer, folder: Path) -> Iterator[Services]:
    """The service's own flows over folders and Transit; jobs run in this process."""
    role_id, secret_id = vault.role("service")
    secret_id_file = folder / "secret-id"
    secret_id_file.write_text(secret_id)
    role = KmsRole(role_id=role_id, secret_id_file=secret_id_file)
    settings = Settings(
        home=folder / "keys-home",
        database_url=SecretStr(database.service),
        sites=Sites(a=SiteSettings(path=folder / "a"), b=SiteSettings(path=folder / "b")),
        kms=KmsSettings(
            kind=KmsKind.TRANSIT,
            address=vault.address,
            key_prefix=PREFIX,
            roles=KmsRoles(service=role),
        ),
    )
    with build(settings) as services:
        yield services


_DOCUMENTS: Final = """
INSERT INTO documents
    (id, name, class, department, state, revision, newest_version, created_by)
SELECT id, 'document.pdf', 'general', 'demo', 'live', 1, 1, gen_random_uuid()
FROM unnest(CAST(:ids AS uuid[])) AS id"""

_VERSIONS: Final = """
INSERT INTO versions
    (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
     ciphertext_sha256, media_type, wrapped_key, key_commitment, receipt, created_by)
SELECT document_id, 1, id, object_id, 'a', 1, 16384, 16440, sha256(''), 'application/pdf', wrapped,
       commitment, gen_random_uuid(), gen_random_uuid()
FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS uuid[]), CAST(:objects AS uuid[]),
            CAST(:wrapped AS text[]), CAST(:commitments AS bytea[]))
     AS given (document_id, id, object_id, wrapped, commitment)"""
