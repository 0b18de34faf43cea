"""P8: what is asked of one user takes effect in the order in which it was asked, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest

from models.scim.schema import ENTERPRISE_URN
from tests.support.api import document, make_tenant
from tests.support.promises import scale
from tests.support.proxy import READY_FOR_QUERY
from tests.support.writing import DIALECTS, patch, setting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Answer, Caller
    from tests.support.rig import Rig

_CHANGES: Final = 20
"""At least so many of each user, and as many more as come before the last fault is over."""
_LOST: Final = (aiohttp.ClientError, ConnectionError, TimeoutError)
DEPARTMENT: Final = f"{ENTERPRISE_URN}:department"


class Person:
    """One user and the client that changes it, who repeats what was not answered before it goes on."""

    def __init__(self, number: int, doors: list[Caller], seed: int) -> None:
        self.name = f"user{number:04}@contoso.example"
        self.id = ""
        self.model: dict[str, Any] = {}
        """What a sequence of assignments comes to."""
        self.changes = 0
        self._doors = doors
        self._dice = Random(f"{seed} {number}")  # noqa: S311  a plan that comes back

    async def live(self, answers: Counter[int | None], over: asyncio.Event) -> None:
        """Be created and changed, one request after the other, until the faults are over."""
        created = await self._until(answers, lambda caller: caller.post("/Users", document(self.name, title="0")), 201)
        if created is None:  # an earlier try, the answer to which was lost, did it
            found = await self._until(answers, lambda caller: caller.get("/Users", filter=f'userName eq "{self.name}"'))
            assert found is not None
            [user] = found.resources()
            self.id = user["id"]
        else:
            self.id = created.json["id"]
        self.model = {"title": "0"}
        while self.changes < _CHANGES or not over.is_set():
            self.changes += 1
            values = self._change(self.changes)
            operations = setting(self._dice.choice(DIALECTS), values)

            def send(caller: Caller, operations: list[dict[str, Any]] = operations) -> Awaitable[Answer]:
                return patch(caller, self.id, operations)

            await self._until(answers, send)
            self.model |= values
            await asyncio.sleep(self._dice.uniform(0.0, 0.3))  # Entra, too, does something else in between

    def _change(self, number: int) -> dict[str, Any]:
        values = {
            "title": f"{number}",
            "active": self._dice.random() < 0.5,
            "displayName": f"Ana {self._dice.randrange(5)}",
            DEPARTMENT: self._dice.choice(["Sales", "Care", "Legal"]),
        }
        kept = self._dice.sample(list(values), self._dice.randrange(1, len(values) + 1))
        return {name: values[name] for name in kept}

    async def _until(
        self, answers: Counter[int | None], send: Callable[[Caller], Awaitable[Answer]], status: int = 200
    ) -> Answer | None:
        """Send until it is answered with a status; None if a repeated create finds its name taken."""
        doubt = False
        async with asyncio.timeout(300):
            while True:
                try:
                    answer = await send(self._dice.choice(self._doors))
                except _LOST:
                    answers[None] += 1
                    doubt = True
                else:
                    answers[answer.status] += 1
                    if answer.status == status:
                        return answer
                    if answer.status == 409 and doubt:
                        return None
                    answer.error(503)
                    doubt = True
                await asyncio.sleep(0.1)

    def differs(self, doc: dict[str, Any]) -> dict[str, Any]:
        """Return what a document has otherwise than the model."""
        found = {**doc, DEPARTMENT: doc.get(ENTERPRISE_URN, {}).get("department")}
        return {name: found.get(name) for name, value in self.model.items() if found.get(name) != value}


async def trouble(rig: Rig, dice: Random, count: int) -> None:
    """Have so many faults, one after the other, each undone before the next."""

    async def kill_a_worker() -> None:
        await rig.kill(dice.choice(rig.workers))

    async def kill_a_front_end() -> None:
        await rig.kill(dice.choice(rig.apis))

    async def be_silent() -> None:
        rig.postgres.blackhole()
        await asyncio.sleep(dice.uniform(0.5, 9))  # the fault itself: shorter and longer than a request may take

    async def swallow() -> None:
        rig.postgres.swallow_reply_after(rb"COMMIT", chance=0.3, dice=dice, answered=READY_FOR_QUERY)
        await asyncio.sleep(2)  # the fault itself

    async def reset() -> None:
        rig.postgres.reset()

    async def empty_redis() -> None:
        async with rig.valkey() as redis:
            await redis.flushall()

    deeds = (kill_a_worker, kill_a_front_end, be_silent, swallow, reset, empty_redis)
    for place in range(count):
        await (deeds[place] if place < len(deeds) else dice.choice(deeds))()
        await rig.heal()
        await asyncio.sleep(dice.uniform(0.5, 2))  # peace between two faults


@pytest.mark.promise("P8")
async def test_every_user_ends_as_a_sequence_of_its_changes_says(make_rig: MakeRig, measure: Measure) -> None:
    async with make_rig(workers=scale(2, 8)) as rig:
        dice = Random(rig.seed)  # noqa: S311  a plan that comes back
        tenant = await make_tenant(rig.direct)
        people = [Person(number, rig.callers(tenant), rig.seed) for number in range(scale(30, 200))]
        answers: Counter[int | None] = Counter()
        over = asyncio.Event()
        faults = scale(6, 40)
        async with asyncio.TaskGroup() as tasks:
            for person in people:
                tasks.create_task(person.live(answers, over))
            await trouble(rig, dice, faults)
            over.set()
        await rig.drain()
        [caller, *_] = rig.callers(tenant)
        docs = [(await caller.get(f"/Users/{person.id}")).json for person in people]
        differing = {person.name: person.differs(doc) for person, doc in zip(people, docs, strict=True)}
        assert {name: values for name, values in differing.items() if values} == {}, f"seed {rig.seed}"
        measure(users=len(people), changes=sum(person.changes for person in people), faults=faults)
        measure(repeated=answers[None] + answers[503])
        assert answers[None] + answers[503] > 0, "some fell into faults"
        await rig.check()
