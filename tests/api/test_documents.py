"""A document goes in, comes back exact, keeps its versions, and is changed, binned and found again."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.api.helpers import named, upload
from tests.running import RunningService

MIB = 2**20


@pytest.mark.parametrize(
    "size", [0, 1, 16 * 1024, MIB - 56, MIB - 55, MIB, 3 * MIB + 7, 8 * MIB, 17 * MIB + 1]
)
def test_a_document_comes_back_byte_for_byte(service: RunningService, size: int) -> None:
    content = os.urandom(size)
    document = upload(service.demo, content)
    fetched = service.demo.get(f"/v1/documents/{document['id']}/content")
    assert fetched.status_code == 200
    assert fetched.content == content
    assert fetched.headers["content-length"] == str(size)
    assert document["version"]["size_bytes"] == size


def test_an_upload_of_unknown_length_comes_back_exact(service: RunningService) -> None:
    content = os.urandom(9 * MIB + 3)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), 70_001):
            yield content[start : start + 70_001]

    created = service.demo.post("/v1/documents", content=chunks(), headers=named("stream.bin"))
    assert created.status_code == 201
    assert service.demo.get(f"/v1/documents/{created.json()['id']}/content").content == content


def test_the_ciphertext_digest_is_that_of_the_stored_object(service: RunningService) -> None:
    document = upload(service.demo, b"a contract")
    (stored,) = [
        path
        for path in service.services.settings.sites.a.path.glob("objects/*/*")  # type: ignore[union-attr]
        if path.is_file()
    ]
    assert (
        hashlib.sha256(stored.read_bytes()).hexdigest() == document["version"]["ciphertext_sha256"]
    )
    assert b"a contract" not in stored.read_bytes()


def test_multipart_form_data_files_a_document(service: RunningService) -> None:
    content = os.urandom(2 * MIB)
    created = service.demo.post(
        "/v1/documents",
        files={
            "metadata": (None, '{"name": "合同.pdf", "class": "general"}', "application/json"),
            "content": ("ignored.pdf", content, "application/pdf"),
        },
    )
    assert created.status_code == 201, created.text
    assert created.json()["name"] == "合同.pdf"
    assert created.json()["version"]["claimed_media_type"] == "application/pdf"
    assert service.demo.get(f"/v1/documents/{created.json()['id']}/content").content == content


@pytest.mark.parametrize(
    "files",
    [
        [("content", ("a", b"x")), ("metadata", (None, "{}"))],
        [("metadata", (None, "{}")), ("content", ("a", b"x"))],
        [("metadata", (None, "[1]")), ("content", ("a", b"x"))],
        [("metadata", (None, '{"name": "a"}'))],
        [("metadata", (None, '{"name": "a"}')), ("content", ("a", b"x")), ("more", (None, "y"))],
        [("metadata", (None, '{"name": "a", "extra": 1}')), ("content", ("a", b"x"))],
        [("metadata", (None, '{"name": "' + "a" * 70_000 + '"}')), ("content", ("a", b"x"))],
    ],
)
def test_a_multipart_body_of_another_form_is_a_400(service: RunningService, files: object) -> None:
    answer = service.demo.post("/v1/documents", files=files)  # type: ignore[arg-type]
    assert answer.status_code == 400, answer.text
    assert service.demo.get("/v1/documents").json()["items"] == []


def test_names_in_any_script_survive_in_composed_form(service: RunningService) -> None:
    decomposed = unicodedata.normalize("NFD", "Verträge 客户档案.pdf")
    document = upload(service.demo, b"x", name=decomposed)
    assert document["name"] == unicodedata.normalize("NFC", decomposed)
    fetched = service.demo.get(f"/v1/documents/{document['id']}/content")
    disposition = fetched.headers["content-disposition"]
    assert f"filename*=UTF-8''{quote(document['name'], safe='')}" in disposition


def test_a_raw_utf8_filename_is_understood(service: RunningService) -> None:
    headers = [(b"Content-Disposition", 'attachment; filename="合同.pdf"'.encode())]
    created = service.demo.post("/v1/documents", content=b"x", headers=headers)
    assert created.json()["name"] == "合同.pdf"


@pytest.mark.parametrize(
    "name",
    ["a\x00b", "line\nbreak", "\u202ecod.exe", "a\u2066b", "a/b", "..", " ", "x" * 256, "中" * 86],
)
def test_a_name_that_misleads_is_refused_and_not_echoed(service: RunningService, name: str) -> None:
    answer = service.demo.post("/v1/documents", content=b"x", headers=named(name))
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert name.strip() not in answer.text or not name.strip()


def test_a_missing_name_says_how_to_send_one(service: RunningService) -> None:
    answer = service.demo.post("/v1/documents", content=b"x")
    assert answer.status_code == 400
    assert "Content-Disposition" in answer.json()["detail"]


def test_versions_are_numbered_and_immutable(service: RunningService) -> None:
    document = upload(service.demo, b"one")
    path = f"/v1/documents/{document['id']}"
    for number, content in enumerate([b"two", b"three"], start=2):
        added = service.demo.put(f"{path}/content", content=content)
        assert added.status_code == 201
        assert added.json()["version"]["number"] == number
    listed = service.demo.get(f"{path}/versions").json()["items"]
    assert [version["number"] for version in listed] == [3, 2, 1]
    for number, content in enumerate([b"one", b"two", b"three"], start=1):
        assert service.demo.get(f"{path}/versions/{number}/content").content == content
    assert service.demo.get(f"{path}/versions/4/content").status_code == 404
    assert service.demo.get(f"{path}/content").content == b"three"


def test_metadata_changes_are_remembered_with_from_and_to(service: RunningService) -> None:
    document = upload(service.demo, b"x", name="old.txt")
    path = f"/v1/documents/{document['id']}"
    changed = service.demo.patch(path, json={"name": "new.txt"})
    assert changed.status_code == 200
    (change,) = service.demo.get(f"{path}/history").json()["items"]
    assert (change["field"], change["from"], change["to"]) == ("name", "old.txt", "new.txt")
    assert change["changed_by"] == document["created_by"]


def test_a_document_moves_only_to_a_class_that_would_have_taken_it(service: RunningService) -> None:
    service.admin.post("/v1/classes", json={"name": "pictures", "media_types": ["image/*"]})
    document = upload(service.demo, b"plain text, no picture")
    moved = service.demo.patch(f"/v1/documents/{document['id']}", json={"class": "pictures"})
    assert moved.status_code == 422


def test_a_class_refuses_other_types_and_larger_bodies(service: RunningService) -> None:
    rules = {"name": "scans", "media_types": ["image/*"], "max_size_bytes": 100}
    assert service.admin.post("/v1/classes", json=rules).status_code == 201

    def post(body: bytes) -> httpx.Response:
        return service.demo.post(
            "/v1/documents?class=scans", content=body, headers=named("scan.png")
        )

    assert post(b"%PDF-1.7 not an image").status_code == 415
    assert post(b"\x89PNG\r\n\x1a\n" + b"0" * 200).status_code == 413
    assert post(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR").status_code == 201
    assert (
        service.demo.post("/v1/documents?class=none", content=b"", headers=named("a")).status_code
        == 422
    )


def test_a_body_of_undeclared_size_is_cut_at_the_class_limit(service: RunningService) -> None:
    service.admin.post("/v1/classes", json={"name": "small", "max_size_bytes": 3 * MIB})

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(MIB // 8)

    answer = service.demo.post("/v1/documents?class=small", content=chunks(), headers=named("big"))
    assert answer.status_code == 413


def test_the_bin_hides_and_gives_back(service: RunningService) -> None:
    document = upload(service.demo, b"x")
    path = f"/v1/documents/{document['id']}"
    binned = service.demo.delete(path)
    assert binned.json()["state"] == "binned"
    assert binned.json()["purge_after"] is not None
    assert service.demo.get("/v1/documents").json()["items"] == []
    assert len(service.demo.get("/v1/documents?state=binned").json()["items"]) == 1
    assert service.demo.get(f"{path}/content").status_code == 409
    assert service.demo.put(f"{path}/content", content=b"y").status_code == 409
    assert service.demo.delete(path).status_code == 409
    assert service.demo.post(f"{path}/undelete").json()["state"] == "live"
    assert service.demo.post(f"{path}/undelete").status_code == 409
    assert service.demo.get(f"{path}/content").content == b"x"


def test_pages_are_stable_while_documents_arrive(service: RunningService) -> None:
    first = [upload(service.demo, b"x", name=f"{n}.txt")["id"] for n in range(7)]
    page = service.demo.get("/v1/documents?page_size=3").json()
    seen = [item["id"] for item in page["items"]]
    while page["next_page_token"]:
        upload(service.demo, b"later")
        page = service.demo.get(
            "/v1/documents", params={"page_size": 3, "page_token": page["next_page_token"]}
        ).json()
        seen += [item["id"] for item in page["items"]]
    assert seen == list(reversed(first))


@pytest.mark.parametrize("token", ["x", "!!!", "W10", "bnVsbA", "WzEsMiwzXQ", "A" * 199])
def test_a_forged_page_token_is_a_400(service: RunningService, token: str) -> None:
    answer = service.demo.get("/v1/documents", params={"page_token": token})
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:strongroom:problem:invalid-page-token"


def test_a_page_token_of_other_filters_is_refused(service: RunningService) -> None:
    for _ in range(2):
        upload(service.demo, b"x")
    token = service.demo.get("/v1/documents?page_size=1").json()["next_page_token"]
    answer = service.demo.get(
        "/v1/documents", params={"class": "general", "page_token": token, "page_size": 1}
    )
    assert answer.status_code == 400


def test_search_finds_parts_of_names_and_takes_wildcards_literally(service: RunningService) -> None:
    upload(service.demo, b"x", name="客户合同 100%.pdf")
    upload(service.demo, b"x", name="other.pdf")

    def search(part: str) -> list[str]:
        answer = service.demo.post("/v1/documents/search", json={"name_contains": part})
        return [item["name"] for item in answer.json()["items"]]

    assert search("合同") == ["客户合同 100%.pdf"]
    assert search("OTHER") == ["other.pdf"]
    assert search("%") == ["客户合同 100%.pdf"]
    assert search("_") == []


def test_filters_narrow_the_list(service: RunningService) -> None:
    service.admin.post("/v1/classes", json={"name": "contracts"})
    one = upload(service.demo, b"x", params={"class": "contracts"})
    upload(service.demo, b"x")
    listed = service.demo.get("/v1/documents", params={"class": "contracts"}).json()["items"]
    assert [item["id"] for item in listed] == [one["id"]]
    before = service.demo.get("/v1/documents", params={"created_before": one["created_at"]})
    assert before.json()["items"] == []


def test_media_types_are_judged_by_content_beside_the_claim(service: RunningService) -> None:
    created = service.demo.post(
        "/v1/documents",
        content=b"%PDF-1.7\n1 0 obj",
        headers={**named("a.jpg"), "Content-Type": "image/jpeg"},
    ).json()
    assert created["version"]["media_type"] == "application/pdf"
    assert created["version"]["claimed_media_type"] == "image/jpeg"


def test_every_answer_carries_a_request_id(service: RunningService) -> None:
    answer = service.demo.get("/v1/documents/none", headers={"X-Request-Id": "trace-12345678"})
    assert answer.headers["x-request-id"] == "trace-12345678"
    assert answer.json()["request_id"] == "trace-12345678"
    hostile = service.demo.get("/v1/documents", headers={"X-Request-Id": "a b"})
    assert hostile.headers["x-request-id"] != "a b"


def test_unknown_fields_are_refused_without_echo(service: RunningService) -> None:
    answer = service.admin.post("/v1/classes", json={"name": "a", "secret-110101199003070000": 1})
    assert answer.status_code == 422
    assert "110101199003070000" not in answer.text
