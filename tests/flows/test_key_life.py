"""A KEK's life under documents in use: rotation, rewrap, retirement, drill, shredding, and the old backup."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from api.bootstrap import build
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.worker import Worker
from keymgmt.dsse import open_envelope
from keymgmt.errors import DecryptionFailed, KeyVersionRetired
from keymgmt.provider import Purpose, WrappedKey
from keymgmt.signing import VerifyingKey
from tests.api.helpers import named, upload
from tests.api.test_damage import object_file
from tests.flows.epochs import LATER, make_due, purged, run_job, site_b_away, snapshot
from tests.running import RunningService
from vault import clock
from vault.jobrun import JobLost
from vault.jobs import JobKind
from vault.keks import KeysRolledBack
from vault.objects.reading import small_object
from vault.records import find_document
from vault.rejoin import NoCatalogue
from vault.shred import CERTIFICATE_TYPE


def kek(service: RunningService, purpose: str = "documents") -> dict[str, Any]:
    items = service.admin.get("/v1/keys").json()["items"]
    found: dict[str, Any] = next(item for item in items if item["purpose"] == purpose)
    return found


def content(service: RunningService, document: dict[str, Any]) -> bytes:
    answer = service.demo.get(f"/v1/documents/{document['id']}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


def wrapped_keys(owner: Engine) -> dict[str, str]:
    with owner.connect() as connection:
        rows = connection.execute(text("SELECT document_id, wrapped_key FROM versions")).fetchall()
    return {str(row.document_id): row.wrapped_key for row in rows}


# Rotation


def test_rotated_rewrapped_and_retired_documents_still_open(
    service: RunningService, owner: Engine
) -> None:
    documents = [upload(service.demo, b"%d" % number) for number in range(5)]
    before, objects = wrapped_keys(owner), untouched(service, documents)
    assert service.admin.post("/v1/keys/documents/rotate").json()["latest"] == 2
    assert kek(service)["in_use"] == {"1": 5}
    ended = run_job(service, "/v1/keys/documents/rewrap")
    assert (ended["state"], ended["done"], ended["total"]) == ("done", 5, 5)
    assert ended["result"]["rewrapped"] == 5
    retired = service.admin.post("/v1/keys/documents/retire").json()
    assert (retired["oldest_usable"], retired["oldest_kept"]) == (2, 2)
    assert retired["in_use"] == {"2": 5}
    service.services.unwrap_cache.purge()
    assert [content(service, each) for each in documents] == [b"%d" % n for n in range(5)]
    after = wrapped_keys(owner)
    assert all(after[document] != before[document] for document in before)
    assert untouched(service, documents) == objects


def untouched(service: RunningService, documents: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """What any write to an object would change."""
    states = [object_file(service, document).stat() for document in documents]
    return [(state.st_ino, state.st_ctime_ns) for state in states]


def test_a_version_in_use_is_not_retired(service: RunningService) -> None:
    document = upload(service.demo, b"still here")
    service.admin.post("/v1/keys/documents/rotate")
    refused = service.admin.post("/v1/keys/documents/retire")
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:strongroom:problem:key-version-in-use"
    assert kek(service)["oldest_usable"] == 1
    service.services.unwrap_cache.purge()
    assert content(service, document) == b"still here"


@pytest.mark.parametrize("purpose", [each.value for each in Purpose])
def test_every_purpose_has_a_kek_of_its_own_that_rotates(
    service: RunningService, purpose: str
) -> None:
    before = latest_by_purpose(service)
    # The KEK of the seals has had its second version since the first start (vault.access.seal_upkeep).
    assert before == {each.value: 1 for each in Purpose} | {"authority": 2}
    rotated = service.admin.post(f"/v1/keys/{purpose}/rotate").json()["latest"]
    assert rotated == before[purpose] + 1
    assert latest_by_purpose(service) == before | {purpose: rotated}


def latest_by_purpose(service: RunningService) -> dict[str, int]:
    return {
        item["purpose"]: item["latest"] for item in service.admin.get("/v1/keys").json()["items"]
    }


def test_two_rotations_at_once_make_two_versions(service: RunningService) -> None:
    with ThreadPoolExecutor(3) as pool:
        rotating = [pool.submit(service.admin.post, "/v1/keys/documents/rotate") for _ in range(2)]
        uploading = pool.submit(upload, service.demo, b"filed meanwhile")
        assert [each.result().status_code for each in rotating] == [201, 201]
    assert kek(service)["latest"] == 3
    assert content(service, uploading.result()) == b"filed meanwhile"
    assert content(service, upload(service.demo, b"after")) == b"after"
    assert run_job(service, "/v1/keys/documents/rewrap")["result"]["kek_version"] == 3
    assert service.admin.post("/v1/keys/documents/retire").json()["oldest_kept"] == 3


def test_an_upload_that_outlives_its_key_version_lands_under_the_new_one(
    service: RunningService, owner: Engine
) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"begun under version 1, " + bytes(3 * 2**20)
        service.services.keks.rotate(None, Purpose.DOCUMENTS)
        service.services.keks.retire(None, Purpose.DOCUMENTS)
        yield b" ended under version 2"

    answer = service.demo.post("/v1/documents", content=slowly(), headers=named("slow.bin"))
    assert answer.status_code == 201, answer.text
    (wrapped,) = wrapped_keys(owner).values()
    assert WrappedKey(wrapped).version == 2
    assert content(service, answer.json()).endswith(b" ended under version 2")


def test_a_version_made_at_the_kms_itself_is_adopted_by_the_first_upload(
    service: RunningService, owner: Engine
) -> None:
    service.services.keys.rotate(Purpose.DOCUMENTS)
    document = upload(service.demo, b"under a version that nobody announced")
    assert WrappedKey(wrapped_keys(owner)[document["id"]]).version == 2
    assert content(service, document).startswith(b"under")


def test_a_read_that_meets_a_rotation_midway_finds_the_moved_key(service: RunningService) -> None:
    document = upload(service.demo, b"moved")
    with service.services.database.as_service().transaction() as connection:
        before = find_document(connection, UUID(document["id"]))
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    service.admin.post("/v1/keys/documents/retire")
    service.services.unwrap_cache.purge()
    opened, _ = service.services.contents._keys.open(before.id, before.version)
    assert opened is not None


@pytest.mark.parametrize("kms", ["keyring"], indirect=True)
def test_an_older_keyring_that_was_put_back_is_noticed(service: RunningService) -> None:
    keyring = service.services.settings.home / "keys" / "keyring.json"
    older = keyring.read_bytes()
    service.admin.post("/v1/keys/documents/rotate")
    upload(service.demo, b"under version 2")
    keyring.write_bytes(older)
    with pytest.raises(KeysRolledBack):
        service.services.keks.reconcile()


@pytest.mark.parametrize("kms", ["keyring"], indirect=True)
def test_versions_that_come_back_with_an_older_keyring_are_retired_again(
    service: RunningService,
) -> None:
    keyring = service.services.settings.home / "keys" / "keyring.json"
    service.admin.post("/v1/keys/documents/rotate")
    older = keyring.read_bytes()
    service.admin.post("/v1/keys/documents/retire")
    keyring.write_bytes(older)
    assert kek(service)["oldest_kept"] == 1
    service.services.keks.reconcile()
    assert kek(service)["oldest_kept"] == 2


def test_the_schedule_rotates_what_is_old_enough(service: RunningService, owner: Engine) -> None:
    keks = service.services.keks
    assert not keks.rotate_when_due(timedelta(days=90))
    with owner.begin() as connection:
        connection.execute(text("UPDATE kek_versions SET created_at = now() - interval '91 days'"))
    assert keks.rotate_when_due(timedelta(days=90))
    assert not keks.rotate_when_due(timedelta(days=90))
    assert kek(service)["latest"] == 2


def test_the_worker_rotates_rewraps_and_retires_by_schedule(
    service: RunningService, owner: Engine
) -> None:
    document, services = upload(service.demo, b"kept"), service.services
    kms = services.settings.kms.model_copy(update={"rotate_every_days": 90, "retire_after_days": 7})
    settings = services.settings.model_copy(update={"kms": kms})
    worker = Worker(replace(services, settings=settings))

    def age(days: int) -> None:
        with owner.begin() as connection:
            older = f"UPDATE kek_versions SET created_at = created_at - interval '{days} days'"
            connection.execute(text(older))

    worker.housekeep()
    assert kek(service)["latest"] == 1
    age(91)
    worker.housekeep()
    assert (kek(service)["latest"], kek(service)["in_use"]) == (2, {"1": 1})
    age(8)
    worker.housekeep()
    assert kek(service)["oldest_kept"] == 1, "a version in use was destroyed"
    assert services.job_runner.run_one()
    worker.housekeep()
    assert (kek(service)["oldest_kept"], kek(service)["in_use"]) == (2, {"2": 1})
    worker.housekeep()
    assert kek(service)["latest"] == 2
    services.unwrap_cache.purge()
    assert content(service, document) == b"kept"


def test_an_older_wrapped_key_put_back_from_a_backup_is_refused(
    service: RunningService, owner: Engine
) -> None:
    document = upload(service.demo, b"x")
    (old,) = wrapped_keys(owner).values()
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    service.admin.post("/v1/keys/documents/retire")
    with owner.begin() as connection, pytest.raises(IntegrityError):
        # The database refuses the row itself …
        connection.execute(text("UPDATE versions SET wrapped_key = :old"), {"old": old})
    with owner.begin() as connection:
        connection.execute(text("INSERT INTO kek_versions (version) VALUES (1)"))
        connection.execute(text("UPDATE versions SET wrapped_key = :old"), {"old": old})
    service.services.unwrap_cache.purge()
    # … and where somebody forces it, the key is gone.
    refused = service.demo.get(f"/v1/documents/{document['id']}/content")
    assert refused.status_code == 500
    assert refused.json()["type"] == "urn:strongroom:problem:integrity"


def test_a_wrapped_key_opens_in_no_other_vault(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    with service.services.database.as_service().transaction() as connection:
        found = find_document(connection, UUID(document["id"]))
    elsewhere = replace(service.services.contents._keys, vault_id=uuid4())
    with pytest.raises(DecryptionFailed):
        elsewhere.open(found.id, found.version)


# Jobs


def test_one_job_of_a_kind_at_a_time(service: RunningService) -> None:
    assert service.admin.post("/v1/keys/drill").status_code == 202
    refused = service.admin.post("/v1/keys/drill")
    assert refused.status_code == 409
    assert refused.json()["type"] == "urn:strongroom:problem:job-under-way"
    assert service.admin.post("/v1/keys/documents/rewrap").status_code == 202
    assert [job["kind"] for job in service.admin.get("/v1/jobs").json()["items"]] == [
        "rewrap",
        "drill",
    ]


def test_a_stopped_job_can_be_resumed(service: RunningService) -> None:
    upload(service.demo, b"x")
    job = service.admin.post("/v1/keys/drill").json()
    assert service.admin.post(f"/v1/jobs/{job['id']}/stop").json()["state"] == "stopped"
    assert not service.services.job_runner.run_one()
    assert service.admin.post(f"/v1/jobs/{job['id']}/resume").json()["state"] == "queued"
    assert service.services.job_runner.run_one()
    ended = service.admin.get(f"/v1/jobs/{job['id']}").json()
    assert (ended["state"], ended["result"]["opened"]) == ("done", 1)
    assert service.admin.post(f"/v1/jobs/{job['id']}/stop").status_code == 409


def test_a_job_of_a_process_that_ends_is_handed_over_at_once(service: RunningService) -> None:
    runner, stopping = service.services.job_runner, threading.Event()
    service.admin.post("/v1/keys/drill")
    stopping.set()
    assert runner.run_one(stopping=stopping)
    assert service.admin.get("/v1/jobs").json()["items"][0]["state"] == "queued"
    assert runner.run_one()
    assert service.admin.get("/v1/jobs").json()["items"][0]["state"] == "done"


def test_a_job_whose_runner_fell_silent_is_taken_over(
    service: RunningService, owner: Engine
) -> None:
    runner = service.services.job_runner
    service.admin.post("/v1/keys/drill")
    silent = runner._claim([JobKind.DRILL], threading.Event())
    assert silent is not None
    assert not runner.run_one()
    with owner.begin() as connection:
        connection.execute(text("UPDATE jobs SET due_at = now()"))
    assert runner.run_one()
    with pytest.raises(JobLost):
        silent.report(done=1, total=1, place={})
    assert service.admin.get("/v1/jobs").json()["items"][0]["state"] == "done"


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/jobs", "/v1/keys/epochs"])
def test_an_application_sees_nothing_of_it(service: RunningService, path: str) -> None:
    assert service.demo.get(path).status_code == 403


# Drill


def test_a_drill_counts_by_version_and_class(service: RunningService) -> None:
    for number in range(3):
        upload(service.demo, b"%d" % number)
    service.admin.post("/v1/keys/documents/rotate")
    upload(service.demo, b"under 2")
    result = run_job(service, "/v1/keys/drill")["result"]
    assert result["by_kek_version_and_class"] == [
        {"kek_version": 1, "class": "general", "data_keys": 3},
        {"kek_version": 2, "class": "general", "data_keys": 1},
    ]
    assert (result["opened"], result["failed"]) == (4, 0)


def test_a_drill_names_exactly_the_rows_whose_keys_were_swapped(
    service: RunningService, owner: Engine
) -> None:
    one, other, whole = (upload(service.demo, b"%d" % number) for number in range(3))
    keys = wrapped_keys(owner)
    with owner.begin() as connection:
        for document, wrapped in ((one, keys[other["id"]]), (other, keys[one["id"]])):
            connection.execute(
                text("UPDATE versions SET wrapped_key = :wrapped WHERE document_id = :id"),
                {"wrapped": wrapped, "id": document["id"]},
            )
    ended = run_job(service, "/v1/keys/drill")
    assert ended["result"]["opened"] == 1
    assert {failed["document"] for failed in ended["result"]["failed_versions"]} == {
        one["id"],
        other["id"],
    }
    assert content(service, whole) == b"2"


def test_a_rewrap_that_meets_a_damaged_key_moves_the_others_and_fails(
    service: RunningService, owner: Engine
) -> None:
    damaged, whole = (upload(service.demo, b"%d" % number) for number in range(2))
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE versions SET wrapped_key = 'local:v1:AAAA' WHERE document_id = :id"),
            {"id": damaged["id"]},
        )
    service.admin.post("/v1/keys/documents/rotate")
    ended = run_job(service, "/v1/keys/documents/rewrap")
    assert ended["state"] == "failed"
    assert "1 data keys" in ended["error"]
    assert WrappedKey(wrapped_keys(owner)[whole["id"]]).version == 2
    assert service.admin.post("/v1/keys/documents/retire").status_code == 409


# Shredding


def test_an_old_dump_opens_what_lives_and_nothing_that_was_shredded(
    service: RunningService, postgres: EmbeddedPostgres, database_urls: DatabaseUrls, owner: Engine
) -> None:
    kept, held = (upload(service.demo, text) for text in (b"kept", b"held"))
    gone = purged(service, b"to be shredded")
    place = {"document_id": held["id"], "reason": "case"}
    assert service.admin.post("/v1/holds", json=place).status_code == 201
    old_wrapped = wrapped_keys(owner)
    old_url = snapshot(postgres, service, database_urls)
    assert service.services.purge.run(clock.now() + LATER) == 1

    waiting = service.admin.get("/v1/keys/epochs/next").json()["items"]
    assert [each["document_id"] for each in waiting] == [gone["id"]]
    ended = run_job(service, "/v1/keys/epochs")
    assert ended["state"] == "done", ended
    assert ended["result"] == {"epoch": 1, "shredded": 1, "kek_version": 2}
    assert service.admin.get("/v1/keys/epochs/next").json()["items"] == []
    for wrapped in old_wrapped.values():
        with pytest.raises(KeyVersionRetired):
            service.services.keys.unwrap(Purpose.DOCUMENTS, b"any", WrappedKey(wrapped))

    settings = service.services.settings.model_copy(update={"database_url": SecretStr(old_url)})
    with build(settings) as restored:
        joined = restored.rejoin.run()
        assert (joined.epoch, joined.joined, joined.shut) == (1, 2, 1)
        with restored.database.as_service().transaction() as connection:
            versions = {
                name: find_document(connection, UUID(document["id"]))
                for name, document in (("kept", kept), ("held", held), ("gone", gone))
            }
        for name in ("kept", "held"):
            assert restored.contents._keys.open(versions[name].id, versions[name].version)
        with pytest.raises(KeyVersionRetired):
            restored.contents._keys.open(versions["gone"].id, versions["gone"].version)
        # Once that is let go here too, the copy is a vault like any other: its next epoch ends well.
        assert restored.rejoin.run(purge_shredded=True).purged == 1
        job = restored.jobs.start(None, JobKind.SHRED)
        assert restored.job_runner.run_one()
        rows = restored.database.as_service().execute(
            text("SELECT state FROM jobs WHERE id = :id"), {"id": job.id}
        )
        assert rows[0].state == "done"


def test_an_old_dump_opens_after_a_retirement_too(
    service: RunningService, postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    document = upload(service.demo, b"kept")
    old_url = snapshot(postgres, service, database_urls)
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    assert service.admin.post("/v1/keys/documents/retire").status_code == 200
    settings = service.services.settings.model_copy(update={"database_url": SecretStr(old_url)})
    with build(settings) as restored:
        joined = restored.rejoin.run(purge_shredded=True)
        assert (joined.joined, joined.shut, joined.purged) == (1, 0, 0)
        with restored.database.as_service().transaction() as connection:
            found = find_document(connection, UUID(document["id"]))
        assert restored.contents._keys.open(found.id, found.version)


def test_joining_a_present_database_takes_no_key_back(service: RunningService) -> None:
    document = upload(service.demo, b"kept")
    run_job(service, "/v1/keys/epochs")
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    service.services.rejoin.run()
    assert kek(service)["in_use"] == {"3": 1}
    assert service.admin.post("/v1/keys/documents/retire").status_code == 200
    service.services.rejoin.run()
    service.services.unwrap_cache.purge()
    assert content(service, document) == b"kept"


def test_a_catalogue_whose_own_keys_are_gone_lets_nothing_go(
    service: RunningService, postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    upload(service.demo, b"kept")
    old_url = snapshot(postgres, service, database_urls)
    run_job(service, "/v1/keys/epochs")
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    service.services.keys.retire(Purpose.DOCUMENTS, below=3)
    service.services.keys.trim(Purpose.DOCUMENTS)
    settings = service.services.settings.model_copy(update={"database_url": SecretStr(old_url)})
    with build(settings) as restored:
        with pytest.raises(NoCatalogue, match="destroyed at the KMS itself"):
            restored.rejoin.run(purge_shredded=True)
        assert restored.purge.finish_shredded(0) == 0
        count = text("SELECT count(*) FROM versions")
        assert restored.database.as_service().execute(count, {})[0][0] == 1


def test_a_catalogue_at_one_site_is_enough_and_the_newer_one_counts(
    service: RunningService, postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    upload(service.demo, b"kept")
    old_url = snapshot(postgres, service, database_urls)
    run_job(service, "/v1/keys/epochs")
    older = catalogue(service, "a")
    run_job(service, "/v1/keys/epochs")
    put_catalogue(service, "a", older)
    settings = service.services.settings.model_copy(update={"database_url": SecretStr(old_url)})
    with build(settings) as restored:
        assert restored.rejoin.run().epoch == 2
        put_catalogue(service, "a", {})
        joined = restored.rejoin.run()
        assert (joined.epoch, joined.joined, joined.shut) == (2, 1, 0)
        put_catalogue(service, "b", {})
        with pytest.raises(NoCatalogue, match="no site holds"):
            restored.rejoin.run()


def test_a_catalogue_older_than_the_database_is_refused(service: RunningService) -> None:
    document = upload(service.demo, b"kept")
    run_job(service, "/v1/keys/epochs")
    older = catalogue(service, "a")
    run_job(service, "/v1/keys/epochs")
    for site in ("a", "b"):
        put_catalogue(service, site, older)
    with pytest.raises(NoCatalogue, match="older than this database"):
        service.services.rejoin.run()
    service.services.unwrap_cache.purge()
    assert content(service, document) == b"kept"


def catalogue(service: RunningService, site: str) -> dict[str, bytes]:
    store = service.services.stores[site]
    return {each.key: small_object(store, each.key) for each in list(store.list("catalogue/"))}


def put_catalogue(service: RunningService, site: str, objects: dict[str, bytes]) -> None:
    """Put it in place of the one that the site has."""
    store = service.services.stores[site]
    for each in list(store.list("catalogue/")):
        store.delete(each.key)
    for key, stored in objects.items():
        store.put(key, stored)


def test_the_certificate_is_signed_and_says_what_was_destroyed(service: RunningService) -> None:
    gone = purged(service, b"x")
    service.services.purge.run(clock.now() + LATER)
    run_job(service, "/v1/keys/epochs")
    (epoch,) = service.admin.get("/v1/keys/epochs").json()["items"]
    published = service.demo.get("/v1/keys/public").json()["keys"]
    keys = {}
    for each in published:
        raw = base64.urlsafe_b64decode(each["x"] + "==")
        keys[each["kid"]] = VerifyingKey(raw)
    statement = json.loads(open_envelope(epoch["certificate"], keys, CERTIFICATE_TYPE))
    assert statement["shredded"] == [f"{gone['id']} 1"]
    assert statement["oldest_version_kept"] == statement["destroyed_below_version"] == 2
    assert set(statement["condition"]) == {"en", "zh"}


def test_what_the_other_purposes_wrap_moves_when_their_versions_are_retired(
    service: RunningService,
) -> None:
    document = upload(service.demo, b"catalogued")
    run_job(service, "/v1/keys/epochs")
    for purpose in ("log", "backups"):
        service.admin.post(f"/v1/keys/{purpose}/rotate")
        retired = service.admin.post(f"/v1/keys/{purpose}/retire").json()
        assert (retired["latest"], retired["oldest_kept"]) == (2, 2)
    # The signing key, sealed under `log`, still signs; the catalogue, sealed under `backups`, still opens.
    assert run_job(service, "/v1/keys/epochs")["state"] == "done"
    service.admin.post("/v1/keys/backups/rotate")
    service.admin.post("/v1/keys/backups/retire")
    joined = service.services.rejoin.run()
    assert (joined.epoch, joined.joined, joined.shut) == (2, 1, 0)
    assert content(service, document) == b"catalogued"


def test_a_retirement_waits_for_both_sites_to_hold_the_catalogue(service: RunningService) -> None:
    document = upload(service.demo, b"kept")
    service.admin.post("/v1/keys/documents/rotate")
    run_job(service, "/v1/keys/documents/rewrap")
    with site_b_away(service):
        assert service.admin.post("/v1/keys/documents/retire").status_code == 503
        assert kek(service)["oldest_kept"] == 1
        service.services.keks.reconcile()  # as the next start does, which must not need both sites
        assert kek(service)["oldest_kept"] == 1
    assert service.admin.post("/v1/keys/documents/retire").json()["oldest_kept"] == 2
    service.services.unwrap_cache.purge()
    assert content(service, document) == b"kept"


def test_nothing_is_destroyed_while_a_site_is_away(
    service: RunningService,
) -> None:
    document = upload(service.demo, b"survivor")
    with site_b_away(service):
        started = service.admin.post("/v1/keys/epochs").json()
        service.services.job_runner.run_one()
        waiting = service.admin.get(f"/v1/jobs/{started['id']}").json()
        assert waiting["state"] == "queued"
        assert "waiting" in waiting["error"]
        assert kek(service)["oldest_kept"] == 1
    make_due(service)
    assert service.services.job_runner.run_one()
    assert service.admin.get(f"/v1/jobs/{started['id']}").json()["state"] == "done"
    service.services.unwrap_cache.purge()
    assert content(service, document) == b"survivor"
