"""What the embedded servers keep in the data folder besides their data: secrets and the ports they took."""

from __future__ import annotations

import json
import os
import secrets
import socket
from typing import TYPE_CHECKING

from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = "127.0.0.1"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, so that a reader sees the old content or the new, never half."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def read_text(path: Path) -> str | None:
    """Return the stripped content of a file, or None if there is no such file or nothing in it."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def keep_secret(path: Path, size: int = 32) -> str:
    """Return the secret that the file holds; make one of ``size`` random bytes (URL-safe) the first time."""
    kept = read_text(path)
    if kept is None:
        kept = secrets.token_urlsafe(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, kept)
    return kept


def keep_audit_key(path: Path) -> None:
    """Make the key that seals the audit log, the first time."""
    if not path.exists():
        from models.audit.keys import write_key  # noqa: PLC0415  a later start is sooner without it

        write_key(path)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Tell whether a server could listen on the TCP port right now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def keep_port(home: Path, name: str, wanted: int = 0, host: str = LOOPBACK) -> int:
    """Choose the TCP port of a server and remember it, so that its address outlives a restart.

    Args:
        home: the data folder.
        name: whose port it is.
        wanted: the port to take, or 0 for the remembered one, else any that is free.
        host: address that the server will bind.

    Raises:
        UsageError: the wanted port is taken.
    """
    if wanted:
        if not is_free(wanted, host):
            raise UsageError(f"Port {wanted} for {name} is taken by another process.")
        return wanted
    path = home / "ports.json"
    ports = _read_ports(path)
    port = ports.pop(name, 0)
    if not port or not is_free(port, host):
        port = _any_port(host, set(ports.values()))
    ports[name] = port
    home.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(ports, indent=2, sort_keys=True))
    return port


def _read_ports(path: Path) -> dict[str, int]:
    try:
        kept = json.loads(read_text(path) or "{}")
    except ValueError:
        kept = {}
    if not isinstance(kept, dict):
        return {}
    return {name: port for name, port in kept.items() if isinstance(port, int) and 0 < port < 65536}


def _any_port(host: str, spoken_for: set[int]) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in spoken_for:
            return port
