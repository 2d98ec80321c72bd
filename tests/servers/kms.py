"""A real KMS as tests see it: HashiCorp Vault with Raft storage, started, sealed, hung and killed.

Set up with its root token; everything a test does goes through AppRoles that have only the policies of
docs/policies, so that a permission that is missing there is missing here.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError

from keymgmt.transit import TransitProvider
from keymgmt.transitsession import TransitSession
from tests.servers.s3 import free_port, killed_with_this_run

POLICIES = Path(__file__).parents[2] / "docs" / "policies"

PATIENCE_SECONDS = 120
"""For the first start: it waits for many flushes, and a busy disk answers each of them late."""

_CONFIG = """
storage "raft" {{ path = "{folder}/raft" node_id = "a" }}
listener "tcp" {{ address = "127.0.0.1:{port}" tls_disable = true }}
listener "tcp" {{ address = "127.0.0.1:{small_port}" tls_disable = true max_request_size = 4096 }}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
disable_mlock = true
ui = false
"""


class VaultServer:
    """One Vault process on loopback; the same port, storage and keys at each start."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._port = free_port()
        self._small_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._unseal_key = ""
        self._root_token = ""
        self._roles: dict[str, str] = {}
        (folder / "raft").mkdir()
        (folder / "config.hcl").write_text(
            _CONFIG.format(
                folder=folder,
                port=self._port,
                small_port=self._small_port,
                cluster_port=free_port(),
            )
        )

    @property
    def address(self) -> str:
        """For clients."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def small_address(self) -> str:
        """Another listener of it, which takes requests of 4 KiB at most."""
        return f"http://127.0.0.1:{self._small_port}"

    def start(self) -> None:
        """Start it; initialised, unsealed and set up when this returns."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), "server", f"-config={self._folder / 'config.hcl'}"],
                stdout=log,
                stderr=log,
                env={"HOME": str(self._folder)},
                preexec_fn=killed_with_this_run(),  # noqa: PLW1509 (it takes no lock)
            )
        self._wait_for(lambda: self._root().sys.is_initialized() is not None)
        if not self._unseal_key:
            self._initialise()
        self.unseal()

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process, by default as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def hang(self) -> None:
        """Connections are taken, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def seal(self) -> None:
        """It is there, and refuses; sealed when this returns."""
        self._root().sys.seal()
        self._wait_for(self._root().sys.is_sealed)

    def unseal(self) -> None:
        """Open it again; it leads, and answers, when this returns."""
        self._root().sys.submit_unseal_key(self._unseal_key)
        self._wait_for(lambda: self._root().sys.list_mounted_secrets_engines() is not None)

    def role(self, *policies: str, **options: Any) -> tuple[str, str]:
        """A new AppRole with policies of docs/policies: its role id and a secret id.

        Args:
            options: as Vault's API calls them, beside a `token_ttl` of an hour.
        """
        name, approle = f"role-{secrets.token_hex(6)}", self._root().auth.approle
        given = {"token_ttl": "1h", "token_no_default_policy": True, **options}
        approle.create_or_update_approle(name, token_policies=list(policies), **given)
        role_id = approle.read_role_id(name)["data"]["role_id"]
        secret_id = approle.generate_secret_id(name)["data"]["secret_id"]
        self._roles[secret_id] = name
        return role_id, secret_id

    def expire_secret_id(self, secret_id: str) -> None:
        """At once. A time to live ends in the same way, but the KMS gets round to it once a minute."""
        self._root().auth.approle.destroy_secret_id(self._roles[secret_id], secret_id)

    def set_policy(self, name: str, rules: str) -> None:
        """A policy of a test's own, or a replacement."""
        self._root().sys.create_or_update_policy(name, rules)

    def revoke_all_tokens(self) -> None:
        """Every token that came from an AppRole dies."""
        self._root().adapter.put("/v1/sys/leases/revoke-prefix/auth/approle/login")

    def make_exportable_key(self, name: str) -> None:
        """A key that ours must not be taken for."""
        self._root().secrets.transit.create_key(name, exportable=True)

    def session(self, *policies: str, **options: Any) -> TransitSession:
        """A session of an AppRole with these policies, by default the service's."""
        role_id, secret_id = self.role(*(policies or ("service",)))
        address = options.pop("address", self.address)
        return TransitSession(address, role_id=role_id, secret_id=lambda: secret_id, **options)

    def provider(self, *policies: str, **options: Any) -> TransitProvider:
        """Our adapter, with key names of its own in the one mount."""
        prefix = f"strongroom-{secrets.token_hex(6)}-"
        return TransitProvider(self.session(*policies, **options), prefix=prefix)

    def _initialise(self) -> None:
        # Never asked twice: the keys stand in the answer to the first request only.
        made = self._root(PATIENCE_SECONDS).sys.initialize(1, 1)
        self._unseal_key, self._root_token = made["keys"][0], made["root_token"]
        self.unseal()
        client = self._root(PATIENCE_SECONDS)
        client.sys.enable_secrets_engine("transit")
        client.sys.enable_auth_method("approle")
        for policy in POLICIES.glob("*.hcl"):
            client.sys.create_or_update_policy(policy.stem, policy.read_text(encoding="utf-8"))

    def _root(self, seconds: float = 10) -> hvac.Client:
        session = requests.Session()
        session.trust_env = False
        return hvac.Client(
            url=self.address, token=self._root_token, session=session, timeout=seconds
        )

    def _wait_for(self, question: Any) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with suppress(requests.RequestException, VaultError):
                if question():
                    return
            time.sleep(0.1)
        raise AssertionError("the KMS did not come up")
