"""Usher as a whole, started for a benchmark by ``usher up`` in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import psutil

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

_START_SECONDS = 120
_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Usher:
    """A running Usher."""

    host: str
    port: int
    token: str
    database_url: str
    tenant_id: UUID
    admin_url: str
    database: asyncpg.Connection
    pid: int

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time that its processes have taken so far, by what they are."""
        found = dict.fromkeys(("api", "worker", "postgres", "redis"), 0.0)
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if role := _role(process):
                    times = process.cpu_times()
                    found[role] += times.user + times.system
        return found


def _role(process: psutil.Process) -> str | None:
    name = process.name()
    if name.startswith("postgres"):
        return "postgres"
    if name.startswith(("valkey", "redis")):
        return "redis"
    command = process.cmdline()
    return next((role for role in ("api", "worker") if "cli.main" in command and role in command), None)


@asynccontextmanager
async def usher(folder: Path, name: str, *, processes: int, workers: int, keep: bool = False) -> AsyncIterator[Usher]:
    """Start ``usher up`` and yield it when everything answers; stop it at the end.

    Args:
        folder: where its data goes, on the disk whose speed is to be measured.
        name: of its data folder in there, for several at once.
        processes: API processes.
        workers: worker processes.
        keep: its data stays there for another run.

    Raises:
        RuntimeError: it ended before it was ready; carries the end of its output.
    """
    ready_file = folder / f"{name}.json"
    ready_file.unlink(missing_ok=True)
    log = folder / f"{name}.log"
    arguments = [
        *("up", "--data-dir", str(folder / name), "--port", "0", "--admin-port", "0"),
        *("--processes", str(processes), "--workers", str(workers), "--ready-file", str(ready_file)),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("USHER_")}
    environment["USHER_LOG_LEVEL"] = "info"
    environment["USHER_TOKEN_RATE"] = "0"  # the benchmark measures what there is, not what one token may have
    environment["USHER_TOKEN_IN_FLIGHT"] = "10000"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", *arguments), stdout=output, stderr=output, env=environment
        )
    cluster = None
    try:
        await wait_until(lambda: ready_file.exists() or process.returncode is not None, "usher up", _START_SECONDS)
        if process.returncode is not None:
            raise RuntimeError(f"usher up ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        ready = json.loads(ready_file.read_text())
        address = urlsplit(ready["scim_url"])
        database = await asyncpg.connect(ready["database_url"])
        cluster = await database.fetchval("SHOW data_directory")
        try:
            yield Usher(
                host=address.hostname or "127.0.0.1",
                port=address.port or 80,
                token=ready["token"],
                database_url=ready["database_url"],
                tenant_id=await database.fetchval("SELECT id FROM tenant"),
                admin_url=ready["admin_url"],
                database=database,
                pid=process.pid,
            )
        finally:
            await database.close()
    finally:
        await _stop(process)
        if cluster and not keep:  # where root's folders are closed to PostgreSQL it is not below the folder
            await asyncio.to_thread(shutil.rmtree, cluster, ignore_errors=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        # What was measured is still right, so say it and go on; its children end with it.
        print(f"usher up did not stop within {_STOP_SECONDS} s and was killed", file=sys.stderr)  # noqa: T201 - told to whoever runs the benchmark
        process.kill()
        await process.wait()
