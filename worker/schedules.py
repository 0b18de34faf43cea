"""Doing what runs again and again: each by one worker at a time, its outcome told, a failure tried again.

A new one is a line here and a line in `models.schedules`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from models.audit.record import make_partitions
from models.db import is_unavailable
from models.invitations import expire_invitations
from models.processes import forget_processes
from models.request_log import prune
from models.schedules import SCHEDULES, begin, due, end, register
from models.statistics import forget_minutes
from models.upkeep import forget_deferred, forget_jobs, forget_links, forget_operations, forget_sessions
from worker import exporter, sealer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from models.db import Connection
    from worker.context import Context

    Run = Callable[[Context, Connection], Awaitable[str]]
    """Does it, on a connection outside a transaction, and returns in words what was done, or nothing."""

TICK_SECONDS = 1.0
_AT_ONCE = 4  # runs of one process: each has a connection of the pool, and none that is long keeps sealing waiting
_MOST_SECONDS = 1800.0

_log = structlog.get_logger("schedules")


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}" if count else ""


def _told(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


async def _partitions(_: Context, connection: Connection) -> str:
    return _count(await make_partitions(connection), "partition made", "partitions made")


async def _expiry(_: Context, connection: Connection) -> str:
    expired, forgotten = await expire_invitations(connection), await forget_links(connection)
    return _told(
        _count(expired, "invitation expired", "invitations expired"),
        _count(forgotten, "link forgotten", "links forgotten"),
    )


async def _jobs(context: Context, connection: Connection) -> str:
    days = context.settings.job_days
    jobs, operations = await forget_jobs(connection, days), await forget_operations(connection, days)
    return _told(
        _count(jobs, "job deleted", "jobs deleted"),
        _count(operations, "bulk operation deleted", "bulk operations deleted"),
    )


async def _deferred(_: Context, connection: Connection) -> str:
    return _count(await forget_deferred(connection), "outcome forgotten", "outcomes forgotten")


async def _requests(_: Context, connection: Connection) -> str:
    return _count(await prune(connection), "request deleted", "requests deleted")


async def _sessions(_: Context, connection: Connection) -> str:
    return _count(await forget_sessions(connection), "row deleted", "rows deleted")


async def _statistics(_: Context, connection: Connection) -> str:
    gone = await forget_minutes(connection) + await forget_processes(connection)
    return _count(gone, "row deleted", "rows deleted")


RUNS: dict[str, Run] = {
    "audit.anchor": sealer.anchor,
    "audit.export": exporter.export_waiting,
    "audit.partitions": _partitions,
    "audit.retention": sealer.remove_old,
    "audit.seal": sealer.seal,
    "audit.verify": sealer.verify_all,
    "invitation.expiry": _expiry,
    "job.cleanup": _jobs,
    "request.deferred": _deferred,
    "request.log": _requests,
    "session.cleanup": _sessions,
    "statistics.cleanup": _statistics,
}


async def run_one(context: Context, name: str, run: Run) -> bool:
    """Run something if it is due and nobody else is at it; return whether it was run."""
    async with context.pool.acquire() as connection:
        if not await begin(connection, name):
            return False
        try:
            await _run(context, connection, name, run)
        except BaseException:
            # Cancelled, or the store is away: the lock goes with the connection, the run is due again in a minute.
            connection.terminate()
            raise
    return True


async def _run(context: Context, connection: Connection, name: str, run: Run) -> None:
    entry = SCHEDULES.get(name)
    every = (entry.every_seconds if entry else None) or 3600.0
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            detail = await run(context, connection)
    except Exception as error:  # noqa: BLE001  whatever it is, it is told and tried again
        _log.error("A schedule failed", action="schedule.failed", schedule=name, error=type(error).__name__)
        detail = type(error).__name__ if is_unavailable(error) else f"{type(error).__name__}: {_first_line(error)}"
        await end(connection, name, every_seconds=every, detail=detail, failed=True)
    else:
        if detail:
            _log.info("Upkeep", action="schedule.run", schedule=name, detail=detail)
        await end(connection, name, every_seconds=every, detail=detail)


def _first_line(error: Exception) -> str:
    return next(iter(str(error.args[0] if error.args else error).splitlines()), "")


class Scheduler:
    """Runs what is due, a few at a time, until cancelled."""

    def __init__(self, context: Context, runs: Mapping[str, Run] | None = None) -> None:
        """Take what to run by name; all of `RUNS` if not given."""
        self._context = context
        self._runs = RUNS if runs is None else runs
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._registered = False

    async def keep(self, *, tick_seconds: float = TICK_SECONDS) -> None:
        """Look every ``tick_seconds`` for what is due; an outage of PostgreSQL only means another look later."""
        try:
            while True:
                for name in [name for name, task in self._tasks.items() if task.done()]:
                    self._tasks.pop(name).result()
                for name in await self._due():
                    if name not in self._tasks:
                        self._tasks[name] = asyncio.create_task(self._go(name), name=f"schedule {name}")
                await asyncio.sleep(tick_seconds)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _due(self) -> list[str]:
        try:
            async with self._context.pool.acquire() as connection:
                if not self._registered:
                    await register(connection, self._runs)
                    self._registered = True
                return await due(connection, self._runs)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("Schedules cannot be read", action="schedule.unread", error=type(error).__name__)
            return []

    async def _go(self, name: str) -> None:
        async with self._slots:
            try:
                await run_one(self._context, name, self._runs[name])
            except Exception as error:
                if not is_unavailable(error):
                    raise
                _log.warning("A schedule was cut short", action="schedule.cut", schedule=name)
