"""What tests of shredding and recovery do alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from api.embedded import DatabaseUrls, EmbeddedPostgres
from tests.api.helpers import upload
from tests.running import RunningService

LATER: Final = timedelta(days=40)


def run_job(service: RunningService, path: str, **request: Any) -> dict[str, Any]:
    """Start a job over HTTP, work it off here, and see how it ended."""
    started = service.admin.post(path, **request)
    assert started.status_code == 202, started.text
    assert service.services.job_runner.run_one()
    ended: dict[str, Any] = service.admin.get(f"/v1/jobs/{started.json()['id']}").json()
    return ended


def purged(service: RunningService, content: bytes) -> dict[str, Any]:
    """A document in the bin that the next purge takes."""
    rules = {"name": "short-lived", "retention_days": 0, "bin_days": 0}
    service.admin.post("/v1/classes", json=rules)
    document = upload(service.demo, content, params={"class": "short-lived"})
    assert service.demo.delete(f"/v1/documents/{document['id']}").status_code == 200
    return document


def snapshot(postgres: EmbeddedPostgres, service: RunningService, urls: DatabaseUrls) -> str:
    """The database as it is, under another name: what a dump would hold. Its service URL."""
    source = make_url(urls.service).database
    admin = create_engine(
        make_url(postgres.superuser_url).set(database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        service.services.database.dispose()
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
            {"name": source},
        )
        connection.execute(text(f"CREATE DATABASE {source}_old TEMPLATE {source}"))
    admin.dispose()
    return make_url(urls.service).set(database=f"{source}_old").render_as_string(False)


@contextmanager
def site_b_away(service: RunningService) -> Iterator[None]:
    """Its folder is a file meanwhile."""
    folder = service.services.settings.sites.b.path
    assert folder is not None
    hidden = folder.with_name("away")
    folder.rename(hidden)
    folder.touch()
    yield
    folder.unlink()
    hidden.rename(folder)


def make_due(service: RunningService) -> None:
    """Let a job that waits for a dependency be tried at once."""
    with service.services.database.as_service().transaction() as connection:
        connection.execute(text("UPDATE jobs SET due_at = now()"))
