"""The sections of the benchmark: what each starts, and what it measures there."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from tests.bench import store
from tests.bench.generator import Ceiling, Generator, Round, WrongAnswerError, serving
from tests.bench.measure import Sample, Workload, measure_in_turn, quantiles
from tests.bench.scripts import Plan, document, user_name
from tests.bench.servers import Usher, usher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

HTTP = "bare aiohttp"
COMMIT = "commits"
SIZES = (1_000, 100_000, 1_000_000)

_CONNECTIONS = (1, 16, 64)
_DRAIN_SECONDS = 300
_IDLE_CREATES = 50


@dataclass(frozen=True, slots=True)
class Bench:
    """How the benchmark is run.

    Attributes:
        seconds: about how long one round of one workload lasts.
        rounds: how many rounds are counted.
        sizes: of the directories that are searched.
        processes: API processes.
        workers: worker processes, where there are any.
        load_processes: processes of the load generator.
        folder: where the data of all servers goes.
        keep: where the audit log is kept from one run to the next, if it is.
        say: is told what is being done.
    """

    seconds: float
    rounds: int
    sizes: tuple[int, ...]
    processes: int
    workers: int
    load_processes: int
    folder: Path
    say: Callable[[str], None]
    keep: Path | None = None


class Load:
    """One script at one number of connections, in rounds of about the same duration."""

    def __init__(
        self,
        bench: Bench,
        generator: Generator,
        target: Usher | Ceiling,
        script: str,
        connections: int,
        population: int = 0,
        target_of: str = "",
    ) -> None:
        """Take where to go, which script to run there, and the plan's population and target."""
        self._bench = bench
        self._generator = generator
        self._target = target
        self._script = script
        self._connections = connections
        self._population = population
        self._target_of = target_of
        self._count = 50 * connections  # until a first round has shown how many fit into one

    async def round(self, number: int) -> tuple[Round, str]:
        """Run one round; return what was seen and the group of its users."""
        group = store.FILLED if self._population else f"{self._script}{self._connections}x{number + 1}"
        plan = Plan(
            host=self._target.host,
            port=self._target.port,
            token=self._target.token,
            script=self._script,
            group=group,
            first=0,
            count=self._count,
            connections=self._connections,
            population=self._population,
            target=self._target_of,
            dice=1000 * (number + 1),
        )
        seen = await self._generator.run(plan)
        self._count = max(50, self._connections, int(seen.rate * self._bench.seconds))
        return seen, group

    async def sample(self, number: int) -> Sample:
        """Run one round and see that what was created is there."""
        before = self._target.cpu_seconds()
        seen, group = await self.round(number)
        after = self._target.cpu_seconds()
        if isinstance(self._target, Usher) and not self._population:
            known = await store.count_known(self._target, group)
            if known != seen.runs:
                raise WrongAnswerError(f"{seen.runs} creates were answered 201, {known} are known")
        return sample_of(seen, before, after)


def sample_of(seen: Round, before: dict[str, float], after: dict[str, float], rate: float | None = None) -> Sample:
    """Return what is counted of a round: its rate, or the one that is given, times, and processor time."""
    return Sample(
        rate=seen.rate if rate is None else rate,
        times={kind: quantiles(seconds) for kind, seconds in seen.latencies.items()},
        load_seconds=seen.cpu_seconds / seen.requests,
        cpu_seconds={role: (after[role] - before[role]) / seen.runs for role in before},
    )


async def load_section(bench: Bench) -> list[Workload]:
    """The load generator alone, against a server that only answers, and the bare ceiling beside it."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        bare = await stack.enter_async_context(serving("tests.bench.bare"))
        trivial = await stack.enter_async_context(serving("tests.bench.trivial"))
        ceiling = Load(bench, generator, bare, "create", 64)
        alone = Load(bench, generator, trivial, "create", 64)
        workloads = [
            Workload("load", f"{HTTP} @64", "requests", ceiling.sample),
            Workload("load", "load generator @64", "requests", alone.sample, f"{HTTP} @64"),
        ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


async def create_section(bench: Bench) -> list[Workload]:
    """Creates, accepted and durable, without a worker; both ceilings beside them."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        bare = await stack.enter_async_context(serving("tests.bench.bare"))
        target = await stack.enter_async_context(usher(bench.folder, "create", processes=bench.processes, workers=0))
        workloads = [
            Workload("create", f"{COMMIT} @{connections}", "commits", _commits(bench, target, connections))
            for connections in _CONNECTIONS[:2]
        ]
        for connections in _CONNECTIONS:
            http, commit = f"{HTTP} @{connections}", f"{COMMIT} @{min(connections, _CONNECTIONS[1])}"
            ceiling = Load(bench, generator, bare, "create", connections)
            ours = Load(bench, generator, target, "create", connections)
            workloads += [
                Workload("create", http, "requests", ceiling.sample),
                Workload("create", f"create @{connections}", "creates", ours.sample, http, commit),
            ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


async def applied_section(bench: Bench) -> list[Workload]:
    """Creates until they are applied, audited and invited by a worker: many at once, and a single one when idle."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        bare = await stack.enter_async_context(serving("tests.bench.bare"))
        target = await stack.enter_async_context(
            usher(bench.folder, "applied", processes=bench.processes, workers=bench.workers)
        )
        await store.keep_invitations_waiting(target)
        http = f"{HTTP} @64"
        workloads = [
            Workload("applied", http, "requests", Load(bench, generator, bare, "create", 64).sample),
            Workload(
                "applied",
                "accept to applied @64",
                "creates",
                _applied(Load(bench, generator, target, "create", 64), target),
                http,
            ),
            Workload("applied", "idle to applied", "", _idle(bench, target)),
        ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


async def cycle_section(bench: Bench) -> list[Workload]:
    """Entra's cycle of one user, match, create, match, with a worker beside it."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        target = await stack.enter_async_context(
            usher(bench.folder, "cycle", processes=bench.processes, workers=bench.workers)
        )
        await store.keep_invitations_waiting(target)
        workloads = [
            Workload("cycle", f"match, create, match @{n}", "cycles", Load(bench, generator, target, "cycle", n).sample)
            for n in (1, 16)
        ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


async def processes_section(bench: Bench) -> list[Workload]:
    """Creates at 64 connections, by one API process and by two that share the port."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        workloads: list[Workload] = []
        for processes in (1, 2):
            target = await stack.enter_async_context(
                usher(bench.folder, f"processes{processes}", processes=processes, workers=0)
            )
            name = f"create @64, {processes} process" + ("es" if processes > 1 else "")
            load = Load(bench, generator, target, "create", 64)
            beside = workloads[0].name if workloads else None
            workloads.append(Workload("processes", name, "creates", load.sample, beside=beside))
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


def _commits(bench: Bench, target: Usher, connections: int) -> Callable[[int], Awaitable[Sample]]:
    count = 50 * connections

    async def measure(_: int) -> Sample:
        nonlocal count
        rate = await store.commit_rate(target, connections, count)
        count = max(50, int(rate * bench.seconds))
        return Sample(rate=rate)

    return measure


def _applied(load: Load, target: Usher) -> Callable[[int], Awaitable[Sample]]:
    async def measure(number: int) -> Sample:
        before = target.cpu_seconds()
        seen, group = await load.round(number)
        ended = await store.until_none_waits(target, _DRAIN_SECONDS)
        after = target.cpu_seconds()
        applied = await store.count_applied(target, group)
        if applied != seen.runs:
            raise WrongAnswerError(f"{seen.runs} creates were answered 201, {applied} are applied, audited and invited")
        return sample_of(seen, before, after, seen.runs / (ended - seen.began))

    return measure


def _idle(bench: Bench, target: Usher) -> Callable[[int], Awaitable[Sample]]:
    dice = random.Random(1)  # noqa: S311 - pauses
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/scim+json"}

    async def measure(number: int) -> Sample:
        connection = http.client.HTTPConnection(target.host, target.port)
        seconds = []
        for index in range(-(-_IDLE_CREATES // bench.rounds)):
            # Uneven pauses, so that the creates do not fall in step with the worker's looks into its queue.
            await asyncio.sleep(dice.uniform(0.05, 0.15))
            name = user_name(f"idle{number + 1}", index)
            began = time.perf_counter()
            connection.request("POST", "/scim/v2/Users", orjson.dumps(document(name)), headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 201:
                raise WrongAnswerError(f"a create was answered {answer.status}: {body[:300]!r}")
            seconds.append(await store.until_applied(target, UUID(json.loads(body)["id"])) - began)
        connection.close()
        return Sample(times={"applied": quantiles(seconds)})

    return measure
