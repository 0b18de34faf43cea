"""What the Overview says of a real ledger: counts, ages, whose work is oldest, and that no index is left aside."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models import overview
from models.jobs import EMAIL, KINDS, PROVISION
from models.overview import Backlog, backlog, not_paused, oldest_tenants, relay_lag
from models.pauses import list_pauses
from models.processes import Process
from tests.support.full_ledger import fill
from tests.support.ledger import new_tenant, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from models.db import Connection


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


async def aged(connection: Connection, tenant: UUID, seconds: float, count: int = 1, **more: Any) -> list[UUID]:
    """Stage jobs that have been due for so many seconds, or will be if there are fewer than none."""
    ids = [one.id for one in await stage(connection, tenant, count, **more)]
    await connection.execute(
        "UPDATE job SET run_at = now() - make_interval(secs => $2) WHERE id = ANY ($1)", ids, seconds
    )
    return ids


async def test_every_kind_is_there_with_its_states_and_the_age_of_what_is_due(connection: Connection) -> None:
    assert {one.kind: one for one in await backlog(connection)} == {
        kind: Backlog(kind, KINDS[kind].queue) for kind in KINDS
    }
    tenant = await new_tenant(connection)
    await aged(connection, tenant, 40, 3)
    (failed,) = await aged(connection, tenant, 90)
    await connection.execute("UPDATE job SET state = 'retry' WHERE id = $1", failed)
    (dead,) = await aged(connection, tenant, 900)
    await connection.execute("UPDATE job SET state = 'dead' WHERE id = $1", dead)
    for state in ("running", "done", "cancelled"):
        (other,) = await aged(connection, tenant, 900)
        await connection.execute("UPDATE job SET state = $2 WHERE id = $1", other, state)
    await aged(connection, tenant, -3600, 2, kind="invitation.send", payload={})  # wait on purpose
    create, mail = (await backlog(connection))[:2]
    assert (create.kind, create.queue) == ("user.create", PROVISION)
    assert (create.waiting, create.running, create.retry, create.dead) == (3, 1, 1, 1)
    assert create.oldest_seconds == pytest.approx(90, abs=5)
    assert create.late
    assert (mail.kind, mail.queue, mail.waiting) == ("invitation.send", EMAIL, 2)
    assert mail.oldest_seconds is None, "nobody waits for what is not due"
    assert not mail.late


async def test_a_kind_that_nobody_does_is_shown_too(connection: Connection) -> None:
    await aged(connection, await new_tenant(connection), 5, kind="of.old", queue="provision", payload={})
    last = (await backlog(connection))[-1]
    assert (last.kind, last.waiting, last.late) == ("of.old", 1, False)


async def test_tenants_come_by_the_age_of_their_oldest_due_job(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "COUNTED", 5)
    noisy, small, patient = [await new_tenant(connection) for _ in range(3)]
    await aged(connection, noisy, 30, 9)
    await aged(connection, noisy, 10, 1, kind="invitation.send", payload={})
    await aged(connection, small, 60, 2)
    await aged(connection, small, -60, 2)
    await aged(connection, patient, -60, 3)
    shares = await oldest_tenants(connection)
    assert [(one.tenant_id, one.queue, one.due) for one in shares] == [
        (small, PROVISION, 2),
        (noisy, PROVISION, 5),
        (noisy, EMAIL, 1),
    ]
    assert [one.tenant_id for one in await oldest_tenants(connection, limit=1)] == [small]


async def test_what_is_open_is_found_by_indexes(connection: Connection, database_url: str) -> None:
    """However much is done: 20 000 rows, of which 2 000 are open."""
    import asyncpg

    owner = await asyncpg.connect(database_url)
    try:
        await fill(owner, 20_000)
    finally:
        await owner.close()
    for statement, values in ((overview._BACKLOG, ()), (overview._OLDEST, (PROVISION, 8, 100))):
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *values))
        assert "Seq Scan on job" not in plan, plan
    counted = Counter((row["kind"], row["state"]) for row in await connection.fetch("SELECT kind, state FROM job"))
    for one in await backlog(connection):
        assert one.waiting == counted[one.kind, "staged"]
        assert (one.running, one.retry, one.dead) == tuple(
            counted[one.kind, state] for state in ("running", "retry", "dead")
        )


def process(**values: Any) -> Process:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    base = Process(uuid7(), "worker", "host", 1, "1", [PROVISION], 2, 0, 0, 0, 0, 0.0, False, moment, moment, None, 1.0)
    return replace(base, **values)


@pytest.mark.parametrize(
    ("rings", "processes", "lag"),
    [
        ({}, [], 70.0),
        ({PROVISION: None, EMAIL: None}, [process()], 70.0),
        ({PROVISION: 0, EMAIL: 0}, [process()], 70.0),
        ({PROVISION: 3, EMAIL: 0}, [process()], 20.0),
        ({PROVISION: 3, EMAIL: 3}, [process()], 0.0),
        ({}, [process(busy=1)], 20.0),
        ({}, [process(busy=1, queues=[PROVISION, EMAIL])], 0.0),
        ({}, [process(busy=1, beat_seconds=60.0)], 70.0),
        ({}, [process(busy=1, quiet=True)], 70.0),
    ],
    ids=["nothing", "no redis", "no ring", "rung", "both rung", "at work", "at all work", "silent", "quiet"],
)
def test_jobs_lag_where_nobody_is_rung_and_nobody_works(
    rings: dict[str, int | None], processes: list[Process], lag: float
) -> None:
    assert relay_lag({PROVISION: 70.0, EMAIL: 20.0}, rings, processes) == lag
    assert relay_lag({}, rings, processes) == 0


async def test_what_is_paused_is_nobodys_lag(connection: Connection) -> None:
    held, other = await new_tenant(connection), await new_tenant(connection)
    await aged(connection, held, 90)
    await aged(connection, other, 30)

    async def waiting() -> dict[str, float]:
        return not_paused(await oldest_tenants(connection), await list_pauses(connection))

    assert await waiting() == {PROVISION: pytest.approx(90, abs=5)}
    await connection.execute(
        "INSERT INTO job_pause (id, tenant_id, reason, paused_by) VALUES ($1, $2, 'a migration', 'olga')", uuid7(), held
    )
    assert await waiting() == {PROVISION: pytest.approx(30, abs=5)}
    await connection.execute(
        "INSERT INTO job_pause (id, kind, reason, paused_by) VALUES ($1, 'user.create', 'a migration', 'olga')", uuid7()
    )
    assert await waiting() == {}
