"""The offline recovery key: documents come back without the KMS, and nothing that was shredded does."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from api.bootstrap import build, open_offline
from api.cli import app
from api.doctor import _examine_running
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.settings import KmsKind, KmsSettings
from keymgmt.errors import DecryptionFailed
from keymgmt.recoveryfile import write_private
from keymgmt.recoverykey import RecoveryPrivateKey
from tests.api.helpers import named, upload
from tests.api.test_damage import flip, object_file
from tests.enrolled import Watch, enrol
from tests.flows.epochs import LATER, make_due, purged, run_job, site_b_away, snapshot
from tests.people import grant
from tests.running import RunningService, running
from vault import clock
from vault.access.roles import Role
from vault.jobs import JobKind
from vault.recovery.restore import CannotRestore

PASSPHRASE = "correct horse 电池 staple"


@pytest.fixture
def private() -> RecoveryPrivateKey:
    """The offline half, which the service never sees."""
    return RecoveryPrivateKey.generate()


def register(service: RunningService, private: RecoveryPrivateKey) -> dict[str, Any]:
    """Register the public half and let the job end."""
    body = {"public_key": private.public.to_text()}
    ended = run_job(service, "/v1/keys/recovery", json=body)
    assert ended["state"] == "done", ended
    return ended


def listed(service: RunningService) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.admin.get("/v1/keys/recovery").json()["items"]
    return items


def recovered(
    service: RunningService, private: RecoveryPrivateKey, url: str | None = None, site: str = "a"
) -> dict[str, bytes | None]:
    """Every document's bytes without the KMS, by id; None for one that does not open."""
    given = {} if url is None else {"database_url": SecretStr(url)}
    settings = service.services.settings.model_copy(update=given)
    found: dict[str, bytes | None] = {}
    with open_offline(settings, private, site) as offline:
        restore = offline.restore
        restore.prepare()
        for version in restore.versions():
            try:
                found[str(version.document_id)] = b"".join(restore.content(version))
            except DecryptionFailed:
                found[str(version.document_id)] = None
    return found


def epoch_key_folders(service: RunningService, site: str) -> list[str]:
    sites = service.services.settings.sites
    folder = (sites.a if site == "a" else sites.b).path
    assert folder is not None
    return sorted(path.name for path in (folder / "recovery").iterdir() if any(path.iterdir()))


def replicated(service: RunningService) -> None:
    """Objects at site b too, as the worker's copies would be."""
    sites = service.services.settings.sites
    assert sites.a.path is not None
    assert sites.b.path is not None
    for path in (sites.a.path / "objects").rglob("*"):
        if path.is_file():
            service.services.stores["b"].put(str(path.relative_to(sites.a.path)), path.read_bytes())


# Registering


def test_what_was_stored_before_and_what_comes_after_opens_without_the_kms(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    before = upload(service.demo, b"before")
    ended = register(service, private)
    assert (ended["done"], ended["total"]) == (1, 1)
    assert ended["result"]["recovery_key"] == private.public.id
    after = upload(service.demo, b"after")
    (key,) = listed(service)
    assert (key["id"], key["sealed"], key["unsealed"]) == (private.public.id, 2, 0)
    assert recovered(service, private) == {before["id"]: b"before", after["id"]: b"after"}


def test_the_epoch_key_lies_at_both_sites_and_in_no_table(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    upload(service.demo, b"x")
    replicated(service)
    assert epoch_key_folders(service, "a") == epoch_key_folders(service, "b")
    assert set(recovered(service, private, site="b").values()) == {b"x"}


def test_a_further_version_is_sealed_too(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    document = upload(service.demo, b"one")
    service.demo.put(f"/v1/documents/{document['id']}/content", content=b"two")
    assert listed(service)[0]["sealed"] == 2
    assert recovered(service, private) == {document["id"]: b"two"}


def test_an_upload_that_began_before_the_registration_is_sealed(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"begun before"
        register(service, private)

    answer = service.demo.post("/v1/documents", content=slowly(), headers=named("slow.bin"))
    assert answer.status_code == 201, answer.text
    assert recovered(service, private) == {answer.json()["id"]: b"begun before"}


def test_an_upload_that_meets_an_epoch_lands_under_the_new_one(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    upload(service.demo, b"so that this process knows the first epoch")

    def slowly() -> Iterator[bytes]:
        yield bytes(3 * 2**20)
        run_job(service, "/v1/keys/epochs")
        yield b" ended in the second"

    answer = service.demo.post("/v1/documents", content=slowly(), headers=named("slow.bin"))
    assert answer.status_code == 201, answer.text
    found = recovered(service, private)[answer.json()["id"]]
    assert found is not None
    assert found.endswith(b" ended in the second")


def test_another_process_follows_to_the_new_epoch(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    upload(service.demo, b"this process knows the first epoch")
    with build(service.services.settings) as another:
        another.jobs.start(None, JobKind.SHRED)
        assert another.job_runner.run_one()
    late = upload(service.demo, b"late")
    assert recovered(service, private)[late["id"]] == b"late"


def test_a_database_refuses_a_blob_of_a_dead_epoch(
    service: RunningService, private: RecoveryPrivateKey, owner: Engine
) -> None:
    register(service, private)
    upload(service.demo, b"x")
    run_job(service, "/v1/keys/epochs")
    with owner.begin() as connection, pytest.raises(Exception, match="fk_recovery_blobs_epoch"):
        connection.execute(text("UPDATE recovery_blobs SET epoch = 1"))


def test_a_successor_takes_over_and_the_first_key_opens_nothing_any_more(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    document = upload(service.demo, b"x")
    successor = RecoveryPrivateKey.generate()
    register(service, successor)
    assert [(key["id"], key["sealed"]) for key in listed(service)] == [
        (successor.public.id, 1),
        (private.public.id, 0),
    ]
    assert recovered(service, successor) == {document["id"]: b"x"}
    with pytest.raises(CannotRestore, match=successor.public.id):
        recovered(service, private)


def test_a_first_key_can_come_back(service: RunningService, private: RecoveryPrivateKey) -> None:
    document = upload(service.demo, b"x")
    for each in (private, RecoveryPrivateKey.generate(), private):
        register(service, each)
    assert listed(service)[0]["id"] == private.public.id
    assert recovered(service, private) == {document["id"]: b"x"}


def test_epoch_keys_lost_at_both_sites_are_replaced(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    document = upload(service.demo, b"x")
    for store in service.services.stores.values():
        for each in list(store.list("recovery/")):
            store.delete(each.key)
    assert service.services.recovery_epochs.missing_at() == ["a", "b"]
    (finding,) = [each for each in _examine_running(service.services) if each.about == "recovery"]
    assert not finding.ok
    assert "a and b" in finding.words
    with pytest.raises(CannotRestore, match="no epoch key"):
        recovered(service, private)
    register(service, private)
    assert service.services.recovery_epochs.missing_at() == []
    assert recovered(service, private) == {document["id"]: b"x"}


@pytest.mark.parametrize("line", ["", "strongroom-recovery-1", "ssh-ed25519 AAAA", "x" * 4096])
def test_what_is_no_recovery_key_is_refused_and_not_echoed(
    service: RunningService, line: str
) -> None:
    refused = service.admin.post("/v1/keys/recovery", json={"public_key": line})
    assert refused.status_code == 422
    assert not line or line not in refused.text
    assert listed(service) == []


def test_a_damaged_line_is_refused(service: RunningService, private: RecoveryPrivateKey) -> None:
    line = private.public.to_text()
    damaged = line[:100] + ("A" if line[100] != "A" else "B") + line[101:]
    refused = service.admin.post("/v1/keys/recovery", json={"public_key": damaged})
    assert refused.status_code == 422
    assert listed(service) == []


def test_an_application_registers_nothing(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    body = {"public_key": private.public.to_text()}
    assert service.demo.post("/v1/keys/recovery", json=body).status_code == 403
    assert service.demo.get("/v1/keys/recovery").status_code == 403


def test_a_data_key_that_does_not_open_fails_the_job_and_seals_the_others(
    service: RunningService, private: RecoveryPrivateKey, owner: Engine
) -> None:
    documents = [upload(service.demo, b"%d" % number) for number in range(3)]
    with owner.begin() as connection:
        connection.execute(
            text("UPDATE versions SET key_commitment = sha256('') WHERE document_id = :id"),
            {"id": documents[0]["id"]},
        )
    body = {"public_key": private.public.to_text()}
    ended = run_job(service, "/v1/keys/recovery", json=body)
    assert ended["state"] == "failed"
    assert documents[0]["id"] in ended["error"]
    assert listed(service)[0]["sealed"] == 2


# Shredding


def test_an_old_dump_and_the_recovery_key_open_what_lives_and_nothing_shredded(
    service: RunningService,
    private: RecoveryPrivateKey,
    postgres: EmbeddedPostgres,
    database_urls: DatabaseUrls,
) -> None:
    register(service, private)
    kept = upload(service.demo, b"kept")
    gone = purged(service, b"to be shredded")
    old_url = snapshot(postgres, service, database_urls)
    assert service.services.purge.run(clock.now() + LATER) == 1
    assert run_job(service, "/v1/keys/epochs")["state"] == "done"
    later = upload(service.demo, b"filed after the dump")
    assert recovered(service, private) == {
        kept["id"]: b"kept",
        later["id"]: b"filed after the dump",
    }
    # Joined to the catalogue at either site; it is repeated, as a run that was broken off would be.
    replicated(service)
    for site in ("a", "b", "a"):
        assert recovered(service, private, old_url, site) == {kept["id"]: b"kept", gone["id"]: None}


def test_an_old_dump_opens_nothing_without_the_catalogue(
    service: RunningService,
    private: RecoveryPrivateKey,
    postgres: EmbeddedPostgres,
    database_urls: DatabaseUrls,
) -> None:
    register(service, private)
    upload(service.demo, b"x")
    old_url = snapshot(postgres, service, database_urls)
    run_job(service, "/v1/keys/epochs")
    for each in list(service.services.stores["a"].list("catalogue/")):
        service.services.stores["a"].delete(each.key)
    with pytest.raises(CannotRestore, match="no epoch key"):
        recovered(service, private, old_url)


def test_an_epoch_leaves_one_epoch_key_and_destroys_the_older(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    upload(service.demo, b"x")
    before = epoch_key_folders(service, "a")
    run_job(service, "/v1/keys/epochs")
    for site in ("a", "b"):
        after = epoch_key_folders(service, site)
        assert len(after) == 1
        assert after != before
    # A process that starts now opens it with the KMS, also when its wrapping version is retired.
    service.admin.post("/v1/keys/backups/rotate")
    assert service.admin.post("/v1/keys/backups/retire").status_code == 200
    with build(service.services.settings) as another:
        recipient = another.recovery_epochs.current()
        assert recipient is not None
        assert recipient.epoch.number == 2


def test_an_epoch_that_waits_for_a_site_begins_once(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    document = upload(service.demo, b"survivor")
    with site_b_away(service):
        started = service.admin.post("/v1/keys/epochs").json()
        for _ in range(3):
            assert service.services.job_runner.run_one()
            assert service.admin.get(f"/v1/jobs/{started['id']}").json()["state"] == "queued"
            make_due(service)
    assert service.services.job_runner.run_one()
    assert service.admin.get(f"/v1/jobs/{started['id']}").json()["state"] == "done"
    assert service.admin.get("/v1/keys").json()["items"][0]["latest"] == 2
    assert len(epoch_key_folders(service, "a")) == 1
    assert recovered(service, private) == {document["id"]: b"survivor"}


def test_the_certificate_says_which_epoch_keys_went(
    service: RunningService, private: RecoveryPrivateKey
) -> None:
    register(service, private)
    run_job(service, "/v1/keys/epochs")
    (epoch,) = service.admin.get("/v1/keys/epochs").json()["items"]
    statement = json.loads(base64.b64decode(epoch["certificate"]["payload"]))
    assert statement["recovery_epoch_keys_destroyed_before"] == 2
    assert "epoch key" in statement["condition"]["en"]
    assert "恢复" in statement["condition"]["zh"]


def test_blobs_swapped_between_rows_open_nothing(
    service: RunningService, private: RecoveryPrivateKey, owner: Engine
) -> None:
    register(service, private)
    documents = [upload(service.demo, b"%d" % number) for number in range(3)]
    with owner.begin() as connection:
        connection.execute(
            text(
                "UPDATE recovery_blobs b SET blob = o.blob FROM recovery_blobs o"
                " WHERE b.document_id = :one AND o.document_id = :other"
            ),
            {"one": documents[0]["id"], "other": documents[1]["id"]},
        )
    found = recovered(service, private)
    assert [found[each["id"]] for each in documents] == [None, b"1", b"2"]
    # The next epoch sees it, and seals it anew from the KMS.
    run_job(service, "/v1/keys/epochs")
    assert recovered(service, private)[documents[0]["id"]] == b"0"


# By hand: the commands


def another_kms(lost: KmsSettings, folder: Path) -> KmsSettings:
    """A KMS that knows no key of the lost one; a keyring's home has to be another too."""
    if lost.kind is KmsKind.TRANSIT:
        return lost.model_copy(update={"key_prefix": f"{lost.key_prefix}new-"})
    assert lost.key_file is not None
    keyring = folder / "home" / "keys" / "keyring.json"
    keyring.rename(folder / "lost.json")
    return lost


class Offline:
    """The command line on a machine that knows a database copy and the sites, and no KMS."""

    def __init__(self, service: RunningService, folder: Path, url: str) -> None:
        sites = service.services.settings.sites
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE, encoding="utf-8")
        self.environment = {
            "STRONGROOM_HOME": str(folder / "home"),
            "STRONGROOM_DATABASE_URL": url,
            "STRONGROOM_SITES__A__PATH": str(sites.a.path),
            "STRONGROOM_SITES__B__PATH": str(sites.b.path),
            "STRONGROOM_URL": service.url,
            "STRONGROOM_API_KEY": service.admin_key,
        }

    def run(self, *words: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, words, env=self.environment)
        assert result.exit_code == exit_code, result.output + result.stderr
        return result

    def with_passphrase(self, *words: str, exit_code: int = 0) -> Result:
        return self.run(*words, "--passphrase-file", str(self.passphrase), exit_code=exit_code)


@pytest.fixture
def offline(service: RunningService, tmp_path: Path, database_urls: DatabaseUrls) -> Offline:
    return Offline(service, tmp_path, database_urls.service)


def test_from_a_new_key_to_restored_files(
    offline: Offline, service: RunningService, tmp_path: Path
) -> None:
    file, output = tmp_path / "offline" / "recovery.key", tmp_path / "restored"
    line = offline.with_passphrase("key", "new-recovery", str(file)).stdout.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    document = upload(service.demo, b"PDF", name="合同.pdf")
    offline.run("key", "register-recovery", "--no-wait", line)
    assert service.services.job_runner.run_one()
    assert (
        json.loads(offline.run("key", "list-recovery", "--json").stdout)["items"][0]["sealed"] == 1
    )
    checked = offline.with_passphrase("recover", str(file), "--check", "--json")
    assert json.loads(checked.stdout)["data keys open"] == 1
    for expected in ("1 restored", "1 were there already"):
        words = ("recover", str(file), "--output", str(output))
        assert expected in offline.with_passphrase(*words).stdout
    assert (output / document["id"] / "1").read_bytes() == b"PDF"
    (described,) = map(json.loads, (output / "documents.jsonl").read_text("utf-8").splitlines())
    assert (described["name"], described["file"]) == ("合同.pdf", f"{document['id']}/1")


def test_a_vault_whose_kms_was_lost_serves_again_under_a_new_one(
    service: RunningService,
    private: RecoveryPrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(service, private)
    documents = [upload(service.demo, b"%d" % number) for number in range(3)]
    auditor = enrol(service, Watch(monkeypatch), "auditor")
    grant(service, UUID(auditor.id), Role.AUDITOR)
    run_job(service, "/v1/keys/epochs")
    settings = service.services.settings.model_copy(
        update={"kms": another_kms(service.services.settings.kms, tmp_path)}
    )
    with open_offline(settings, private, None) as offline:
        offline.restore.prepare()
        for _ in range(2):  # once more does no harm
            assert offline.rekey().run(lambda _, is_open: None) == 3
    with build(settings) as again, running(again, service) as served:
        for number, document in enumerate(documents):
            assert (
                served.demo.get(f"/v1/documents/{document['id']}/content").content == b"%d" % number
            )
        auditor.service = served
        assert auditor.sign_in().status_code == 401, "the app's secret was lost with the KMS"
        signed_in = auditor.sign_in(recovery_code=auditor.recovery_codes[0])
        seen = served.client(signed_in.json()["token"]).get("/v1/whoami").json()
        assert [held["role"] for held in seen["roles"]] == ["auditor"]
        late = upload(served.demo, b"late")
        assert run_job(served, "/v1/keys/epochs")["state"] == "done"
        for purpose in ("log", "backups", "authority"):
            served.admin.post(f"/v1/keys/{purpose}/rotate")
            assert served.admin.post(f"/v1/keys/{purpose}/retire").status_code == 200
        assert run_job(served, "/v1/keys/drill")["result"]["opened"] == 4
        assert recovered(served, private)[late["id"]] == b"late"


def test_a_damaged_or_missing_object_is_named_and_the_others_are_restored(
    offline: Offline, service: RunningService, private: RecoveryPrivateKey, tmp_path: Path
) -> None:
    register(service, private)
    documents = [upload(service.demo, b"%d" % number) for number in range(3)]
    flip(object_file(service, documents[0]), 50)
    object_file(service, documents[1]).unlink()
    file, output = tmp_path / "key", tmp_path / "restored"
    write_private(file, private, PASSPHRASE)
    result = offline.with_passphrase(
        "recover", str(file), "--output", str(output), "--json", exit_code=1
    )
    found = json.loads(result.stdout)
    assert (found["restored"], found["failed"]) == (1, 2)
    reasons = {each["document_id"]: each["reason"] for each in found["failed_versions"]}
    assert "damaged" in reasons[documents[0]["id"]]
    assert "no such object" in reasons[documents[1]["id"]]
    assert not (output / documents[0]["id"] / "1").exists()


def test_the_wrong_key_passphrase_or_words_are_told_in_one_line(
    offline: Offline, service: RunningService, private: RecoveryPrivateKey, tmp_path: Path
) -> None:
    register(service, private)
    wrong = tmp_path / "wrong.key"
    offline.with_passphrase("key", "new-recovery", str(wrong))
    told = offline.with_passphrase("recover", str(wrong), "--check", exit_code=2).stderr
    assert private.public.id in told
    assert (
        "exists" in offline.with_passphrase("key", "new-recovery", str(wrong), exit_code=2).stderr
    )
    assert "--check" in offline.with_passphrase("recover", str(wrong), exit_code=2).stderr
    offline.passphrase.write_text("another", encoding="utf-8")
    told = offline.with_passphrase("recover", str(wrong), "--check", exit_code=2).stderr
    assert "passphrase is wrong" in told
    assert "another" not in told
    offline.passphrase.unlink()
    offline.with_passphrase("recover", str(wrong), "--check", exit_code=2)
