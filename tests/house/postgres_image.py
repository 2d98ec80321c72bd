"""What the postgres image adds to the server, done with the wheel's programs.

As its documentation says: on an empty data folder run initdb, start the server on its socket only, make the
database, run what lies in /docker-entrypoint-initdb.d by name, stop; then start the command.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.embedded_binaries import SHARED_CACHE, installed_wheel, reachable_binaries
from api.embedded_child import account_for
from tests.process import wait_until

STOP_SIGNAL = signal.SIGINT
"""The image's STOPSIGNAL: fast shutdown."""


@dataclass(frozen=True)
class PostgresImage:
    """One container's worth of it.

    Attributes:
        folder: given to PostgreSQL's account; its path is short, for the socket's sake.
        environment: the container's, with paths of this host.
        scripts: what is mounted below /docker-entrypoint-initdb.d, in order.
    """

    folder: Path
    port: int
    environment: Mapping[str, str]
    scripts: Sequence[Path]

    @property
    def binaries(self) -> Path:
        """The folder of PostgreSQL's programs."""
        account = account_for(self._data)
        return reachable_binaries(installed_wheel(), account, (SHARED_CACHE, self.folder))

    @property
    def options(self) -> dict[str, Any]:
        """Options of Popen: PostgreSQL never runs as root."""
        if os.geteuid():
            return {}
        account = account_for(self._data)
        return {"user": account.uid, "group": account.gid, "extra_groups": []}

    def entry(self, command: Sequence[str]) -> list[str]:
        """Prepare the data folder if it is empty; what is to be run then."""
        if not self._data.exists():
            self._initialise(command)
        return self._server(command)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _server(self, command: Sequence[str]) -> list[str]:
        program, *flags = command
        where = ["-D", str(self._data), "-k", str(self.folder), "-p", str(self.port)]
        return [str(self.binaries / program), *where, *flags]

    def _initialise(self, command: Sequence[str]) -> None:
        self._own(self.folder)
        self._initdb()
        socket_only = [*self._server(command), "--listen_addresses="]
        with subprocess.Popen(socket_only, stderr=subprocess.DEVNULL, **self.options) as server:
            try:
                assert wait_until(self._answers, 30), "the server did not start"
                self._psql("postgres", "--command", f"CREATE DATABASE {self._database}")
                for script in self.scripts:
                    self._run(script)
            finally:
                server.send_signal(STOP_SIGNAL)

    def _initdb(self) -> None:
        password = self.folder / "password"
        password.write_text(self._password)
        self._own(password)
        subprocess.run(
            [
                *(str(self.binaries / "initdb"), "-D", str(self._data), f"--pwfile={password}"),
                f"--username={self.environment['POSTGRES_USER']}",
                *shlex.split(self.environment["POSTGRES_INITDB_ARGS"]),
            ],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            **self.options,
        )
        password.unlink()

    def _run(self, script: Path) -> None:
        if script.suffix == ".sql":
            self._psql(self._database, "--file", str(script))
        else:
            subprocess.run([script], check=True, env=self._client_environment)

    def _psql(self, database: str, *arguments: str) -> None:
        user = self.environment["POSTGRES_USER"]
        subprocess.run(
            [
                *("psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"),
                *("--username", user, "--dbname", database, *arguments),
            ],
            check=True,
            env=self._client_environment,
        )

    def _answers(self) -> bool:
        asked = subprocess.run(["pg_isready", "-q"], check=False, env=self._client_environment)
        return asked.returncode == 0

    @property
    def _client_environment(self) -> dict[str, str]:
        return {
            **self.environment,
            "PATH": f"{self.binaries}:{os.defpath}",
            "PGHOST": str(self.folder),
            "PGPORT": str(self.port),
            "PGPASSWORD": self._password,
        }

    @property
    def _password(self) -> str:
        return Path(self.environment["POSTGRES_PASSWORD_FILE"]).read_text().strip()

    @property
    def _database(self) -> str:
        return self.environment["POSTGRES_DB"]

    def _own(self, path: Path) -> None:
        if self.options:
            os.chown(path, self.options["user"], self.options["group"])
