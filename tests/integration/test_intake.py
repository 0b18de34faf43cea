"""Accepting creates on a real PostgreSQL: group commit, duplicates, deadlocks, and batches of which one is bad."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models.audit.record import Actor
from models.db import open_pool
from models.errors import UniquenessError
from models.intake import Accepted, Create, Intake
from models.jobs import PROVISION
from models.scim.document import read_user
from models.scim.json import dumps
from tests.support.api import altered, store, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from models.settings import Settings

TENANT = UUID(int=1)
OTHER = UUID(int=2)


def create(user_name: str, tenant_id: UUID = TENANT, **attributes: Any) -> Create:
    user = read_user({"userName": user_name, **attributes})
    return Create(
        tenant_id=tenant_id,
        resource_id=uuid7(),
        job_id=uuid7(),
        user=user,
        doc=dumps(user.doc).decode(),
        actor=Actor("token", "id", "label"),
        correlation_id=uuid7(),
        context={"route": "/Users"},
    )


class Bell:
    def __init__(self) -> None:
        self.rings: list[tuple[str, list[UUID]]] = []

    def __call__(self, queue: str, job_ids: list[UUID]) -> None:
        self.rings.append((queue, job_ids))


class WatchedIntake(Intake):
    """Remembers what its commits met; an error of a whole batch would otherwise only cost time."""

    def __init__(self, *args: Any) -> None:
        self.errors: list[Exception] = []
        super().__init__(*args)

    async def _flush(self, creates: Sequence[Create]) -> list[Accepted]:
        try:
            return await super()._flush(creates)
        except Exception as error:
            self.errors.append(error)
            raise


@pytest.fixture
async def app_pool(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(settings, name="tests")
    yield pool
    await pool.close()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
async def intake(app_pool: asyncpg.Pool, settings: Settings, bell: Bell) -> AsyncIterator[Intake]:
    made = Intake(app_pool, settings, bell)
    yield made
    await made.close()


async def accept_all(intake: Intake, creates: list[Create], *, bulk: bool = False) -> list[Any]:
    return await asyncio.gather(*(intake.accept(one, bulk=bulk) for one in creates), return_exceptions=True)


async def outcomes(intake: Intake, creates: list[Create]) -> Counter[str]:
    return Counter(type(one).__name__ for one in await accept_all(intake, creates))


@pytest.mark.parametrize("bulk", [False, True])
async def test_what_arrives_together_is_committed_together(
    settings: Settings, intake: Intake, bell: Bell, bulk: bool
) -> None:
    creates = [create(f"user{number}") for number in range(100)]
    times = await accept_all(intake, creates, bulk=bulk)
    async with store(settings) as connection:
        transactions = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM job")
        rows = await connection.fetch("SELECT id, resource_id, staged_at, correlation_id, state FROM job")
    expected = 1 if bulk else ceil(100 / settings.intake_batch)
    assert transactions == len(set(times)) == len(bell.rings) == expected
    by_id = {row["id"]: row for row in rows}
    assert set(by_id) == {one.job_id for one in creates} == {job for _, jobs in bell.rings for job in jobs}
    assert {queue for queue, _ in bell.rings} == {PROVISION}
    for one, time in zip(creates, times, strict=True):
        row = by_id[one.job_id]
        assert (row["resource_id"], row["staged_at"], row["correlation_id"], row["state"]) == (
            one.resource_id,
            time,
            one.correlation_id,
            "staged",
        )


async def test_duplicates_inside_one_batch(settings: Settings, app_pool: asyncpg.Pool, bell: Bell) -> None:
    intake = Intake(app_pool, altered(settings, intake_in_flight=1), bell)
    creates = [create(name) for name in ("Ana@x", "ana@X", "eva@x", "ANA@x", "EVA@X")]
    creates.append(create("ana@x", OTHER))
    assert await outcomes(intake, creates) == {"datetime": 3, "UniquenessError": 3}
    assert len(bell.rings) == 1  # one batch
    async with store(settings) as connection:
        jobs = {row["id"] for row in await connection.fetch("SELECT id FROM job")}
        phases = await connection.fetch(
            "SELECT job_id, phase, reason, outcome FROM audit_event WHERE action LIKE 'scim.%'"
        )
    assert jobs == set(bell.rings[0][1])
    assert Counter((row["phase"], row["reason"], row["outcome"]) for row in phases) == {
        ("requested", None, "pending"): 3,
        ("denied", "uniqueness", "denied"): 3,
    }
    assert {row["job_id"] for row in phases if row["phase"] == "requested"} == jobs
    assert {row["job_id"] for row in phases if row["phase"] == "denied"} == {None}


async def test_two_batches_that_want_the_same_names_in_opposite_order(
    settings: Settings, app_pool: asyncpg.Pool, bell: Bell
) -> None:
    names = [f"user{number:03}" for number in range(150)]
    for turn in range(8):
        intakes = [WatchedIntake(app_pool, altered(settings, intake_batch=200), bell) for _ in range(3)]
        orders = [names, names[::-1], random.Random(turn).sample(names, len(names))]  # noqa: S311  an order, no secret
        counts = await asyncio.gather(
            *(
                outcomes(intake, [create(f"{turn}-{name}") for name in order])
                for intake, order in zip(intakes, orders, strict=True)
            )
        )
        assert [error for intake in intakes for error in intake.errors] == []  # a deadlock among them
        assert sum(counts, Counter()) == {"datetime": len(names), "UniquenessError": 2 * len(names)}
    async with store(settings) as connection:
        assert (
            await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        )
        assert await connection.fetchval("SELECT count(*) FROM job") == 8 * len(names)
        strays = "SELECT count(*) FROM identifier LEFT JOIN job USING (resource_id) WHERE job.id IS NULL"
        assert await connection.fetchval(strays) == 0


async def test_one_that_the_store_refuses_fails_alone(settings: Settings, intake: Intake, bell: Bell) -> None:
    good = [create(f"user{number}") for number in range(20)]
    bad = replace(create("bad"), doc='{"title":"\\u0000"}')  # what jsonb cannot hold
    results = await accept_all(intake, [*good[:10], bad, *good[10:]])
    refused = results.pop(10)
    assert isinstance(refused, asyncpg.PostgresError)
    assert not any(isinstance(one, BaseException) for one in results)
    async with store(settings) as connection:
        ids = {row["resource_id"] for row in await connection.fetch("SELECT resource_id FROM identifier")}
    assert ids == {one.resource_id for one in good}
    assert {job for _, jobs in bell.rings for job in jobs} == {one.job_id for one in good}


async def test_a_lone_create_waits_for_nobody(settings: Settings, intake: Intake, bell: Bell) -> None:
    for number in range(5):
        await intake.accept(create(f"user{number}"))
    assert [len(jobs) for _, jobs in bell.rings] == [1] * 5


async def test_a_second_commit_waits_for_the_first_to_decide(settings: Settings, intake: Intake) -> None:
    async with store(settings) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO identifier (tenant_id, kind, value_key, resource_id) VALUES ($1, 'userName', 'ana', $2)",
            TENANT,
            uuid7(),
        )
        waiting = asyncio.create_task(intake.accept(create("ANA")))

        async def blocked() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(blocked, "the second waits for the first")
        await transaction.rollback()
        assert await waiting  # the first gave the name back


async def test_a_name_stays_reserved_when_the_job_is_done(settings: Settings, intake: Intake) -> None:
    await intake.accept(create("ana"))
    async with store(settings) as connection:
        await connection.execute("DELETE FROM job")
    with pytest.raises(UniquenessError):
        await intake.accept(create("Ana"))


async def test_outage_is_nobody_s_fault_and_not_tried_one_by_one(settings: Settings, bell: Bell) -> None:
    pool = await open_pool(settings, name="tests")
    intake = Intake(pool, settings, bell)
    await intake.accept(create("first"))
    await pool.close()
    results = await accept_all(intake, [create(f"user{number}") for number in range(30)])
    assert {type(one) for one in results} == {asyncpg.InterfaceError}
    assert len(bell.rings) == 1


async def test_close_waits_for_what_was_accepted(settings: Settings, intake: Intake) -> None:
    waiting = [asyncio.create_task(intake.accept(create(f"user{number}"))) for number in range(30)]
    await asyncio.sleep(0)
    await intake.close()
    assert all(task.done() for task in waiting)
    async with store(settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM job") == 30


async def test_the_application_s_role_cannot_rewrite_the_audit_log(app_pool: asyncpg.Pool, intake: Intake) -> None:
    await intake.accept(create("ana"))
    for statement in ("DELETE FROM audit_event", "UPDATE audit_event SET reason = 'x'", "TRUNCATE audit_event"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app_pool.execute(statement)
