"""The sections of the benchmark that change what is there: one attribute of users, and members of groups."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tests.bench import store
from tests.bench.generator import Generator, WrongAnswerError, serving
from tests.bench.measure import Sample, Workload, measure_in_turn
from tests.bench.scripts import SPARE
from tests.bench.servers import usher
from tests.bench.workloads import HTTP, Load, sample_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

GROUP_SIZES = (10, 100_000)

_PATCHED = 10_000
_CONNECTIONS = (1, 64)
_MEMBER_CONNECTIONS = (1, 16)


async def patch_section(bench: Bench) -> list[Workload]:
    """PATCH of one attribute, another user each time; the HTTP ceiling beside it."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        bare = await stack.enter_async_context(serving("tests.bench.bare"))
        target = await stack.enter_async_context(usher(bench.folder, "patch", processes=bench.processes, workers=0))
        await store.fill(target, _PATCHED)
        workloads = []
        for connections in _CONNECTIONS:
            http = f"{HTTP} @{connections}"
            ceiling = Load(bench, generator, bare, "create", connections)
            ours = Load(bench, generator, target, "patch", connections, population=_PATCHED)
            workloads += [
                Workload("patch", http, "requests", ceiling.sample),
                Workload("patch", f"patch @{connections}", "changes", _patched(ours, target), http),
            ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


def _patched(load: Load, target: Usher) -> Callable[[int], Awaitable[Sample]]:
    async def measure(number: int) -> Sample:
        versions, before = await store.sum_versions(target), target.cpu_seconds()
        seen, _ = await load.round(number)
        after, changed = target.cpu_seconds(), await store.sum_versions(target) - versions
        if changed != seen.runs:
            raise WrongAnswerError(f"{seen.runs} changes were answered 200, {changed} are in the store")
        return sample_of(seen, before, after)

    return measure


async def members_section(bench: Bench) -> list[Workload]:
    """A member more and one less, in a small group and in a large one."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        target = await stack.enter_async_context(usher(bench.folder, "members", processes=bench.processes, workers=0))
        population = max(GROUP_SIZES)
        bench.say(f"members: loading {population + SPARE} users")
        await store.fill(target, population + SPARE)
        workloads = []
        for size in GROUP_SIZES:
            group_id = await store.fill_group(target, size)
            for connections in _MEMBER_CONNECTIONS:
                load = Load(bench, generator, target, "member", connections, population=population, target_of=group_id)
                name = f"group of {size} @{connections}"
                workloads.append(Workload("members", name, "pairs", _kept(load, target, group_id, size)))
        workloads.sort(key=lambda workload: int(workload.name.rpartition("@")[2]))
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


def _kept(load: Load, target: Usher, group_id: str, size: int) -> Callable[[int], Awaitable[Sample]]:
    async def measure(number: int) -> Sample:
        sample = await load.sample(number)
        members = await store.count_members(target, group_id)
        if members != size:
            raise WrongAnswerError(f"every member who came has gone again, but of {size} there are {members}")
        return sample

    return measure
