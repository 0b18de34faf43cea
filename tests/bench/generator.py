"""The parent of the load generator's processes: hands out plans, starts them at once, adds up what they saw."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Self

import orjson
import psutil

from tests.bench.load import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.scripts import Plan

_PREPARE_SECONDS = 60
_ROUND_SECONDS = 600


class WrongAnswerError(Exception):
    """The server answered something that is not right, so its speed is of no interest."""


@dataclass(frozen=True, slots=True)
class Round:
    """What all processes saw together.

    Attributes:
        began, ended: seconds of the monotonic clock: first request sent, last answer there.
        runs: how many times the script ran.
        cpu_seconds: processor time of the load generator.
        latencies: sorted seconds of each request, by kind of step.
    """

    began: float
    ended: float
    runs: int
    cpu_seconds: float
    latencies: dict[str, list[float]]

    @property
    def rate(self) -> float:
        """Runs of the script a second."""
        return self.runs / (self.ended - self.began)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(map(len, self.latencies.values()))


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A server that stands for the best that is possible."""

    port: int
    pid: int
    host: str = "127.0.0.1"
    token: str = "none"

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time that it has taken so far."""
        times = psutil.Process(self.pid).cpu_times()
        return {"api": times.user + times.system}


class Generator:
    """The load generator, used as an asynchronous context manager."""

    def __init__(self, processes: int) -> None:
        """Take the number of processes; a round with fewer connections uses fewer."""
        self._wanted = processes
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._wanted):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.bench.load"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=2**28,  # an outcome is one line with every latency
                )
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            await process.wait()

    async def run(self, plan: Plan) -> Round:
        """Carry out a plan, shared among the processes.

        Raises:
            WrongAnswerError: at least one answer was not right; carries the first few.
        """
        processes = self._processes[: min(len(self._processes), plan.connections)]
        plans = _share(plan, len(processes))
        for process, part in zip(processes, plans, strict=True):
            _tell(process, orjson.dumps(asdict(part)))
        for process in processes:
            await _hear(process, _PREPARE_SECONDS)
        for process in processes:
            _tell(process, b"go")
        outcomes = [Outcome(**orjson.loads(await _hear(process, _ROUND_SECONDS))) for process in processes]
        if wrong := sum(outcome.wrong_count for outcome in outcomes):
            shown = "\n  ".join(line for outcome in outcomes for line in outcome.wrong)
            raise WrongAnswerError(f"{wrong} of {plan.count} answers were wrong ({plan.script}):\n  {shown}")
        latencies = {
            kind: sorted(seconds for outcome in outcomes for seconds in outcome.latencies[index])
            for index, kind in enumerate(plan.kinds)
        }
        return Round(
            began=min(outcome.began for outcome in outcomes),
            ended=max(outcome.ended for outcome in outcomes),
            runs=plan.count,
            cpu_seconds=sum(outcome.cpu_seconds for outcome in outcomes),
            latencies=latencies,
        )


def _share(plan: Plan, processes: int) -> list[Plan]:
    parts = []
    first = plan.first
    for index in range(processes):
        count = plan.count // processes + (index < plan.count % processes)
        connections = plan.connections // processes + (index < plan.connections % processes)
        # What is drawn is drawn from the same users, by each process with another beginning of its dice.
        parts.append(replace(plan, count=count, connections=connections, first=first, dice=plan.dice + index))
        first += 0 if plan.draws else count
    return parts


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")


async def _hear(process: asyncio.subprocess.Process, seconds: float) -> bytes:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), seconds)
    if not line:
        raise WrongAnswerError(f"the load generator ended (exit {await process.wait()}); see its error above")
    return line


@asynccontextmanager
async def serving(module: str) -> AsyncIterator[Ceiling]:
    """Run one of the servers of this package and yield where it is."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdout=asyncio.subprocess.PIPE)
    try:
        yield Ceiling(port=int(await _hear(process, 20)), pid=process.pid)
    finally:
        process.terminate()
        await process.wait()
