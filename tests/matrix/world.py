"""A vault with two departments, a caller for each column, and things to act on, made when they are needed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx
from sqlalchemy import func, select

from tests.api.helpers import named
from tests.matrix.truth import NOBODY
from tests.people import add_person, department, grant, sign_in
from tests.running import RunningService
from vault.access.api_keys import insert_key
from vault.access.policy import Caller
from vault.access.roles import DEPARTMENTAL, Role
from vault.access.sealed_rows import APPROVALS
from vault.jobs import JobKind
from vault.tables import approvals

OWN, OTHER = "sales", "credit"

Thing = dict[str, str]

SESSION_SECONDS: Final = 120
"""How long a session is used: a step-up counts for five minutes, and a run on a slow machine takes longer."""

SCOPES: Final = ("read", "write", "export-keys", "operate", "audit")
VAULT_WIDE: Final = ("admin", "operate", "audit")


@dataclass(frozen=True)
class World:
    """One running vault.

    Attributes:
        people: the principal of each column that is a person.
        applications: a client for each column that is an application.
        writers, askers, heads: by department; they make things, and are nobody's column.
        second_administrator, second_operator: ask and decide, and are nobody's column either.
    """

    service: RunningService
    people: Mapping[str, UUID]
    applications: Mapping[str, httpx.Client]
    writers: Mapping[str, httpx.Client]
    askers: Mapping[str, UUID]
    heads: Mapping[str, UUID]
    second_administrator: httpx.Client
    second_operator: UUID
    _sessions: dict[tuple[UUID, bool], tuple[httpx.Client, float]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def admin(self) -> httpx.Client:
        """The administrator for set-up."""
        return self.service.admin

    def client(self, column: str, *, stepped_up: bool = True) -> httpx.Client:
        """Whoever a column is."""
        if column in self.people:
            return self.session(self.people[column], stepped_up=stepped_up)
        return self.applications[column]

    def session(self, principal_id: UUID, *, stepped_up: bool = True) -> httpx.Client:
        """A session of somebody, that is young enough."""
        key = (principal_id, stepped_up)
        client, until = self._sessions.get(key, (None, 0.0))
        if client is None or time.monotonic() > until:
            client = sign_in(self.service, principal_id, stepped_up=stepped_up)
            self._sessions[key] = (client, time.monotonic() + SESSION_SECONDS)
        return client

    def fresh_session(self, principal_id: UUID) -> httpx.Client:
        """A session that is used for one request."""
        return sign_in(self.service, principal_id)

    def caller(self, column: str) -> Caller:
        """Whoever a column is, as a flow sees them."""
        token = self.client(column).headers["Authorization"].removeprefix("Bearer ")
        services = self.service.services
        known_by = services.sessions if column in self.people else services.api_keys
        return known_by.authenticate(token)

    def name(self, kind: str) -> str:
        """One that nothing has yet."""
        return f"{kind}-{next(self._numbers)}"

    # Things of a department

    def document(self, of: str) -> Thing:
        """A document with one version."""
        made = self.writers[of].post("/v1/documents", content=b"x", headers=named("a.txt"))
        return {"document_id": _made(made)["id"]}

    def binned(self, of: str) -> Thing:
        """A document in the bin."""
        thing = self.document(of)
        _made(self.writers[of].delete(f"/v1/documents/{thing['document_id']}"))
        return thing

    def hold(self, of: str) -> Thing:
        """A legal hold in force."""
        body = {**self.document(of), "reason": "a court order"}
        return {"hold_id": _made(self.admin.post("/v1/holds", json=body))["id"]}

    def key_request(self, of: str, by: httpx.Client | None = None) -> Thing:
        """A request for the key of a document."""
        document = self.document(of)["document_id"]
        asker = by or self.session(self.askers[of])
        target = {"document": document, "version": "1"}
        return {"approval_id": self.ask(asker, "key.export", target, "customer-request")}

    def old_key_request(self, of: str) -> Thing:
        """One that nobody decided over for a day."""
        thing = self.key_request(of)
        services = self.service.services
        query = select(approvals).where(approvals.c.id == UUID(thing["approval_id"]))
        with services.database.as_service().transaction() as connection:
            row = connection.execute(query).one()
            now = connection.execute(select(func.now())).scalar_one()
            services.seals.change(connection, APPROVALS, row, escalated_at=now)
        return thing

    def key_grant(self, of: str, by: httpx.Client | None = None) -> Thing:
        """A grant of the key of a document."""
        approval = self.key_request(of, by)["approval_id"]
        decided = self.approve(self.session(self.heads[of]), approval)
        return {"grant_id": decided["grant_id"]}

    # Things of the vault

    def role_request(self, by: httpx.Client | None = None) -> Thing:
        """A request to make somebody a department head."""
        target = {"principal": self.person()["principal_id"], "role": "department_head"}
        target["department"] = OWN
        asker = by or self.second_administrator
        return {"approval_id": self.ask(asker, "role.grant", target, "staffing")}

    def failover_request(self, by: httpx.Client | None = None) -> Thing:
        """A request to fail over."""
        asker = by or self.second_administrator
        return {"approval_id": self.ask(asker, "site.fail-over", {"site": "a"}, "exercise")}

    def person(self) -> Thing:
        """A person without roles."""
        return {"principal_id": add_person(self.service, self.name("person"))["id"]}

    def application(self, scope: str = "read") -> Thing:
        """An application without keys."""
        body = {"name": self.name("application"), "scopes": [scope], "department": OWN}
        return {"principal_id": _made(self.admin.post("/v1/principals", json=body))["id"]}

    def api_key(self) -> Thing:
        """A live API key."""
        issued = self.admin.post("/v1/api-keys", json=self.application())
        return {"api_key_id": _made(issued)["id"]}

    def own_key(self, column: str) -> httpx.Client:
        """A client of a column's application with a key that may be rotated: there are at most two."""
        whoami = _made(self.applications[column].get("/v1/whoami"))
        body = {"name": self.name("rotating"), "scopes": whoami["scopes"]}
        if whoami["department"]:
            body["department"] = whoami["department"]
        return _with_key(self.service, body)

    def role_grant(self) -> Thing:
        """A role that somebody has."""
        principal_id = UUID(self.person()["principal_id"])
        return {"grant_id": str(grant(self.service, principal_id, Role.STAFF, department=OWN))}

    def dangerous_person(self) -> Thing:
        """Somebody who decides over others, and who has signed in."""
        made = self.person()
        principal_id = UUID(made["principal_id"])
        grant(self.service, principal_id, Role.DEPARTMENT_HEAD, department=OWN)
        sign_in(self.service, principal_id)
        return made

    def identity(self) -> Thing:
        """An account at a provider that is linked to somebody."""
        principal_id = self.person()["principal_id"]
        body = {"issuer": "https://login.example.org", "subject": principal_id}
        linked = self.admin.post(f"/v1/people/{principal_id}/identities", json=body)
        return {"identity_id": _made(linked)["id"]}

    def open_session(self) -> Thing:
        """A session that somebody has open."""
        client = sign_in(self.service, UUID(self.person()["principal_id"]))
        return {"session_id": _made(client.get("/v1/whoami"))["session_id"]}

    def department(self) -> Thing:
        """A department that nobody works in."""
        name = self.name("department")
        department(self.service, name)
        return {"name": name}

    def job(self, *, stopped: bool = False) -> Thing:
        """A job that waits for a worker, which this vault has none of."""
        self.clear_jobs()
        job = self.service.services.jobs.start(None, JobKind.DRILL)
        if stopped:
            _made(self.admin.post(f"/v1/jobs/{job.id}/stop"))
        return {"job_id": str(job.id)}

    def clear_jobs(self) -> None:
        """Stop what waits, so that each kind can be started."""
        for job in _made(self.admin.get("/v1/jobs"))["items"]:
            if job["state"] == "queued":
                _made(self.admin.post(f"/v1/jobs/{job['id']}/stop"))

    # Approvals

    def ask(self, asker: httpx.Client, action: str, target: Thing, purpose: str) -> str:
        """Ask for an approval; its id."""
        body = {"action": action, "target": target, "purpose": purpose, "reason": "a reason"}
        asked: str = _made(asker.post("/v1/approvals", json=body))["id"]
        return asked

    def approve(self, decider: httpx.Client, approval_id: str) -> dict[str, Any]:
        """Approve a request."""
        return _made(decider.post(f"/v1/approvals/{approval_id}/approve", json={}))

    @contextmanager
    def second_security_administrator(self) -> Iterator[httpx.Client]:
        """One more, for as long as the block runs: with two of them set-up could be closed."""
        principal_id = UUID(self.person()["principal_id"])
        role = grant(self.service, principal_id, Role.SECURITY_ADMINISTRATOR)
        yield sign_in(self.service, principal_id)
        _made(self.admin.post(f"/v1/role-grants/{role}/revoke"))


def populate(service: RunningService) -> World:
    """The world over a fresh vault."""
    for name in (OWN, OTHER):
        department(service, name)
    applications = {f"application ({scope})": _application(service, scope) for scope in SCOPES}
    return World(
        service=service,
        people={role.value: _person(service, role.value, role, OWN) for role in Role},
        applications={
            "set-up administrator": service.admin,
            **applications,
            NOBODY: httpx.Client(base_url=service.url, timeout=60, trust_env=False),
        },
        writers={of: _application(service, "write", of, "writer") for of in (OWN, OTHER)},
        askers={
            of: _person(service, f"asker-{of}", Role.ARCHIVE_MANAGER, of) for of in (OWN, OTHER)
        },
        heads={of: _person(service, f"head-{of}", Role.DEPARTMENT_HEAD, of) for of in (OWN, OTHER)},
        second_administrator=_application(service, "admin"),
        second_operator=_person(service, "second-operator", Role.IT_OPERATIONS, OWN),
    )


def _person(service: RunningService, name: str, role: Role, of: str) -> UUID:
    principal_id = UUID(add_person(service, name)["id"])
    grant(service, principal_id, role, department=of if role in DEPARTMENTAL else None)
    return principal_id


def _application(
    service: RunningService, scope: str, of: str = OWN, prefix: str = "application"
) -> httpx.Client:
    name = f"{prefix}-{scope}-{of}"
    # Without a person who answers for it an application may ask for no approval.
    responsible = add_person(service, f"responsible-for-{name}")["id"]
    body = {"name": name, "scopes": [scope], "responsible": responsible}
    if scope not in VAULT_WIDE:
        body["department"] = of
    return _with_key(service, body)


def _with_key(service: RunningService, body: dict[str, Any]) -> httpx.Client:
    added = _made(service.admin.post("/v1/principals", json=body))
    services = service.services
    # Without the approval that some of them take: setting a test up is not what it tests.
    with services.database.as_shared().transaction() as connection:
        issued = insert_key(connection, services.seals, UUID(added["id"]))
    return service.client(issued.token)


def _made(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found
