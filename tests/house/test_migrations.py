"""The migrations make the tables that the code knows, and grant no more than the roles need."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from api.embedded import DatabaseUrls
from migrations.run import configured, upgrade


def test_migrations_and_tables_agree(database_urls: DatabaseUrls) -> None:
    engine = create_engine(database_urls.owner)
    command.check(configured(engine))
    engine.dispose()


def test_an_upgrade_may_be_repeated(database_urls: DatabaseUrls) -> None:
    upgrade(database_urls.owner)
    upgrade(database_urls.owner)


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE access_events",
        "UPDATE access_events SET type = 'x'",
        "DELETE FROM access_events",
        "ALTER TABLE documents ADD COLUMN x int",
        "DROP TABLE documents",
        "DELETE FROM documents",
        "DELETE FROM principals",
        "UPDATE principals SET scopes = '{admin}'",
        "UPDATE principals SET name = 'x'",
        "UPDATE findings SET at = now()",
        "DELETE FROM findings",
        "UPDATE notifications SET subject_id = gen_random_uuid()",
        "INSERT INTO notifications (at) VALUES (now())",
        "DELETE FROM api_keys",
        "DELETE FROM oidc_identities",
        "UPDATE oidc_identities SET subject = 'mine'",
        "UPDATE oidc_sign_ins SET browser_sha256 = sha256('mine')",
        "INSERT INTO oidc_sign_ins (began_at) VALUES (now())",
        "DELETE FROM local_users",
        "UPDATE local_users SET principal_id = gen_random_uuid()",
        "UPDATE api_keys SET principal_id = gen_random_uuid()",
        "UPDATE versions SET key_commitment = ''",
        "UPDATE vault_identity SET vault_id = gen_random_uuid()",
        "UPDATE classes SET retention_days = 0",
        "CREATE TABLE mine (id int)",
    ],
)
def test_the_service_s_role_may_not(database_urls: DatabaseUrls, statement: str) -> None:
    engine = create_engine(database_urls.service)
    with (
        engine.connect() as connection,
        pytest.raises(ProgrammingError, match=r"permission denied|must be owner"),
    ):
        connection.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize("statement", ["SELECT * FROM documents", "DELETE FROM access_events"])
def test_the_sequencer_s_role_may_not(database_urls: DatabaseUrls, statement: str) -> None:
    engine = create_engine(database_urls.sequencer)
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text(statement))
    engine.dispose()
