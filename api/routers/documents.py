"""/v1/documents without bytes: view, list, search, change, bin, undelete, history, versions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response

from api.auth import allowed_to
from api.dependencies import ServicesOf
from api.headers import expected_revision, revision_etag
from api.routers.paging import PageSize, PageToken
from api.shapes import (
    ChangeShape,
    DocumentChanges,
    DocumentSearch,
    DocumentShape,
    PageShape,
    VersionShape,
)
from vault.access.policy import Action
from vault.accesslog.event import Actor
from vault.documents import Changes, Filter
from vault.model import Document, DocumentState, Page
from vault.paging import PageRequest

router = APIRouter(prefix="/v1/documents", tags=["documents"])

Reader = Annotated[Actor, allowed_to(Action.DOCUMENT_READ)]
Lister = Annotated[Actor, allowed_to(Action.DOCUMENT_LIST)]
Updater = Annotated[Actor, allowed_to(Action.DOCUMENT_UPDATE)]
Binner = Annotated[Actor, allowed_to(Action.DOCUMENT_BIN)]
IfMatch = Annotated[str | None, Header()]


@router.get("")
def list_documents(
    services: ServicesOf,
    actor: Lister,
    class_name: Annotated[str | None, Query(alias="class")] = None,
    department: str | None = None,
    state: DocumentState = DocumentState.LIVE,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[DocumentShape]:
    """Documents that you may see, newest first."""
    wanted = Filter(
        class_name=class_name,
        department=department,
        state=state,
        created_after=created_after,
        created_before=created_before,
    )
    return _page(services.documents.list(actor, wanted, PageRequest(page_size, page_token)))


@router.post("/search")
def search_documents(
    services: ServicesOf, actor: Lister, search: DocumentSearch
) -> PageShape[DocumentShape]:
    """Documents by part of their name, newest first."""
    wanted = Filter(
        class_name=search.class_name,
        department=search.department,
        state=search.state,
        created_after=search.created_after,
        created_before=search.created_before,
        name_contains=search.name_contains,
    )
    request = PageRequest(search.page_size, search.page_token)
    return _page(services.documents.list(actor, wanted, request))


@router.get("/{document_id}")
def view_document(
    services: ServicesOf, actor: Reader, document_id: UUID, response: Response
) -> DocumentShape:
    """One document's metadata with its newest version."""
    return _answer(services.documents.view(actor, document_id), response)


@router.patch("/{document_id}")
def change_document(
    services: ServicesOf,
    actor: Updater,
    document_id: UUID,
    given: DocumentChanges,
    response: Response,
    if_match: IfMatch = None,
) -> DocumentShape:
    """Change name, class or department; the history remembers what they were."""
    changes = Changes(given.name, given.class_name, given.department)
    expected = expected_revision(if_match)
    return _answer(services.documents.change(actor, document_id, changes, expected), response)


@router.delete("/{document_id}")
def bin_document(
    services: ServicesOf,
    actor: Binner,
    document_id: UUID,
    response: Response,
    if_match: IfMatch = None,
) -> DocumentShape:
    """Put a document into the bin; `purge_after` says how long it is safe there."""
    expected = expected_revision(if_match)
    return _answer(services.documents.bin(actor, document_id, expected), response)


@router.post("/{document_id}/undelete")
def undelete_document(
    services: ServicesOf, actor: Binner, document_id: UUID, response: Response
) -> DocumentShape:
    """Take a document out of the bin."""
    return _answer(services.documents.undelete(actor, document_id), response)


@router.get("/{document_id}/history")
def list_changes(
    services: ServicesOf,
    actor: Reader,
    document_id: UUID,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[ChangeShape]:
    """Every change of the metadata: who, when, from, to."""
    page = services.documents.history(actor, document_id, PageRequest(page_size, page_token))
    return PageShape[ChangeShape].of(page, ChangeShape.of)


@router.get("/{document_id}/versions")
def list_versions(
    services: ServicesOf,
    actor: Reader,
    document_id: UUID,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> PageShape[VersionShape]:
    """Versions, newest first."""
    page = services.documents.versions(actor, document_id, PageRequest(page_size, page_token))
    return PageShape[VersionShape].of(page, VersionShape.of)


@router.get("/{document_id}/versions/{number}")
def view_version(
    services: ServicesOf, actor: Reader, document_id: UUID, number: int
) -> VersionShape:
    """One version."""
    return VersionShape.of(services.documents.version(actor, document_id, number))


def _answer(document: Document, response: Response) -> DocumentShape:
    response.headers["ETag"] = revision_etag(document.revision)
    return DocumentShape.of(document)


def _page(page: Page[Document]) -> PageShape[DocumentShape]:
    return PageShape[DocumentShape].of(page, DocumentShape.of)
