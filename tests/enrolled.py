"""Local users for tests: enrolled over HTTP, with an authenticator app whose time a test moves on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pyotp
import pytest

from tests.people import add_person
from tests.running import RunningService
from vault import clock

PASSWORD = "correct horse battery staple"


class Watch:
    """The service's clock, which goes one code on whenever the app is looked at: no test waits for one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = clock.now
        self._ahead = timedelta()
        monkeypatch.setattr("vault.clock.now", self.now)

    def now(self) -> datetime:
        """The moment that the service is told."""
        return self._now() + self._ahead

    def tick(self) -> None:
        """A code later."""
        self._ahead += timedelta(seconds=30)


@dataclass
class Enrolled:
    """A person with a password and an app."""

    id: str
    name: str
    service: RunningService
    watch: Watch
    secret: str
    recovery_codes: list[str]
    password: str = PASSWORD
    headers: dict[str, str] = field(default_factory=dict)

    def code(self) -> str:
        """A code that was not used yet."""
        self.watch.tick()
        return pyotp.TOTP(self.secret).at(self.watch.now())

    def sign_in(self, **given: Any) -> httpx.Response:
        """Sign in; `given` over what is right."""
        body = {"name": self.name, "password": self.password, **given}
        if "totp" not in body and "recovery_code" not in body:
            body["totp"] = self.code()
        return anonymous(self.service, "/v1/sessions/password", body)

    def client(self) -> httpx.Client:
        """A client with a fresh session."""
        signed_in = self.sign_in()
        assert signed_in.status_code == 201, signed_in.text
        return self.service.client(signed_in.json()["token"])


def anonymous(
    service: RunningService, path: str, body: Any, headers: dict[str, str] | None = None
) -> httpx.Response:
    """A POST by nobody yet."""
    return httpx.post(f"{service.url}{path}", json=body, headers=headers, trust_env=False)


def enrolment_token(service: RunningService, principal_id: str) -> str:
    """As an administrator for set-up gives it."""
    issued = service.admin.post(f"/v1/people/{principal_id}/enrolment")
    assert issued.status_code == 201, issued.text
    return str(issued.json()["token"])


def confirm(
    service: RunningService, token: str, watch: Watch, password: str = PASSWORD
) -> tuple[str, list[str]]:
    """From the token to the app's secret and the recovery codes."""
    begun = anonymous(service, "/v1/enrolment", {"token": token, "password": password})
    assert begun.status_code == 200, begun.text
    secret = str(begun.json()["secret"])
    watch.tick()
    body = {"token": token, "totp": pyotp.TOTP(secret).at(watch.now())}
    confirmed = anonymous(service, "/v1/enrolment/confirm", body)
    assert confirmed.status_code == 200, confirmed.text
    return secret, confirmed.json()["recovery_codes"]


def enrol(service: RunningService, watch: Watch, name: str, **more: Any) -> Enrolled:
    """A person who can sign in."""
    added = add_person(service, name, **more)
    secret, codes = confirm(service, enrolment_token(service, added["id"]), watch)
    return Enrolled(added["id"], name, service, watch, secret, codes)
