"""Statistics of several processes, written minute by minute and read as series and percentiles."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from uuid_utils.compat import uuid7

from models.statistics import Times, forget_minutes, series, times, write_minutes
from models.tally import Tally

if TYPE_CHECKING:
    import asyncpg


def tally_at(ago_seconds: float) -> Tally:
    return Tally(lambda: time.time() - ago_seconds)


async def write(pool: asyncpg.Pool, *tallies: Tally) -> None:
    async with pool.acquire() as connection:
        for tally in tallies:
            await write_minutes(connection, uuid7(), [minute for minute, _ in tally.unwritten()])


async def test_processes_are_summed_and_every_step_is_there(pool: asyncpg.Pool) -> None:
    first, second, earlier = tally_at(120), tally_at(120), tally_at(3 * 3600)
    for tally in (first, second, earlier):
        tally.done("user.create", 200, 0.4)
        tally.failed("invitation.send", 1.0, dead=False)
    await write(pool, first, second, earlier)
    async with pool.acquire() as connection:
        hour = await series(connection, hours=1, step_seconds=60)
        day = await series(connection, hours=24, step_seconds=900)
    assert (len(hour.at), len(day.at)) == (60, 96)
    assert {later - before for before, later in zip(hour.at, hour.at[1:], strict=False)} == {60}
    assert 0 <= time.time() - hour.at[-1] < 61
    assert sum(hour.done["user.create"]) == 400
    place = max(range(60), key=hour.done["user.create"].__getitem__)
    assert 57 <= place + 1 <= 59, "two minutes ago"
    assert sum(day.done["user.create"]) == 600
    assert day.sums(day.failed) == day.failed["invitation.send"]
    assert sum(day.sums(day.failed)) == 3
    assert day.sums({}) == [0] * 96


async def test_writing_a_minute_again_does_not_count_it_twice(pool: asyncpg.Pool) -> None:
    tally, process_id = tally_at(0), uuid7()
    async with pool.acquire() as connection:
        for _ in range(3):
            tally.done("user.create", 10, 0.1)
            minutes = [minute for minute, _ in tally.unwritten()]
            await write_minutes(connection, process_id, minutes)
            await write_minutes(connection, process_id, minutes)
        assert sum((await series(connection, hours=1, step_seconds=60)).done["user.create"]) == 30


async def test_percentiles_are_those_of_all_processes_in_the_window(pool: asyncpg.Pool) -> None:
    fast, slow, long_ago = tally_at(0), tally_at(60), tally_at(2 * 3600)
    fast.started("user.create", 90, [0.01] * 90)
    slow.started("user.create", 10, [10.0] * 10)
    slow.done("user.create", 10, 2.0)
    long_ago.started("user.create", 1000, [1000.0] * 1000)
    await write(pool, fast, slow, long_ago)
    async with pool.acquire() as connection:
        found = (await times(connection, seconds=3600))["user.create"]
    assert found.queueing_p50 == pytest.approx(0.01, rel=0.42)
    assert found.queueing_p95 == pytest.approx(10, rel=0.42)
    assert found.running_p50 == pytest.approx(2, rel=0.42)


async def test_nothing_measured_is_no_number(pool: asyncpg.Pool) -> None:
    tally = tally_at(0)
    tally.started("user.create", 1, [])
    await write(pool, tally)
    async with pool.acquire() as connection:
        assert (await times(connection, seconds=3600)).get("user.create", Times()) == Times()
        assert await forget_minutes(connection) == 0


async def test_a_busy_day_is_summed(pool: asyncpg.Pool) -> None:
    """Four workers and three kinds in every minute of a day: 17 280 rows."""
    async with pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO job_minute (minute, kind, process_id, done, queueing, running)"
            " SELECT date_trunc('minute', now()) - make_interval(mins => m), kind, gen_random_uuid(), 5,"
            " array_fill(1, ARRAY[55]), array_fill(1, ARRAY[55])"
            " FROM generate_series(0, 1439) AS m, unnest(ARRAY['user.create', 'invitation.send', 'other']) AS kind,"
            " generate_series(1, 4)"
        )
        await connection.execute("RESET ROLE; ANALYZE job_minute; SET ROLE usher_app")
        day = await series(connection, hours=24, step_seconds=900)
        hour = (await times(connection, seconds=3600))["other"]
    assert None not in (hour.queueing_p50, hour.queueing_p95, hour.running_p50, hour.running_p95)
    assert sum(day.done["other"]) in range(5 * 4 * 1425, 5 * 4 * 1440 + 1)
