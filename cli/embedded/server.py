"""What the embedded servers have in common: launch, wait for an answer, stop."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from cli.embedded.folder import is_free, keep_port
from cli.embedded.process import Child, stop_all
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


class EmbeddedServer(ABC):
    """A real server as a child process, with its data, log, secrets and port in one data folder."""

    name: ClassVar[str]
    ready_seconds: ClassVar[float] = 20.0
    stop_seconds: ClassVar[float] = 10.0

    child: Child

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.home = data_dir.absolute()
        self.wanted_port = port
        self.port = 0

    @property
    @abstractmethod
    def url(self) -> str:
        """Address with password; known once the server was launched."""

    @abstractmethod
    def _spawn(self) -> None:
        """Start the child on ``self.port``."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server does its work yet."""

    def launch(self) -> None:
        """Start the server and do not wait for it.

        Raises:
            UsageError: the wanted port is taken, or the server cannot be started.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self.child.end_strays()
        if not self.port:
            self.port = keep_port(self.home, self.name, self.wanted_port)
        self._spawn()

    def ready(self) -> str:
        """Wait until the launched server answers, and return its URL.

        Raises:
            UsageError: it ended or did not answer in time; carries the end of its log.
        """
        deadline = time.monotonic() + self.ready_seconds
        while not self._answers():
            if (code := self.child.poll()) is not None:
                if time.monotonic() > deadline or not self._try_again():
                    raise UsageError(f"{self.name} ended at its start (exit {code}):\n{self.child.tail()}")
            elif time.monotonic() > deadline:
                self.stop()
                raise UsageError(f"{self.name} gave no answer in {self.ready_seconds:.0f} s:\n{self.child.tail()}")
            time.sleep(0.02)
        return self.url

    def start(self) -> str:
        """Start the server and return its URL when it answers.

        Raises:
            UsageError: as for `launch` and `ready`.
        """
        self.launch()
        return self.ready()

    def poll(self) -> int | None:
        """Return the exit code of the server, or None while it runs."""
        return self.child.poll()

    @property
    def children(self) -> list[Child]:
        """Every child process that the server may have."""
        return [self.child]

    def stop(self) -> None:
        """Stop the server; its data stays."""
        stop_all(self.children, self.stop_seconds)

    def _try_again(self) -> bool:
        """Spawn again if another process snatched the port between choosing and binding; tell whether that was so."""
        if self.wanted_port or is_free(self.port):
            return False
        self.port = keep_port(self.home, self.name)
        self._spawn()
        return True


def server_environment() -> dict[str, str]:
    """Return the little environment that a server needs; settings and secrets of Usher are none of its business."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
