"""docker-compose.yml and the Dockerfile as data, and their services as plain processes on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from cli.embedded.folder import LOOPBACK, is_free

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


class MissingError(Exception):
    """A variable without which `docker compose` refuses to start."""


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services by name, with variables filled in as `docker compose` does, and anchors merged.

    Raises:
        MissingError: a variable that has no default is not among ``variables``.
    """

    def fill_in(match: re.Match[str]) -> str:
        name, operator, rest = match["name"], match["operator"], match["rest"]
        if value := variables.get(name):
            return value
        if operator == ":?":
            raise MissingError(f"{name}: {rest}")
        assert operator == ":-", f"${{{name}}} has neither a default nor a message"
        return str(rest)

    text = COMPOSE.read_text(encoding="utf-8")
    document = yaml.safe_load(re.sub(r"\$\{(?P<name>\w+)(?P<operator>:[?-])?(?P<rest>[^}]*)\}", fill_in, text))
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order: the name, and the rest with continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def commands() -> list[str]:
    """Return the shell commands that building the image runs."""
    return [part.strip() for name, rest in instructions() if name == "RUN" for part in rest.split("&&")]


def copied() -> list[str]:
    """Return the files and folders that the Dockerfile copies from the tree."""
    found = []
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            found += shlex.split(rest)[:-1]
    return found


@dataclass
class Stack:
    """The services as processes that see the environment of their container, with the addresses of here."""

    services: dict[str, dict[str, Any]]
    package: Path
    """Folder with what the image installs."""
    folder: Path
    """Where the processes run and their logs are."""
    hosts: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """Where a port of a container is here."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def at(self, host: str, port: int) -> tuple[str, int]:
        """Return where a container's port is here, choosing a free one the first time."""
        if (host, port) not in self.hosts:
            taken = {number for _, number in self.hosts.values()}
            # Below the range out of which the kernel gives ports to everybody.
            first = 20_000 + os.getpid() % 5_000
            chosen = next(number for number in range(first, 32_000) if number not in taken and is_free(number))
            self.hosts[host, port] = (LOOPBACK, chosen)
        return self.hosts[host, port]

    def here(self, path: str) -> Path:
        """Return where a file of a container, or of a volume in it, is here: a volume is one folder for all."""
        return self.folder / path.removeprefix("/tmp/").removeprefix("/")  # noqa: S108  a path in the container

    def url(self, host: str, port: int, path: str = "") -> str:
        """Return the HTTP address here of a container's port."""
        there, number = self.at(host, port)
        return f"http://{there}:{number}{path}"

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service and what Python needs, nothing else."""
        given = {key: self._here(str(value)) for key, value in self.services[name].get("environment", {}).items()}
        if name == "api":
            # In its container each listener has every address and its usual port; here they share a machine.
            for variable, port in (("HOST", 8080), ("ADMIN_HOST", 8081)):
                assert given.pop(f"USHER_{variable}") == "0.0.0.0"  # noqa: S104  compared, not bound
                given[f"USHER_{variable.replace('HOST', 'PORT')}"] = str(self.at(name, port)[1])
        if name == "worker":
            assert given.pop("USHER_ADMIN_HOST") == "0.0.0.0"  # noqa: S104  as above
            given["USHER_WORKER_ADMIN_PORT"] = str(self.at(name, int(given["USHER_WORKER_ADMIN_PORT"]))[1])
        return {**given, "PATH": os.environ["PATH"], "PYTHONPATH": str(self.package)}

    def _here(self, value: str) -> str:
        """Return a URL with the service in it, or a file of the container, as it is here; anything else as it is."""
        if value.startswith(("/tmp/", "/var/lib/")):  # noqa: S108  paths in the container
            return str(self.here(value))
        parts = urlsplit(value)
        if parts.hostname not in self.services or parts.port is None:
            return value
        login, at, _ = parts.netloc.rpartition("@")
        host, port = self.at(parts.hostname, parts.port)
        return urlunsplit(parts._replace(netloc=f"{login}{at}{host}:{port}"))

    def argv(self, name: str, command: list[str] | None = None) -> list[str]:
        """Return the command line of a service, or of another command in its container."""
        service = self.services[name]
        if command is None:
            command = [*service.get("entrypoint", _entrypoint()), *service["command"]]
        return _python(command)

    def start(self, name: str, argv: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a service by its own command line, or by another."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv or self.argv(name),
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.processes[name]

    def execute(self, name: str, *command: str) -> str:
        """Run a command as `docker compose exec` does; return what it printed."""
        done = subprocess.run(
            self.argv(name, list(command)),
            env=self.environment(name),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def healthy(self, name: str) -> bool:
        """Tell what the service's own health check finds."""
        kind, *command = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        local = [
            re.sub(r"127\.0\.0\.1:(\d+)", lambda found: ":".join(map(str, self.at(name, int(found[1])))), part)
            for part in command
        ]
        checked = subprocess.run(
            _python(local), env=self.environment(name), cwd=self.folder, capture_output=True, timeout=60, check=False
        )
        return checked.returncode == 0

    def stop(self, name: str) -> int:
        """Ask a service to stop and return its exit status.

        Raises:
            AssertionError: it was not gone within its grace period.
        """
        process = self.processes.pop(name)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=float(self.services[name]["stop_grace_period"].removesuffix("s")))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            seconds = time.monotonic() - began
            raise AssertionError(f"{name} still ran after {seconds:.0f} s:\n{self.log(name)}") from None

    def log(self, name: str) -> str:
        """Return what a service wrote."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def end(self) -> None:
        """End what a test that failed left running."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def _entrypoint() -> list[str]:
    found: list[str] = json.loads(dict(instructions())["ENTRYPOINT"])
    return found


def _python(command: list[str]) -> list[str]:
    """Return a container's command line with the Python of here; `usher` is the script of the package."""
    if command[0] == "usher":
        return [sys.executable, "-m", "cli.main", *command[1:]]
    assert command[0] == "python", command
    return [sys.executable, *command[1:]]
