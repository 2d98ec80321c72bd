"""The matrix: every route, every role, the own department and another, against the table that people read.

The table (docs/permissions.md) is the truth; `tests.matrix.samples` says how each row is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from api.bootstrap import build
from api.embedded import EmbeddedPostgres
from api.settings import DatabaseStandby, KmsSettings, Settings, Sites, SiteSettings
from tests.conftest import fresh_database, local_keyring
from tests.matrix import truth
from tests.matrix.samples import SAMPLES, Sample
from tests.matrix.truth import NOBODY, Cell, Row
from tests.matrix.world import OTHER, OWN, Thing, World, populate
from tests.running import running
from vault.accesslog.event import Actor
from vault.errors import NotAllowed
from vault.jobs import STARTED_BY, JobKind, UndeclaredJob

ROWS = truth.rows()
COLUMNS = tuple(ROWS[0].cells)
METHODS = {"get", "post", "put", "patch", "delete", "head"}

REFUSALS = frozenset(
    {"unauthenticated", "not-allowed", "step-up-needed", "approval-needed", "not-found"}
)

GRANTS_SEEN = {
    **dict.fromkeys(
        ("set-up administrator", "application (audit)", "compliance", "auditor"), (OWN, OTHER)
    ),
    "department_head": (OWN,),
}
"""Whose grants of a document's key, given to somebody else, a reader sees."""

RULE = re.compile(
    r"needs (the role|an API key with the scope) '|is for (people|applications)|is decided by the role '"
    r"|the scope 'admin' is for setting up"
)
"""How the rules that refuse somebody for good begin, or go on."""


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@pytest.fixture(scope="module")
def world(
    postgres: EmbeddedPostgres, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One vault for the whole matrix, without a worker."""
    home = tmp_path_factory.mktemp("matrix")
    with fresh_database(postgres, template) as urls:
        settings = Settings(
            home=home / "home",
            listen="127.0.0.1:0",
            database_url=SecretStr(urls.service),
            database_standby=DatabaseStandby.MANAGED,
            sites=Sites(a=SiteSettings(path=home / "a"), b=SiteSettings(path=home / "b")),
            kms=local_keyring(home),
        )
        with build(settings) as services, running(services) as service:
            yield populate(service)


@pytest.fixture(scope="module")
def operations(world: World) -> Mapping[str, dict[str, Any]]:
    """What OpenAPI describes, by method and path."""
    paths = httpx.get(f"{world.service.url}/openapi.json", trust_env=False).json()["paths"]
    return {
        f"{method.upper()} {path}": operation
        for path, of_path in paths.items()
        for method, operation in of_path.items()
        if method in METHODS
    }


def test_matrix_has_a_row_for_every_route_and_a_route_for_every_row(
    operations: Mapping[str, object],
) -> None:
    assert {f"{row.method} {row.path}" for row in ROWS} == set(operations)


def test_matrix_has_one_row_for_every_sample_and_the_other_way_round() -> None:
    assert sorted(row.name for row in ROWS) == sorted(SAMPLES)


def test_matrix_takes_no_refusal_for_an_answer_where_somebody_has_to_be_signed_in() -> None:
    signed_in = [row.name for row in ROWS if row.cells[NOBODY].refusal]
    assert not any(SAMPLES[name].domain & REFUSALS for name in signed_in)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_matrix(world: World, row: Row) -> None:
    calls = Calls(world, row, SAMPLES[row.name])
    for column, cell in row.cells.items():
        calls.judge(column, cell)


LISTS = (
    ("GET", "/v1/documents", None),
    ("POST", "/v1/documents/search", {"name_contains": "a"}),
)


@pytest.mark.parametrize("column", [*COLUMNS[:-1]])
def test_matrix_of_lists_shows_only_what_the_reader_may_see(world: World, column: str) -> None:
    client = world.client(column)
    for of in (OWN, OTHER):
        world.document(of)
    for method, path, body in LISTS:
        answer = client.request(method, path, json=body)
        if answer.is_success:
            assert {d["department"] for d in answer.json()["items"]} == {OWN}
    requests = [world.key_request(of)["approval_id"] for of in (OWN, OTHER)]
    requests += [world.role_request()["approval_id"], world.failover_request()["approval_id"]]
    listed = {item["id"] for item in client.get("/v1/approvals").json()["items"]}
    seen = {one for one in requests if client.get(f"/v1/approvals/{one}").is_success}
    assert listed & set(requests) == seen
    grants = {of: world.key_grant(of)["grant_id"] for of in (OWN, OTHER)}
    shown = {item["id"] for item in client.get("/v1/grants").json()["items"]}
    wanted = GRANTS_SEEN.get(column, ())
    assert {of for of, one in grants.items() if one in shown} == set(wanted)


def test_matrix_of_jobs_has_every_kind_with_its_one_route_and_permission(
    operations: Mapping[str, dict[str, Any]],
) -> None:
    table = truth.jobs()
    assert set(table) == set(JobKind)
    for kind, (route, permission) in table.items():
        assert STARTED_BY[JobKind(kind)] == permission
        assert operations[route]["x-required-permission"] == permission
    starting = {name for name, operation in operations.items() if "202" in operation["responses"]}
    assert {route for route, _ in table.values()} == starting


@pytest.mark.parametrize("kind", JobKind)
def test_matrix_of_jobs_starts_each_kind_by_its_route(world: World, kind: JobKind) -> None:
    route, _ = truth.jobs()[kind]
    sample = SAMPLES[route]
    thing = sample.thing(world, OWN)
    calls = Calls(world, next(row for row in ROWS if row.name == route), sample)
    if sample.asked:
        calls.have_approved("set-up administrator", thing)
    world.clear_jobs()
    site = kind.value.removeprefix("resync-")
    started = calls.send(world.admin, thing, {"site": site} if site != kind.value else {})
    assert started.status_code == 202, started.text
    assert started.json()["kind"] == kind.value
    assert started.json()["created_by"] is not None


def test_matrix_of_jobs_lets_only_the_holder_of_the_permission_start_one(world: World) -> None:
    world.clear_jobs()
    jobs = world.service.services.jobs
    for column in COLUMNS[:-1]:
        actor = Actor(world.caller(column), "test-request")
        for kind, permission in STARTED_BY.items():
            if not actor.caller.may(permission).allowed:
                with pytest.raises(NotAllowed):
                    jobs.start(actor, kind)


def test_matrix_of_jobs_stops_the_start_for_a_kind_without_a_permission(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(STARTED_BY, JobKind.SHRED)
    with pytest.raises(UndeclaredJob, match="shred"), build(settings):
        pass


class Calls:
    """All calls of one row. What is only refused acts on two things, one of each department."""

    def __init__(self, world: World, row: Row, sample: Sample) -> None:
        self._world = world
        self._row = row
        self._sample = sample
        self._departments = (OWN, OTHER) if sample.has_department else (OWN,)
        self._untouched = {of: sample.thing(world, of) for of in self._departments}

    def judge(self, column: str, cell: Cell) -> None:
        """Hold a cell against what the service answers."""
        told = f"{column}: {self._row.name}"
        if cell.refusal:
            self._judge_refused(column, cell.refusal, told)
            return
        self._judge_allowed(column, cell, OWN, told)
        if cell.reach == "own":
            assert self._sample.has_department, f"{told}: a sample without a department"
            self._judge_hidden(column, self._untouched[OTHER], told)
        elif cell.reach == "theirs":
            self._judge_hidden(column, self._untouched[OWN], told)
        elif self._sample.has_department:
            self._judge_allowed(column, cell, OTHER, told)

    def _judge_refused(self, column: str, refusal: str, told: str) -> None:
        for of, thing in self._untouched.items():
            if refusal == "hidden":
                self._judge_hidden(column, thing, told)
                continue
            answer = self.send(self._client(column), thing)
            if refusal == "401":
                assert_problem(answer, 401, "unauthenticated", told)
            elif of == OTHER and answer.status_code == 404:
                self._judge_hidden(column, thing, told)
            else:
                assert_problem(answer, 403, "not-allowed", told)
                assert_tells_the_rule(answer, told)

    def _judge_hidden(self, column: str, thing: Thing, told: str) -> None:
        client = self._client(column)
        hidden, unknown = self.send(client, thing), self.send(client, _unknown(thing))
        assert_problem(hidden, 404, "not-found", told)
        assert _without_request_id(hidden) == _without_request_id(unknown), told

    def _judge_allowed(self, column: str, cell: Cell, of: str, told: str) -> None:
        thing = self._fresh(column, cell, of)
        if "step-up" in cell.conditions:
            unproven = self._world.client(column, stepped_up=False)
            assert_problem(self.send(unproven, thing), 403, "step-up-needed", told)
        if "approval" in cell.conditions:
            answer = self.send(self._client(column), thing)
            assert_problem(answer, 403, "approval-needed", told)
            self.have_approved(column, thing)
        self._sample.before(self._world)
        assert_done(self.send(self._client(column), thing), self._sample.domain, told)
        self._sample.after(self._world)

    def _fresh(self, column: str, cell: Cell, of: str) -> Thing:
        if cell.reach == "theirs":
            assert self._sample.theirs is not None, "a row with 'theirs' needs a sample of it"
            return self._sample.theirs(self._world, self._client(column))
        return self._sample.thing(self._world, of)

    def have_approved(self, column: str, thing: Thing) -> None:
        """Have somebody else approve the act on a thing."""
        asked = self._sample.asked
        assert asked is not None, "a row with 'approval' needs a sample of what to ask for"
        target = asked.target(thing)
        client = self._world.client(column)
        approval = self._world.ask(client, asked.action, target, asked.purpose)
        with asked.decider(self._world, column) as decider:
            self._world.approve(decider, approval)

    def _client(self, column: str) -> httpx.Client:
        return self._sample.caller(self._world, column)

    def send(
        self, client: httpx.Client, thing: Thing, fixed: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Call the row about a thing."""
        sample = self._sample
        return client.request(
            self._row.method,
            self._row.path.format(**{**thing, **sample.fixed, **(fixed or {})}),
            params=sample.parameters(thing),
            json=sample.body(thing),
            content=sample.content,
            headers=sample.headers,
        )


def assert_done(answer: httpx.Response, domain: frozenset[str], told: str) -> None:
    """Answered with success or a redirection, or with a problem that is the route's own."""
    assert not answer.is_error or _slug(answer) in domain, f"{told}: {answer.text}"


def assert_problem(answer: httpx.Response, status: int, slug: str, told: str) -> None:
    """Answered with this problem; a HEAD has no more than its status."""
    assert answer.status_code == status, f"{told}: {answer.status_code} {answer.text}"
    if answer.request.method != "HEAD":
        assert _slug(answer) == slug, f"{told}: {answer.text}"


def assert_tells_the_rule(answer: httpx.Response, told: str) -> None:
    """The detail says which role or scope would do."""
    if answer.request.method != "HEAD":
        assert RULE.search(answer.json()["detail"]), f"{told}: {answer.text}"


def _slug(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


def _without_request_id(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json() if answer.content else {}
    return {name: value for name, value in body.items() if name != "request_id"}


def _unknown(thing: Thing) -> Thing:
    return {name: str(uuid4()) for name in thing}
