"""What is removed from the audit log, or erased from it, is accounted for: verification passes over it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models.audit.anchors import publish, read_anchors
from models.audit.erasure import erase_person
from models.audit.holds import open_holds, place_hold, release_hold
from models.audit.keys import new_signer
from models.audit.merkle import root_from
from models.audit.proof import UnprovenError, prove
from models.audit.record import SYSTEM, Event, record
from models.audit.retention import Removed, retain, rows_outside_partitions
from models.audit.seal import seal_waiting
from models.audit.verify import verify
from models.errors import UsageError
from tests.support.audit import everything_of, superuser, write_events
from tests.support.ledger import new_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from models.audit.findings import Report
    from models.audit.keys import Signer
    from models.db import Connection

WHO: dict[str, Any] = {"actor": SYSTEM, "correlation_id": UUID(int=1)}


class Log:
    """A log with events of long ago."""

    def __init__(self, url: str, connection: Connection, signer: Signer, anchors: Path) -> None:
        self.url, self.connection, self.signer, self.anchors = url, connection, signer, anchors

    async def old(self, tenant_id: UUID | None, count: int, days: int) -> None:
        """Write events as if they had been written ``days`` ago."""
        await write_events(self.connection, tenant_id, count, together=3)
        async with superuser(self.url) as connection:
            month = await connection.fetchval("SELECT date_trunc('month', now() - make_interval(days => $1))", days)
            name = f"audit_event_{month:%Y%m}"
            if await connection.fetchval("SELECT to_regclass($1)", name) is None:
                after = await connection.fetchval("SELECT $1::timestamptz + interval '1 month'", month)
                await connection.execute(
                    f"CREATE TABLE {name} PARTITION OF audit_event FOR VALUES FROM ('{month}') TO ('{after}');"
                    f" ALTER TABLE {name} OWNER TO usher_maintenance"
                )
            await connection.execute(
                "UPDATE audit_event SET occurred_at = occurred_at - make_interval(days => $1) WHERE id IN"
                " (SELECT id FROM audit_event WHERE tenant_id IS NOT DISTINCT FROM $2 AND reason = 'seen'"
                " ORDER BY occurred_at DESC LIMIT $3)",
                days,
                tenant_id,
                count,
            )

    async def seal(self) -> None:
        await seal_waiting(self.connection, self.signer)
        await publish(self.connection, self.anchors)

    async def verify(self) -> Report:
        return await verify(self.connection, [self.signer.verifier], anchors=read_anchors(self.anchors))

    async def retain(self) -> Removed:
        return await retain(self.connection, self.signer, **WHO)

    async def count(self, tenant_id: UUID | None) -> int:
        found: int = await self.connection.fetchval(
            "SELECT count(*) FROM audit_event WHERE tenant_id IS NOT DISTINCT FROM $1 AND reason = 'seen'", tenant_id
        )
        return found


@pytest.fixture
async def log(database_url: str, pool: asyncpg.Pool, tmp_path: Path) -> AsyncIterator[Log]:
    async with pool.acquire() as connection:
        await connection.execute("SET timezone = 'UTC'")
        yield Log(database_url, connection, new_signer(), tmp_path / "anchors")


# Retention


async def test_a_month_too_old_for_everybody_goes_whole_and_verification_passes_over_it(log: Log) -> None:
    acme, other = await new_tenant(log.connection), await new_tenant(log.connection)
    for tenant_id in (acme, other, None):
        await log.old(tenant_id, 6, 470)
        await log.old(tenant_id, 4, 300)
    await log.seal()
    done = await log.retain()
    assert (done.events, len(done.months), done.held) == (18, 1, False)
    assert [await log.count(one) for one in (acme, other, None)] == [4, 4, 4]
    assert await log.connection.fetchval("SELECT to_regclass($1)", done.months[0]) is None
    await log.seal()
    report = await log.verify()
    assert (report.findings, report.incomplete, report.removed) == ([], [], 18)
    event = await log.connection.fetchrow("SELECT * FROM audit_event WHERE action = 'audit.log.retain'")
    assert event is not None
    assert event["context"]["events"] == 18
    assert (await log.retain()).events == 0


async def test_a_tenant_who_wants_less_kept_loses_its_own_events_only(log: Log) -> None:
    acme, other = await new_tenant(log.connection), await new_tenant(log.connection)
    await log.connection.execute("UPDATE tenant SET audit_days = 90 WHERE id = $1", acme)
    for tenant_id in (acme, other):
        await log.old(tenant_id, 5, 100)
        await write_events(log.connection, tenant_id, 5)
    await log.seal()
    assert (await log.retain()).events == 5
    assert (await log.count(acme), await log.count(other)) == (5, 10)
    report = await log.verify()
    assert (report.findings, report.removed) == ([], 5)
    # What the tombstone does not name is still missed.
    victim = await log.connection.fetchval("SELECT id FROM audit_event WHERE tenant_id = $1 AND reason = 'seen'", acme)
    async with superuser(log.url) as connection:
        await connection.execute("DELETE FROM audit_event WHERE id = $1", victim)
    [finding] = (await log.verify()).findings
    assert (finding.kind, finding.event_id) == ("deleted", str(victim))


async def test_a_legal_hold_keeps_everything_of_its_tenant(log: Log) -> None:
    held, other = await new_tenant(log.connection), await new_tenant(log.connection)
    for tenant_id in (held, other):
        await log.old(tenant_id, 4, 470)
    await log.seal()
    hold_id = await place_hold(log.connection, tenant_id=held, reason="A case", **WHO)
    assert [hold["id"] for hold in await open_holds(log.connection)] == [hold_id]
    done = await log.retain()
    assert (done.events, done.months, done.held) == (4, [], True)
    assert (await log.count(held), await log.count(other)) == (4, 0)
    assert (await log.verify()).exit_code == 0
    await release_hold(log.connection, hold_id, **WHO)
    with pytest.raises(UsageError, match="no open hold"):
        await release_hold(log.connection, hold_id, **WHO)
    assert (await log.retain()).events == 4
    assert (await log.verify()).exit_code == 0


async def test_a_hold_on_everybody_keeps_everything(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    await log.old(tenant_id, 4, 470)
    await log.seal()
    await place_hold(log.connection, tenant_id=None, reason="A case", **WHO)
    assert (await log.retain()).held
    assert await log.count(tenant_id) == 4
    with pytest.raises(UsageError, match="needs a reason"):
        await place_hold(log.connection, tenant_id=None, reason=" ", **WHO)


async def test_nothing_goes_that_was_never_sealed(log: Log) -> None:
    await log.old(await new_tenant(log.connection), 2, 470)
    with pytest.raises(UsageError, match="no seal covers yet"):
        await log.retain()


async def test_nobody_keeps_less_than_ninety_days(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    with pytest.raises(asyncpg.CheckViolationError):
        await log.connection.execute("UPDATE tenant SET audit_days = 89 WHERE id = $1", tenant_id)


@pytest.mark.parametrize(
    "call",
    [
        "usher_delete_audit_events(gen_random_uuid(), now() - interval '91 days', '{}', '{}')",
        "usher_drop_audit_month(gen_random_uuid(), '2020-01-01')",
        "usher_erase_audit_events(gen_random_uuid(), '{}', '{}', '{}')",
        "usher_demand_audit(gen_random_uuid(), 'audit.log.retain')",
    ],
)
async def test_the_application_cannot_remove_anything_without_saying_so(call: str, log: Log) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await log.connection.execute(f"SELECT {call}")


async def test_even_an_audited_removal_leaves_ninety_days(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    event = Event(action="audit.log.retain", phase="applied", tenant_id=tenant_id, **WHO)
    statement = "SELECT usher_delete_audit_events($1, now() - interval '89 days', '{}', '{}')"
    transaction = log.connection.transaction()
    await transaction.start()
    [event_id] = await record(log.connection, [event])
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="90 days"):
        await log.connection.execute(statement, event_id)
    await transaction.rollback()


@pytest.mark.parametrize("table", ["audit_seal", "audit_leaves", "audit_key"])
async def test_the_application_cannot_change_what_is_sealed(table: str, log: Log) -> None:
    await write_events(log.connection, None, 1)
    await log.seal()
    change = f"UPDATE {table} SET {_a_column(table)} = NULL"  # noqa: S608  constants
    for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", change):  # noqa: S608  constants
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await log.connection.execute(statement)


def _a_column(table: str) -> str:
    return {"audit_seal": "root", "audit_leaves": "leaves", "audit_key": "verifier"}[table]


async def test_an_event_outside_all_partitions_is_noticed(log: Log) -> None:
    assert not await rows_outside_partitions(log.connection)
    await log.connection.execute(
        "INSERT INTO audit_event (occurred_at, id, action, phase, outcome, severity, actor_type, targets,"
        " correlation_id) VALUES (now() + interval '1 year', $1, 'x', 'applied', 'success', 1, 'system', '[]', $1)",
        uuid7(),
    )
    assert await rows_outside_partitions(log.connection)


# Erasure


async def test_a_person_is_erased_and_the_proof_survives(log: Log) -> None:
    tenant_id, other = await new_tenant(log.connection), await new_tenant(log.connection)
    [user] = set(await write_events(log.connection, tenant_id, 3, user=(person := uuid7())))
    await write_events(log.connection, tenant_id, 2)
    await write_events(log.connection, other, 1, user=person)  # the same id elsewhere is somebody else
    # A create that was refused has another id and the same name, in other letters.
    named = {"type": "User", "id": str(uuid7()), "label": f"U{user}@EXAMPLE.com"}
    await record(
        log.connection,
        [Event(action="scim.user.create", phase="denied", tenant_id=tenant_id, targets=[named], **WHO)],
    )
    await log.seal()
    await write_events(log.connection, tenant_id, 1, user=user)  # not sealed yet
    erased = await erase_person(log.connection, tenant_id=tenant_id, user_id=user, **WHO)
    # All of them have the external id e-1 in these tests, which is a name too.
    assert erased == 7
    texts = await everything_of(log.url, "audit_event", f"tenant_id = '{tenant_id}'")
    assert f"u{user}@example.com" not in texts.lower()
    assert f"u{user}@example.com" in (await everything_of(log.url, "audit_event", f"tenant_id = '{other}'")).lower()
    await log.seal()
    report = await log.verify()
    assert (report.findings, report.erased) == ([], 7)
    rows = await log.connection.fetch(
        "SELECT * FROM audit_event WHERE tenant_id = $1 AND target_id = $2 AND reason = 'seen'", tenant_id, str(user)
    )
    assert len(rows) == 4
    for row in rows:
        assert (row["salt"], row["diff"], row["actor_label"]) == (None, None, None)
        assert (row["action"], row["changed"], row["actor_id"]) == ("scim.user.create", ["userName"], "abc")
        assert row["context"] == {"method": "POST", "route": "/Users"}
        assert row["targets"] == [{"type": "User", "id": str(user)}]
    with pytest.raises(UsageError, match="No event"):
        await erase_person(log.connection, tenant_id=tenant_id, user_id=user, **WHO)
    # What was erased cannot be put back, or made up.
    async with superuser(log.url) as connection:
        await connection.execute("UPDATE audit_event SET actor_label = 'Eve' WHERE id = $1", rows[0]["id"])
    [finding] = (await log.verify()).findings
    assert (finding.kind, finding.event_id) == ("edited", str(rows[0]["id"]))


async def test_a_legal_hold_forbids_erasure(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    [user] = await write_events(log.connection, tenant_id, 1)
    await place_hold(log.connection, tenant_id=tenant_id, reason="A case", **WHO)
    with pytest.raises(UsageError, match="legal hold"):
        await erase_person(log.connection, tenant_id=tenant_id, user_id=user, **WHO)


# One event


async def test_an_event_is_proven_by_its_path_to_a_signed_root(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    await write_events(log.connection, tenant_id, 11)
    event_id = await log.connection.fetchval("SELECT id FROM audit_event WHERE reason = 'seen' OFFSET 5 LIMIT 1")
    with pytest.raises(UnprovenError, match="not sealed yet"):
        await prove(log.connection, event_id)
    await log.seal()
    proof = await prove(log.connection, event_id)
    assert proof is not None
    leaf, root = (bytes_of(proof[name]) for name in ("leaf", "root"))
    path = [bytes_of(node) for node in proof["path"]]
    assert root_from(leaf, proof["index"], proof["count"], path) == root
    assert f"root {proof['root']}" in proof["seal"]
    assert await prove(log.connection, event_id, tenant_id=await new_tenant(log.connection)) is None
    async with superuser(log.url) as connection:
        await connection.execute("UPDATE audit_event SET reason = 'x' WHERE id = $1", event_id)
    with pytest.raises(UnprovenError, match="not what was sealed"):
        await prove(log.connection, event_id)


def bytes_of(text: str) -> bytes:
    from base64 import b64decode

    return b64decode(text)


async def test_streams_without_events_are_sealed_empty_every_hour(log: Log) -> None:
    tenant_id = await new_tenant(log.connection)
    await log.seal()
    async with superuser(log.url) as connection:
        await connection.execute("UPDATE audit_seal SET sealed_at = sealed_at - $1::interval", timedelta(hours=1))
    await log.seal()
    kinds = [
        row["kind"]
        for row in await log.connection.fetch("SELECT kind FROM audit_seal WHERE stream = $1 ORDER BY seq", tenant_id)
    ]
    assert kinds == ["events", "empty"]
    await log.seal()
    assert await log.connection.fetchval("SELECT count(*) FROM audit_seal WHERE stream = $1", tenant_id) == 2


async def test_what_a_transaction_still_writes_is_not_sealed_around(log: Log, pool: asyncpg.Pool) -> None:
    tenant_id = await new_tenant(log.connection)
    await log.seal()
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        await write_events(slow, tenant_id, 2, together=2)
        await write_events(log.connection, tenant_id, 3)
        await log.seal()
        sealed = await log.connection.fetchval("SELECT sum(count) FROM audit_seal WHERE stream = $1", tenant_id)
        assert sealed == 1, "what came after the oldest open transaction waits for it"
        await transaction.commit()
    await log.seal()
    assert await log.connection.fetchval("SELECT sum(count) FROM audit_seal WHERE stream = $1", tenant_id) == 6
    assert (await log.verify()).exit_code == 0
