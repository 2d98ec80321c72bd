"""People for tests: added, given roles without asking anybody, and signed in without a password."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import Connection, select
from typing_extensions import override

from tests.running import RunningService
from vault.access.approvals import Target
from vault.access.grants import Grants
from vault.access.policy import RULES, Action, Caller
from vault.access.role_grants import NewRoleGrant, RoleGrants
from vault.access.roles import Role
from vault.access.sealed_rows import SESSIONS
from vault.access.sessions import Method
from vault.accesslog.event import Actor
from vault.tables import sessions

Held = tuple[Role, str | None]


class _Unasked(Grants):
    """Lets every act go without an approval: setting a test up is not what it tests."""

    @override
    def use(
        self,
        connection: Connection,
        actor: Actor,
        action: Action,
        target: Target,
        department: str | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Person:
    """A person who is signed in."""

    id: UUID
    person_id: UUID
    name: str
    client: httpx.Client


def administrator(service: RunningService) -> Actor:
    """The administrator for set-up, as a flow sees them."""
    return Actor(service.services.api_keys.authenticate(service.admin_key), "test-request")


def department(service: RunningService, name: str) -> None:
    """Add a department unless it is there."""
    added = service.admin.post("/v1/departments", json={"name": name})
    assert added.status_code in (201, 409), added.text


def add_person(service: RunningService, name: str, **more: Any) -> dict[str, Any]:
    """Add a person without roles."""
    added = service.admin.post("/v1/people", json={"name": name, **more})
    assert added.status_code == 201, added.text
    found: dict[str, Any] = added.json()
    return found


def grant(service: RunningService, principal_id: UUID, role: Role, **more: Any) -> UUID:
    """Grant a role, dangerous or not; its id."""
    services = service.services
    unasked = _Unasked(services.database, services.seals, lambda *_: None)
    flow = RoleGrants(services.database, services.seals, unasked)
    return flow.grant(administrator(service), NewRoleGrant(principal_id, role, **more)).id


def sign_in(
    service: RunningService, principal_id: UUID, *, stepped_up: bool = True
) -> httpx.Client:
    """A client with a fresh session."""
    services = service.services
    with services.database.as_shared().transaction() as connection:
        principal = services.seals.locked_principal(connection, principal_id)
        begun = services.sessions.begin(connection, principal, Method.PASSWORD, "test-request")
        if not stepped_up:
            query = select(sessions).where(sessions.c.id == begun.session.id)
            row = connection.execute(query).one()
            services.seals.change(connection, SESSIONS, row, stepped_up_at=None)
    return service.client(begun.token)


def person(
    service: RunningService,
    name: str,
    roles: Iterable[Held] = (),
    *,
    stepped_up: bool = True,
    **more: Any,
) -> Person:
    """A person with roles, signed in."""
    added = add_person(service, name, **more)
    principal_id = UUID(added["id"])
    for role, where in roles:
        if where is not None:
            department(service, where)
        grant(service, principal_id, role, department=where)
    client = sign_in(service, principal_id, stepped_up=stepped_up)
    return Person(principal_id, UUID(added["person_id"]), name, client)


def caller_of(service: RunningService, person: Person) -> Caller:
    """The person as a flow sees them."""
    token = person.client.headers["Authorization"].removeprefix("Bearer ")
    return service.services.sessions.authenticate(token)


def ask(client: httpx.Client, action: Action, target: Target, **given: Any) -> dict[str, Any]:
    """Ask for an approval."""
    purpose = min(RULES[action].purposes)
    body = {
        "action": action,
        "target": dict(target),
        "purpose": purpose,
        "reason": "a test needs it",
        **given,
    }
    answer = client.post("/v1/approvals", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def decide(client: httpx.Client, approval: dict[str, Any], what: str = "approve") -> httpx.Response:
    """Approve or deny a request."""
    return client.post(f"/v1/approvals/{approval['id']}/{what}", json={})


def approved(
    client: httpx.Client, by: Person, action: Action, target: Target, **given: Any
) -> dict[str, Any]:
    """Ask for an approval, and have somebody give it."""
    answer = decide(by.client, ask(client, action, target, **given))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def exporter(service: RunningService, department: str = "demo") -> str:
    """The token of an application that may export keys, for which a person is responsible."""
    name = f"exit-{uuid4().hex[:8]}"
    clerk = add_person(service, f"{name}-owner")
    new = {"name": name, "scopes": ["export-keys"], "department": department}
    added = service.admin.post("/v1/principals", json={**new, "responsible": clerk["id"]})
    assert added.status_code == 201, added.text
    issued = service.admin.post("/v1/api-keys", json={"principal_id": added.json()["id"]})
    return str(issued.json()["token"])


def let_export(service: RunningService, client: httpx.Client, document: dict[str, Any]) -> None:
    """Ask for the export of a document's first key, and have the head of its department approve it."""
    where = document["department"]
    head = person(service, f"head-{uuid4().hex[:8]}", [(Role.DEPARTMENT_HEAD, where)])
    target = {"document": document["id"], "version": "1"}
    approved(client, head, Action.KEY_EXPORT, target)
