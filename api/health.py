"""Which dependencies are usable now; for `/readyz` and `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import text

from api import metrics
from api.services import Services
from keymgmt.errors import KeyManagementError
from vault.errors import DatabaseUnavailable, SiteFenced, VaultError
from vault.objects.store import StoreError


@dataclass(frozen=True)
class Check:
    """One dependency.

    Attributes:
        needed: whether this process can serve at all without it.
        state: `up`, `fenced`, or the kind of failure; no addresses, no values.
    """

    name: str
    needed: bool
    state: str

    @property
    def ok(self) -> bool:
        """Whether it is usable."""
        return self.state == "up"


def check(services: Services) -> list[Check]:
    """Ask every dependency once.

    The local site is needed: uploads go there first. Without the other one reads and uploads go on, apart
    from classes that want both.
    """
    local = services.settings.local_site
    return [
        _ask(
            "database",
            lambda: services.database.as_shared().execute(text("SELECT 1"), {}),
            needed=True,
        ),
        _ask("keys", services.keys.check, needed=True),
        *(
            _ask(
                f"site-{site}",
                partial(_ask_local, services) if site == local else store.check,
                needed=site == local,
            )
            for site, store in services.stores.items()
        ),
    ]


def _ask_local(services: Services) -> None:
    with suppress(DatabaseUnavailable):  # which is a dependency of its own
        if services.site_epoch.state().is_fenced:
            raise SiteFenced
    services.local_store.check()


def _ask(name: str, question: Callable[[], object], *, needed: bool) -> Check:
    try:
        question()
        state = "up"
    except SiteFenced:
        state = "fenced"
    except (VaultError, StoreError, KeyManagementError) as exc:
        state = type(exc).__name__
    metrics.DEPENDENCY_UP.labels(name).set(state == "up")
    return Check(name, needed, state)
