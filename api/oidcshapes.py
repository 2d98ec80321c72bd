"""What JSON goes in and out about sign-in at a provider."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from api.peopleshapes import SessionShape
from api.shapes import Fields, Given


class NewIdentityShape(Given):
    """An account at the provider to link, as the directory there has it."""

    issuer: str
    subject: str


class IdentityShape(Fields):
    """An account at the provider that is linked to a person."""

    id: UUID
    principal_id: UUID
    issuer: str
    subject: str
    linked_at: datetime
    linked_by: UUID
    revoked_at: datetime | None


class SignedInShape(Fields):
    """The session that the browser has from now on; its token is in the cookie only."""

    session: SessionShape
