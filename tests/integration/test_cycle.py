"""How far a cycle is, told from what the store holds: where it began, what of it is done, and when it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from models import cycle
from models.audit.record import SYSTEM, Event, record
from models.cycle import BREAK_SECONDS, Beginnings, Cycle, first_id, list_cycles, moment_of
from tests.support.ledger import create_payload, new_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from models.db import Connection

HOUR = 3600.0


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


def made(ago_seconds: float) -> UUID:
    """Return an id as it was made some time ago."""
    return UUID(int=first_id(time.time() - ago_seconds).int | (uuid7().int & ((1 << 80) - 1)))


async def applied(connection: Connection, tenant: UUID, *ago: float) -> None:
    await connection.execute(
        "INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)"
        " SELECT $1, id, '{}', true, '{}', now(), now() FROM unnest($2::uuid[]) AS u (id)",
        tenant,
        [made(each) for each in ago],
    )


async def accepted(connection: Connection, tenant: UUID, *ago: float, state: str = "staged") -> None:
    await connection.execute(
        "INSERT INTO job (id, tenant_id, kind, queue, state, resource_id, payload, correlation_id)"
        " SELECT gen_random_uuid(), $1, 'user.create', 'provision', $2, id, $4, gen_random_uuid()"
        " FROM unnest($3::uuid[]) AS u (id)",
        tenant,
        state,
        [made(each) for each in ago],
        create_payload("somebody@example.com"),
    )


async def invited(connection: Connection, tenant: UUID, state: str) -> None:
    """Invite everybody who is in the store and has no invitation."""
    await connection.execute(
        "INSERT INTO invitation (id, tenant_id, user_id, email, state)"
        " SELECT gen_random_uuid(), $1, id, 'a@b', $2 FROM users WHERE tenant_id = $1"
        " ON CONFLICT DO NOTHING",
        tenant,
        state,
    )


async def happened(connection: Connection, tenant: UUID, action: str, phase: str, count: int) -> None:
    await record(
        connection,
        [
            Event(action=action, phase=phase, actor=SYSTEM, correlation_id=uuid7(), tenant_id=tenant)
            for _ in range(count)
        ],
    )


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_an_id_holds_its_moment(milliseconds: int, rest: int) -> None:
    identifier = UUID(int=milliseconds << 80 | rest)
    assert moment_of(identifier) == milliseconds / 1000
    assert first_id(moment_of(identifier)) <= identifier


async def test_a_cycle_goes_back_to_the_last_long_break(connection: Connection) -> None:
    tenant = await new_tenant(connection)
    await applied(connection, tenant, 30 * HOUR, 20 * HOUR)  # of an earlier cycle
    await applied(connection, tenant, *(19 * HOUR - step * (BREAK_SECONDS - 60) for step in range(40)))
    await accepted(connection, tenant, 30, 20, 10)
    await accepted(connection, tenant, 25, state="dead")
    (one,) = await list_cycles(connection)
    assert (one.accepted, one.applied, one.dead, one.waiting) == (44, 40, 1, 3)
    assert one.began_at.timestamp() == pytest.approx(time.time() - 19 * HOUR, abs=10)
    assert one.idle_seconds == pytest.approx(10, abs=5)
    assert one.state == "applying"


async def test_a_known_beginning_holds_for_as_long_as_the_cycle_goes_on(connection: Connection) -> None:
    tenant = await new_tenant(connection)
    beginnings: Beginnings = {}

    async def began_ago() -> float:
        (one,) = await list_cycles(connection, beginnings=beginnings)
        (unaided,) = await list_cycles(connection)
        assert one.began_at == unaided.began_at
        return time.time() - one.began_at.timestamp()

    await applied(connection, tenant, 900)
    assert await began_ago() == pytest.approx(900, abs=10)
    await applied(connection, tenant, 60)
    assert await began_ago() == pytest.approx(900, abs=10)
    # What was the last was so more than a break ago: another cycle has begun since.
    beginnings[tenant] = (made(9 * HOUR), made(BREAK_SECONDS + 120))
    assert await began_ago() == pytest.approx(900, abs=10)
    await connection.execute("DELETE FROM users WHERE tenant_id = $1 AND id > $2", tenant, made(600))
    assert await began_ago() == pytest.approx(900, abs=10)


async def test_invitations_are_counted_by_what_became_of_them(connection: Connection) -> None:
    tenant = await new_tenant(connection)
    await applied(connection, tenant, 6 * HOUR)
    await invited(connection, tenant, "sent")  # of an earlier cycle
    for state, count in (("sent", 4), ("accepted", 1), ("pending", 2), ("sending", 1), ("failed", 1)):
        await applied(connection, tenant, *([60.0] * count))
        await invited(connection, tenant, state)
    (one,) = await list_cycles(connection)
    assert (one.accepted, one.applied) == (9, 9)
    assert (one.invited, one.inviting, one.not_invited) == (5, 3, 1)
    assert one.state == "inviting"
    await connection.execute("UPDATE invitation SET state = 'sent' WHERE state IN ('pending', 'sending')")
    (one,) = await list_cycles(connection)
    assert (one.state, one.seconds_left) == ("done", 0.0)


async def test_rates_are_those_of_the_last_minutes(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, other = await new_tenant(connection), await new_tenant(connection)
    await accepted(connection, tenant, *([5.0] * 60))
    await happened(connection, tenant, "scim.user.create", "requested", 80)
    await happened(connection, tenant, "scim.user.create", "applied", 40)
    await happened(connection, tenant, "invitation.email.send", "applied", 10)
    await happened(connection, other, "scim.user.create", "applied", 1000)
    (one,) = await list_cycles(connection)
    assert one.tenant_id == tenant
    assert one.state == "accepting"
    assert one.accept_rate == pytest.approx(2 * one.apply_rate)
    assert one.invite_rate == pytest.approx(one.apply_rate / 4)
    assert one.accept_rate > 0
    assert one.seconds_left == pytest.approx(60 / one.apply_rate)
    monkeypatch.setattr(cycle, "_MOST_EVENTS", 10)  # only the newest are read: these are all invitations
    (one,) = await list_cycles(connection)
    assert (one.accept_rate, one.apply_rate) == (0, 0)
    assert one.invite_rate > 0
    assert one.seconds_left is None


async def test_only_what_goes_on_or_has_just_ended_is_listed_but_one_tenant_always(connection: Connection) -> None:
    old, waiting, fresh, _ = [await new_tenant(connection) for _ in range(4)]
    await applied(connection, old, 2 * HOUR)
    await accepted(connection, waiting, 2 * HOUR)
    await applied(connection, fresh, 60)
    assert [one.tenant_id for one in await list_cycles(connection)] == [fresh, waiting]
    name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", old)
    (one,) = await list_cycles(connection, name)
    assert (one.tenant, one.accepted, one.state) == (name, 1, "done")
    assert await list_cycles(connection, "nobody") == []


def some_cycle(**values: Any) -> Cycle:
    from datetime import UTC, datetime

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    base: dict[str, Any] = dict.fromkeys(("accepted", "applied", "invited", "inviting", "not_invited", "dead"), 0)
    base |= {"tenant_id": uuid7(), "tenant": "acme", "began_at": moment, "last_at": moment, "idle_seconds": 100.0}
    return Cycle(**{**base, **values})


@pytest.mark.parametrize(
    ("values", "state", "left"),
    [
        ({}, "done", 0.0),
        ({"accepted": 10, "applied": 10}, "done", 0.0),
        ({"accepted": 10, "applied": 4, "apply_rate": 2.0}, "applying", 3.0),
        ({"accepted": 10, "applied": 4}, "applying", None),
        ({"accepted": 10, "applied": 9, "dead": 1}, "done", 0.0),
        ({"accepted": 10, "applied": 10, "inviting": 6, "invite_rate": 0.5}, "inviting", 12.0),
        ({"accepted": 10, "applied": 10, "inviting": 6}, "inviting", None),
        ({"accepted": 10, "applied": 4, "apply_rate": 2.0, "inviting": 4, "invite_rate": 1.0}, "applying", 10.0),
        ({"accepted": 10, "applied": 9, "accept_rate": 1.0, "apply_rate": 1.0, "idle_seconds": 1.0}, "accepting", 1.0),
    ],
)
def test_the_estimate_is_for_what_is_accepted(values: dict[str, Any], state: str, left: float | None) -> None:
    one = some_cycle(**values)
    assert (one.state, one.seconds_left) == (state, left)


async def test_its_statements_use_primary_keys(connection: Connection, database_url: str) -> None:
    import asyncpg

    tenant = await new_tenant(connection)
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute(
            "INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)"
            " SELECT gen_random_uuid(), gen_random_uuid(), '{}', true, '{}', now(), now()"
            " FROM generate_series(1, 5000)"
        )
        await owner.execute(
            "INSERT INTO invitation (id, tenant_id, user_id, email)"
            " SELECT gen_random_uuid(), tenant_id, id, 'a@b' FROM users"
        )
        await owner.execute(
            "INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, state)"
            " SELECT gen_random_uuid(), tenant_id, 'user.create', 'provision', id, gen_random_uuid(),"
            " CASE WHEN random() < 0.2 THEN 'staged' ELSE 'done' END FROM users"
        )
        await owner.execute("ANALYZE users, invitation, job")
    finally:
        await owner.close()
    for statement, values in (
        (cycle._BEGAN, (tenant, made(60), 1_800_000, 400)),
        (cycle._COUNTS, (tenant, made(60))),
        (cycle._RATES, (tenant, 300.0, 100)),
    ):
        plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *values))
        for table in ("users", "invitation", "job"):
            assert f"Seq Scan on {table}" not in plan, plan
