"""`access conflicts`: what no constraint forbids, told to whoever oversees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from api.settings import KmsSettings
from tests.flows.test_cli import Cli
from tests.people import add_person, grant, person
from tests.running import RunningService
from vault.access.roles import Role


@pytest.fixture
def kms(keyring: KmsSettings) -> KmsSettings:
    """Nothing here depends on where the keys are."""
    return keyring


def kinds(service: RunningService) -> set[str]:
    return {item["kind"] for item in service.admin.get("/v1/access/conflicts").json()["items"]}


def test_a_fresh_vault_says_that_set_up_is_open(service: RunningService) -> None:
    assert kinds(service) == {"setup-open", "few-security-administrators", "nobody-responsible"}


def test_each_kind_is_found_and_its_end_too(service: RunningService, owner: Engine) -> None:
    both = person(service, "both", [(Role.DEPARTMENT_HEAD, "x"), (Role.ARCHIVE_MANAGER, "x")])
    person(service, "again", same_person_as=str(both.id))
    operator = person(service, "operator", [(Role.IT_OPERATIONS, None)])
    for scope, who in (("read", operator.id), ("operate", both.id)):
        new = {"name": f"app-{scope}", "scopes": [scope], "responsible": str(who)}
        if scope == "read":
            new["department"] = "x"
        assert service.admin.post("/v1/principals", json=new).status_code == 201
    deputy = add_person(service, "deputy")
    ends = datetime.now(UTC) + timedelta(days=2)  # noqa: TID251
    given = {"department": "x", "deputy_of": both.id, "ends_at": ends}
    grant(service, UUID(deputy["id"]), Role.DEPARTMENT_HEAD, **given)
    for name in ("one", "two"):
        person(service, name, [(Role.SECURITY_ADMINISTRATOR, None)])
    assert kinds(service) == {
        "setup-open",
        "head-and-archive-manager",
        "business-application-of-administrator",
        "administering-application-of-another-duty",
        "nobody-responsible",
        "several-accounts",
    }
    service.admin.post(f"/v1/principals/{both.id}/disable")
    assert kinds(service) >= {"deputy-of-nobody"}
    assert not kinds(service) & {"several-accounts", "head-and-archive-manager"}


def test_a_row_that_sql_wrote_is_left_out(service: RunningService, owner: Engine) -> None:
    with owner.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO principals (id, name, scopes, kind, person_id) "
                "SELECT gen_random_uuid(), n, '{}', 'person', '11111111-0000-4000-8000-000000000000' "
                "FROM unnest(ARRAY['a', 'b']) AS n"
            )
        )
    assert "several-accounts" not in kinds(service)
    assert len(service.admin.get("/v1/access/findings").json()["items"]) == 2


def test_it_is_for_whoever_oversees_and_an_event(service: RunningService, owner: Engine) -> None:
    assert service.demo.get("/v1/access/conflicts").status_code == 403
    clerk = person(service, "clerk", [(Role.STAFF, "x")])
    assert clerk.client.get("/v1/access/conflicts").status_code == 403
    for name, role in (("c", Role.COMPLIANCE), ("a", Role.AUDITOR)):
        overseer = person(service, name, [(role, None)])
        assert overseer.client.get("/v1/access/conflicts").status_code == 200
    with owner.connect() as connection:
        query = "SELECT count(*) FROM access_events WHERE type = 'api:conflicts:listed'"
        assert connection.execute(text(query)).scalar_one() == 2


def test_the_command_line_lists_them_in_words(service: RunningService) -> None:
    cli = Cli(service.url, service.admin_key)
    shown = cli.run("access", "conflicts").stdout
    assert "set-up is open" in shown
    assert "setup-open" in shown
    assert {item["kind"] for item in cli.json("access", "conflicts")["items"]} == kinds(service)
