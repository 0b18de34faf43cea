"""What a person can do to jobs: each once, whatever else happens; and what is left behind of attempts that failed."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models import bulk, pauses
from models import jobs as ledger
from models.audit.record import OPERATOR, Actor
from models.errors import PermanentJobError, RetryableJobError, UsageError
from models.job_actions import CHANGED, DUE_ALREADY, GONE, act, seen_mark
from models.job_detail import dead_groups, read_detail, redact
from models.jobs import EMAIL, PROVISION
from tests.support.ledger import (
    empty_ledger,
    expire,
    make_due,
    new_tenant,
    row,
    shared_database,
    stage,
    take,
)
from tests.support.waiting import wait_until
from worker import bulk as worker_bulk
from worker.context import Context, Handler
from worker.runner import Runner
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Ending, Job
    from models.settings import Settings
    from tests.support.ledger import Staged
    from tests.support.servers import Servers

ANA = Actor("operator", "7", "ana")


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def connection(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    await empty_ledger(database_url)
    async with pool.acquire() as one:
        await one.execute("DELETE FROM job_pause")
        await one.execute("DELETE FROM bulk_operation")
        await one.execute("DELETE FROM job_attempt")
        yield one


@pytest.fixture
async def tenant(connection: Connection) -> UUID:
    return await new_tenant(connection)


async def events(connection: Connection | asyncpg.Pool, action: str, tenant: UUID) -> list[asyncpg.Record]:
    return list(
        await connection.fetch(
            "SELECT * FROM audit_event WHERE action = $1 AND tenant_id = $2 ORDER BY occurred_at, id", action, tenant
        )
    )


async def kill(connection: Connection, tenant: UUID, count: int = 1, **more: Any) -> list[Staged]:
    """Stage jobs and have them end in `dead`."""
    staged = await stage(connection, tenant, count, **more)
    await connection.execute(
        "UPDATE job SET state = 'dead', attempts = 3, finished_at = now(), error_code = 'refused' WHERE id = ANY ($1)",
        [one.id for one in staged],
    )
    return staged


# Single jobs


@pytest.mark.parametrize("action", ["retry", "cancel", "discard"])
async def test_twenty_at_once_have_one_effect(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID, action: str
) -> None:
    (dead,) = await kill(connection, tenant)

    async def once() -> list[UUID]:
        async with pool.acquire() as mine:
            return (await act(mine, action, [dead.id], actor=ANA, reason="why")).applied

    applied = await asyncio.gather(*(once() for _ in range(20)))
    assert sorted(map(len, applied)) == [0] * 19 + [1]
    (event,) = await events(connection, f"ops.job.{action}", tenant)
    after = "staged" if action == "retry" else "cancelled"
    assert event["diff"][0] == {"op": "replace", "path": "state", "before": "dead", "after": after}
    assert (event["actor_id"], event["context"]["note"]) == ("7", "why")
    assert (await row(connection, dead.id))["state"] == after


@pytest.mark.parametrize("action", ["retry", "cancel"])
async def test_a_worker_and_a_person_do_not_both_have_a_job(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID, action: str
) -> None:
    staged = await stage(connection, tenant, 200)
    await connection.execute("UPDATE job SET state = 'retry', attempts = 1")
    held: Counter[UUID] = Counter()

    async def work() -> None:
        async with pool.acquire() as mine:
            while jobs := await take(mine, lease := uuid7(), 20):
                await ledger.finish(mine, [job.id for job in jobs], lease)
                held.update(job.id for job in jobs)

    async def interfere() -> list[UUID]:
        async with pool.acquire() as mine:
            done: list[UUID] = []
            for one in staged:
                done += (await act(mine, action, [one.id], actor=ANA)).applied
            return done

    _, applied, _ = await asyncio.gather(work(), interfere(), work())
    assert max(held.values(), default=1) == 1
    states = Counter([(await row(connection, one.id))["state"] for one in staged])
    if action == "cancel":
        assert states == Counter(cancelled=len(applied), done=200 - len(applied)) - Counter()
        assert set(applied).isdisjoint(held)
    else:
        assert states == {"done": 200}


async def test_a_retry_of_what_is_due_changes_nothing(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    assert (await act(connection, "retry", [staged.id], actor=ANA)).left == {staged.id: DUE_ALREADY}
    assert await events(connection, "ops.job.retry", tenant) == []
    assert (await act(connection, "retry", [staged.id], actor=ANA, delay_seconds=60)).applied == [staged.id]
    assert 58 < (await row(connection, staged.id))["due_in"] <= 60
    assert (await act(connection, "retry", [staged.id], actor=ANA)).due == {PROVISION: [staged.id]}


async def test_who_began_before_the_other_has_no_second_effect(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    (dead,) = await kill(connection, tenant)
    async with pool.acquire() as slow, slow.transaction():
        await slow.fetchval("SELECT now()")  # which stays what it is until the transaction ends
        assert (await act(connection, "retry", [dead.id], actor=ANA)).applied == [dead.id]
        assert (await act(slow, "retry", [dead.id], actor=ANA)).left == {dead.id: DUE_ALREADY}


async def test_what_has_changed_since_it_was_seen_is_left_alone(connection: Connection, tenant: UUID) -> None:
    (dead,) = await kill(connection, tenant)
    seen = seen_mark(await row(connection, dead.id))
    assert (await act(connection, "retry", [dead.id], actor=ANA, seen=seen, delay_seconds=60)).applied == [dead.id]
    for action in ("retry", "cancel"):
        assert (await act(connection, action, [dead.id], actor=ANA, seen=seen)).left == {dead.id: CHANGED}


async def test_only_what_an_action_is_for_is_touched(connection: Connection, tenant: UUID) -> None:
    staged = await stage(connection, tenant, 6)
    states = ("staged", "retry", "dead", "running", "done", "cancelled")
    for one, state in zip(staged, states, strict=True):
        await connection.execute("UPDATE job SET state = $1 WHERE id = $2", state, one.id)
    stranger = uuid7()
    ids = [*(one.id for one in staged), stranger]
    outcome = await act(connection, "discard", ids, actor=ANA, reason="why")
    assert outcome.applied == [staged[2].id]
    assert list(outcome.left.values()) == ["staged", "retry", "running", "done", "cancelled", GONE]
    with pytest.raises(UsageError, match="a reason is needed"):
        await act(connection, "discard", ids, actor=ANA)
    with pytest.raises(UsageError, match="between 0 seconds and 30 days"):
        await act(connection, "retry", ids, actor=ANA, delay_seconds=-1)


async def test_cancelling_many_frees_each_tenants_names_and_fails_the_invitations(
    connection: Connection, tenant: UUID
) -> None:
    other = await new_tenant(connection)
    mine, theirs, kept = (
        await stage(connection, tenant, 2),
        await stage(connection, other),
        await stage(connection, tenant),
    )
    mails = await stage(connection, tenant, 2, kind="invitation.send")
    for mail in mails:
        await connection.execute(
            "INSERT INTO invitation (id, tenant_id, user_id, email) VALUES ($1, $2, $3, 'ana@example.com')",
            mail.resource_id,
            tenant,
            uuid7(),
        )
    await act(connection, "cancel", [one.id for one in (*mine, *theirs, mails[0])], actor=ANA)
    names = await connection.fetch("SELECT resource_id FROM identifier")
    assert [one["resource_id"] for one in names] == [kept[0].resource_id]
    states = await connection.fetch("SELECT id, state FROM invitation")
    assert {one["id"]: one["state"] for one in states} == {
        mails[0].resource_id: "failed",
        mails[1].resource_id: "pending",
    }


# Pauses


async def claimable(connection: Connection, queue: str = PROVISION) -> set[UUID]:
    lease = uuid7()
    jobs = await ledger.claim(connection, queue, lease_token=lease, lease_seconds=30, limit=100)
    due = await ledger.due(connection, queue, older_than_seconds=0, limit=100)
    assert due == [], "rings for what cannot be taken"
    await ledger.release(connection, lease)
    return {job.id for job in jobs}


@pytest.mark.parametrize(
    ("kind", "named", "left"),
    [
        (None, True, {"other create", "other mail"}),
        ("user.create", False, {"mail", "other mail"}),
        ("user.create", True, {"mail", "other create", "other mail"}),
        ("invitation.send", True, {"create", "other create", "other mail"}),
    ],
)
async def test_what_is_paused_is_not_taken_and_the_rest_is(
    connection: Connection, tenant: UUID, kind: str | None, named: bool, left: set[str]
) -> None:
    other = await new_tenant(connection)
    name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", tenant)
    jobs = {
        "create": (await stage(connection, tenant))[0].id,
        "mail": (await stage(connection, tenant, kind="invitation.send"))[0].id,
        "other create": (await stage(connection, other))[0].id,
        "other mail": (await stage(connection, other, kind="invitation.send"))[0].id,
    }

    async def free() -> set[str]:
        found = await claimable(connection) | await claimable(connection, EMAIL)
        return {word for word, job_id in jobs.items() if job_id in found}

    scope: dict[str, Any] = {"kind": kind, "tenant": name if named else None}
    made, new = await pauses.pause(connection, **scope, reason="why", actor=ANA)
    assert new
    assert await free() == left
    again, new = await pauses.pause(connection, **scope, reason="another", actor=ANA)
    assert (again["id"], again["reason"], new) == (made["id"], "why", False)
    _, rung = await pauses.resume(connection, made["id"], actor=ANA)
    assert {job_id for ids in rung.values() for job_id in ids} >= {jobs[word] for word in set(jobs) - left}
    assert await free() == set(jobs)
    with pytest.raises(UsageError, match="over already"):
        await pauses.resume(connection, made["id"], actor=ANA)


async def test_a_pause_that_is_over_holds_nothing_and_can_be_made_anew(connection: Connection, tenant: UUID) -> None:
    (one,) = await stage(connection, tenant)
    made, _ = await pauses.pause(
        connection, kind="user.create", tenant=None, reason="why", actor=ANA, duration=timedelta(hours=1)
    )
    assert await claimable(connection) == set()
    await connection.execute("UPDATE job_pause SET expires_at = now() - interval '1 second'")
    assert await claimable(connection) == {one.id}
    assert await pauses.list_pauses(connection) == []
    again, new = await pauses.pause(connection, kind="user.create", tenant=None, reason="still", actor=ANA)
    assert (new, again["id"] != made["id"], again["expires_at"]) == (True, True, None)


async def test_pausing_at_once_pauses_once(pool: asyncpg.Pool, connection: Connection, tenant: UUID) -> None:
    async def once() -> bool:
        async with pool.acquire() as mine:
            return (await pauses.pause(mine, kind="user.create", tenant=None, reason="why", actor=ANA))[1]

    assert Counter(await asyncio.gather(*(once() for _ in range(10)))) == {True: 1, False: 9}
    before = await connection.fetchval("SELECT count(*) FROM job_pause")
    assert before == 1


async def test_a_kind_within_a_queue_of_several_is_paused_alone(connection: Connection, tenant: UUID) -> None:
    """The tenant has other kinds in the queue that are free."""
    (mail,) = await stage(connection, tenant, kind="invitation.send")
    (link,) = await stage(connection, tenant, kind="operator.link", payload={})
    await pauses.pause(connection, kind="invitation.send", tenant=None, reason="why", actor=ANA)
    assert await claimable(connection, EMAIL) == {link.id}
    await pauses.pause(connection, kind="operator.link", tenant=None, reason="why", actor=ANA)
    assert await claimable(connection, EMAIL) == set()
    assert mail.id != link.id


# Attempts


async def test_attempts_that_failed_are_kept_with_their_trace(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    process = uuid7()
    for number in (1, 2):
        lease = uuid7()
        (job,) = await take(connection, lease)
        error: Exception = RetryableJobError("flaky", "It may pass.")
        if number == 2:
            error = PermanentJobError("hopeless", "Never.")
        await ledger.fail(connection, job, lease, error, process_id=process, took_seconds=1.5, trace="a:1 > b:2")
        await make_due(connection)
    detail = await read_detail(connection, staged.id)
    first, second = detail["attempts_failed"]
    assert (first["attempt"], first["outcome"], first["error_code"]) == (1, "retry", "flaky")
    assert (second["attempt"], second["outcome"], second["error_detail"]) == (2, "dead", "Never.")
    assert second["trace"] == "a:1 > b:2"
    assert second["ended_at"] - second["started_at"] == timedelta(seconds=1.5)
    assert [step["step"] for step in detail["timeline"]] == ["staged", "running", "retry", "dead"]
    lease = uuid7()
    assert await ledger.fail(connection, job, lease, error) is None
    assert len((await read_detail(connection, staged.id))["attempts_failed"]) == 2, "a lost lease leaves nothing"


async def test_a_lost_attempt_is_kept_too(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    await take(connection, lease)
    await expire(connection, lease)
    await ledger.rescue(connection)
    (attempt,) = (await read_detail(connection, staged.id))["attempts_failed"]
    assert (attempt["attempt"], attempt["outcome"], attempt["error_code"]) == (1, "retry", "lease_expired")


async def test_a_runner_writes_where_an_attempt_failed(
    settings: Settings, pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    async def run(_: Context, jobs: Sequence[Job], lease: UUID) -> set[UUID]:
        raise PermanentJobError("odd", f"secret {jobs[0].id}")

    async def failed(_: Connection, ending: Ending) -> None: ...

    (staged,) = await stage(connection, tenant)
    context = Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)
    runner = Runner(
        context, PROVISION, {"user.create": Handler("user.create", run, failed, together=True)}, lanes=1, batch=5
    )
    task = asyncio.create_task(runner.serve())

    async def over() -> bool:
        return bool((await row(pool, staged.id))["state"] == "dead")

    await wait_until(over, "the job is dead")
    runner.stop()
    await task
    attempt = await connection.fetchrow("SELECT * FROM job_attempt WHERE job_id = $1", staged.id)
    assert attempt is not None
    assert attempt["process_id"] == context.process_id
    assert "tests.integration.test_job_actions:" in attempt["trace"]
    assert "secret" not in attempt["trace"]
    assert attempt["ended_at"] >= attempt["started_at"]


# Groups


async def test_errors_of_one_fault_are_one_group_whatever_they_name(connection: Connection, tenant: UUID) -> None:
    same = [
        "550 <ana@example.com> is unknown, ticket 17",
        "550 <bob.smith@mail.example.org> is unknown, ticket 9923",
    ]
    other = ["550 mailbox full", f"User {uuid7()} said 'no'", f"User {uuid7()} said 'never'"]
    for detail in (*same, *other):
        (dead,) = await kill(connection, tenant)
        await connection.execute("UPDATE job SET error_detail = $1 WHERE id = $2", detail, dead.id)
    groups, short = await dead_groups(connection)
    assert (sorted(group["count"] for group in groups), short) == ([1, 2, 2], False)
    assert (await dead_groups(connection, kind="invitation.send"))[0] == []
    for group in groups:
        preview = await bulk.preview(connection, "discard", group["query"])
        assert (preview.count, preview.users_vanish) == (group["count"], True)


def test_a_redacted_payload_has_names_and_no_values() -> None:
    payload = {"doc": {"userName": "ana", "age": 7, "active": True, "none": None, "tags": ["a", "b"]}, "one": ["x"]}
    assert redact(payload) == {
        "doc": {"userName": "(text)", "age": "(number)", "active": True, "none": None, "tags": ["(text)", "2 in all"]},
        "one": ["(text)"],
    }


# Bulk operations


async def start(connection: Connection, action: str = "retry", text: str = "state:dead", **more: Any) -> UUID:
    operation, new = await bulk.start(connection, uuid7(), action, text, actor=ANA, **more)
    assert new
    operation_id: UUID = operation["id"]
    return operation_id


async def test_a_batch_that_is_killed_never_was_and_the_rest_goes_on(
    settings: Settings, pool: asyncpg.Pool, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await kill(connection, tenant, 50)
    operation = await start(connection)
    monkeypatch.setattr(bulk.carry_on, "__kwdefaults__", {"limit": 10})
    context = Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)
    assert await worker_bulk.carry_out(context)

    async def act_and_die(mine: Connection, *values: Any, **more: Any) -> Any:
        outcome = await act(mine, *values, **more)
        number = await mine.fetchval("SELECT pg_backend_pid()")
        executioner = await asyncpg.connect(settings.database_url.get_secret_value())
        assert await executioner.fetchval("SELECT pg_terminate_backend($1, 5000)", number)
        await executioner.close()
        await mine.fetchval("SELECT 1")
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "act", act_and_die)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await worker_bulk.carry_out(context)
    assert (await bulk.get(connection, operation))["applied"] == 10
    while await worker_bulk.carry_out(context):
        pass
    found = await bulk.get(connection, operation)
    assert (found["state"], found["applied"], found["skipped"]) == ("done", 50, 0)
    told = Counter(event["job_id"] for event in await events(connection, "ops.job.retry", tenant))
    assert told == {one.id: 1 for one in dead}
    assert {event["actor_label"] for event in await events(connection, "ops.job.retry", tenant)} == {"ana"}


async def test_several_workers_share_an_operation_and_each_job_is_done_once(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    dead = await kill(connection, tenant, 90)
    operations = [await start(connection), await start(connection, "discard", reason="why")]

    async def work() -> None:
        idle = 0
        while idle < 3:
            async with pool.acquire() as mine:
                idle = 0 if await bulk.carry_on(mine, limit=7) is not None else idle + 1

    await asyncio.gather(*(work() for _ in range(4)))
    found = [await bulk.get(connection, one) for one in operations]
    while any(one["state"] == "running" for one in found):
        await bulk.carry_on(connection, limit=7)
        found = [await bulk.get(connection, one) for one in operations]
    states = Counter([(await row(connection, one.id))["state"] for one in dead])
    assert (found[0]["applied"], found[1]["applied"]) == (states["staged"], states["cancelled"])
    assert found[0]["applied"] + found[1]["applied"] == 90


async def test_a_job_that_dies_again_is_not_retried_by_the_same_operation(connection: Connection, tenant: UUID) -> None:
    dead = await kill(connection, tenant, 20)
    await start(connection)
    await bulk.carry_on(connection, limit=10)
    await connection.execute("UPDATE job SET state = 'dead'")
    while await bulk.carry_on(connection, limit=10) is not None:
        pass
    assert Counter([(await row(connection, one.id))["state"] for one in dead]) == {"dead": 10, "staged": 10}


async def test_asking_twice_is_asking_once(pool: asyncpg.Pool, connection: Connection, tenant: UUID) -> None:
    await kill(connection, tenant, 3)
    operation_id = uuid7()

    async def once() -> bool:
        async with pool.acquire() as mine:
            return (await bulk.start(mine, operation_id, "retry", "state:dead", actor=ANA))[1]

    assert Counter(await asyncio.gather(*(once() for _ in range(8)))) == {True: 1, False: 7}


async def test_an_operation_whose_search_makes_no_sense_any_more_has_failed(
    connection: Connection, tenant: UUID
) -> None:
    await kill(connection, tenant)
    operation = await start(connection)
    await connection.execute("UPDATE bulk_operation SET query = 'tenant:no-longer-here'")
    batch = await bulk.carry_on(connection)
    assert batch is not None
    assert batch.ended
    found = await bulk.get(connection, operation)
    assert (found["state"], "no-longer-here" in found["error_detail"]) == ("failed", True)
    assert await bulk.carry_on(connection) is None


async def test_an_operation_needs_a_narrow_search(connection: Connection, tenant: UUID) -> None:
    for text, says in (("", "at least one condition"), ("state:done", "No job"), ("foo:bar", "no qualifier")):
        with pytest.raises(UsageError, match=says):
            await bulk.start(connection, uuid7(), "retry", text, actor=OPERATOR)
    with pytest.raises(UsageError, match="There is no action fold"):
        await bulk.preview(connection, "fold", "state:dead")
