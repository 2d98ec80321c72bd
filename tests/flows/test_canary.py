"""The canary: content, names and keys are looked for where they must not be, byte by byte.

The service talks as much as it can, documents are filed, refused, broken off, fetched and damaged; then
every file of the home is searched, with everything printed, the metrics and all refusals.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from sqlalchemy import create_engine, select, text

from api.bootstrap import build
from api.embedded import EmbeddedPostgres
from api.settings import KmsSettings, Settings
from keymgmt import keyring
from keymgmt.binding import associated_data
from keymgmt.provider import Purpose, WrappedKey
from keymgmt.rootkey import load_root_key
from tests.api.helpers import named, upload
from tests.process import PROGRAM, ServeProcess, wait_until
from vault.tables import versions

ID_NUMBER: Final = "110101199003070000"
"""In the form of a Chinese resident's; the check digit is wrong, so it is nobody's."""

SIZES_BYTES: Final = (100, 16 * 2**10, 3 * 2**20, 9 * 2**20)

# No setting makes the service say more than INFO, so it is changed from outside. Of SQLAlchemy the
# statements only: at DEBUG it prints rows.
TALKATIVE: Final = f"""
import logging
from api import logs

def configure(form, configure=logs.configure):
    configure(form, logging.DEBUG)
    for name in ("alembic", "asyncio", "python_multipart", "urllib3", "uvicorn"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)

logs.configure = configure
{PROGRAM}
"""


@dataclass(frozen=True)
class Canary:
    """What is looked for.

    Attributes:
        marker: stands in every content, beside the ID number.
        name_marker: stands in every document's name.
    """

    marker: str = field(default_factory=lambda: secrets.token_hex(24))
    name_marker: str = field(default_factory=lambda: secrets.token_hex(24))

    def content(self, size_bytes: int) -> bytes:
        """Text that any compression would shrink, with the canary all over."""
        line = f"客户 {ID_NUMBER} {self.marker}\n".encode()
        return (line * (size_bytes // len(line) + 1))[:size_bytes]

    @property
    def name(self) -> str:
        """A document's name."""
        return f"档案 {self.name_marker}.txt"

    @property
    def forms_of_content(self) -> list[bytes]:
        """The ID number and the marker as they would lie in a file."""
        return [*_forms(ID_NUMBER.encode()), *_forms(self.marker.encode())]


@dataclass
class Exercised:
    """A home after all the work, stopped.

    Attributes:
        answers: every answer that was not the document itself.
    """

    serve: ServeProcess
    canary: Canary
    answers: list[httpx.Response] = field(default_factory=list)
    metrics: bytes = b""


@pytest.fixture(scope="module")
def exercised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercised]:
    """A service that has seen all kinds of requests, most of them with the canary inside."""
    with ServeProcess(tmp_path_factory.mktemp("canary"), program=TALKATIVE) as serve:
        done = Exercised(serve, Canary())
        with serve.client() as client, serve.client(serve.admin_key) as admin:
            _file_and_fetch(client, done)
            _be_refused(client, admin, done)
            _break_off(client, done)
            _damage_and_fetch(client, done)
            done.metrics = client.get("/metrics").content
        serve.stop()
        yield done


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    canary = Canary()
    needles = canary.forms_of_content
    for number, needle in enumerate(needles):
        (tmp_path / f"{number:03}").write_bytes(os.urandom(5_000) + needle + os.urandom(5_000))
    (tmp_path / "clean").write_bytes(os.urandom(100_000))
    assert {path.name for path in _files_with(tmp_path, needles)} == {
        f"{number:03}" for number in range(len(needles))
    }


def test_no_content_is_in_any_file_or_output(exercised: Exercised) -> None:
    printed = exercised.serve.output("stderr")
    assert "[debug" in printed, "the service does not talk"
    assert "INSERT INTO access_events" in printed, "SQLAlchemy does not talk"
    # The folder holds the home (database with its log, sites, keyring), $HOME and all output.
    assert _files_with(exercised.serve.folder, exercised.canary.forms_of_content) == []


def test_no_content_is_in_any_answer_but_the_document(exercised: Exercised) -> None:
    assert len(exercised.answers) > 10
    needles = exercised.canary.forms_of_content
    assert [answer for answer in exercised.answers if _has(answer.content, needles)] == []
    assert not _has(exercised.metrics, needles)


def test_damage_is_counted_wherever_in_an_answer_it_is_found(exercised: Exercised) -> None:
    counted = re.search(
        rb"^strongroom_integrity_failures_total (\S+)$", exercised.metrics, re.MULTILINE
    )
    assert counted is not None
    assert float(counted[1]) >= 3  # the worker, which would repair them, may meet them too


def test_no_document_name_is_in_logs_metrics_or_refusals(exercised: Exercised) -> None:
    needles = [exercised.canary.name_marker.encode()]
    assert not _has(exercised.metrics, needles)
    refusals = [answer for answer in exercised.answers if answer.is_error]
    assert [answer for answer in refusals if _has(answer.content, needles)] == []
    home = exercised.serve.home
    found = _files_with(exercised.serve.folder, needles)
    assert [path for path in found if not path.is_relative_to(home / "postgres" / "data")] == []


def test_no_key_secret_is_in_any_file_but_the_printed_line(exercised: Exercised) -> None:
    serve = exercised.serve
    printed = serve.output("stdout")
    for key in (serve.admin_key, serve.demo_key):
        secret = key.split("_", 2)[2].rpartition("_")[0]
        assert len(secret) >= 32
        needles = [secret.encode()]
        found = _files_with(serve.folder, needles)
        assert [path.suffix for path in found] == [".stdout"]
        assert not _has(exercised.metrics, needles)
        # Alone on its line and, for the demo, once more in the lines to try.
        assert printed.count(secret) == (1 if key == serve.admin_key else 2)


def test_no_raw_key_is_in_any_file_but_the_root_keys(exercised: Exercised) -> None:
    serve = exercised.serve
    root_key = load_root_key(serve.root_key_file, data_folder=serve.home)
    sealed = (serve.home / "keys" / "keyring.json").read_bytes()
    keks = [
        version.reveal_to_keymgmt()
        for kek in keyring.unseal(sealed, root_key).keks.values()
        for version in kek.versions.values()
    ]
    deks = list(_data_keys(serve))
    assert len(keks) >= 1
    assert len(deks) >= len(SIZES_BYTES)
    needles = [form for raw in (*keks, *deks) for form in _forms(raw)]
    assert _files_with(serve.folder, needles) == []
    root_forms = _forms(root_key.reveal_to_keymgmt())
    assert _files_with(serve.folder, root_forms) == [serve.root_key_file]


def test_a_database_that_logs_every_statement_sees_no_content(tmp_path: Path) -> None:
    canary = Canary()
    with ServeProcess(tmp_path) as serve:
        serve.stop()
        _log_every_statement(serve.home)
        serve.start()
        with serve.client() as client:
            for size in SIZES_BYTES:
                upload(client, canary.content(size), name=canary.name)
        serve.stop()
        log = (serve.home / "postgres" / "server.log").read_bytes()
    assert canary.name_marker.encode() in log, "the database does not log statements"
    assert _files_with(tmp_path, canary.forms_of_content) == []


def _file_and_fetch(client: httpx.Client, done: Exercised) -> None:
    canary = done.canary
    for size in SIZES_BYTES:
        content = canary.content(size)
        key = {"Idempotency-Key": f"{canary.marker}-{size}"}
        document = upload(client, content, name=canary.name, headers=key)
        again = upload(client, content, name=canary.name, headers=key)
        assert again["id"] == document["id"]
        other = client.post(
            "/v1/documents", content=content[:-1], headers={**named(canary.name), **key}
        )
        done.answers.append(_expected(other, 422))
        path = f"/v1/documents/{document['id']}/content"
        assert client.get(path).content == content
        part = client.get(path, headers={"Range": f"bytes={size // 2}-"})
        assert part.content == content[size // 2 :]
        behind = client.get(path, headers={"Range": f"bytes={size + 1}-"})
        done.answers.append(_expected(behind, 416))
        assert client.put(path, content=_in_chunks(content)).status_code == 201
    parts: dict[str, tuple[str | None, bytes]] = {
        "metadata": (None, json.dumps({"name": canary.name}).encode()),
        "content": ("a.txt", canary.content(50_000)),
    }
    done.answers.append(_expected(client.post("/v1/documents", files=parts), 201))
    done.answers.append(_expected(client.get("/v1/documents"), 200))
    search = {"name_contains": canary.name_marker}
    done.answers.append(_expected(client.post("/v1/documents/search", json=search), 200))


def _be_refused(client: httpx.Client, admin: httpx.Client, done: Exercised) -> None:
    canary = done.canary
    content, headers = canary.content(3 * 2**20), named(canary.name)
    small = {"name": "small", "max_size_bytes": 2 * 2**20}
    assert admin.post("/v1/classes", json=small).status_code == 201
    pdf = {"name": "pdf", "media_types": ["application/pdf"]}
    assert admin.post("/v1/classes", json=pdf).status_code == 201
    changes = {canary.marker: ID_NUMBER, "name": canary.marker * 20}
    form = {"content": ("a.txt", content)}
    document = upload(client, b"an ordinary one")
    path = f"/v1/documents/{document['id']}"
    refusals = [
        client.post("/v1/documents?class=small", content=content, headers=headers),
        client.post("/v1/documents?class=small", content=_in_chunks(content), headers=headers),
        client.post("/v1/documents?class=pdf", content=content, headers=headers),
        client.post("/v1/documents?class=pdf", content=content[:99], headers=headers),
        client.post(f"/v1/documents?class={canary.marker}", content=content, headers=headers),
        client.post("/v1/documents", content=content),
        client.post("/v1/documents", files=form),
        client.patch(path, json=changes),
        client.patch(path, content=content),
        client.post("/v1/documents/search", json={"page_size": canary.marker}),
        client.get("/v1/documents", params={"page_token": canary.marker}),
        client.get(path, headers={"Authorization": f"Bearer {canary.marker}"}),
        client.get(f"/v1/documents/{canary.marker}"),
        client.get(f"{path}/content", headers={"If-Match": f'"{canary.marker}"'}),
    ]
    for refusal in refusals:
        assert 400 <= refusal.status_code < 500, f"{refusal.request.url.path}: {refusal}"
        done.answers.append(refusal)


def _break_off(client: httpx.Client, done: Exercised) -> None:
    """Clients that leave: in the first part, and after a part has been stored."""
    for size in (2 * 2**20, 20 * 2**20):
        with suppress(ConnectionError):
            client.post(
                "/v1/documents",
                content=_cut(done.canary.content(size)),
                headers=named(done.canary.name),
            )
    with client.stream("GET", "/v1/documents") as answer:
        assert answer.is_success


def _damage_and_fetch(client: httpx.Client, done: Exercised) -> None:
    content = done.canary.content(9 * 2**20)
    first, later, gone = (upload(client, content, name=done.canary.name)["id"] for _ in range(3))
    # Or the worker meets the damage too, and counts it.
    assert wait_until(lambda: all(_is_copied(client, each) for each in (first, later, gone)), 60)
    # At both sites, or the other one helps out.
    for path in _copies_of(done.serve, client, first):
        _flip(path, 5_000)
    for path in _copies_of(done.serve, client, later):
        _flip(path, 6 * 2**20)
    for path in _copies_of(done.serve, client, gone):
        path.unlink()
    for document_id in (first, gone):
        answer = client.get(f"/v1/documents/{document_id}/content")
        done.answers.append(_expected(answer, 500))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"/v1/documents/{later}/content")


def _is_copied(client: httpx.Client, document_id: str) -> bool:
    version = client.get(f"/v1/documents/{document_id}").json()["version"]
    return bool(version["durable_on"] == ["a", "b"])


def _copies_of(serve: ServeProcess, client: httpx.Client, document_id: str) -> list[Path]:
    """The files at both sites with the ciphertext of a document's newest version."""
    version = client.get(f"/v1/documents/{document_id}").json()["version"]
    return [
        path
        for site in ("site-a", "site-b")
        for path in _files_below(serve.home / site)
        if path.stat().st_size == version["ciphertext_size_bytes"]
        and hashlib.sha256(path.read_bytes()).hexdigest() == version["ciphertext_sha256"]
    ]


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def _in_chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


def _cut(content: bytes) -> Iterator[bytes]:
    """A body whose sender goes away three quarters through."""
    yield from _in_chunks(content[: len(content) * 3 // 4])
    raise ConnectionError


def _expected(answer: httpx.Response, status: int) -> httpx.Response:
    assert answer.status_code == status, answer.text
    return answer


def _log_every_statement(home: Path) -> None:
    with EmbeddedPostgres(home) as server:
        engine = create_engine(server.superuser_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET log_statement = 'all'"))
        engine.dispose()


def _data_keys(serve: ServeProcess) -> Iterator[bytes]:
    """Some documents' data keys, raw."""
    settings = Settings(home=serve.home, kms=KmsSettings(key_file=serve.root_key_file))
    with build(settings) as services:
        for row in services.database.as_service().execute(select(versions).limit(6), {}):
            binding = associated_data(
                vault_id=services.vault_id,
                document_id=row.document_id,
                version_id=row.id,
                object_id=row.object_id,
            )
            wrapped = WrappedKey(row.wrapped_key)
            key = services.keys.unwrap(Purpose.DOCUMENTS, binding, wrapped)
            yield key.reveal_to_keymgmt()


def _forms(raw: bytes) -> list[bytes]:
    """`raw` as it is, in hex, and in base64 at each of the three places it may start at."""
    forms = [raw, raw.hex().encode(), raw.hex().upper().encode()]
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw)
        # Characters that neighbouring bytes would change are left out.
        inner = encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        forms += [inner, inner.translate(_URL_SAFE)]
    return sorted(set(forms))


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


def _has(body: bytes, needles: Sequence[bytes]) -> bool:
    return any(needle in body for needle in needles)


def _files_with(folder: Path, needles: Sequence[bytes]) -> list[Path]:
    """The files below `folder` in which any of the `needles` stands."""
    return sorted(path for path in _files_below(folder) if _stands_in(path, needles))


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _stands_in(path: Path, needles: Sequence[bytes]) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(needle) != -1 for needle in needles)
