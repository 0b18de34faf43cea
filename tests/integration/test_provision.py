"""Applying creates: everything that one causes comes to be together, once, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models import jobs as ledger
from models.errors import UnavailableError
from models.jobs import read_job
from models.provision import apply_creates, settle, target
from tests.support.ledger import (
    counts,
    create_payload,
    empty_ledger,
    expire,
    new_tenant,
    row,
    shared_database,
    stage,
    take,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from models.db import Connection
    from tests.support.servers import Servers


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


async def events(connection: Connection, job_id: UUID) -> list[dict[str, Any]]:
    rows = await connection.fetch("SELECT * FROM audit_event WHERE job_id = $1 ORDER BY occurred_at, id", job_id)
    return [dict(each) for each in rows]


async def test_a_create_becomes_a_user_an_event_an_invitation_and_its_job(connection: Connection) -> None:
    tenant = await new_tenant(connection, invitations=True)
    payload = create_payload("Ana@Example.com", invite=True, external_id="e-1") | {
        "work_email_keys": ["ana@example.com", "a.b@example.com"]
    }
    payload["doc"] |= {"name": {"givenName": "Ana"}, "x": 1.10}
    (staged,) = await stage(connection, tenant, payload=payload)
    staged_at = (await row(connection, staged.id))["staged_at"]
    lease = uuid7()
    applied, invitations = await apply_creates(connection, await take(connection, lease), lease)
    assert applied == {staged.id}

    user = await connection.fetchrow("SELECT * FROM users WHERE tenant_id = $1", tenant)
    assert user is not None
    assert dict(user) == {
        "tenant_id": tenant,
        "id": staged.resource_id,
        "external_id": "e-1",
        "work_email_keys": ["ana@example.com", "a.b@example.com"],
        "active": True,
        "doc": payload["doc"],
        "version": 1,
        "created_at": staged_at,
        "last_modified": staged_at,
    }
    job = await row(connection, staged.id)
    assert (job["state"], job["payload"], job["lease_token"], job["attempts"]) == ("done", None, None, 1)
    assert job["finished_at"] is not None

    (event,) = await events(connection, staged.id)
    assert (event["action"], event["phase"], event["outcome"]) == ("scim.user.create", "applied", "success")
    assert (event["correlation_id"], event["actor_type"]) == (staged.correlation_id, "job")
    assert event["targets"] == [
        {"type": "User", "id": str(staged.resource_id), "label": "Ana@Example.com", "external_id": "e-1"}
    ]
    assert event["changed"] == [change["path"] for change in event["diff"]]
    assert {"op": "add", "path": "name.givenName", "after": "Ana"} in event["diff"]

    invitation = await connection.fetchrow("SELECT * FROM invitation WHERE tenant_id = $1", tenant)
    assert invitation is not None
    assert (invitation["user_id"], invitation["email"], invitation["state"]) == (
        staged.resource_id,
        "Ana@Example.com",
        "pending",
    )
    mail = await row(connection, invitations[0])
    assert (mail["kind"], mail["queue"], mail["resource_id"]) == ("invitation.send", "email", invitation["id"])
    assert (mail["correlation_id"], mail["state"], mail["payload"]) == (staged.correlation_id, "staged", {})
    assert mail["due_in"] <= 0


async def test_what_is_asked_of_a_value_in_brackets_can_be_audited_whatever_its_type(
    connection: Connection, tenant: UUID
) -> None:
    types = ['quo"ted', "back\\slash", "brace{}", "com,ma", "new\nline", "NULL", ""]
    payload = create_payload("a@b")
    payload["doc"]["emails"] = [{"type": type_, "value": f"{n}@example.com"} for n, type_ in enumerate(types)]
    (staged,) = await stage(connection, tenant, payload=payload)
    lease = uuid7()
    applied, _ = await apply_creates(connection, await take(connection, lease), lease)
    assert applied == {staged.id}
    (event,) = await events(connection, staged.id)
    assert event["changed"] == [change["path"] for change in event["diff"]]
    assert sum(path.startswith("emails[") for path in event["changed"]) == len(types)


@pytest.mark.parametrize(
    ("tenant_values", "payload_values", "invited", "due"),
    [
        ({"invitations": True}, {}, True, True),
        ({"invitations": True, "invitation_delay_seconds": 3600}, {}, True, False),
        ({"invitations": False}, {}, False, False),
        ({"invitations": True}, {"invite": None}, False, False),
    ],
)
async def test_the_tenant_decides_who_is_invited_and_when(
    tenant_values: dict[str, Any],
    payload_values: dict[str, Any],
    invited: bool,
    due: bool,
    connection: Connection,
) -> None:
    tenant = await new_tenant(connection, **tenant_values)
    await stage(connection, tenant, payload=create_payload("a@example.com", invite=True) | payload_values)
    lease = uuid7()
    applied, invitations = await apply_creates(connection, await take(connection, lease), lease)
    assert len(applied) == 1
    assert len(invitations) == due
    waits = await connection.fetch(
        "SELECT extract(epoch FROM run_at - now())::int AS wait FROM job WHERE kind = 'invitation.send'"
    )
    assert [abs(one["wait"] - tenant_values.get("invitation_delay_seconds", 0)) < 10 for one in waits] == (
        [True] if invited else []
    )
    assert await connection.fetchval("SELECT count(*) FROM invitation") == invited


async def test_only_jobs_whose_lease_holds_are_applied(connection: Connection, tenant: UUID) -> None:
    await stage(connection, tenant, 6)
    lease, other = uuid7(), uuid7()
    jobs = await take(connection, lease)
    stolen, ended = jobs[0].id, jobs[1].id
    await connection.execute("UPDATE job SET lease_token = $1 WHERE id = $2", other, stolen)
    await ledger.finish(connection, [ended], lease)
    applied, _ = await apply_creates(connection, jobs, lease)
    assert applied == {job.id for job in jobs[2:]}
    assert await connection.fetchval("SELECT count(*) FROM users") == 4
    assert (await row(connection, stolen))["lease_token"] == other
    assert await apply_creates(connection, jobs, lease) == (set(), [])
    for job in jobs[2:]:
        assert len(await events(connection, job.id)) == 1
    for job_id in (stolen, ended):
        assert await events(connection, job_id) == []


async def test_all_of_them_or_none(connection: Connection, tenant: UUID) -> None:
    await stage(connection, tenant, 5)
    await stage(connection, tenant, payload=create_payload("a@b") | {"active": "perhaps"})
    lease = uuid7()
    jobs = await take(connection, lease)
    with pytest.raises(asyncpg.PostgresError):
        await apply_creates(connection, jobs, lease)
    assert await counts(connection) == {"running": 6}
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    assert [await events(connection, job.id) for job in jobs] == [[]] * 6


async def test_two_workers_that_both_believe_to_hold_a_job_apply_it_once(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    await stage(connection, tenant, 20)
    lease = uuid7()
    jobs = await take(connection, lease)

    async def apply() -> int:
        async with pool.acquire() as mine:
            applied, _ = await apply_creates(mine, jobs, lease)
        return len(applied)

    assert sorted(await asyncio.gather(*(apply() for _ in range(4)))) == [0, 0, 0, 20]
    assert await connection.fetchval("SELECT count(*) FROM users") == 20


# Settling


@pytest.mark.parametrize("state", ["staged", "retry", "running", "dead"])
async def test_a_waiting_create_is_settled_in_the_callers_transaction(
    state: str, connection: Connection, tenant: UUID
) -> None:
    (staged,) = await stage(connection, tenant)
    worker = uuid7()
    (job,) = await take(connection, worker)
    if state != "running":
        await connection.execute("UPDATE job SET state = $1, lease_token = NULL, lease_until = NULL", state)
    before = await row(connection, staged.id)
    transaction = connection.transaction()
    await transaction.start()
    assert await settle(connection, tenant, staged.resource_id) == []
    assert await connection.fetchval("SELECT count(*) FROM users") == 1
    await transaction.rollback()
    assert {**await row(connection, staged.id), "due_in": 0, "leased_for": 0} == {
        **before,
        "due_in": 0,
        "leased_for": 0,
    }
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    async with connection.transaction():
        assert await settle(connection, tenant, staged.resource_id) == []
    assert await counts(connection) == {"done": 1}
    # The worker that had it walks away.
    assert await apply_creates(connection, [job], worker) == (set(), [])
    assert len(await events(connection, staged.id)) == 1


async def test_there_is_nothing_to_settle_once_it_is_applied_or_in_another_tenant(
    connection: Connection, tenant: UUID
) -> None:
    (staged,) = await stage(connection, tenant)
    assert await settle(connection, await new_tenant(connection), staged.resource_id) is None
    assert await settle(connection, tenant, uuid7()) is None
    assert await settle(connection, tenant, staged.resource_id) == []
    assert await settle(connection, tenant, staged.resource_id) is None


async def test_what_a_newer_version_accepted_is_not_settled(connection: Connection, tenant: UUID) -> None:
    (staged,) = await stage(connection, tenant, payload={**create_payload("ana@example.com"), "version": 2})
    with pytest.raises(UnavailableError, match="newer version"):
        async with connection.transaction():
            await settle(connection, tenant, staged.resource_id)
    assert (await row(connection, staged.id))["state"] == "staged"


async def test_a_create_that_is_applied_again_after_a_restore_makes_the_same_invitation(connection: Connection) -> None:
    tenant = await new_tenant(connection, invitations=True)
    await stage(connection, tenant, invite=True)
    made = []
    for _ in range(2):
        restored = connection.transaction()
        await restored.start()
        lease = uuid7()
        await apply_creates(connection, await take(connection, lease), lease)
        made.append(await connection.fetchval("SELECT id FROM invitation WHERE tenant_id = $1", tenant))
        await restored.rollback()
    assert made[0] is not None
    assert made[0] == made[1]


async def test_settling_rings_for_the_invitation(connection: Connection) -> None:
    tenant = await new_tenant(connection, invitations=True)
    (staged,) = await stage(connection, tenant, invite=True)
    invitations = await settle(connection, tenant, staged.resource_id)
    assert invitations is not None
    assert [(await row(connection, one))["kind"] for one in invitations] == ["invitation.send"]


# Targets


async def test_the_target_is_named_as_far_as_the_payload_tells(connection: Connection, tenant: UUID) -> None:
    payloads: list[tuple[Any, dict[str, Any]]] = [
        (create_payload("a@b", external_id="e"), {"label": "a@b", "external_id": "e"}),
        (create_payload("a@b"), {"label": "a@b"}),
        ({"doc": []}, {}),
        ([], {}),
    ]
    for payload, named in payloads:
        (staged,) = await stage(connection, tenant, payload=payload)
        found: Any = await row(connection, staged.id)
        assert target(read_job(found)) == {"type": "User", "id": str(staged.resource_id), **named}


async def test_a_lease_that_ran_out_but_that_nobody_took_still_counts(connection: Connection, tenant: UUID) -> None:
    await stage(connection, tenant)
    lease = uuid7()
    jobs = await take(connection, lease)
    await expire(connection, lease)
    applied, _ = await apply_creates(connection, jobs, lease)
    assert len(applied) == 1
