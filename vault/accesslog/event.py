"""Access events, first cut: one row each, written with the act it records.

- A change writes its event in its own transaction: both happen or neither.
- A read commits an *intent* first, and an *outcome* afterwards; a missing outcome is a finding.
- A denial is an event too, on a connection of its own.

Writing an event on behalf of an API key or session succeeds only while that is live: the row is inserted
`WHERE` it still stands. So a key revoked a moment ago can do nothing that leaves a trace, and there is
nothing that leaves none. Does not handle: proof that nobody changed the rows afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.elements import TextClause

from vault.access.policy import Caller
from vault.errors import CredentialRevoked


class EventType(StrEnum):
    """Closed list, `source:subject:action`."""

    DOCUMENT_CREATED = "api:document:created"
    VERSION_ADDED = "api:version:added"
    DOCUMENT_REPLAYED = "api:document:replayed"
    DOCUMENT_VIEWED = "api:document:viewed"
    DOCUMENTS_LISTED = "api:documents:listed"
    DOCUMENTS_SEARCHED = "api:documents:searched"
    DOCUMENT_CHANGED = "api:document:changed"
    DOCUMENT_BINNED = "api:document:binned"
    DOCUMENT_UNDELETED = "api:document:undeleted"
    DOCUMENT_PURGED = "worker:document:purged"
    READ_INTENDED = "api:content:read-intended"
    READ_COMPLETED = "api:content:read-completed"
    READ_BROKEN_OFF = "api:content:read-broken-off"
    INTEGRITY_FAILED = "api:content:integrity-failed"
    HOLD_PLACED = "api:hold:placed"
    HOLD_RELEASED = "api:hold:released"
    HOLDS_LISTED = "api:holds:listed"
    CLASS_ADDED = "api:class:added"
    PRINCIPAL_ADDED = "api:principal:added"
    PRINCIPAL_DISABLED = "api:principal:disabled"
    PRINCIPALS_LISTED = "api:principals:listed"
    PERSON_ADDED = "api:person:added"
    DEPARTMENT_ADDED = "api:department:added"
    DEPARTMENT_CLOSED = "api:department:closed"
    ROLE_GRANTED = "api:role:granted"
    ROLE_REVOKED = "api:role:revoked"
    ROLES_LISTED = "api:roles:listed"
    SESSION_BEGUN = "api:session:begun"
    SESSION_STEPPED_UP = "api:session:stepped-up"
    SESSION_ENDED = "api:session:ended"
    SESSION_REVOKED = "api:session:revoked"
    SESSIONS_LISTED = "api:sessions:listed"
    SIGN_IN_REFUSED = "api:sign-in:refused"
    IDENTITY_LINKED = "api:identity:linked"
    IDENTITY_REVOKED = "api:identity:revoked"
    IDENTITIES_LISTED = "api:identities:listed"
    CREDENTIALS_CHANGED = "api:credentials:changed"
    CREDENTIALS_RESET = "api:credentials:reset"
    APPROVAL_REQUESTED = "api:approval:requested"
    APPROVAL_APPROVED = "api:approval:approved"
    APPROVAL_DENIED = "api:approval:denied"
    APPROVAL_WITHDRAWN = "api:approval:withdrawn"
    APPROVAL_VIEWED = "api:approval:viewed"
    APPROVALS_LISTED = "api:approvals:listed"
    APPROVAL_ESCALATED = "worker:approval:escalated"
    APPROVAL_EXPIRED = "worker:approval:expired"
    GRANT_USED = "api:grant:used"
    GRANT_REVOKED = "api:grant:revoked"
    GRANTS_LISTED = "api:grants:listed"
    WENT_ALONE = "api:act:without-approval"
    CONFLICTS_LISTED = "api:conflicts:listed"
    SETUP_CLOSED = "api:setup:closed"
    API_KEY_ISSUED = "api:api-key:issued"
    API_KEY_ROTATED = "api:api-key:rotated"
    API_KEY_REVOKED = "api:api-key:revoked"
    API_KEYS_LISTED = "api:api-keys:listed"
    JOB_STARTED = "api:job:started"
    JOB_STOP_REQUESTED = "api:job:stop-requested"
    JOB_ENDED = "worker:job:ended"
    KEKS_LISTED = "api:keys:listed"
    KEK_ROTATED = "api:key:rotated"
    KEK_RETIRED = "api:key:retired"
    RECOVERY_KEY_REGISTERED = "api:recovery-key:registered"
    RECOVERY_KEYS_LISTED = "api:recovery-keys:listed"
    DATA_KEY_EXPORTED = "api:key:exported"
    DOCUMENTS_SHREDDED = "worker:documents:shredded"
    REPLICA_LOST = "worker:replica:lost"
    SITES_VIEWED = "api:sites:viewed"
    OUTLOOK_VIEWED = "api:outlook:viewed"
    INCIDENTS_LISTED = "api:incidents:listed"
    ORPHANS_LISTED = "api:orphans:listed"
    REPLICAS_VERIFIED = "api:replicas:verified"
    PARKED_RETRIED = "api:journal:parked-retried"
    SITE_FAILED_OVER = "api:site:failed-over"
    SITE_ADMITTED = "api:site:admitted"
    SWEEP_HELD = "worker:sweep:held"
    SWEEP_CONFIRMED = "api:sweep:confirmed"
    ORPHANS_REMOVED = "api:orphans:removed"
    SEAL_BROKEN_MET = "api:authority:seal-broken"
    SEAL_BROKEN_SEEN = "worker:authority:seal-broken"
    AUTHORITY_SEALED = "api:authority:sealed"
    FINDINGS_LISTED = "api:findings:listed"
    ACCESS_EXPLAINED = "api:access:explained"
    CREDENTIAL_REFUSED = "api:credential:refused"
    ACT_DENIED = "api:act:denied"


@dataclass(frozen=True)
class Actor:
    """Who acts, and within which request.

    Attributes:
        by: what allows it, as `Decision.by` says; it stands in every event.
    """

    caller: Caller
    request_id: str
    by: str = ""


@dataclass(frozen=True)
class AccessEvent:
    """One line of the log. `detail` holds facts, never names, values or bytes of documents.

    Attributes:
        actor: None when the service itself acts, or nobody could be recognised.
    """

    type: EventType
    actor: Actor | None
    document_id: UUID | None = None
    version: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid4)

    def parameters(self) -> dict[str, Any]:
        """Bind values for `INSERT_EVENT` and for statements that contain `EVENT_ROW`."""
        caller = self.actor.caller if self.actor else None
        return {
            "event_id": self.id,
            "event_type": self.type.value,
            "event_principal": caller and caller.principal_id,
            "event_api_key": caller and caller.api_key_id,
            "event_session": caller and caller.session_id,
            "event_request": self.actor.request_id if self.actor else None,
            "event_document": self.document_id,
            "event_version": self.version,
            "event_detail": self._detail(),
        }

    def _detail(self) -> dict[str, Any]:
        by = self.actor.by if self.actor else ""
        return {"by": by, **self.detail} if by else dict(self.detail)


LIVE_CREDENTIAL = """(
    EXISTS (
        SELECT FROM api_keys k JOIN principals p ON p.id = k.principal_id
        WHERE k.id = :event_api_key AND k.revoked_at IS NULL AND p.disabled_at IS NULL
          AND (k.expires_at IS NULL OR k.expires_at > now()))
    OR EXISTS (
        SELECT FROM sessions s JOIN principals p ON p.id = s.principal_id
        WHERE s.id = CAST(:event_session AS uuid) AND s.revoked_at IS NULL AND s.expires_at > now()
          AND p.disabled_at IS NULL AND p.authority_epoch = s.authority_epoch))"""
"""True while the acting key or session may be used. A session ends with any change of its principal's
roles."""

EVENT_ROW = """
    INSERT INTO access_events
        (id, type, principal_id, api_key_id, session_id, request_id, document_id, version, detail)
    SELECT :event_id, :event_type, CAST(:event_principal AS uuid), :event_api_key,
           CAST(:event_session AS uuid), :event_request, CAST(:event_document AS uuid),
           CAST(:event_version AS integer), :event_detail"""
"""An INSERT … SELECT that a statement may narrow with WHERE or feed from a CTE."""


EVENT_TYPES = {
    "event_id": "uuid",
    "event_type": "text",
    "event_principal": "uuid",
    "event_api_key": "text",
    "event_session": "uuid",
    "event_request": "text",
    "event_document": "uuid",
    "event_version": "integer",
    "event_detail": "jsonb",
}
"""PostgreSQL types of the values, for prepared statements."""


def with_event(sql: str) -> TextClause:
    """`sql` as a statement whose `:event_…` values come from `AccessEvent.parameters`."""
    return text(sql).bindparams(bindparam("event_detail", type_=JSONB))


INSERT_EVENT = with_event(
    f"{EVENT_ROW} WHERE CAST(:event_principal AS uuid) IS NULL OR {LIVE_CREDENTIAL}"
)


def record(connection: Connection, event: AccessEvent) -> UUID:
    """Write `event` in the connection's transaction; returns its id, the receipt.

    Raises:
        CredentialRevoked: the acting API key or session is no longer live; roll back.
    """
    if connection.execute(INSERT_EVENT, event.parameters()).rowcount != 1:
        raise CredentialRevoked
    return event.id
