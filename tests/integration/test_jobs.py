"""The ledger on a real PostgreSQL: who gets which job, and how it ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models import backlog, job_actions
from models import jobs as ledger
from models.audit.record import OPERATOR
from models.directory.read import get_user
from models.errors import PermanentJobError, RetryableJobError, UsageError
from models.ledger_sql import CLAIM, LOST, LOST_TOGETHER, OVERDUE
from tests.support.ledger import empty_ledger, expire, lose, make_due, new_tenant, row, shared_database, stage, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from tests.support.servers import Servers

FAULT = RetryableJobError("flaky", "It may pass.")


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def connection(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    await empty_ledger(database_url)
    async with pool.acquire() as one:
        yield one


@pytest.fixture
async def tenant(connection: Connection) -> UUID:
    return await new_tenant(connection)


async def plan(connection: Connection, sql: str, *values: Any, options: str = "") -> list[dict[str, Any]]:
    """Return the nodes of a statement's plan."""
    text = await connection.fetchval(f"EXPLAIN ({options}FORMAT JSON) {sql}", *values)
    nodes = [json.loads(text)[0]["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    return nodes


# Claiming


async def test_a_single_create_is_in_the_first_batch_beside_ten_thousand_of_another_tenant(
    connection: Connection, tenant: UUID
) -> None:
    for _ in range(5):
        await stage(connection, tenant, 2000)
    (single,) = await stage(connection, await new_tenant(connection))
    claimed = await take(connection, uuid7(), 200)
    assert single.id in {job.id for job in claimed}
    assert len(claimed) > 100, "and the batch is not left empty for its sake"


async def test_where_one_job_is_wanted_at_a_time_no_tenant_waits_for_the_last_of_another(
    connection: Connection, tenant: UUID
) -> None:
    await stage(connection, tenant, 500)
    (single,) = await stage(connection, await new_tenant(connection))
    # Drawn anew each time, so that forty misses in a row would be a fault and no bad luck.
    for _ in range(40):
        (job,) = await take(connection, uuid7(), 1)
        if job.id == single.id:
            return
    raise AssertionError("forty jobs of one tenant went before the only one of the other")


async def test_what_waits_for_later_takes_nobodys_share(connection: Connection, tenant: UUID) -> None:
    for _ in range(10):
        await stage(connection, await new_tenant(connection), 1)
    await connection.execute("UPDATE job SET run_at = now() + interval '1 day'")
    await stage(connection, tenant, 100)
    assert len(await take(connection, uuid7(), 50)) == 50


async def test_the_oldest_of_a_tenant_comes_first(connection: Connection, tenant: UUID) -> None:
    staged = await stage(connection, tenant, 30)
    await connection.execute(
        "UPDATE job SET run_at = now() - make_interval(secs => n) FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, n)"
        " WHERE job.id = u.id",
        [one.id for one in staged],
    )
    claimed = await take(connection, uuid7(), 10)
    assert {job.id for job in claimed} == {one.id for one in staged[-10:]}


async def test_another_queue_and_a_later_time_are_left_alone(connection: Connection, tenant: UUID) -> None:
    await stage(connection, tenant, kind="invitation.send")
    (later,) = await stage(connection, tenant)
    await connection.execute("UPDATE job SET run_at = now() + interval '1 second' WHERE id = $1", later.id)
    claimed = await take(connection, uuid7())
    assert (claimed, getattr(claimed, "more", None)) == ([], False)


async def test_a_claim_tells_a_handler_what_it_needs(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    (job,) = await take(connection, lease)
    found = await row(connection, staged.id)
    assert job == ledger.Job(
        id=staged.id,
        tenant_id=tenant,
        kind="user.create",
        resource_id=staged.resource_id,
        payload=found["payload"],
        attempts=1,
        correlation_id=staged.correlation_id,
        staged_at=found["staged_at"],
        waited=job.waited,
    )
    assert (found["state"], found["lease_token"], found["attempts"]) == ("running", lease, 1)
    assert 28 < found["leased_for"] <= 30
    assert found["started_at"] is not None


async def test_many_workers_share_the_jobs_and_none_is_taken_twice(pool: asyncpg.Pool, connection: Connection) -> None:
    staged = [await stage(connection, await new_tenant(connection), 500) for _ in range(4)]

    async def work() -> list[UUID]:
        mine: list[UUID] = []
        while True:
            async with pool.acquire() as mine_alone:
                claimed = await ledger.claim(mine_alone, "provision", lease_token=uuid7(), lease_seconds=30, limit=50)
            mine += [job.id for job in claimed]
            if not claimed.more:
                return mine

    shares = await asyncio.gather(*(work() for _ in range(6)))
    taken = [job_id for share in shares for job_id in share]
    assert len(taken) == len(set(taken))
    assert set(taken) == {one.id for each in staged for one in each}
    assert await connection.fetchval("SELECT max(attempts) FROM job") == 1


async def test_who_finds_all_of_it_locked_is_told_to_look_again(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    await stage(connection, tenant, 5)
    async with pool.acquire() as second:
        async with connection.transaction():
            assert len(await take(connection, uuid7(), 5)) == 5
            locked = await ledger.claim(second, "provision", lease_token=uuid7(), lease_seconds=30, limit=5)
            assert (list(locked), locked.more) == ([], True)
        gone = await ledger.claim(second, "provision", lease_token=uuid7(), lease_seconds=30, limit=5)
        assert (list(gone), gone.more) == ([], False)


@pytest.mark.parametrize("sql", [CLAIM, OVERDUE], ids=["claim", "overdue"])
async def test_claiming_reads_the_index_of_what_is_due_and_never_the_table(
    sql: str, connection: Connection, tenant: UUID
) -> None:
    await connection.execute(
        "INSERT INTO job (id, tenant_id, kind, queue, state, correlation_id, run_at)"
        " SELECT gen_random_uuid(), $1, 'user.create', 'provision', CASE WHEN n % 10 = 0 THEN 'staged' ELSE 'done' END,"
        " gen_random_uuid(), now() - make_interval(secs => n) FROM generate_series(1, 20000) AS n",
        tenant,
    )
    await connection.execute("RESET ROLE")  # whoever may not own the table may not analyse it
    await connection.execute("ANALYZE job")
    values = ("provision", 200, uuid7(), 30.0) if sql == CLAIM else ("provision", 1.0, 100)
    nodes = [node for node in await plan(connection, sql, *values) if node.get("Relation Name") == "job"]
    reads = [(node["Node Type"], node.get("Index Name")) for node in nodes if node["Node Type"] != "ModifyTable"]
    assert "Seq Scan" not in {kind for kind, _ in reads}
    assert "job_due" in {index for _, index in reads}
    assert {index for _, index in reads} <= {"job_due", "job_pkey"}


@pytest.mark.parametrize("sql", [CLAIM, OVERDUE], ids=["claim", "overdue"])
async def test_what_is_paused_is_not_looked_at_however_much_of_it_waits(
    sql: str, connection: Connection, tenant: UUID
) -> None:
    """Only one of the queue's kinds is paused, so the tenant as a whole is not."""
    await connection.execute(
        "INSERT INTO job (id, tenant_id, kind, queue, correlation_id, run_at)"
        " SELECT gen_random_uuid(), $1, 'invitation.send', 'email', gen_random_uuid(), now() - make_interval(secs => n)"
        " FROM generate_series(1, 20000) AS n",
        tenant,
    )
    await stage(connection, tenant, kind="operator.link", payload={})
    await connection.execute("RESET ROLE; ANALYZE job")
    values = ("email", 200, uuid7(), 30.0) if sql == CLAIM else ("email", 0.0, 100)
    pause = connection.transaction()  # which no other test is to see
    await pause.start()
    await connection.execute(
        "INSERT INTO job_pause (id, kind, reason, paused_by) VALUES ($1, 'invitation.send', 'why', 'ana')", uuid7()
    )
    nodes = await plan(connection, sql, *values, options="ANALYZE, ")
    await pause.rollback()
    touched = sum(
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        for node in nodes
        if node.get("Relation Name") == "job"
    )
    assert 0 < touched < 50


# Leases


async def test_a_sign_of_life_extends_every_job_under_the_lease(connection: Connection, tenant: UUID) -> None:
    staged = await stage(connection, tenant, 3)
    lease, other = uuid7(), uuid7()
    await take(connection, lease, 2)
    await take(connection, other, 1)
    await expire(connection, lease)
    assert await ledger.extend_lease(connection, lease, 60) == 2
    left = sorted([(await row(connection, one.id))["leased_for"] for one in staged])
    assert (left[0] < 31, left[1] > 59, left[2] > 59) == (True, True, True)
    assert await ledger.extend_lease(connection, uuid7(), 60) == 0


async def test_who_lost_the_lease_can_write_nothing(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    frozen, other = uuid7(), uuid7()
    (job,) = await take(connection, frozen)
    await expire(connection, frozen)
    await ledger.rescue(connection)
    await take(connection, other)
    before = await row(connection, staged.id)
    assert await ledger.finish(connection, [job.id], frozen) == set()
    assert await ledger.fail(connection, job, frozen, FAULT) is None
    assert await ledger.release(connection, frozen) == 0
    assert await ledger.extend_lease(connection, frozen, 60) == 0
    after = await row(connection, staged.id)
    assert {**before, "leased_for": 0, "due_in": 0} == {**after, "leased_for": 0, "due_in": 0}
    assert await ledger.finish(connection, [job.id], other) == {job.id}


# Failing


async def test_a_failing_job_waits_longer_each_time_and_is_dead_after_its_last_attempt(
    connection: Connection, tenant: UUID
) -> None:
    (staged,) = await stage(connection, tenant)
    kind = ledger.KINDS["user.create"]
    waits = []
    for attempt in range(1, kind.max_attempts):
        lease = uuid7()
        (job,) = await take(connection, lease)
        assert job.attempts == attempt
        assert await ledger.fail(connection, job, lease, FAULT) == ledger.Ending(job, "retry", "flaky")
        found = await row(connection, staged.id)
        assert (found["state"], found["error_code"], found["error_detail"]) == ("retry", "flaky", "It may pass.")
        assert (found["lease_token"], found["lease_until"], found["finished_at"]) == (None, None, None)
        assert await take(connection, uuid7()) == [], "not before its time"
        waits.append(found["due_in"])
        await make_due(connection)
    for attempt, wait in enumerate(waits):
        undisturbed = min(kind.first_delay_seconds * 2**attempt, kind.longest_delay_seconds)
        assert 0.7 * undisturbed < wait <= 1.25 * undisturbed
    lease = uuid7()
    (job,) = await take(connection, lease)
    assert await ledger.fail(connection, job, lease, FAULT) == ledger.Ending(job, "dead", "flaky")
    found = await row(connection, staged.id)
    assert (found["state"], found["attempts"]) == ("dead", kind.max_attempts)
    assert found["finished_at"] is not None
    assert await take(connection, uuid7()) == []


async def test_what_no_attempt_can_mend_is_dead_at_once(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    (job,) = await take(connection, lease)
    ending = await ledger.fail(connection, job, lease, PermanentJobError("hopeless", "Never."))
    assert ending == ledger.Ending(job, "dead", "hopeless")
    found = await row(connection, staged.id)
    assert (found["state"], found["attempts"], found["error_code"]) == ("dead", 1, "hopeless")


async def test_any_error_can_be_written_down(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    (job,) = await take(connection, lease)
    ending = await ledger.fail(connection, job, lease, ValueError("a\x00b\ud800" + "x" * 5000))
    assert ending == ledger.Ending(job, "retry", "ValueError")
    found = await row(connection, staged.id)
    assert found["error_detail"].startswith("ab?xxx")
    assert len(found["error_detail"]) < 2001


async def test_giving_back_costs_no_attempt_and_no_time(connection: Connection, tenant: UUID) -> None:
    first, second = await stage(connection, tenant, 2)
    lease = uuid7()
    await take(connection, lease)
    assert await ledger.release(connection, lease, [first.id]) == 1
    found = await row(connection, first.id)
    assert (found["state"], found["attempts"], found["lease_token"]) == ("staged", 0, None)
    assert found["due_in"] <= 0
    assert (await row(connection, second.id))["state"] == "running"
    again = uuid7()
    (job,) = await take(connection, again)
    await ledger.fail(connection, job, again, FAULT)
    await make_due(connection)
    await take(connection, again)
    assert await ledger.release(connection, again) == 1
    found = await row(connection, first.id)
    assert (found["state"], found["attempts"]) == ("retry", 1)


# Jobs whose worker vanished


async def test_a_silent_workers_job_is_due_at_once_the_first_time_then_later_and_at_last_dead(
    connection: Connection, tenant: UUID
) -> None:
    (staged,) = await stage(connection, tenant)
    kind = ledger.KINDS["user.create"]
    for attempt in range(1, kind.max_attempts + 1):
        lease = uuid7()
        (job,) = await take(connection, lease)
        assert (job.attempts, job.lost, job.suspect) == (attempt, attempt > 1, attempt > 2)
        assert await ledger.rescue(connection) == [], "its worker is still there"
        await expire(connection, lease)
        (rescued,) = await ledger.rescue(connection)
        assert ledger.read_job(rescued).id == staged.id
        found = await row(connection, staged.id)
        assert (found["error_code"], found["lease_token"], found["lease_until"]) == (LOST, None, None)
        if attempt == kind.max_attempts:
            break
        assert (rescued["state"], found["state"]) == ("retry", "retry")
        assert rescued["due"] is (attempt == 1)
        assert (found["due_in"] <= 0) is (attempt == 1)
        undisturbed = min(kind.first_delay_seconds * 2.0 ** (attempt - 1), kind.longest_delay_seconds)
        assert attempt == 1 or 0.7 * undisturbed < found["due_in"] <= 1.25 * undisturbed
        await make_due(connection)
    assert (rescued["state"], found["state"], found["attempts"]) == ("dead", "dead", kind.max_attempts)
    assert found["finished_at"] is not None


async def test_those_who_were_lost_once_are_taken_a_few_at_a_time_beside_the_others(
    connection: Connection, tenant: UUID
) -> None:
    lost = await stage(connection, tenant, 2 * LOST_TOGETHER + 5)
    await lose(connection, 1)
    fresh = await stage(connection, tenant, 20)
    seen: set[UUID] = set()
    for others, count, more in ((20, LOST_TOGETHER, True), (0, LOST_TOGETHER, True), (0, 5, False)):
        claimed = await ledger.claim(connection, "provision", lease_token=uuid7(), lease_seconds=30, limit=100)
        assert [job.lost for job in claimed].count(True) == count
        assert not any(job.suspect for job in claimed)
        assert len(claimed) == others + count
        assert claimed.more is more
        seen |= {job.id for job in claimed}
    assert seen == {one.id for one in [*lost, *fresh]}


async def test_a_claim_carries_one_job_at_most_that_was_lost_again(connection: Connection, tenant: UUID) -> None:
    suspects = await stage(connection, tenant, 4)
    await lose(connection, 2)
    once = await stage(connection, tenant, 3)
    await lose(connection, 1)
    fresh = await stage(connection, tenant, 20)
    claimed = await ledger.claim(connection, "provision", lease_token=uuid7(), lease_seconds=30, limit=100)
    assert {one.id for one in [*once, *fresh]} < {job.id for job in claimed}
    assert [job.suspect for job in claimed].count(True) == 1
    assert len(claimed) == 24
    seen = {job.id for job in claimed if job.suspect}
    for left in (2, 1, 0):
        assert claimed.more
        claimed = await ledger.claim(connection, "provision", lease_token=uuid7(), lease_seconds=30, limit=100)
        assert [job.suspect for job in claimed] == [True]
        seen |= {job.id for job in claimed}
        assert claimed.more is (left > 0)
    assert seen == {one.id for one in suspects}


async def test_a_kind_that_nobody_knows_ends_with_its_worker(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant, kind="user.fold", queue="provision")
    lease = uuid7()
    await take(connection, lease)
    await expire(connection, lease)
    await ledger.rescue(connection)
    assert (await row(connection, staged.id))["state"] == "dead"


async def test_what_is_overdue_is_listed_oldest_first_over_all_tenants(connection: Connection) -> None:
    staged = [(await stage(connection, await new_tenant(connection)))[0].id for _ in range(6)]
    for age, job_id in enumerate(staged):
        await connection.execute("UPDATE job SET run_at = now() - make_interval(secs => $1) WHERE id = $2", age, job_id)
    assert await ledger.due(connection, "provision", older_than_seconds=1.5, limit=3) == [
        staged[5],
        staged[4],
        staged[3],
    ]
    assert await ledger.due(connection, "provision", older_than_seconds=1.5, limit=9) == [*reversed(staged[2:])]
    assert await ledger.due(connection, "email", older_than_seconds=0, limit=9) == []


# By hand


async def _events(connection: Connection, job_id: UUID) -> list[tuple[str, str, str | None]]:
    rows = await connection.fetch(
        "SELECT action, phase, reason FROM audit_event WHERE job_id = $1 AND action NOT LIKE 'job.attempt.%'"
        " ORDER BY occurred_at, id",
        job_id,
    )
    return [tuple(one) for one in rows]


async def test_a_dead_job_can_be_sent_round_again_with_all_its_attempts(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    (job,) = await take(connection, lease)
    await ledger.fail(connection, job, lease, PermanentJobError("hopeless"))
    outcome = await job_actions.retry_now(connection, staged.id, actor=OPERATOR)
    assert outcome.due == {"provision": [staged.id]}
    found = await row(connection, staged.id)
    assert (found["state"], found["attempts"], found["finished_at"]) == ("staged", 0, None)
    assert await _events(connection, staged.id) == [("ops.job.retry", "applied", None)]
    (job,) = await take(connection, uuid7())
    assert job.attempts == 1


async def test_a_retry_need_not_wait_for_its_time(connection: Connection, tenant: UUID) -> None:
    await stage(connection, tenant)
    lease = uuid7()
    (job,) = await take(connection, lease)
    await ledger.fail(connection, job, lease, FAULT)
    assert await take(connection, uuid7()) == []
    await job_actions.retry_now(connection, job.id, actor=OPERATOR)
    assert len(await take(connection, uuid7())) == 1


async def test_a_cancelled_create_takes_the_user_away_and_frees_the_name(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    staged, neighbour = await stage(connection, tenant, 2)
    assert await get_user(pool, tenant, staged.resource_id) is not None
    await job_actions.cancel(connection, staged.id, actor=OPERATOR)
    found = await row(connection, staged.id)
    assert (found["state"], found["payload"]) == ("cancelled", None)
    assert found["finished_at"] is not None
    assert await get_user(pool, tenant, staged.resource_id) is None
    names = await connection.fetch("SELECT resource_id FROM identifier WHERE tenant_id = $1", tenant)
    assert [one["resource_id"] for one in names] == [neighbour.resource_id]
    assert sorted(await _events(connection, staged.id)) == [
        ("ops.job.cancel", "applied", None),
        ("scim.user.create", "failed", "cancelled"),
    ]
    label = await connection.fetchval(
        "SELECT targets -> 0 ->> 'label' FROM audit_event WHERE phase = 'failed' AND job_id = $1", staged.id
    )
    assert label == staged.user_name
    assert [job.id for job in await take(connection, uuid7())] == [neighbour.id]


async def test_a_create_that_makes_no_sense_can_be_cancelled_too(connection: Connection, tenant: UUID) -> None:
    nonsense: tuple[Any, ...] = ({}, [], "nonsense", 0, {"doc": None})
    for payload in nonsense:
        (staged,) = await stage(connection, tenant, payload=payload)
        await job_actions.cancel(connection, staged.id, actor=OPERATOR)
        assert (await row(connection, staged.id))["state"] == "cancelled"
    assert await connection.fetchval("SELECT count(*) FROM identifier") == 0


async def test_a_cancelled_invitation_has_failed(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant, kind="invitation.send")
    await connection.execute(
        "INSERT INTO invitation (id, tenant_id, user_id, email) VALUES ($1, $2, $3, 'ana@example.com')",
        staged.resource_id,
        tenant,
        uuid7(),
    )
    await job_actions.cancel(connection, staged.id, actor=OPERATOR)
    found = await connection.fetchrow("SELECT state, error_code FROM invitation")
    assert tuple(found or ()) == ("failed", "cancelled")


@pytest.mark.parametrize("by_hand", [job_actions.retry_now, job_actions.cancel])
async def test_a_job_that_runs_has_ended_or_is_not_there_is_left_alone(
    by_hand: Any, connection: Connection, tenant: UUID
) -> None:
    (staged,) = await stage(connection, tenant)
    lease = uuid7()
    await take(connection, lease)
    with pytest.raises(UsageError, match=f"Job {staged.id} is running; only"):
        await by_hand(connection, staged.id, actor=OPERATOR)
    await ledger.finish(connection, [staged.id], lease)
    with pytest.raises(UsageError, match="is done; only"):
        await by_hand(connection, staged.id, actor=OPERATOR)
    with pytest.raises(UsageError, match="There is no job"):
        await by_hand(connection, uuid7(), actor=OPERATOR)
    assert await connection.fetchval("SELECT count(*) FROM audit_event WHERE job_id = $1", staged.id) == 0


# How it stands


async def test_the_backlog_is_counted_by_kind_and_tenant(connection: Connection) -> None:
    quiet, busy = await new_tenant(connection), await new_tenant(connection)
    name = {each["id"]: each["name"] for each in await connection.fetch("SELECT id, name FROM tenant")}
    states = ["staged", "staged", "running", "retry", "dead", "done", "cancelled"]
    for state, one in zip(states, await stage(connection, busy, len(states)), strict=True):
        await connection.execute("UPDATE job SET state = $1 WHERE id = $2", state, one.id)
    await connection.execute("UPDATE job SET staged_at = now() - interval '90 seconds' WHERE state = 'retry'")
    await connection.execute("UPDATE job SET staged_at = now() - interval '9 days' WHERE state IN ('dead', 'done')")
    (dead,) = await stage(connection, quiet, kind="invitation.send")
    await connection.execute("UPDATE job SET state = 'dead' WHERE id = $1", dead.id)
    invitations, creates = await backlog.stats(connection)
    assert 90 <= creates.pop("oldest_seconds") < 100
    assert creates == {
        "kind": "user.create",
        "tenant": name[busy],
        "waiting": 2,
        "running": 1,
        "retry": 1,
        "dead": 1,
    }
    assert invitations == {
        "kind": "invitation.send",
        "tenant": name[quiet],
        "waiting": 0,
        "running": 0,
        "retry": 0,
        "dead": 1,
        "oldest_seconds": None,
    }
