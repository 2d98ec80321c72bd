"""The two query parameters that every list takes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from vault.paging import MAX_PAGE_SIZE

PageSize = Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE, description="how many items a page has")]
PageToken = Annotated[
    str | None, Query(max_length=200, description="`next_page_token` of the page before")
]
