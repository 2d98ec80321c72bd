"""/v1/documents with bytes: create, add a version, fetch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from api.auth import allowed_to
from api.delivery import Delivery
from api.dependencies import ServicesOf
from api.errors import BadRequest
from api.headers import (
    attachment,
    chosen_range,
    expected_versions,
    file_name,
    refuse_known,
    version_etag,
)
from api.intake import take_in
from api.multipart import MultipartBody
from api.shapes import DocumentMetadata, DocumentShape
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.idempotency import IdempotencyKey
from vault.incoming import NewDocument, NewVersion
from vault.model import ByteRange, Document

router = APIRouter(prefix="/v1/documents", tags=["documents"])

Creator = Annotated[Actor, allowed_to(Action.DOCUMENT_CREATE)]
Updater = Annotated[Actor, allowed_to(Action.DOCUMENT_UPDATE)]
Reader = Annotated[Actor, allowed_to(Action.DOCUMENT_READ)]
IdempotencyHeader = Annotated[str | None, Header(min_length=1, max_length=255)]

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD: Final = {
    "requestBody": {"required": True, "content": {"application/octet-stream": _BINARY}}
}
_DOWNLOAD: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/octet-stream": _BINARY}}
}


@router.post("", status_code=201, response_model=DocumentShape, openapi_extra=_UPLOAD)
async def create_document(
    request: Request,
    services: ServicesOf,
    actor: Creator,
    class_name: Annotated[str, Query(alias="class")] = "general",
    department: str | None = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """File a document. The body is its bytes, its name stands in Content-Disposition; or
    multipart/form-data with the parts `metadata` (JSON) and `content`."""
    chunks = _body(request)
    claimed = request.headers.get("content-type")
    if claimed is not None and claimed.lower().startswith("multipart/form-data"):
        multipart = MultipartBody(request.headers, chunks)
        metadata = _metadata(await multipart.metadata())
        chunks, claimed = multipart.content(), multipart.content_type
    else:
        metadata = DocumentMetadata.model_construct(
            name=file_name(request.headers), class_name=class_name, department=department
        )
    new = NewDocument.checked(
        name=metadata.name,
        class_name=metadata.class_name,
        department=_department(actor, metadata.department),
        claimed_media_type=claimed,
        declared_size_bytes=_declared_size(request),
    )
    key = idempotency_key and IdempotencyKey.of(
        actor.caller.principal_id, "POST /v1/documents", idempotency_key
    )
    document = await take_in(lambda: services.uploads.create(actor, new, key or None), chunks)
    return _created(document)


@router.put(
    "/{document_id}/content", status_code=201, response_model=DocumentShape, openapi_extra=_UPLOAD
)
async def add_version(
    request: Request,
    services: ServicesOf,
    actor: Updater,
    document_id: UUID,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Add a version. If-Match with the content's ETag makes it the successor of just that one."""
    new = NewVersion(
        document_id,
        request.headers.get("content-type"),
        expected_versions(if_match),
        _declared_size(request),
    )
    document = await take_in(lambda: services.uploads.add_version(actor, new), _body(request))
    return _created(document)


@router.get("/{document_id}/content", response_class=Response, responses=_DOWNLOAD)
def fetch_newest(
    request: Request, services: ServicesOf, actor: Reader, document_id: UUID
) -> Response:
    """The bytes of the newest version; Range, If-Range and If-None-Match work as in RFC 9110."""
    return _fetch(request, services, actor, document_id, None)


@router.get(
    "/{document_id}/versions/{number}/content", response_class=Response, responses=_DOWNLOAD
)
def fetch_version(
    request: Request, services: ServicesOf, actor: Reader, document_id: UUID, number: int
) -> Response:
    """The bytes of one version."""
    return _fetch(request, services, actor, document_id, number)


@router.head("/{document_id}/content", response_class=Response)
def examine_newest(
    request: Request, services: ServicesOf, actor: Reader, document_id: UUID
) -> Response:
    """The headers that a fetch would answer with."""
    return _examine(request, services, actor, document_id, None)


@router.head("/{document_id}/versions/{number}/content", response_class=Response)
def examine_version(
    request: Request, services: ServicesOf, actor: Reader, document_id: UUID, number: int
) -> Response:
    """The headers that a fetch of this version would answer with."""
    return _examine(request, services, actor, document_id, number)


def _fetch(
    request: Request, services: ServicesOf, actor: Actor, document_id: UUID, number: int | None
) -> Response:
    partial = False

    def choose(document: Document) -> ByteRange:
        nonlocal partial
        refuse_known(request.headers, document.version)
        chosen, partial = chosen_range(request.headers, document.version)
        return chosen

    content = services.contents.open(actor, document_id, choose, number)
    headers = _content_headers(content.document, content.range)
    if partial:
        total = content.document.version.size_bytes
        last = content.range.stop - 1
        headers["Content-Range"] = f"bytes {content.range.start}-{last}/{total}"
    return Delivery(content, 206 if partial else 200, headers)


def _examine(
    request: Request, services: ServicesOf, actor: Actor, document_id: UUID, number: int | None
) -> Response:
    document = services.contents.examine(actor, document_id, number)
    refuse_known(request.headers, document.version)
    whole = ByteRange(0, document.version.size_bytes)
    return Response(headers=_content_headers(document, whole))


def _content_headers(document: Document, chosen: ByteRange) -> dict[str, str]:
    return {
        # Set here: the framework would add a charset that nobody judged.
        "Content-Type": document.version.media_type,
        "Content-Length": str(chosen.stop - chosen.start),
        "Content-Disposition": attachment(document.name),
        "ETag": version_etag(document.version),
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _created(document: Document) -> Response:
    return Response(
        DocumentShape.of(document).model_dump_json(by_alias=True),
        status_code=201,
        media_type="application/json",
        headers={
            "Location": f"/v1/documents/{document.id}",
            "ETag": version_etag(document.version),
        },
    )


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _metadata(given: dict[str, object]) -> DocumentMetadata:
    try:
        return DocumentMetadata.model_validate(given)
    except ValidationError:
        raise BadRequest(
            "the metadata has the fields name, and where wanted class and department, all strings"
        ) from None


def _department(actor: Actor, given: str | None) -> str:
    department = given or actor.caller.only_department
    if department is None:
        raise BadRequest("say which department the document belongs to: ?department=…")
    return department


def _declared_size(request: Request) -> int | None:
    # Only a raw body's length is the document's.
    length = request.headers.get("content-length", "")
    multipart = request.headers.get("content-type", "").lower().startswith("multipart/")
    return int(length) if length.isdecimal() and not multipart else None
