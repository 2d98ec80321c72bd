"""The service as a test meets it: a real server on a free port, and keys to call it with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from api import logs, server
from api.first_start import ADMINISTRATOR, DEMO, create_once
from api.services import Services
from api.settings import LogFormat


@dataclass(frozen=True)
class RunningService:
    """A served vault.

    Attributes:
        admin, demo: clients with the respective key.
    """

    url: str
    admin_key: str
    demo_key: str
    services: Services
    admin: httpx.Client
    demo: httpx.Client

    def client(self, key: str) -> httpx.Client:
        """A client with another key."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
        )


@contextmanager
def running(services: Services, of: RunningService | None = None) -> Iterator[RunningService]:
    """Serve `services` on a thread until the block ends.

    Args:
        of: serves the same vault, and knows its API keys.
    """
    logs.configure(LogFormat.HUMAN)
    listener = server.bind(services.settings)
    ready = threading.Event()
    http = server.prepare(services, ready.set)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(20), "the service did not start"
        keys = (of.admin_key, of.demo_key) if of else _first_keys(services)
        yield _described(server.url_of(services.settings, listener), services, *keys)
    finally:
        http.should_exit = True
        thread.join(40)


def _first_keys(services: Services) -> tuple[str, str]:
    keys: list[str] = []
    for new in (ADMINISTRATOR, DEMO):
        create_once(services.database.as_shared(), services.seals, new, keys.append)
    admin_key, demo_key = keys
    return admin_key, demo_key


def _described(url: str, services: Services, admin_key: str, demo_key: str) -> RunningService:
    clients = [
        httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        )
        for key in (admin_key, demo_key)
    ]
    return RunningService(url, admin_key, demo_key, services, *clients)
