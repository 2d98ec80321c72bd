"""Row-level security: what another department sees and changes when the service's own check is switched off.

The double below is a caller whom every check lets pass; what PostgreSQL is told of it stays true. So whatever
is hidden here is hidden by the database.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from typing_extensions import override

from api.bootstrap import UnsafeStart, build
from api.doctor import _examine_running
from api.embedded import DatabaseUrls, EmbeddedPostgres
from api.services import Services
from api.settings import KmsSettings, Settings
from tests.api.helpers import named, upload
from tests.running import RunningService, running
from vault.access.api_keys import ApiKeys
from vault.access.policy import EVERY_DEPARTMENT, Action, Caller, Decision, Reach, Scope
from vault.context import NOBODY, SERVICE, Context, as_caller
from vault.database import Database, DatabaseRefused, PreparedStatement
from vault.errors import DatabaseUnavailable
from vault.tables import SHARED, metadata

DOCS: Final = Path(__file__).parents[2] / "docs"
MISSING: Final = "00000000-0000-4000-8000-000000000000"

OF_DEPARTMENTS: Final = (
    "documents",
    "versions",
    "document_changes",
    "holds",
    "idempotency_keys",
    "recovery_blobs",
)
OF_WHO_ASKED: Final = ("approvals", "grants")
"""Seen by their department and by whoever asked; tests/flows/test_approvals.py has each path."""

OF_THE_SERVICE: Final = ("incidents", "orphans", "released_versions", "tombstones", "access_events")


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


@dataclass(frozen=True)
class Unchecked(Caller):
    """The policy, switched off: everything is allowed, and no list is narrowed."""

    @override
    def reach(self, action: Action) -> Reach | None:
        return None

    @override
    def may(
        self,
        action: Action,
        department: str | None = None,
        *,
        class_name: str | None = None,
        is_held: bool = False,
    ) -> Decision:
        return Decision(allowed=True, rule="none")

    @override
    def works_for(self, department: str, class_name: str | None = None) -> bool:
        return True


class UncheckedKeys(ApiKeys):
    """Recognises callers as always, and lets no check judge them."""

    @override
    def authenticate(self, text: str) -> Caller:
        known = super().authenticate(text)
        return Unchecked(**{name: getattr(known, name) for name in Caller.__dataclass_fields__})


@pytest.fixture
def unchecked(services: Services) -> Iterator[RunningService]:
    """The service without its first wall."""
    keys = UncheckedKeys(services.database, services.seals, services.findings, services.grants)
    with running(replace(services, api_keys=keys)) as served:
        yield served


@pytest.fixture
def stranger(unchecked: RunningService) -> httpx.Client:
    """Of the department `elsewhere`, which has no document yet."""
    return unchecked.client(token_of(unchecked, "stranger", "elsewhere"))


def token_of(service: RunningService, name: str, department: str) -> str:
    new = {"name": name, "scopes": ["read", "write"], "department": department}
    principal = service.admin.post("/v1/principals", json=new).json()
    issued = service.admin.post("/v1/api-keys", json={"principal_id": principal["id"]}).json()
    return str(issued["token"])


@dataclass(frozen=True)
class Filed:
    """What lies in the department `demo`: a document with all that one can have, and a binned one."""

    id: str
    binned: str
    hold: str
    name: str = "secret plan.pdf"


@pytest.fixture
def filed(unchecked: RunningService) -> Filed:
    demo = unchecked.demo
    key = {"Idempotency-Key": "the key"}
    document = upload(demo, b"first", name="draft.pdf", headers=key)
    demo.put(f"/v1/documents/{document['id']}/content", content=b"second")
    changed = demo.patch(f"/v1/documents/{document['id']}", json={"name": Filed.name})
    assert changed.status_code == 200
    binned = upload(demo, b"third", name="binned.pdf")
    assert demo.delete(f"/v1/documents/{binned['id']}").status_code == 200
    hold = {"document_id": document["id"], "reason": "a law suit"}
    placed = unchecked.admin.post("/v1/holds", json=hold)
    assert placed.status_code == 201
    return Filed(document["id"], binned["id"], placed.json()["id"])


def snapshot(owner: Engine) -> dict[str, list[str]]:
    """Every row of every department, as the owner sees it."""
    with owner.connect() as connection:
        return {
            table: sorted(connection.execute(text(f"SELECT t::text FROM {table} t")).scalars())
            for table in OF_DEPARTMENTS
        }


def without_request(answer: httpx.Response) -> dict[str, Any]:
    return {**answer.json(), "request_id": None}


def caller_of(department: str | None, *scopes: Scope) -> Caller:
    return Caller(uuid4(), "somebody", "key", frozenset(scopes), department)


ELSEWHERE: Final = as_caller(caller_of("elsewhere"))
DEMO: Final = as_caller(caller_of("demo"))
BY_DEPARTMENT: Final = (DEMO, ELSEWHERE, NOBODY)


# ---- over HTTP, with the first wall switched off ----


LISTS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"department": "demo"},
    {"class": "general"},
    {"class": "general", "department": "demo"},
    {"state": "binned"},
    {"state": "binned", "department": "demo"},
    {"created_after": "2020-01-01T00:00:00Z"},
    {"created_before": "2999-01-01T00:00:00Z", "page_size": "1"},
)
SEARCHES: Final[tuple[dict[str, str], ...]] = ({}, {"department": "demo"}, {"state": "binned"})


def test_no_list_shows_another_department(
    stranger: httpx.Client, filed: Filed, unchecked: RunningService
) -> None:
    for wanted in LISTS:
        shown = stranger.get("/v1/documents", params=wanted)
        assert (shown.status_code, shown.json()) == (200, {"items": [], "next_page_token": None})
        assert unchecked.demo.get("/v1/documents", params=wanted).json()["items"]


def test_no_search_finds_another_department(
    stranger: httpx.Client, filed: Filed, unchecked: RunningService
) -> None:
    for more in SEARCHES:
        wanted = {"name_contains": ".pdf", **more}
        assert stranger.post("/v1/documents/search", json=wanted).json()["items"] == []
        assert unchecked.demo.post("/v1/documents/search", json=wanted).json()["items"]


def test_a_page_token_of_somebody_else_opens_nothing(
    stranger: httpx.Client, filed: Filed, unchecked: RunningService
) -> None:
    upload(unchecked.demo, b"x")
    everybody = unchecked.client(token_of(unchecked, "archive", EVERY_DEPARTMENT))
    first = everybody.get("/v1/documents", params={"page_size": 1}).json()
    wanted = {"page_size": 1, "page_token": first["next_page_token"]}
    assert len(everybody.get("/v1/documents", params=wanted).json()["items"]) == 1
    shown = stranger.get("/v1/documents", params=wanted)
    assert (shown.status_code, shown.json()["items"]) == (200, [])


ROUTES: Final = (
    ("GET", "", None),
    ("GET", "/content", None),
    ("HEAD", "/content", None),
    ("GET", "/versions", None),
    ("GET", "/versions/1", None),
    ("GET", "/versions/1/content", None),
    ("GET", "/history", None),
    ("PATCH", "", {"name": "mine now"}),
    ("PATCH", "", {"department": "elsewhere"}),
    ("PATCH", "", {"class": "general"}),
    ("DELETE", "", None),
    ("POST", "/undelete", None),
    ("PUT", "/content", {"x": 1}),
)


def test_another_department_s_document_is_not_there(
    stranger: httpx.Client, filed: Filed, owner: Engine
) -> None:
    """Not on any path: what is answered is what a missing one gets, and nothing changes."""
    before = snapshot(owner)
    for method, suffix, body in ROUTES:
        answers = [
            stranger.request(method, f"/v1/documents/{document}{suffix}", json=body)
            for document in (MISSING, filed.id, filed.binned)
        ]
        assert [answer.status_code for answer in answers] == [404] * 3, (method, suffix)
        if method != "HEAD":
            told = [without_request(answer) for answer in answers]
            assert told == told[:1] * 3
    assert snapshot(owner) == before


def test_another_department_s_keys_are_not_exported(stranger: httpx.Client, filed: Filed) -> None:
    paths = [
        f"/v1/keys/documents/{document}/versions/1/export-key" for document in (filed.id, MISSING)
    ]
    answers = [stranger.post(path) for path in paths]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert without_request(answers[0]) == without_request(answers[1])


def test_holds_of_another_department_are_not_there(
    stranger: httpx.Client, filed: Filed, owner: Engine, unchecked: RunningService
) -> None:
    before = snapshot(owner)
    assert stranger.get("/v1/holds").json()["items"] == []
    assert stranger.get("/v1/holds", params={"document_id": filed.id}).json()["items"] == []
    for document in (filed.id, MISSING):
        hold = {"document_id": document, "reason": "to keep it from you"}
        assert stranger.post("/v1/holds", json=hold).status_code == 404
    for hold_id in (filed.hold, MISSING):
        assert stranger.post(f"/v1/holds/{hold_id}/release").status_code == 404
    assert snapshot(owner) == before
    assert len(unchecked.admin.get("/v1/holds").json()["items"]) == 1


def test_nothing_is_filed_into_or_moved_to_another_department(
    stranger: httpx.Client, unchecked: RunningService, filed: Filed, owner: Engine
) -> None:
    other = unchecked.client(token_of(unchecked, "other", "elsewhere"))
    own = upload(stranger, b"mine", params={"department": "elsewhere"})
    before = snapshot(owner)
    into = stranger.post(
        "/v1/documents", params={"department": "demo"}, content=b"x", headers=named("a")
    )
    moved = other.patch(f"/v1/documents/{own['id']}", json={"department": "demo"})
    # That a department is not one's own is no secret; a flow that forgot to ask is a defect, and looks it.
    assert (into.status_code, moved.status_code) == (500, 500)
    assert snapshot(owner) == before


def test_an_idempotency_key_replays_nothing_of_another_department(
    stranger: httpx.Client, filed: Filed, unchecked: RunningService
) -> None:
    """Nor does it tell that somebody else used it; and a document that moved on is not shown again."""
    key = {"Idempotency-Key": "the key"}
    mine = upload(stranger, b"first", name="draft.pdf", headers=key)
    assert mine["id"] != filed.id
    assert mine["department"] == "elsewhere"
    everybody = unchecked.client(token_of(unchecked, "archive", EVERY_DEPARTMENT))
    everybody.patch(f"/v1/documents/{filed.id}", json={"department": "elsewhere"})
    again = unchecked.demo.post(
        "/v1/documents", content=b"first", headers={**named("draft.pdf"), **key}
    )
    assert again.status_code == 404


def test_one_s_own_department_is_not_in_the_way(stranger: httpx.Client, filed: Filed) -> None:
    document = upload(stranger, b"one", params={"department": "elsewhere"})
    path = f"/v1/documents/{document['id']}"
    assert stranger.put(f"{path}/content", content=b"two").status_code == 201
    assert stranger.patch(path, json={"name": "mine"}).status_code == 200
    assert len(stranger.get(f"{path}/history").json()["items"]) == 1
    assert len(stranger.get(f"{path}/versions").json()["items"]) == 2
    assert stranger.get(f"{path}/content").content == b"two"
    assert stranger.delete(path).status_code == 200
    assert stranger.post(f"{path}/undelete").status_code == 200
    assert [item["id"] for item in stranger.get("/v1/documents").json()["items"]] == [
        document["id"]
    ]


# ---- by SQL, in the context of a caller ----


def looks_at(table: str) -> tuple[str, ...]:
    return (
        f"SELECT count(*) FROM {table}",
        f"SELECT count(*) FROM {table} t RIGHT JOIN classes c ON true WHERE NOT t IS NULL",
        f"SELECT count(*) FROM journal LEFT JOIN {table} t ON true WHERE NOT t IS NULL",
        f"SELECT count(*) FROM (SELECT max(t::text) AS most FROM {table} t) x WHERE most IS NOT NULL",
        f"SELECT CAST(EXISTS (SELECT FROM {table}) AS integer)",
        f"WITH t AS (SELECT FROM {table} LIMIT 1) SELECT count(*) FROM t",
    )


def test_no_count_and_no_join_shows_another_department(
    services: Services, filed: Filed, owner: Engine
) -> None:
    put_recovery_blob(owner, filed)
    for query in itertools.chain.from_iterable(map(looks_at, OF_DEPARTMENTS)):
        assert services.database.execute(ELSEWHERE, text(query), {})[0][0] == 0, query
        assert services.database.execute(NOBODY, text(query), {})[0][0] == 0, query
        assert services.database.execute(SERVICE, text(query), {})[0][0] > 0, query


def test_callers_do_not_see_the_service_s_own_tables(
    services: Services, filed: Filed, owner: Engine
) -> None:
    fill_service_tables(owner)
    for table in OF_THE_SERVICE:
        count = text(f"SELECT count(*) FROM {table}")
        for context in (NOBODY, ELSEWHERE, DEMO, as_caller(caller_of(EVERY_DEPARTMENT))):
            assert services.database.execute(context, count, {})[0][0] == 0, table
        assert services.database.execute(SERVICE, count, {})[0][0] > 0, table


CHANGES: Final = (
    "UPDATE documents SET name = 'x'",
    "UPDATE documents SET department = 'elsewhere'",
    "UPDATE versions SET wrapped_key = wrapped_key",
    "DELETE FROM versions",
    "DELETE FROM document_changes",
    "UPDATE holds SET released_at = now()",
    "DELETE FROM idempotency_keys",
    "UPDATE idempotency_keys SET document_id = NULL",
    "UPDATE recovery_blobs SET blob = ''",
)


def test_no_statement_without_a_filter_changes_another_department(
    services: Services, filed: Filed, owner: Engine
) -> None:
    put_recovery_blob(owner, filed)
    before = snapshot(owner)
    for statement, context in itertools.product(CHANGES, (ELSEWHERE, NOBODY)):
        with services.database.transaction(context) as connection:
            assert connection.execute(text(statement)).rowcount == 0, statement
    assert snapshot(owner) == before


VERSION: Final = """
INSERT INTO versions (document_id, number, id, object_id, site, format, size_bytes, ciphertext_size_bytes,
    ciphertext_sha256, media_type, wrapped_key, key_commitment, receipt, created_by)
VALUES (:id, 1, gen_random_uuid(), gen_random_uuid(), 'a', 1, 1, 1, '', 'x', 'local:v1:k', '',
    gen_random_uuid(), gen_random_uuid())"""

INSERTS: Final = {
    "a version that is there": VERSION,
    "a version, quietly": f"{VERSION} ON CONFLICT DO NOTHING",
    "a version to come": VERSION.replace(":id, 1,", ":id, 9,"),
    "a hold": "INSERT INTO holds (id, document_id, reason, placed_by) "
    "SELECT gen_random_uuid(), :id, 'x', id FROM principals LIMIT 1",
    "a change": "INSERT INTO document_changes (document_id, revision, field, changed_by) "
    "SELECT :id, 2, 'name', id FROM principals LIMIT 1",
    "a recovery blob": "INSERT INTO recovery_blobs (document_id, number, epoch, blob) VALUES (:id, 1, 1, '')",
    "an idempotency key": "INSERT INTO idempotency_keys "
    "(principal_id, route, key_sha256, object_id, document_id) "
    "SELECT principal_id, route, key_sha256, gen_random_uuid(), :id FROM ("
    "    SELECT id AS principal_id, 'x' AS route, CAST('' AS bytea) AS key_sha256 FROM principals LIMIT 1) p",
}


def test_no_constraint_tells_a_hidden_row_from_a_missing_one(
    services: Services, filed: Filed
) -> None:
    """The wall is met before any unique index or foreign key is looked at."""
    for what, document in itertools.product(INSERTS, (filed.id, MISSING)):
        with pytest.raises(DatabaseRefused) as error:
            services.database.execute(ELSEWHERE, text(INSERTS[what]), {"id": document})
        assert (type(error.value), error.value.sqlstate) == (DatabaseRefused, "42501"), what


def test_unique_indexes_of_departments_hold_only_what_no_caller_chooses(owner: Engine) -> None:
    """A row in one's own department can meet a hidden one only by an id, and ids are drawn at random here.

    Names, labels and everything else that a caller brings are in none of these indexes, except below
    an id that the caller has to be allowed to see.
    """
    drawn = {"id", "object_id", "document_id", "principal_id"}
    with owner.connect() as connection:
        found = connection.execute(_UNIQUE_INDEXES, {"tables": list(OF_DEPARTMENTS)}).all()
    assert {row.name for row in found} >= set(OF_DEPARTMENTS)
    assert [row for row in found if row.first not in drawn] == []


def test_a_caller_reaches_no_row_by_way_of_a_document_it_makes(
    services: Services, filed: Filed
) -> None:
    """What a commit may add to the document that it makes, it may add to no other."""
    context = ELSEWHERE.creating(uuid4())
    with pytest.raises(DatabaseRefused) as error:
        services.database.execute(context, text(VERSION), {"id": filed.id})
    assert error.value.sqlstate == "42501"
    assert services.database.execute(context, text("SELECT FROM documents"), {}) == []


# ---- pooled connections ----


SEEN: Final = text(
    "SELECT (SELECT count(*) FROM documents) AS seen, pg_backend_pid() AS pid, "
    + " || ".join(
        f"coalesce(current_setting('strongroom.{name}', true), '')"
        for name in ("context", "departments", "principal", "new_document")
    )
    + " AS kept"
)


@pytest.fixture
def narrow(database_urls: DatabaseUrls, filed: Filed) -> Iterator[Database]:
    """One connection for transactions, one for single statements: each is the one before."""
    database = Database(database_urls.service, connections=2)
    yield database
    database.dispose()


def look(database: Database) -> Any:
    """What the next user of the connection for transactions sees without a context."""
    with database.transaction(NOBODY) as connection:
        return connection.execute(SEEN).one()


def assert_nothing_is_kept(database: Database, pid: int | None = None) -> None:
    in_transaction, alone = look(database), database.execute(NOBODY, SEEN, {})[0]
    assert (in_transaction.seen, in_transaction.kept, alone.seen, alone.kept) == (0, "", 0, "")
    if pid is not None:
        assert in_transaction.pid == pid


def test_a_pooled_connection_keeps_no_context_after_a_commit(narrow: Database) -> None:
    with narrow.transaction(DEMO) as connection:
        seen = connection.execute(SEEN).one()
        assert connection.execute(SEEN).one().seen == seen.seen == 2
    assert_nothing_is_kept(narrow, seen.pid)
    assert narrow.execute(DEMO, SEEN, {})[0].seen == 2
    assert_nothing_is_kept(narrow, seen.pid)
    with narrow.transaction(ELSEWHERE) as connection:
        assert connection.execute(SEEN).one().seen == 0


def test_a_pooled_connection_keeps_no_context_after_errors(narrow: Database) -> None:
    pid = look(narrow).pid
    with suppress(ZeroDivisionError), narrow.transaction(DEMO) as connection:
        assert connection.execute(SEEN).one().seen == 2
        raise ZeroDivisionError
    assert_nothing_is_kept(narrow, pid)
    with pytest.raises(DatabaseRefused), narrow.transaction(DEMO) as connection:
        connection.execute(text("SELECT 1 / 0"))
    assert_nothing_is_kept(narrow, pid)
    with pytest.raises(DatabaseRefused):
        narrow.execute(DEMO, text("SELECT 1 / 0"), {})
    assert_nothing_is_kept(narrow, pid)
    wrong = PreparedStatement("wrong", "SELECT 1 / :by", {"by": "integer"})
    with pytest.raises(DatabaseRefused):
        narrow.execute_prepared(DEMO, wrong, {"by": 0})
    assert_nothing_is_kept(narrow, pid)


def test_a_pooled_connection_keeps_no_context_after_savepoints(narrow: Database) -> None:
    with narrow.transaction(DEMO) as connection:
        with suppress(DBAPIError), connection.begin_nested():
            connection.execute(text("SELECT 1 / 0"))
        seen = connection.execute(SEEN).one()
        assert seen.seen == 2, "the context outlives a savepoint that failed"
        with connection.begin_nested():
            assert connection.execute(SEEN).one().seen == 2
    assert_nothing_is_kept(narrow, seen.pid)


def test_a_pooled_connection_keeps_no_context_after_it_was_killed(
    narrow: Database, postgres: EmbeddedPostgres
) -> None:
    def killed(connection: Connection) -> None:
        as_superuser(postgres, f"SELECT pg_terminate_backend({connection.execute(SEEN).one().pid})")

    def cancelled(connection: Connection) -> None:
        connection.execute(text("SET LOCAL statement_timeout = 50"))

    for end in (killed, cancelled):
        with suppress(DatabaseUnavailable), narrow.transaction(DEMO) as connection:
            end(connection)
            connection.execute(text("SELECT pg_sleep(5)"))
            pytest.fail("it went on")
        assert_nothing_is_kept(narrow)


def test_a_transaction_without_a_statement_leaves_its_context_to_nobody(narrow: Database) -> None:
    with narrow.transaction(DEMO):
        pass
    assert_nothing_is_kept(narrow)


def test_a_prepared_statement_is_planned_once_and_sees_each_caller_s_rows(narrow: Database) -> None:
    """Also the generic plan, which PostgreSQL takes from the sixth execution on."""
    counting = PreparedStatement(
        "counting",
        "SELECT count(*) AS seen FROM documents WHERE state <> :state",
        {"state": "text"},
    )
    for context, expected in [(DEMO, 2), (ELSEWHERE, 0), (NOBODY, 0), (SERVICE, 2)] * 4:
        assert narrow.execute_prepared(context, counting, {"state": "purged"})[0].seen == expected


def test_a_context_that_a_session_was_made_to_keep_ends_where_a_caller_s_begins(
    narrow: Database,
) -> None:
    """Each context sets all there is to set."""
    with narrow.transaction(NOBODY) as connection:
        connection.execute(text("SELECT set_config('strongroom.departments', '*', false)"))
        connection.execute(text("SELECT set_config('strongroom.context', 'service', false)"))
    with narrow.transaction(ELSEWHERE) as connection:
        assert connection.execute(SEEN).one().seen == 0


def test_sql_as_the_service_can_set_the_context_which_is_not_covered(
    services: Services, filed: Filed
) -> None:
    """As docs/access.md says: the wall stops forgotten filters, not injected SQL."""
    with services.database.transaction(ELSEWHERE) as connection:
        connection.execute(text("SELECT set_config('strongroom.departments', 'demo', true)"))
        assert connection.execute(SEEN).one().seen == 2
    assert "injected SQL" in (DOCS / "access.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("department", ["it's", "a\\", "100%", "nul\0"])
def test_a_department_that_cannot_stand_in_quotes_is_no_context(department: str) -> None:
    with pytest.raises(ValueError, match="departments"):
        _ = Context("caller", department).statement


# ---- the catalogue ----


def test_every_table_of_a_department_is_behind_the_wall(owner: Engine) -> None:
    """A new table needs a policy, or a line in `vault.tables.SHARED` that says why not."""
    assert unguarded(owner) == []
    tables = {table.name for table in metadata.tables.values()}
    assert set(SHARED) - {"alembic_version"} <= tables
    assert tables - set(SHARED) == {*OF_DEPARTMENTS, *OF_WHO_ASKED, *OF_THE_SERVICE}
    explained = (DOCS / "access.md").read_text(encoding="utf-8")
    assert [table for table in tables if f"`{table}`" not in explained] == []


def test_a_table_without_policies_is_found(owner: Engine, services: Services) -> None:
    def after(*statements: str) -> list[str]:
        with owner.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        return unguarded(owner)

    assert after("CREATE TABLE new (department text)") == ["new"]
    assert second_wall(services) == (False, "new")
    assert after("ALTER TABLE new ENABLE ROW LEVEL SECURITY") == ["new"]
    assert after("ALTER TABLE new FORCE ROW LEVEL SECURITY") == ["new"]
    assert after(
        "CREATE POLICY owner ON new TO strongroom_owner USING (true) WITH CHECK (true)"
    ) == ["new"]
    assert after("CREATE POLICY all_of_it ON new TO strongroom_service USING (true)") == ["new"]
    assert (
        after(
            "DROP POLICY all_of_it ON new",
            "CREATE POLICY department ON new TO strongroom_service USING "
            "(department = (SELECT nullif(current_setting('strongroom.departments', true), '')))",
        )
        == []
    )
    assert second_wall(services)[0]
    assert after("ALTER TABLE documents NO FORCE ROW LEVEL SECURITY") == ["documents"]
    assert after("CREATE POLICY open ON holds USING (true)") == ["documents", "holds"]


def test_a_superuser_s_view_is_a_hole_and_is_found(
    services: Services, filed: Filed, owner: Engine, postgres: EmbeddedPostgres
) -> None:
    name = make_url(owner.url).database
    count = text("SELECT count(*) FROM all_documents")
    as_superuser(
        postgres,
        "CREATE VIEW all_documents AS SELECT * FROM documents",
        "GRANT SELECT ON all_documents TO strongroom_service",
        database=name,
    )
    assert services.database.execute(ELSEWHERE, count, {})[0][0] == 2, "a view reads as its owner"
    assert second_wall(services) == (False, "all_documents")
    as_superuser(postgres, "ALTER VIEW all_documents SET (security_invoker = true)", database=name)
    assert services.database.execute(ELSEWHERE, count, {})[0][0] == 0
    assert second_wall(services)[0]


# ---- the owner ----


def test_the_owner_changes_every_row_of_every_table(
    filed: Filed, owner: Engine, postgres: EmbeddedPostgres
) -> None:
    """As a migration's backfill does; without a policy of its own FORCE would hide all rows, in silence."""
    put_recovery_blob(owner, filed)
    fill_service_tables(owner)
    database = make_url(owner.url).database
    for table in (*OF_DEPARTMENTS, *OF_THE_SERVICE):
        column = min(column.name for column in metadata.tables[table].c if not column.computed)
        (rows,) = as_superuser(postgres, f"SELECT count(*) FROM {table}", database=database)
        with owner.begin() as connection:
            update = text(f'UPDATE {table} SET "{column}" = "{column}"')
            assert connection.execute(update).rowcount == rows > 0, table


def test_the_owner_dumps_every_row(
    filed: Filed, owner: Engine, postgres: EmbeddedPostgres, database_urls: DatabaseUrls
) -> None:
    """With `--enable-row-security`; without it pg_dump refuses, rather than to leave rows out."""
    url = make_url(database_urls.owner)
    command: list[str] = [
        str(postgres.binaries / "pg_dump"),
        *(
            "--host",
            str(postgres.socket_folder),
            "--port",
            str(url.query.get("port", url.port or 5432)),
        ),
        *("--username", str(url.username), "--data-only", "--inserts", str(url.database)),
    ]
    environment = {"PGPASSWORD": str(url.password)}
    refused = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert b"row-level security" in refused.stderr
    dumped = subprocess.run(
        [*command, "--enable-row-security"], env=environment, capture_output=True, check=True
    ).stdout.decode()
    assert dumped.count("INSERT INTO public.versions ") == 3
    assert filed.name in dumped


# ---- the start ----


@pytest.mark.parametrize(
    "made",
    [
        "LOGIN BYPASSRLS PASSWORD 'x' IN ROLE strongroom_service",
        "LOGIN PASSWORD 'x' IN ROLE strongroom_service, strongroom_owner",
        "LOGIN PASSWORD 'x' IN ROLE strongroom_owner",
    ],
)
def test_a_login_that_the_wall_does_not_bind_stops_the_start(
    settings: Settings, postgres: EmbeddedPostgres, database_urls: DatabaseUrls, made: str
) -> None:
    name = f"unbound_{uuid4().hex[:8]}"
    as_superuser(postgres, f"CREATE ROLE {name} {made}")
    url = make_url(database_urls.service).set(username=name, password="x")
    unsafe = settings.model_copy(
        update={"database_url": SecretStr(url.render_as_string(hide_password=False))}
    )
    with pytest.raises(UnsafeStart, match="row-level security"), build(unsafe):
        pass


def test_a_login_that_is_a_member_of_the_service_s_role_is_bound(
    settings: Settings, postgres: EmbeddedPostgres, database_urls: DatabaseUrls, filed: Filed
) -> None:
    """As in production, where logins come and go."""
    name = f"bound_{uuid4().hex[:8]}"
    as_superuser(postgres, f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE strongroom_service")
    url = make_url(database_urls.service).set(username=name, password="x")
    bound = settings.model_copy(
        update={"database_url": SecretStr(url.render_as_string(hide_password=False))}
    )
    with build(bound) as services:
        seen = [services.database.execute(context, SEEN, {})[0].seen for context in BY_DEPARTMENT]
    assert seen == [2, 0, 0]


def test_doctor_says_that_the_wall_stands(services: Services) -> None:
    ok, words = second_wall(services)
    assert ok
    assert "index" not in words


# ---- helpers ----


def second_wall(services: Services) -> tuple[bool, str]:
    """What doctor says of it; of a finding, the names only."""
    (found,) = (each for each in _examine_running(services) if each.about == "second-wall")
    return found.ok, found.words if found.ok else found.words.partition(":")[0]


def as_superuser(
    postgres: EmbeddedPostgres, *statements: str, database: str | None = None
) -> list[Any]:
    """Run them; the first column of the last one's rows."""
    url = make_url(postgres.superuser_url)
    engine = create_engine(url.set(database=database or url.database), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            results = [connection.execute(text(statement)) for statement in statements]
            return list(results[-1].scalars()) if results[-1].returns_rows else []
    finally:
        engine.dispose()


def put_recovery_blob(owner: Engine, filed: Filed) -> None:
    with owner.begin() as connection:
        for statement in (
            "INSERT INTO recovery_keys (id, public_key, registered_by) VALUES ('k', '', gen_random_uuid())",
            "INSERT INTO recovery_epochs VALUES (1, gen_random_uuid(), 'k')",
            f"INSERT INTO recovery_blobs (document_id, number, epoch, blob) VALUES ('{filed.id}', 1, 1, '')",
        ):
            connection.execute(text(statement))


def fill_service_tables(owner: Engine) -> None:
    with owner.begin() as connection:
        for statement in (
            "INSERT INTO incidents (id, kind, site, found_by) VALUES (uuidv7(), 'missing', 'a', 'copy')",
            "INSERT INTO orphans (object_id, site, size_bytes) VALUES (gen_random_uuid(), 'a', 1)",
            "INSERT INTO released_versions SELECT id, id, 1, 1 FROM documents",
            "INSERT INTO tombstones (object_id) VALUES (gen_random_uuid())",
        ):
            connection.execute(text(statement))


def unguarded(owner: Engine) -> list[str]:
    """Tables of departments that lack the wall or a part of it."""
    with owner.connect() as connection:
        return list(connection.execute(_UNGUARDED, {"shared": list(SHARED)}).scalars())


_UNGUARDED: Final = text(
    """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT c.relname = ANY(:shared)
      AND (NOT c.relrowsecurity OR NOT c.relforcerowsecurity
           OR NOT EXISTS (SELECT FROM pg_policies p
                          WHERE p.tablename = c.relname AND p.roles = '{strongroom_owner}'
                            AND p.cmd = 'ALL' AND p.qual = 'true' AND p.with_check = 'true')
           OR NOT EXISTS (SELECT FROM pg_policies p
                          WHERE p.tablename = c.relname AND p.roles = '{strongroom_service}'
                            AND p.qual LIKE '%current_setting(''strongroom.%')
           -- and none that opens it to the service, or to everybody, whatever the context
           OR EXISTS (SELECT FROM pg_policies p
                      WHERE p.tablename = c.relname
                        AND p.roles && '{public,strongroom_service}'
                        AND coalesce(p.qual, p.with_check) NOT LIKE '%current_setting(''strongroom.%'
                        AND (p.tablename, p.cmd) <> ('access_events', 'INSERT')))
    ORDER BY c.relname"""
)

_UNIQUE_INDEXES: Final = text(
    """
    SELECT c.relname AS name, a.attname AS first, i.indexrelid::regclass::text AS index
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE i.indisunique AND c.relname = ANY(:tables)"""
)
