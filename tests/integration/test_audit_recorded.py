"""What the system does to itself and its jobs is in the audit log too (reference/audit-logs.md §3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from uuid_utils.compat import uuid7

from models import jobs
from models.audit.query import search_events
from models.audit.record import make_partitions
from models.errors import PermanentJobError, RetryableJobError
from models.heartbeat import Heartbeat, identify
from models.jobs import PROVISION
from models.migrations.run import head, upgrade
from tests.support.api import make_tenant, serving
from tests.support.ledger import new_tenant, stage
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from models.settings import Settings


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


async def events(connection: Connection, text: str, tenant_id: UUID | None = None) -> list[dict[str, Any]]:
    """Return what a search finds, oldest first."""
    return (await search_events(connection, text, tenant_id=tenant_id, secret=b"")).events[::-1]


async def test_a_process_is_said_to_begin_and_to_end(pool: asyncpg.Pool, connection: Connection) -> None:
    identity = identify(uuid7(), "worker", queues=["provision"])
    heartbeat = Heartbeat(pool, identity)
    await heartbeat._beat()
    await heartbeat._beat()
    await heartbeat.stop()
    began, ended = await events(connection, f"correlation:{identity.id}")
    assert (began["action"], ended["action"]) == ("system.process.start", "system.process.stop")
    assert began["actor_type"] == "system"
    assert began["targets"][0]["id"] == str(identity.id)
    assert began["context"] == {"version": identity.version, "queues": ["provision"]}


async def test_a_migration_is_said_once(settings: Settings, connection: Connection) -> None:
    (event,) = await events(connection, "action:system.schema.migrate")
    assert event["context"] == {"from": "nothing", "to": head()}
    await upgrade(settings.database_url.get_secret_value())
    assert len(await events(connection, "action:system.schema.migrate")) == 1, "there was nothing to do"


async def test_months_made_ahead_are_said(connection: Connection) -> None:
    assert await make_partitions(connection, 3) == 0
    assert await events(connection, "action:system.partition.create") == []
    assert await make_partitions(connection, 5) == 2
    (event,) = await events(connection, "action:system.partition.create")
    assert event["context"] == {"partitions": 2, "months_ahead": 5}


async def test_each_attempt_that_fails_or_is_lost_is_said(connection: Connection) -> None:
    tenant_id = await new_tenant(connection)
    (job,) = await stage(connection, tenant_id)
    for error in (RetryableJobError("flaky"), None, PermanentJobError("hopeless")):
        lease = uuid7()
        await connection.execute("UPDATE job SET run_at = now()")
        (claimed,) = await jobs.claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=1)
        if error is None:
            await connection.execute("UPDATE job SET lease_until = now() - interval '1 s'")
            assert len(await jobs.rescue(connection)) == 1
        else:
            assert await jobs.fail(connection, claimed, lease, error) is not None
            assert await jobs.fail(connection, claimed, lease, error) is None, "the lease is gone"
    said = await events(connection, f"job:{job.id}", tenant_id)
    assert [(one["action"], one["reason"], one["context"]["attempt"], one["context"]["state"]) for one in said] == [
        ("job.attempt.fail", "flaky", 1, "retry"),
        ("job.attempt.rescue", "lease_expired", 2, "retry"),
        ("job.attempt.fail", "hopeless", 3, "dead"),
    ]
    assert {one["correlation_id"] for one in said} == {job.correlation_id}


@pytest.mark.parametrize(("path", "scopes"), [("/scim/v2/Users", ("audit",)), ("/audit/events", ("scim",))])
async def test_a_token_of_another_scope_is_refused_in_its_tenants_log(
    path: str, scopes: tuple[str, ...], settings: Settings, connection: Connection
) -> None:
    async with serving(settings) as api:
        tenant = await make_tenant(api.settings, scopes=scopes)
        url = api.scim_url.removesuffix("/scim/v2") + path
        async with api.session.get(url, headers={"Authorization": f"Bearer {tenant.token}"}) as response:
            assert response.status == 403

        async def refusals() -> list[dict[str, Any]]:
            return await events(connection, "action:auth.request.deny", tenant.id)

        (event,) = await wait_until(refusals, "the refusal is in the log")
    assert (event["reason"], event["actor_id"], event["phase"]) == ("scope", tenant.token_id, "denied")
    assert event["context"]["status"] == 403
