"""Which dependencies are usable now; for `/readyz` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text

from api import metrics
from api.bootstrap import Services
from keymgmt.errors import KeyManagementError
from vault.errors import VaultError
from vault.objects.store import StoreError


@dataclass(frozen=True)
class Check:
    """One dependency.

    Attributes:
        needed: whether this process can serve at all without it.
        state: `up`, or the kind of failure; no addresses, no values.
    """

    name: str
    needed: bool
    state: str

    @property
    def ok(self) -> bool:
        """Whether it is usable."""
        return self.state == "up"


def check(services: Services) -> list[Check]:
    """Ask every dependency once."""
    local = services.settings.local_site
    return [
        _ask("database", lambda: services.database.execute(text("SELECT 1"), {}), needed=True),
        _ask("keys", services.keys.check, needed=True),
        *(
            _ask(f"site-{site}", store.check, needed=site == local)
            for site, store in services.stores.items()
        ),
    ]


def _ask(name: str, question: Callable[[], object], *, needed: bool) -> Check:
    try:
        question()
        state = "up"
    except (VaultError, StoreError, KeyManagementError) as exc:
        state = type(exc).__name__
    metrics.DEPENDENCY_UP.labels(name).set(state == "up")
    return Check(name, needed, state)
