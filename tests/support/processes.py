"""Real `usher` processes, to be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from tests.support import forked
from tests.support.api import altered
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from models.settings import Settings

_START_SECONDS = 120.0
_USHER = "cli.main"
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.forked"])


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class _Forked:
    """A forked process, as `asyncio.subprocess.Process` shows one."""

    def __init__(self, arguments: Sequence[str], settings: Settings, log: Path) -> None:
        self._process = _FORKS.Process(
            target=forked.usher, args=(list(arguments), environment(settings), str(log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def wait(self) -> int:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        code = self.returncode
        assert code is not None
        return code


class Process:
    """A real `usher` process of one of the kinds `api` and `worker`."""

    def __init__(
        self,
        settings: Settings,
        arguments: Sequence[str],
        log: Path,
        tree: Path | None = None,
        module: str = _USHER,
    ) -> None:
        """Take what to run and how.

        Args:
            settings: to run with.
            arguments: what follows `usher`.
            log: a file for what it says.
            tree: the folder with the code, if it is not this one's.
            module: what stands in for `usher`.
        """
        self.settings = settings
        self.log = log
        self.clock_seconds = 0.0
        """How far its clock is off from the next start on."""
        self.arguments = arguments
        self._tree = tree
        self._module = module
        self._process: asyncio.subprocess.Process | _Forked | None = None
        self._begin = 0
        self.starts = 0
        """How often it was started."""

    @property
    def scim_url(self) -> str:
        """Where it is reached, if it is an api."""
        return f"http://127.0.0.1:{self.settings.port}/scim/v2"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id, while it is meant to run."""
        return None if self._process is None else self._process.pid

    @property
    def said(self) -> str:
        """What it has logged since it was started last."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    async def start(self) -> None:
        """Start it and wait until it says that it works."""
        self.starts += 1
        self.log.touch()
        self._begin = self.log.stat().st_size
        process = self._process = await self._launch()
        mark = f'"action":"{self.arguments[0]}.start"'
        await wait_until(lambda: mark in self.said or process.returncode is not None, mark, _START_SECONDS)
        assert process.returncode is None, self.said

    async def _launch(self) -> asyncio.subprocess.Process | _Forked:
        off = self.clock_seconds
        if self._tree is None and self._module == _USHER and not off:
            return await asyncio.to_thread(_Forked, self.arguments, self.settings, self.log)
        program = [self._module] if not off else ["tests.support.shifted", str(off)]
        with self.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *program, *self.arguments),
                env=environment(self.settings),
                cwd=self._tree,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until it ends by itself and return its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> int:
        """Have it stop in order and return its exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it at once, as a crash of the machine would."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(40):
            return await process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a process with these settings and no others."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    known = {key: value for key, value in os.environ.items() if not key.startswith("USHER_")}
    for name, value in values.items():
        known[f"USHER_{name.upper()}"] = _text(value)
    return known


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Fleet:
    """The processes of a test."""

    apis: list[Process]
    workers: list[Process]


@asynccontextmanager
async def processes(
    settings: Settings,
    folder: Path,
    *,
    apis: int = 1,
    workers: int = 0,
    drain_seconds: float = 0,
    working: bool = False,
) -> AsyncIterator[Fleet]:
    """Start real processes over the same servers, each api on ports of its own; kill what is left at the end.

    They call themselves by the address of the first, as behind a load balancer.

    Args:
        settings: which servers to use.
        folder: where their logs go.
        apis: front ends to start.
        workers: workers to make.
        drain_seconds: how long a front end that is to stop still answers, no longer ready.
        working: whether the workers are started too; else the test starts them.
    """
    ports = free_ports(2 * apis)
    fleet = Fleet([], [])
    for number in range(apis):
        port, admin_port = ports[2 * number : 2 * number + 2]
        own = altered(settings, port=port, admin_port=admin_port, public_url=f"http://127.0.0.1:{ports[0]}")
        command = ["api", "--drain-seconds", f"{drain_seconds:g}"]
        fleet.apis.append(Process(own, command, folder / f"api-{number}.log"))
    fleet.workers.extend(Process(settings, ["worker"], folder / f"worker-{number}.log") for number in range(workers))
    try:
        await asyncio.gather(*(one.start() for one in [*fleet.apis, *(fleet.workers if working else ())]))
        yield fleet
    finally:
        await asyncio.gather(*(one.kill() for one in (*fleet.apis, *fleet.workers)))
