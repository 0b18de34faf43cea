"""The runner on a real ledger: batches, poison, time limits, outages, lost leases and stopping."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models import jobs as ledger
from models.errors import PermanentJobError, RetryableJobError
from models.jobs import EMAIL, PROVISION
from tests.support.api import altered
from tests.support.ledger import (
    Interrupted,
    counts,
    create_payload,
    empty_ledger,
    expire,
    lose,
    make_due,
    new_tenant,
    row,
    shared_database,
    stage,
)
from tests.support.waiting import wait_until
from worker import runner as runner_module
from worker.context import Context, Handler
from worker.handlers import HANDLERS, create
from worker.runner import Runner
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Ending, Job
    from models.settings import Settings
    from tests.support.ledger import Staged
    from tests.support.servers import Servers


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def tenant(database_url: str, pool: asyncpg.Pool) -> UUID:
    await empty_ledger(database_url)
    async with pool.acquire() as connection:
        return await new_tenant(connection)


@pytest.fixture
def context(settings: Settings, pool: asyncpg.Pool) -> Context:
    settings = altered(settings, lease_seconds=5, lease_beat_seconds=0.2)
    return Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_PAUSE_SECONDS", 0.02)


@asynccontextmanager
async def serving(context: Context, *handlers: Handler, lanes: int = 2, batch: int = 200) -> AsyncIterator[Runner]:
    """Run the runner of the provisioning queue, without arq and Redis."""
    runner = Runner(context, PROVISION, {one.kind: one for one in handlers}, lanes=lanes, batch=batch)
    task = asyncio.create_task(runner.serve())
    try:
        yield runner
        runner.stop()
        async with asyncio.timeout(10):
            await task
    finally:
        task.cancel()
        await runner.give_back()


async def staged(pool: asyncpg.Pool, tenant: UUID, count: int = 1, **more: Any) -> list[Staged]:
    async with pool.acquire() as connection:
        return await stage(connection, tenant, count, **more)


async def until(pool: asyncpg.Pool, expected: dict[str, int], kind: str = "user.create") -> None:
    """Wait until the jobs of a kind are in these states."""

    async def reached() -> bool:
        return await counts(pool, kind) == expected

    try:
        await wait_until(reached, f"jobs {expected}")
    except AssertionError as late:
        raise AssertionError(f"{late}; there are {await counts(pool, kind)}") from late


async def applied(pool: asyncpg.Pool, tenant: UUID) -> Counter[UUID]:
    """Return how often each job of a tenant was applied, as the audit log has it."""
    rows = await pool.fetch("SELECT job_id FROM audit_event WHERE phase = 'applied' AND tenant_id = $1", tenant)
    return Counter(each["job_id"] for each in rows if each["job_id"])


@dataclass
class Script:
    """A handler that does creates, and whatever else a test wants before."""

    before: Callable[[Sequence[Job]], Awaitable[None]]
    together: bool = True
    calls: list[list[Job]] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    async def run(self, context: Context, jobs: Sequence[Job], lease_token: UUID) -> Collection[UUID]:
        self.calls.append(list(jobs))
        await self.before(jobs)
        return await create.HANDLER.run(context, jobs, lease_token)

    async def failed(self, connection: Connection, ending: Ending) -> None:
        self.endings.append(ending)
        await create.HANDLER.failed(connection, ending)

    @property
    def handler(self) -> Handler:
        return Handler("user.create", self.run, self.failed, together=self.together)


# Batches


async def test_what_waits_together_is_applied_in_one_transaction(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    jobs = await staged(pool, tenant, 60)
    async with serving(context, create.HANDLER):
        await until(pool, {"done": 60})
    assert await pool.fetchval("SELECT count(*) FROM users WHERE tenant_id = $1", tenant) == 60
    assert await applied(pool, tenant) == Counter({one.id: 1 for one in jobs})
    distinct = "SELECT count(DISTINCT xid) FROM audit_event WHERE phase = 'applied' AND job_id IS NOT NULL"
    assert await pool.fetchval(distinct + " AND tenant_id = $1", tenant) == 1
    assert await pool.fetchval("SELECT count(*) FROM job WHERE payload IS NOT NULL") == 0


async def test_more_than_a_batch_is_done_without_a_further_ring(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant, 95)
    async with serving(context, create.HANDLER, batch=10):
        await until(pool, {"done": 95})


async def test_a_ring_is_answered_when_what_was_due_is_done(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    gate = asyncio.Event()

    async def wait(_: Sequence[Job]) -> None:
        await gate.wait()

    async with serving(context, Script(wait).handler) as runner:
        await runner.answer()  # nothing is due
        await staged(pool, tenant)
        ring = asyncio.create_task(runner.answer())
        await until(pool, {"running": 1})
        assert not ring.done()
        gate.set()
        async with asyncio.timeout(5):
            await ring
        assert await counts(pool) == {"done": 1}


async def test_jobs_that_are_done_singly_run_side_by_side_but_no_more_than_there_are_lanes(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant, 12)
    running = most = 0

    async def count(_: Sequence[Job]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    script = Script(count, together=False)
    async with serving(context, script.handler, lanes=3, batch=3):
        await until(pool, {"done": 12})
    assert most == 3
    assert {len(call) for call in script.calls} == {1}


# Poison

NOT_AN_OBJECT: dict[str, Any] = {"payload": []}
NO_DOCUMENT: dict[str, Any] = {"payload": {"active": True}}
REFUSED_BY_THE_STORE: dict[str, Any] = {"payload": create_payload("a@b") | {"active": "perhaps"}}


@pytest.mark.parametrize("poison", [NOT_AN_OBJECT, NO_DOCUMENT, REFUSED_BY_THE_STORE])
async def test_a_poison_job_fails_alone_and_ends_dead(
    poison: dict[str, Any], context: Context, pool: asyncpg.Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ledger.KINDS, "user.create", replace(ledger.KINDS["user.create"], max_attempts=3))
    good = await staged(pool, tenant, 30)
    (bad,) = await staged(pool, tenant, **poison)
    good += await staged(pool, tenant, 30)
    async with serving(context, create.HANDLER) as runner:
        await until(pool, {"done": 60, "retry": 1})
        assert await applied(pool, tenant) == Counter({one.id: 1 for one in good})
        assert await pool.fetchval("SELECT max(attempts) FROM job WHERE id <> $1", bad.id) == 1
        for attempts in (2, 3):
            await make_due(pool)
            runner.wake()

            async def tried(attempts: int = attempts) -> bool:
                found = await row(pool, bad.id)
                return (found["attempts"], found["state"] != "running") == (attempts, True)

            await wait_until(tried, f"attempt {attempts}")
    found = await row(pool, bad.id)
    assert (found["state"], found["attempts"]) == ("dead", 3)
    assert found["error_code"]
    events = await pool.fetch("SELECT * FROM audit_event WHERE job_id = $1 ORDER BY occurred_at, id", bad.id)
    tried_in_vain = ("job.attempt.fail", "failed", found["error_code"])
    assert [(one["action"], one["phase"], one["reason"]) for one in events] == [
        *[tried_in_vain] * 3,
        ("scim.user.create", "failed", found["error_code"]),
    ]
    states = [(one["context"]["attempt"], one["context"]["state"]) for one in events[:3]]
    assert states == [(1, "retry"), (2, "retry"), (3, "dead")]
    assert {one["correlation_id"] for one in events} == {bad.correlation_id}
    assert (events[0]["target_id"], events[3]["target_id"]) == (str(bad.id), str(bad.resource_id))


async def test_two_poison_jobs_in_one_batch_are_both_found(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    await staged(pool, tenant, 20)
    await staged(pool, tenant, 2, **NO_DOCUMENT)
    await staged(pool, tenant, 21)
    async with serving(context, create.HANDLER):
        await until(pool, {"done": 41, "retry": 2})


async def test_a_kind_that_nobody_does_is_dead_at_once(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    await staged(pool, tenant, 3)
    (odd,) = await staged(pool, tenant, kind="user.fold", queue=PROVISION)
    async with serving(context, create.HANDLER):
        await until(pool, {"dead": 1}, "user.fold")
        await until(pool, {"done": 3})
    found = await row(pool, odd.id)
    assert (found["error_code"], found["error_detail"], found["attempts"]) == (
        "unknown_kind",
        "Nobody does user.fold.",
        1,
    )


@pytest.mark.parametrize("version", [2, 0, "1", None])
async def test_a_payload_of_another_version_is_dead_at_once_and_its_neighbours_are_done(
    context: Context, pool: asyncpg.Pool, tenant: UUID, version: Any
) -> None:
    await staged(pool, tenant, 2)
    (newer,) = await staged(pool, tenant, payload={**create_payload("newer@example.com"), "version": version})
    await staged(pool, tenant, payload={**create_payload("older@example.com"), "version": 1})
    async with serving(context, create.HANDLER):
        await until(pool, {"done": 3, "dead": 1})
    found = await row(pool, newer.id)
    assert (found["error_code"], found["attempts"]) == ("unknown_version", 1)
    assert found["error_detail"] == (
        f"The job is of version {version}, and this Usher reads up to 1. Upgrade, then retry it."
    )
    assert found["payload"]["doc"]["userName"] == "newer@example.com", "it is kept for whoever can read it"


async def test_what_no_attempt_can_mend_is_dead_and_audited_at_once(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    (bad, *_) = await staged(pool, tenant, 3)

    async def refuse(jobs: Sequence[Job]) -> None:
        if bad.id in {job.id for job in jobs}:
            raise PermanentJobError("hopeless", "Never.")

    async with serving(context, Script(refuse).handler):
        await until(pool, {"done": 2, "dead": 1})
    event = await pool.fetchrow(
        "SELECT phase, reason, targets FROM audit_event WHERE job_id = $1 AND action = 'scim.user.create'", bad.id
    )
    assert event is not None
    assert (event["phase"], event["reason"]) == ("failed", "hopeless")
    assert event["targets"] == [{"type": "User", "id": str(bad.resource_id), "label": bad.user_name}]


async def test_an_attempt_ends_even_if_what_it_means_cannot_be_written(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant)

    async def run(_context: Context, _jobs: Sequence[Job], _lease: UUID) -> Collection[UUID]:
        raise RetryableJobError("flaky")

    async def failed(connection: Connection, _: Ending) -> None:
        await connection.execute("SELECT 1 / 0")

    async with serving(context, Handler("user.create", run, failed, together=True)):
        await until(pool, {"retry": 1})


# Time limits


async def test_a_job_that_does_not_end_is_stopped_and_its_neighbours_are_done(
    context: Context, pool: asyncpg.Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_JOB_SECONDS", 0.3)
    (endless, *_) = await staged(pool, tenant, 8)

    async def hang(jobs: Sequence[Job]) -> None:
        if endless.id in {job.id for job in jobs}:
            await asyncio.Event().wait()

    async with serving(context, Script(hang).handler):
        await until(pool, {"done": 7, "retry": 1})
    found = await row(pool, endless.id)
    assert (found["error_code"], found["error_detail"]) == ("timeout", "It took longer than 0.3 seconds.")


async def test_a_statement_that_runs_out_of_its_time_is_the_jobs_fault_and_no_outage(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    (slow, *_) = await staged(pool, tenant, 8)

    async def dawdle(jobs: Sequence[Job]) -> None:
        if slow.id in {job.id for job in jobs}:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SET LOCAL statement_timeout = '50ms'")
                await connection.execute("SELECT pg_sleep(10)")

    script = Script(dawdle)
    async with serving(context, script.handler):
        await until(pool, {"done": 7, "retry": 1})
    assert [len(call) for call in script.calls].count(8) == 1, "the batch is halved at once"
    assert (await row(pool, slow.id))["error_code"] == "QueryCanceledError"


# Outages


async def test_an_outage_during_a_batch_costs_no_attempt(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    await staged(pool, tenant, 10)
    left = 2

    async def break_off(_: Sequence[Job]) -> None:
        nonlocal left
        if left:
            left -= 1
            async with pool.acquire() as connection:
                await connection.execute("RESET ROLE; SELECT pg_terminate_backend(pg_backend_pid())")

    script = Script(break_off)
    async with serving(context, script.handler):
        await until(pool, {"done": 10})
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 1
    assert [len(call) for call in script.calls] == [10, 10, 10], "and is no reason to look for a job at fault"


async def test_a_job_that_breaks_its_connection_every_time_is_found_out(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    (breaker, *_) = await staged(pool, tenant, 10)

    async def break_off(jobs: Sequence[Job]) -> None:
        if breaker.id in {job.id for job in jobs}:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async with serving(context, Script(break_off).handler):
        await until(pool, {"done": 9, "retry": 1})
    assert (await row(pool, breaker.id))["error_code"] == "ConnectionDoesNotExistError"


async def test_a_full_disk_is_never_a_jobs_fault(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    await staged(pool, tenant, 3)
    left = 10

    async def fill(_: Sequence[Job]) -> None:
        nonlocal left
        left -= 1
        if left:
            raise asyncpg.DiskFullError("could not extend file")

    async with serving(context, Script(fill).handler):
        await until(pool, {"done": 3})
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 1


async def test_an_outage_while_a_failure_is_written_down_leaves_nothing_to_the_lease(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    jobs = await staged(pool, tenant, 4)
    away = Interrupted(pool)

    async def fail_in_the_dark(tried: Sequence[Job]) -> None:
        if jobs[0].id in {job.id for job in tried}:
            away.away = len(tried) == 1
            raise RetryableJobError("flaky")

    interrupted: Any = away
    async with serving(replace(context, pool=interrupted), Script(fail_in_the_dark).handler):
        await wait_until(lambda: away.asked > 3, "it tries to write the failure down")
        away.away = False
        await until(pool, {"done": 3, "retry": 1})
    assert (await row(pool, jobs[0].id))["error_code"] == "flaky"
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 1


async def test_a_ledger_that_does_not_answer_is_asked_again(context: Context, pool: asyncpg.Pool, tenant: UUID) -> None:
    away = Interrupted(pool)
    away.away = True
    interrupted: Any = away
    async with serving(replace(context, pool=interrupted), create.HANDLER) as runner:
        async with asyncio.timeout(5):
            await runner.answer()  # arq's slot is not held up
        await staged(pool, tenant)
        away.away = False
        await until(pool, {"done": 1})


async def test_a_claim_whose_answer_was_lost_is_given_back(
    context: Context, pool: asyncpg.Pool, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await staged(pool, tenant, 3)
    claim = ledger.claim
    lost = False

    async def lose_the_first_answer(*values: Any, **options: Any) -> ledger.Claim:
        nonlocal lost
        claimed = await claim(*values, **options)
        if lost:
            return claimed
        lost = True
        raise ConnectionResetError

    monkeypatch.setattr(ledger, "claim", lose_the_first_answer)
    async with serving(context, create.HANDLER):
        await until(pool, {"done": 3})
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 1


# Leases


async def test_a_batch_that_takes_longer_than_its_lease_keeps_it(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    settings = altered(context.settings, lease_seconds=0.5, lease_beat_seconds=0.1)
    (job,) = await staged(pool, tenant)
    gate = asyncio.Event()

    async def wait(_: Sequence[Job]) -> None:
        await gate.wait()

    async with serving(replace(context, settings=settings), Script(wait).handler):
        await until(pool, {"running": 1})
        first = (await row(pool, job.id))["lease_until"]

        async def later() -> bool:
            assert await pool.fetchval("SELECT count(*) FROM job WHERE lease_until < now()") == 0
            return bool(await pool.fetchval("SELECT now() > $1::timestamptz + interval '0.3 seconds'", first))

        await wait_until(later, "the first lease has been over for long")
        gate.set()
        await until(pool, {"done": 1})
    assert (await row(pool, job.id))["attempts"] == 1


async def test_a_worker_that_froze_applies_nothing_once_another_has(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    jobs = await staged(pool, tenant, 5)
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def freeze(_: Sequence[Job]) -> None:
        waiting.set()
        await gate.wait()

    # Without signs of life, as if its process were stopped.
    frozen_settings = altered(context.settings, lease_seconds=300, lease_beat_seconds=100)
    frozen = Script(freeze)
    async with serving(replace(context, settings=frozen_settings), frozen.handler) as first:
        await waiting.wait()
        async with pool.acquire() as connection:
            (lease,) = first._leases
            await expire(connection, lease)
            assert len(await ledger.rescue(connection)) == 5
        async with serving(context, create.HANDLER):
            await until(pool, {"done": 5})
        documents = await pool.fetch("SELECT id, doc, version FROM users WHERE tenant_id = $1 ORDER BY id", tenant)
        gate.set()
        first.stop()
        await wait_until(lambda: not first._tasks, "the frozen worker goes on")
    assert await applied(pool, tenant) == Counter({one.id: 1 for one in jobs})
    after = await pool.fetch("SELECT id, doc, version FROM users WHERE tenant_id = $1 ORDER BY id", tenant)
    assert after == documents
    assert len(documents) == 5
    assert frozen.endings == []
    assert context.tally.done_total == 5, "who was overtaken has done nothing"


async def test_a_failure_after_the_lease_was_lost_counts_for_nothing(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    (job,) = await staged(pool, tenant)

    async def lose(jobs: Sequence[Job]) -> None:
        async with pool.acquire() as connection:
            await connection.execute("UPDATE job SET lease_token = $1 WHERE id = $2", uuid7(), jobs[0].id)
        raise RetryableJobError("flaky")

    script = Script(lose)
    async with serving(context, script.handler) as runner:
        await wait_until(lambda: script.calls and not runner._tasks, "it has failed")
    found = await row(pool, job.id)
    assert (found["state"], found["error_code"], script.endings) == ("running", None, [])


async def test_jobs_that_may_have_killed_their_worker_come_last_and_suspects_alone(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    suspects = await staged(pool, tenant, 3)
    async with pool.acquire() as connection:
        await lose(connection, 2)
        once = await staged(pool, tenant, 2)
        await lose(connection)
    fresh = await staged(pool, tenant, 10)

    async def nothing(_: Sequence[Job]) -> None: ...

    script = Script(nothing)
    async with serving(context, script.handler, lanes=4):
        await until(pool, {"done": 15})
    calls = [[job.id for job in call] for call in script.calls]
    assert set(calls[0]) == {one.id for one in fresh}
    assert set(calls[1]) == {one.id for one in once}
    assert sorted(call[0] for call in calls[2:]) == sorted(one.id for one in suspects)
    assert [len(call) for call in calls[2:]] == [1, 1, 1]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("times", "most"), [(1, 3), (2, 1)])
async def test_while_such_jobs_run_nothing_else_is_in_hand(
    times: int, most: int, together: bool, context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    lost = {one.id for one in await staged(pool, tenant, 3)}
    async with pool.acquire() as connection:
        await lose(connection, times)
    await staged(pool, tenant, 40)
    company: list[set[UUID]] = []

    async def look_around(jobs: Sequence[Job]) -> None:
        await asyncio.sleep(0.01)  # long enough for another lane to begin
        if lost & {job.id for job in jobs}:
            company.append({row["id"] for row in await pool.fetch("SELECT id FROM job WHERE state = 'running'")})

    script = Script(look_around, together=together)
    async with serving(context, script.handler, lanes=4, batch=4):
        await until(pool, {"done": 43})
    assert set.union(*company) == lost
    assert max(map(len, company)) <= most


# Stopping


async def test_who_is_told_to_stop_finishes_what_is_in_hand_and_takes_no_more(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant, 10)
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def wait(_: Sequence[Job]) -> None:
        waiting.set()
        await gate.wait()

    async with serving(context, Script(wait).handler, lanes=1, batch=4) as runner:
        await waiting.wait()
        runner.stop()
        gate.set()
    assert await counts(pool) == {"done": 4, "staged": 6}


async def test_what_does_not_end_in_time_is_given_back_untried(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant, 10)
    waiting = asyncio.Event()

    async def hang(_: Sequence[Job]) -> None:
        waiting.set()
        await asyncio.Event().wait()

    runner = Runner(context, PROVISION, {"user.create": Script(hang).handler}, lanes=1, batch=4)
    task = asyncio.create_task(runner.serve())
    await waiting.wait()
    runner.stop()
    task.cancel()
    await runner.give_back()
    assert await counts(pool) == {"staged": 10}
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 0
    async with serving(context, create.HANDLER):
        await until(pool, {"done": 10})
    assert await pool.fetchval("SELECT max(attempts) FROM job") == 1


async def test_giving_back_to_a_store_that_is_away_leaves_it_to_the_lease(
    context: Context, pool: asyncpg.Pool, tenant: UUID
) -> None:
    await staged(pool, tenant)
    away = Interrupted(pool)
    interrupted: Any = away
    waiting = asyncio.Event()

    async def hang(_: Sequence[Job]) -> None:
        waiting.set()
        await asyncio.Event().wait()

    script = Script(hang)
    runner = Runner(replace(context, pool=interrupted), PROVISION, {"user.create": script.handler}, lanes=1, batch=4)
    task = asyncio.create_task(runner.serve())
    await waiting.wait()
    task.cancel()
    away.away = True
    await runner.give_back()
    assert await counts(pool) == {"running": 1}


def test_every_queue_has_handlers_for_its_kinds() -> None:
    for queue in (PROVISION, EMAIL):
        assert [kind for kind in ledger.KINDS.values() if kind.queue == queue and kind.name in HANDLERS]
