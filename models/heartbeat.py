"""The heartbeat of a process: its row, its statistics and its probe file, every few seconds."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil
import structlog

from models.audit.record import Actor, Event, record
from models.processes import BEAT_SECONDS, Identity, Vitals, beat, stopped
from models.statistics import write_minutes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from models.tally import Tally

_LAG_SECONDS = 0.25  # between looks at how late the event loop is
_WRITE_SECONDS = 4.0

_log = structlog.get_logger("heartbeat")


def identify(process_id: UUID, role: str, *, queues: Iterable[str] = (), slots: int = 0) -> Identity:
    """Return what this process is called; ``role`` is `api` or `worker`."""
    return Identity(process_id, role, socket.gethostname(), os.getpid(), version("usher"), tuple(queues), slots)


class Heartbeat:
    """Writes what a process is and does; what it is told in return goes to ``told``.

    An outage of PostgreSQL costs beats and nothing else: what was counted is written when it is back, and what it
    was told last holds meanwhile.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        identity: Identity,
        *,
        tally: Tally | None = None,
        busy: Callable[[], int] = lambda: 0,
        told: Callable[[bool], None] = lambda _: None,
        file: Path | None = None,
        seconds: float = BEAT_SECONDS,
    ) -> None:
        """Take what to write and where.

        Args:
            pool: to PostgreSQL.
            identity: of this process.
            tally: what it does with jobs, if it does any.
            busy: returns how many of its slots are in use.
            told: called after each beat with whether it is to take no more jobs.
            file: touched on each beat, whether PostgreSQL answers or not: it says that the event loop turns.
            seconds: from one beat to the next.
        """
        self._pool = pool
        self._identity = identity
        self._tally = tally
        self._busy = busy
        self._told = told
        self._file = file
        self._seconds = seconds
        self._lag = 0.0
        self._missed = False
        self._announced = False
        self._self = psutil.Process()

    async def run(self) -> None:
        """Beat until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_lag(), name="event loop lag")
            while True:
                await self._beat()
                await asyncio.sleep(self._seconds)

    async def stop(self) -> None:
        """Write what is left, and that the process ended in order; after `run` was cancelled."""
        await self._beat(last=True)
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self._lag = max(self._lag, loop.time() - due)

    def _vitals(self) -> Vitals:
        lag, self._lag = self._lag, 0.0
        done, failed = (self._tally.done_total, self._tally.failed_total) if self._tally else (0, 0)
        return Vitals(self._busy(), done, failed, self._self.memory_info().rss, lag)

    async def _beat(self, *, last: bool = False) -> None:
        if self._file is not None:
            self._touch(self._file)
        try:
            async with asyncio.timeout(_WRITE_SECONDS), self._pool.acquire() as connection:
                if not self._announced:
                    await self._announce(connection, "system.process.start")
                    self._announced = True
                quiet = await beat(connection, self._identity, self._vitals())
                if self._tally is not None:
                    minutes = self._tally.unwritten()
                    await write_minutes(connection, self._identity.id, [minute for minute, _ in minutes])
                    self._tally.wrote(minutes)
                if last:
                    await self._announce(connection, "system.process.stop")
                    await stopped(connection, self._identity.id)
        except Exception as error:  # noqa: BLE001  whatever it is, the work goes on without being told of
            if not self._missed:
                _log.warning("A beat was missed", action="beat.missed", error=type(error).__name__)
            self._missed = True
            if self._tally is not None:
                self._tally.give_up()
        else:
            self._missed = False
            self._told(quiet)

    async def _announce(self, connection: Connection, action: str) -> None:
        """Have the audit log say that the process began or ended, under one correlation id: the process's own."""
        me = self._identity
        where = f"{me.role} {me.pid} on {me.host}"
        event = Event(
            action=action,
            phase="applied",
            actor=Actor("system", str(me.id), where),
            correlation_id=me.id,
            targets=[{"type": "Process", "id": str(me.id), "label": where}],
            context={"version": me.version, "queues": list(me.queues)},
        )
        await record(connection, [event])

    def _touch(self, file: Path) -> None:
        try:
            file.touch()
        except OSError as error:
            _log.error("The beat file cannot be written", action="beat.file", error=error.strerror)
