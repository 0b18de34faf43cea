"""A driver that pushes users as Entra does, by a plan that comes back with its seed, and keeps a diary of it.

An answer that did not come leaves a doubt, and so does a 503: the create may have been carried out. Entra finds out
by matching, or by sending the same create again, and so does the driver, which of the two being part of the plan.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import aiohttp

from tests.support.api import document, work_email
from tests.support.diary import Diary, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.api import Answer, Caller, Tenant

_PAUSE_SECONDS: Final = 0.1
_STEP_SECONDS: Final = 180.0
_LOST: Final = (aiohttp.ClientError, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class Step:
    """One user who is to be pushed."""

    seq: int
    tenant: int
    """Which of the driver's tenants."""
    user_name: str
    external_id: str
    extra: dict[str, Any]

    def body(self) -> dict[str, Any]:
        """Return the create."""
        mails = [work_email(self.user_name, primary=True)]
        return document(self.user_name, externalId=self.external_id, emails=mails, **self.extra)


@dataclass(frozen=True)
class Tried:
    """One request: when it was sent, how long its answer took, and what it was."""

    sent_at: float
    """Of the monotonic clock."""
    seconds: float
    method: str
    status: int | None
    retry_after: str | None = None


class Driver:
    """Pushes users through any of several doors until each is known to be there."""

    def __init__(self, callers: Sequence[Sequence[Caller]], diary: Diary, seed: int) -> None:
        """Take what is needed to push.

        Args:
            callers: by tenant, the same caller at each door.
            diary: where answers are written.
            seed: what the plan is made of.
        """
        self._callers = callers
        self.doors = list(range(len(callers[0])))
        """Which doors are used; a load balancer leaves out those that are not ready."""
        self.diary = diary
        self._dice = Random(f"plan {seed}")  # noqa: S311  a plan that comes back
        self._seq = 0
        self.tried: list[Tried] = []
        self.known: dict[int, UUID] = {}
        """By step, the id that it was told."""
        self.steps: dict[int, Step] = {}
        self._running: asyncio.Task[Any] | None = None
        self.enough = False
        """Whether `run` is to begin no further step."""
        self.wrong: list[str] = []
        """Answers that no fault explains."""

    @property
    def tenants(self) -> list[Tenant]:
        """Whose users are pushed."""
        return [doors[0].tenant for doors in self._callers]

    @property
    def answers(self) -> Counter[int | None]:
        """How often which status was answered; None counts the answers that did not come."""
        return Counter(one.status for one in self.tried)

    def plan(self, count: int) -> list[Step]:
        """Return the next steps of the plan."""
        steps = []
        for _ in range(count):
            seq, self._seq = self._seq, self._seq + 1
            family = self._dice.choice(["Nováková", "O'Malley", "Ångström", "山田"])
            extra: dict[str, Any] = {"name": {"givenName": f"Ana {seq}", "familyName": family}}
            if self._dice.random() < 0.3:
                extra["active"] = self._dice.choice([True, "True"])
            tenant = self._dice.randrange(len(self._callers))
            steps.append(Step(seq, tenant, f"User{seq:05}@contoso.example", f"e-{seq}", extra))
        self.steps.update({step.seq: step for step in steps})
        return steps

    async def run(self, count: int | None = None, *, rate: float = 50.0, clients: int = 16) -> None:
        """Push the next users of the plan, no more than ``rate`` a second and ``clients`` at once.

        Args:
            count: how many; until there is `enough` if not given.
            rate: most that are begun a second.
            clients: most at once.
        """
        self._running = asyncio.current_task()
        turns = iter(range(count)) if count is not None else itertools.count()
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(self._client(turns, began, rate))
        finally:
            self._running = None  # or whoever awaited this would wait for itself in `stop`

    async def _client(self, turns: Iterator[int], began: float, rate: float) -> None:
        for turn in turns:
            await asyncio.sleep(max(0.0, began + turn / rate - time.monotonic()))
            if self.enough:
                return
            [step] = self.plan(1)
            async with asyncio.timeout(_STEP_SECONDS):
                await self.push(step)

    async def stop(self) -> None:
        """End what is still running, as after an experiment that failed, and close the diary."""
        if self._running is not None and not self._running.done() and self._running is not asyncio.current_task():
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self.diary.close()

    async def push(self, step: Step) -> None:
        """Push one user until it is known to be there."""
        dice = Random(f"{step.seq}")  # noqa: S311  a plan that comes back
        doubt, taken, attempt = False, False, 0
        while step.seq not in self.known and not self.wrong:
            caller = self._callers[step.tenant][self.doors[(step.seq + attempt) % len(self.doors)]]
            attempt += 1
            if taken or (doubt and dice.random() < 0.5):
                answer = await self._ask(step, caller, "GET", None)
                if answer is not None and answer.status == 200:
                    found = answer.resources()
                    if len(found) > 1 or (taken and not found):
                        self.wrong.append(f"step {step.seq}: {len(found)} users match")
                    if found:
                        self.known[step.seq] = UUID(found[0]["id"])
                        continue
            answer = None if taken else await self._ask(step, caller, "POST", step.body())
            if answer is not None and answer.status == 201:
                self.known[step.seq] = UUID(answer.json["id"])
                if dice.random() < 0.1:
                    await self._read_back(step, caller)
            elif answer is not None and answer.status == 409:
                if not doubt:
                    self.wrong.append(f"step {step.seq}: {answer}")
                taken = True
            else:
                doubt = True
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask(self, step: Step, caller: Caller, method: str, body: Any) -> Answer | None:
        """Send a request of a step, note what came of it, and return the answer if one came."""
        clock, began = time.time(), time.monotonic()
        answer: Answer | None = None
        try:
            if method == "POST":
                answer = await caller.post("/Users", body)
            else:
                answer = await caller.get("/Users", filter=f'userName eq "{step.user_name}"')
        except _LOST:
            pass
        status = answer.status if answer else None
        retry_after = answer.headers.get("Retry-After") if answer else None
        self.tried.append(Tried(began, time.monotonic() - began, method, status, retry_after))
        told: list[Any] = []
        if answer is not None and status == 201:
            told = [answer.json]
        elif answer is not None and status == 200:
            told = answer.resources()
        # A match that finds nobody says nothing of this user.
        if method == "POST" or told or status != 200:
            await self.diary.write(
                Entry(
                    seq=step.seq,
                    tenant=caller.tenant.id,
                    external_id=step.external_id,
                    user_name=step.user_name,
                    sent_at=clock,
                    status=status,
                    returned_id=UUID(told[0]["id"]) if told else None,
                    correlation_id=UUID(answer.headers["X-Correlation-Id"]) if answer else None,
                )
            )
        if status not in (None, 200, 201, 409, 503) or (status == 503 and not retry_after):
            self.wrong.append(f"step {step.seq}: {answer}")
        return answer

    async def _read_back(self, step: Step, caller: Caller) -> None:
        """Read a user that was just created: it is there, or the servers are away."""
        try:
            answer = await caller.get(f"/Users/{self.known[step.seq]}")
        except _LOST:
            return
        if answer.status not in (200, 503):
            self.wrong.append(f"step {step.seq}, read back: {answer}")

    # Numbers

    def percentile(self, share: float, *, status: int = 201, since: float = 0.0) -> float:
        """Return the seconds within which that share of the answers with a status came, sent after a moment."""
        taken = sorted(one.seconds for one in self.tried if one.status == status and one.sent_at >= since)
        return taken[min(len(taken) - 1, int(share * len(taken)))] if taken else 0.0

    def slowest(self, since: float = 0.0) -> float:
        """Return the most seconds that any request took that was sent after a moment of the monotonic clock."""
        return max((one.seconds for one in self.tried if one.sent_at >= since), default=0.0)

    def recovery(self, healed_at: float) -> float:
        """Return the seconds from a moment to the first create that was sent and answered 201 after it."""
        ends = [one.sent_at + one.seconds for one in self.tried if one.status == 201 and one.sent_at >= healed_at]
        return min(ends) - healed_at if ends else float("inf")

    def since(self, moment: float, status: int | None) -> int:
        """Return how many requests were sent after a moment of the monotonic clock and answered with a status."""
        return sum(one.sent_at >= moment and one.status == status for one in self.tried)

    async def until_known(self, count: int, seconds: float = 120) -> None:
        """Wait until that many users are known to be there, or something is wrong."""
        deadline = time.monotonic() + seconds
        while len(self.known) < count and not self.wrong:
            assert time.monotonic() < deadline, f"{len(self.known)} of {count} users in {seconds:g} s: {self.answers}"
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """Check that no answer was other than the faults explain."""
        assert self.wrong == [], self.wrong[:5]
