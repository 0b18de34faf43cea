"""The section of the benchmark that tells what recording costs: creates with and without their audit events.

The same servers, in turn: where nothing is recorded, a trigger of the benchmark's own throws each event away before it
is stored and indexed. That leaves in the comparison what the API and the statement do to make an event, some µs.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from tests.bench.generator import Generator, WrongAnswerError
from tests.bench.measure import Workload, measure_in_turn
from tests.bench.servers import usher
from tests.bench.workloads import Load

if TYPE_CHECKING:
    from tests.bench.measure import Sample
    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

CONNECTIONS: Final = 64

_THROW_AWAY = """
CREATE SCHEMA bench;
CREATE FUNCTION bench.throw_away() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER bench_throw_away BEFORE INSERT ON audit_event FOR EACH ROW EXECUTE FUNCTION bench.throw_away()
"""


class Recording:
    """Creates, recorded or not; whether they were is counted."""

    def __init__(self, target: Usher, load: Load, *, recorded: bool) -> None:
        self._target, self._load, self._recorded = target, load, recorded

    async def sample(self, number: int) -> Sample:
        """Create for some seconds."""
        verb = "DISABLE" if self._recorded else "ENABLE"
        await self._target.database.execute(f"ALTER TABLE audit_event {verb} TRIGGER bench_throw_away")
        before = await self._events()
        # What is created in a round has names of its own, here also against the other workload's.
        sample = await self._load.sample(2 * number + self._recorded + 1)
        if (await self._events() > before) is not self._recorded:
            raise WrongAnswerError(f"creates were {'not ' if self._recorded else ''}recorded")
        return sample

    async def _events(self) -> int:
        found: int = await self._target.database.fetchval(
            "SELECT count(*) FROM audit_event WHERE action = 'scim.user.create'"
        )
        return found


async def recording_section(bench: Bench) -> list[Workload]:
    """Create with and without audit events, in turn."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        target = await stack.enter_async_context(usher(bench.folder, "recording", processes=bench.processes, workers=0))
        await target.database.execute(_THROW_AWAY)
        name = f"create @{CONNECTIONS}"
        workloads = [
            Workload(
                "recording",
                f"{name}, {'recorded' if recorded else 'not recorded'}",
                "creates",
                Recording(target, Load(bench, generator, target, "create", CONNECTIONS), recorded=recorded).sample,
                beside=f"{name}, not recorded" if recorded else None,
            )
            for recorded in (False, True)
        ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads
