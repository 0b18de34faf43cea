"""Holding events to their seals in several processes, which all see the store as one transaction sees it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

from models.audit.rows import Found, hold
from models.db import open_pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from models.audit.chain import Chain
    from models.db import Connection
    from models.settings import Settings

_AT_ONCE = 5  # windows; the last of them keep one process busy while the others have none


async def hold_apart(
    connection: Connection,
    settings: Settings,
    jobs: int,
    chains: Mapping[UUID, Chain],
    windows: Sequence[tuple[int, int]],
    stream: UUID | None,
) -> Found:
    """Do what `hold` does, in ``jobs`` processes.

    Args:
        connection: inside the transaction whose state of the store is looked at.
        settings: with which each process reaches the store.
        jobs: how many processes.
        chains: as `hold` wants them, like the next two.
        windows: some.
        stream: only this one.
    """
    # It has nothing to do meanwhile, and its snapshot ends with it.
    await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    snapshot: str = await connection.fetchval("SELECT pg_export_snapshot()")
    task = _Task(settings, snapshot, chains, stream)
    loop = asyncio.get_running_loop()
    # Begun anew and not as copies of this process, which has connections and threads.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (task,)) as pool:
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(pool, _hold_some, windows[start : start + _AT_ONCE])
                for start in range(0, len(windows), _AT_ONCE)
            )
        )
    found = Found()
    for part in parts:
        found.add(part)
    return found


@dataclass(frozen=True, slots=True)
class _Task:
    """What all windows have in common."""

    settings: Settings
    snapshot: str
    chains: Mapping[UUID, Chain]
    stream: UUID | None

    async def hold(self, windows: Sequence[tuple[int, int]]) -> Found:
        pool = await open_pool(self.settings, name="verify", size=1)
        try:
            async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(f"SET TRANSACTION SNAPSHOT '{self.snapshot}'")
                await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL statement_timeout = 0")
                return await hold(connection, self.chains, windows, self.stream)
        finally:
            await pool.close()


_tasks: list[_Task] = []  # the one of this process


def _begin(task: _Task) -> None:
    _tasks.append(task)


def _hold_some(windows: Sequence[tuple[int, int]]) -> Found:
    return asyncio.run(_tasks[0].hold(windows))
