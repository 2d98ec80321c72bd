"""docker-compose.yml as data, and the commands that its guide tells people to run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final, cast

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[Mapping[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
GUIDE: Final = (ROOT / "docs" / "production.md").read_text()


@dataclass(frozen=True)
class Service:
    """One service, with Compose's short and long ways of writing brought to one."""

    name: str
    spec: Mapping[str, Any]

    @property
    def image(self) -> str:
        """With its tag."""
        return str(self.spec["image"])

    @property
    def runs_once(self) -> bool:
        """Whether it ends by itself, as opposed to serving."""
        return bool(self.spec["restart"] == "no")

    @property
    def uid(self) -> int:
        """Whom it runs as."""
        return int(self.spec["user"].partition(":")[0])

    @property
    def gid(self) -> int:
        """And in which group."""
        return int(self.spec["user"].partition(":")[2])

    @property
    def command(self) -> list[str]:
        """What follows the entry point."""
        return [str(part) for part in self.spec["command"]]

    @property
    def environment(self) -> Mapping[str, str]:
        """What is set for it."""
        return cast("Mapping[str, str]", self.spec.get("environment", {}))

    @property
    def health_check(self) -> list[str]:
        """The command; run without a shell."""
        kind, *command = self.spec["healthcheck"]["test"]
        assert kind == "CMD"
        return [str(part) for part in command]

    @property
    def secrets(self) -> dict[str, str]:
        """Names below /run/secrets, and which secret lies there."""
        given = [
            {"source": secret, "target": secret} if isinstance(secret, str) else secret
            for secret in self.spec.get("secrets", [])
        ]
        return {secret["target"]: secret["source"] for secret in given}

    @property
    def mounts(self) -> dict[str, str]:
        """Paths inside, and the volume or the host's path that is there."""
        pairs = [
            volume.split(":")[:2]
            if isinstance(volume, str)
            else [volume["source"], volume["target"]]
            for volume in self.spec.get("volumes", [])
        ]
        return {target: source for source, target in pairs}

    @property
    def port(self) -> int | None:
        """The one it listens on, if any."""
        given = self.spec.get("expose") or self.spec.get("ports") or [None]
        return None if given[0] is None else int(given[0].rpartition(":")[2])


SERVICES: Final = {name: Service(name, spec) for name, spec in COMPOSE["services"].items()}


def start_order() -> Iterator[Service]:
    """Each service that starts without being asked for, after those it depends on."""
    graph = {
        name: service.spec.get("depends_on", {})
        for name, service in SERVICES.items()
        if "profiles" not in service.spec
    }
    return (SERVICES[name] for name in TopologicalSorter(graph).static_order())


def entry_point(service: Service) -> list[str]:
    """Its own, or else that of the image that we build."""
    given = service.spec.get("entrypoint")
    if given is None:
        found = re.search(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
        assert found
        given = json.loads(found[1])
    return [str(part) for part in given]


def secret_file(folder: Path, name: str) -> Path:
    """Where `folder`, in the place of the checkout, holds a secret."""
    return folder / str(COMPOSE["secrets"][name]["file"])


def run_documented(
    heading: str, folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run the guide's first commands below `heading` in `folder`, as they stand there."""
    _, _, section = GUIDE.partition(f"{heading}\n")
    block = re.search(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block, f"docs/production.md has no commands below {heading}"
    subprocess.run(
        ["bash", "-euc", block[1]],
        cwd=folder,
        env=environment,
        check=True,
        stderr=subprocess.DEVNULL,
    )
