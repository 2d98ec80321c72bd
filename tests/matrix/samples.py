"""For each row of the table a well-formed request.

To add a route: one row in docs/permissions.md, one line here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from keymgmt.recoverykey import RecoveryPrivateKey
from tests.api.helpers import named
from tests.matrix.truth import NOBODY
from tests.matrix.world import OWN, Thing, World

Body = dict[str, Any]


def _nothing(_world: World, _of: str) -> Thing:
    return {}


def _no_body(_thing: Thing) -> None:
    return None


def _no_parameters(_thing: Thing) -> dict[str, str]:
    return {}


def _nothing_to_do(_world: World) -> None: ...


@dataclass(frozen=True)
class Asked:
    """What to ask for where an act takes an approval, and who decides."""

    action: str
    purpose: str
    target: Callable[[Thing], Thing]
    decider: Callable[[World, str], AbstractContextManager[httpx.Client]]


@dataclass(frozen=True)
class Sample:
    """How to call one row.

    Attributes:
        thing: makes what a call acts on, of a department; every call that is allowed gets a fresh one.
        theirs: the same, asked for by the caller; for rows with `theirs`.
        has_department: things belong to departments.
        fixed: the rest of the path.
        domain: problems that are this route's own answers to somebody who may.
        asked: for rows with `approval`.
        caller: who calls, where the column's usual client would be used up.
        before, after: around a call that is allowed.
    """

    thing: Callable[[World, str], Thing] = _nothing
    theirs: Callable[[World, httpx.Client], Thing] | None = None
    has_department: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[Thing], Body | None] = _no_body
    parameters: Callable[[Thing], dict[str, str]] = _no_parameters
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    domain: frozenset[str] = frozenset()
    asked: Asked | None = None
    caller: Callable[[World, str], httpx.Client] = World.client
    before: Callable[[World], None] = _nothing_to_do
    after: Callable[[World], None] = _nothing_to_do


def _of_department(thing: Callable[[World, str], Thing], **more: Any) -> Sample:
    return Sample(thing=thing, has_department=True, **more)


def _document(**more: Any) -> Sample:
    return _of_department(World.document, fixed={"number": "1"}, **more)


def _made(make: Callable[[World], Thing], **more: Any) -> Sample:
    return Sample(thing=lambda world, _of: make(world), **more)


def _department(_world: World, of: str) -> Thing:
    return {"department": of}


def _named(kind: str) -> Callable[[World], Thing]:
    return lambda world: {"name": world.name(kind)}


def _whole(thing: Thing) -> Body:
    return dict(thing)


def _body(**values: Any) -> Callable[[Thing], Body]:
    return lambda thing: {**thing, **values}


def _just(**values: Any) -> Callable[[Thing], Body]:
    return lambda _thing: dict(values)


def _asking(action: str, purpose: str, target: Callable[[Thing], Thing]) -> Callable[[Thing], Body]:
    return lambda thing: {
        "action": action,
        "target": target(thing),
        "purpose": purpose,
        "reason": "a reason",
    }


def _key_target(thing: Thing) -> Thing:
    return {"document": thing["document_id"], "version": "1"}


def _role_target(thing: Thing) -> Thing:
    return {"principal": thing["principal_id"], "role": "department_head", "department": OWN}


def _new_identity(thing: Thing) -> Body:
    return {"issuer": "https://login.example.org", "subject": f"of-{thing['principal_id']}"}


def _principal_target(thing: Thing) -> Thing:
    return {"principal": thing["principal_id"]}


def _recovery_key(_world: World) -> Thing:
    return {"public_key": RecoveryPrivateKey(os.urandom(32)).public.to_text()}


def _recovery_target(thing: Thing) -> Thing:
    return {"key": thing["public_key"].split(":")[1]}


def _site_target(_thing: Thing) -> Thing:
    return {"site": "a"}


def _head(world: World, _column: str) -> AbstractContextManager[httpx.Client]:
    return nullcontext(world.session(world.heads[OWN]))


def _security(world: World, column: str) -> AbstractContextManager[httpx.Client]:
    if column == "security_administrator":
        return world.second_security_administrator()
    return nullcontext(world.client("security_administrator"))


def _operator(world: World, _column: str) -> AbstractContextManager[httpx.Client]:
    return nullcontext(world.session(world.second_operator))


def _fresh(world: World, column: str) -> httpx.Client:
    if column in world.people:
        return world.fresh_session(world.people[column])
    return world.client(column)


def _with_own_key(world: World, column: str) -> httpx.Client:
    if column in world.people or column == NOBODY:
        return world.client(column)
    return world.own_key(column)


def _both_sites_serve(world: World) -> None:
    assert world.admin.post("/v1/sites/b/admit").is_success
    assert world.admin.post("/v1/sites/sweep/confirm").is_success


_KEY_REQUEST: Final = _of_department(
    World.key_request, theirs=lambda world, by: world.key_request(OWN, by)
)
_ROLE_REQUEST: Final = _made(World.role_request, theirs=lambda world, by: world.role_request(by))
_FAILOVER_REQUEST: Final = _made(
    World.failover_request, theirs=lambda world, by: world.failover_request(by)
)
_LIST: Final = Sample()
_PROOF: Final = {"password": "a long password", "totp": "123456"}
_NOT_PROVED: Final = frozenset({"sign-in-refused", "sign-in-delayed"})
_NO_TOKEN: Final = "se_none"
_NO_PROVIDER: Final = Sample(domain=frozenset({"not-configured"}))
_JOB: Final = Sample(before=World.clear_jobs)


def _decided(act: str) -> dict[str, Sample]:
    route = f"POST /v1/approvals/{{approval_id}}/{act}"
    return {
        f"{route} | a document's key": _of_department(World.key_request, body=_just()),
        f"{route} | a document's key, undecided for a day": _of_department(
            World.old_key_request, body=_just()
        ),
        f"{route} | a role": _made(World.role_request, body=_just()),
        f"{route} | a failover": _made(World.failover_request, body=_just()),
    }


_DOCUMENT: Final = "/v1/documents/{document_id}"
_VERSION: Final = f"{_DOCUMENT}/versions/{{number}}"

SAMPLES: Final[dict[str, Sample]] = {
    "POST /v1/documents": _of_department(
        _department, parameters=_whole, content=b"x", headers=named("a.txt")
    ),
    "GET /v1/documents": _of_department(_department, parameters=_whole),
    "POST /v1/documents/search": _of_department(_department, body=_body(name_contains="a")),
    f"GET {_DOCUMENT}": _document(),
    f"PATCH {_DOCUMENT} | its name": _document(body=_just(name="b.txt")),
    f"PATCH {_DOCUMENT} | its department": _of_department(
        lambda world, of: {**world.document(of), "department": of},
        body=lambda thing: {"department": thing["department"]},
    ),
    f"DELETE {_DOCUMENT}": _document(),
    f"POST {_DOCUMENT}/undelete": _of_department(World.binned),
    f"GET {_DOCUMENT}/history": _document(),
    f"GET {_DOCUMENT}/versions": _document(),
    f"GET {_VERSION}": _document(),
    f"PUT {_DOCUMENT}/content": _document(content=b"y"),
    f"GET {_DOCUMENT}/content": _document(),
    f"HEAD {_DOCUMENT}/content": _document(),
    f"GET {_VERSION}/content": _document(),
    f"HEAD {_VERSION}/content": _document(),
    f"POST {_VERSION}/export-key": _document(
        asked=Asked("key.export", "customer-request", _key_target, _head)
    ),
    f"POST {_DOCUMENT}/verify": _document(),
    "GET /v1/classes": _LIST,
    "GET /v1/classes/{name}": Sample(fixed={"name": "general"}),
    "POST /v1/classes": _made(_named("class"), body=_whole),
    "GET /v1/holds": _LIST,
    "POST /v1/holds": _of_department(World.document, body=_body(reason="a court order")),
    "POST /v1/holds/{hold_id}/release": _of_department(World.hold),
    "GET /v1/whoami": _LIST,
    "GET /v1/departments": _LIST,
    "POST /v1/departments": _made(_named("department"), body=_whole),
    "POST /v1/departments/{name}/close": _made(World.department),
    "POST /v1/people": _made(_named("person"), body=_whole),
    "POST /v1/people/{principal_id}/enrolment | without a dangerous role": _made(World.person),
    "POST /v1/people/{principal_id}/enrolment | with a dangerous role": _made(
        World.dangerous_person,
        asked=Asked("credentials.reset", "staffing", _principal_target, _security),
    ),
    "GET /v1/people/{principal_id}/identities": _made(World.person),
    "POST /v1/people/{principal_id}/identities | without a dangerous role": _made(
        World.person, body=_new_identity
    ),
    "POST /v1/people/{principal_id}/identities | with a dangerous role": _made(
        World.dangerous_person,
        body=_new_identity,
        asked=Asked("credentials.reset", "staffing", _principal_target, _security),
    ),
    "POST /v1/identities/{identity_id}/revoke": _made(World.identity),
    "GET /v1/principals": _LIST,
    "POST /v1/principals | an application": _made(
        _named("application"), body=_body(scopes=["read"], department=OWN)
    ),
    "POST /v1/principals | an administrator for set-up": _made(
        _named("administrator"), body=_body(scopes=["admin"])
    ),
    "POST /v1/principals/{principal_id}/disable": _made(World.application),
    "GET /v1/api-keys": _LIST,
    "POST /v1/api-keys | an application that reads or writes in one department": _made(
        World.application, body=_whole
    ),
    "POST /v1/api-keys | any other application": _made(
        lambda world: world.application("export-keys"),
        body=_whole,
        asked=Asked("api-key.issue", "staffing", _principal_target, _security),
    ),
    "POST /v1/api-keys/rotate": Sample(body=_just(), caller=_with_own_key),
    "POST /v1/api-keys/{api_key_id}/revoke": _made(World.api_key),
    "GET /v1/role-grants": _LIST,
    "POST /v1/role-grants | staff or archive_manager": _made(
        World.person, body=_body(role="staff", department=OWN)
    ),
    "POST /v1/role-grants | any other role": _made(
        World.person,
        body=_body(role="department_head", department=OWN),
        asked=Asked("role.grant", "staffing", _role_target, _security),
    ),
    "POST /v1/role-grants/{grant_id}/revoke": _made(World.role_grant),
    "GET /v1/sessions": _LIST,
    "POST /v1/sessions/end": Sample(caller=_fresh),
    "POST /v1/sessions/{session_id}/revoke": _made(World.open_session),
    # Nobody of this vault has a password.
    "POST /v1/sessions/step-up": Sample(body=_just(**_PROOF), domain=_NOT_PROVED),
    "POST /v1/me/password": Sample(
        body=_just(old="a long password", new="another long one", totp="123456"),
        domain=_NOT_PROVED,
    ),
    "GET /v1/oidc/step-up": _NO_PROVIDER,
    # Nobody would carry on: this vault has one security administrator.
    "POST /v1/setup/close": Sample(domain=frozenset({"setup-incomplete"})),
    "GET /v1/approvals": _LIST,
    "GET /v1/grants": _LIST,
    "POST /v1/approvals | a document's key": _document(
        body=_asking("key.export", "customer-request", _key_target)
    ),
    "POST /v1/approvals | a role": _made(
        World.person, body=_asking("role.grant", "staffing", _role_target)
    ),
    "POST /v1/approvals | an API key": _made(
        World.application, body=_asking("api-key.issue", "staffing", _principal_target)
    ),
    "POST /v1/approvals | a new way to sign in": _made(
        World.person, body=_asking("credentials.reset", "staffing", _principal_target)
    ),
    "POST /v1/approvals | a recovery key": _made(
        _recovery_key, body=_asking("key.register-recovery", "exercise", _recovery_target)
    ),
    "POST /v1/approvals | a failover": Sample(
        body=_asking("site.fail-over", "exercise", _site_target)
    ),
    "GET /v1/approvals/{approval_id} | a document's key": _KEY_REQUEST,
    "GET /v1/approvals/{approval_id} | a role": _ROLE_REQUEST,
    "GET /v1/approvals/{approval_id} | a failover": _FAILOVER_REQUEST,
    **_decided("approve"),
    **_decided("deny"),
    "POST /v1/approvals/{approval_id}/withdraw | a document's key": _KEY_REQUEST,
    "POST /v1/approvals/{approval_id}/withdraw | a role": _ROLE_REQUEST,
    "POST /v1/grants/{grant_id}/revoke | a document's key": _of_department(
        World.key_grant, theirs=lambda world, by: world.key_grant(OWN, by)
    ),
    "POST /v1/access/explain": Sample(body=_just(who="demo", action="document.read")),
    "GET /v1/access/conflicts": _LIST,
    "GET /v1/access/findings": _LIST,
    "GET /v1/keys": _LIST,
    "GET /v1/keys/recovery": _LIST,
    "GET /v1/keys/epochs": _LIST,
    "GET /v1/keys/epochs/next": _LIST,
    "POST /v1/keys/{purpose}/rotate": Sample(fixed={"purpose": "documents"}),
    "POST /v1/keys/signing/rotate": Sample(),
    "POST /v1/keys/seal/rotate": Sample(),
    "POST /v1/keys/documents/rewrap": _JOB,
    "POST /v1/keys/drill": _JOB,
    "POST /v1/keys/{purpose}/retire": Sample(
        fixed={"purpose": "documents"}, domain=frozenset({"key-version-in-use"})
    ),
    "POST /v1/keys/epochs": _JOB,
    "POST /v1/keys/recovery": _made(
        _recovery_key,
        body=_whole,
        before=World.clear_jobs,
        asked=Asked("key.register-recovery", "exercise", _recovery_target, _security),
    ),
    "GET /v1/sites": _LIST,
    "GET /v1/sites/incidents": _LIST,
    "GET /v1/sites/orphans": _LIST,
    "GET /v1/sites/{site}/failover": Sample(fixed={"site": "a"}),
    "POST /v1/sites/orphans/remove": Sample(),
    "POST /v1/sites/sweep/confirm": Sample(),
    "POST /v1/sites/parked/retry": Sample(),
    "POST /v1/sites/verify": _JOB,
    "POST /v1/sites/scrub": _JOB,
    "POST /v1/sites/{site}/resync": Sample(fixed={"site": "b"}, before=World.clear_jobs),
    "POST /v1/sites/{site}/admit": Sample(fixed={"site": "b"}),
    "POST /v1/sites/{site}/failover": Sample(
        fixed={"site": "a"},
        body=_just(accepted=1_000_000),
        asked=Asked("site.fail-over", "exercise", _site_target, _operator),
        after=_both_sites_serve,
    ),
    "GET /v1/jobs": _LIST,
    "GET /v1/jobs/{job_id}": _made(World.job),
    "POST /v1/jobs/{job_id}/stop": _made(World.job),
    "POST /v1/jobs/{job_id}/resume": _made(lambda world: world.job(stopped=True)),
    "GET /healthz": Sample(),
    "GET /readyz": Sample(),
    "GET /metrics": Sample(),
    "POST /v1/sessions/password": _made(
        _named("stranger"), body=_body(**_PROOF), domain=_NOT_PROVED
    ),
    "POST /v1/enrolment": Sample(
        body=_just(token=_NO_TOKEN, password="a long password"),
        domain=frozenset({"enrolment-refused"}),
    ),
    "POST /v1/enrolment/confirm": Sample(
        body=_just(token=_NO_TOKEN, totp="123456"), domain=frozenset({"enrolment-refused"})
    ),
    "GET /v1/oidc/sign-in": _NO_PROVIDER,
    "GET /v1/oidc/callback": _NO_PROVIDER,
    "GET /v1/keys/public": Sample(),
}
