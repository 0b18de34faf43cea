"""What somebody who owns the whole database server does to the audit log is found out: by class, and to the row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from models.audit import rows
from models.audit.anchors import publish, read_anchors
from models.audit.canonical import leaf_of
from models.audit.keys import new_signer
from models.audit.lines import lines
from models.audit.note import read_seal
from models.audit.seal import COLUMNS, seal_waiting, signed, write_seals
from models.audit.verify import verify
from tests.support.audit import superuser, write_events
from tests.support.ledger import new_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from models.audit.findings import Report
    from models.audit.keys import Signer
    from models.db import Connection

ROUNDS = 4


class Log:
    """A sealed audit log of two tenants, and the files that belong to it."""

    def __init__(self, url: str, connection: Connection, signer: Signer, anchors: Path) -> None:
        self.url = url
        self.connection = connection
        self.signer = signer
        self.anchors = anchors
        self.tenant_id = UUID(int=0)

    async def grow(self, rounds: int = ROUNDS) -> None:
        """Write and seal a few events, some rounds of it."""
        for _ in range(rounds):
            await write_events(self.connection, self.tenant_id, 7)
            await seal_waiting(self.connection, self.signer)

    async def publish(self) -> None:
        await publish(self.connection, self.anchors)

    async def verify(self) -> Report:
        known = read_anchors(self.anchors) if self.anchors.exists() else None
        return await verify(self.connection, [self.signer.verifier], anchors=known)

    async def rows(self) -> list[dict[str, Any]]:
        """Return the tenant's events in the order in which they are sealed."""
        found = await self.connection.fetch(
            "SELECT * FROM audit_event WHERE tenant_id = $1 ORDER BY xid, id", self.tenant_id
        )
        return [dict(row) for row in found]

    async def as_superuser(self, statement: str, *values: Any) -> None:
        async with superuser(self.url) as connection:
            await connection.execute(statement, *values)


@pytest.fixture
async def log(database_url: str, pool: asyncpg.Pool, tmp_path: Path) -> AsyncIterator[Log]:
    async with pool.acquire() as connection:
        one = Log(database_url, connection, new_signer(), tmp_path / "anchors")
        one.tenant_id = await new_tenant(connection)
        await write_events(connection, await new_tenant(connection), 5)
        await write_events(connection, None, 2)
        await one.grow()
        await one.publish()
        assert (await one.verify()).exit_code == 0
        yield one


def found(report: Report) -> set[tuple[str, str | None]]:
    """Return class and row of each finding."""
    return {(finding.kind, finding.event_id) for finding in report.findings}


async def test_a_log_that_nobody_touched_is_clean(log: Log) -> None:
    report = await log.verify()
    assert (report.findings, report.incomplete, report.exit_code) == ([], [], 0)
    assert (report.streams, report.anchors) == (3, 3)
    assert report.events == await log.connection.fetchval("SELECT count(*) FROM audit_event")


EDITS = {
    "occurred_at": "occurred_at - interval '1 second'",
    "tenant_id": "gen_random_uuid()",
    "action": "'scim.user.delete'",
    "phase": "'failed'",
    "outcome": "'failure'",
    "reason": "'other'",
    "severity": "5",
    "actor_type": "'operator'",
    "actor_id": "'xyz'",
    "actor_label": "'Somebody'",
    "targets": """'[{"type": "User", "id": "1"}]'""",
    "correlation_id": "gen_random_uuid()",
    "job_id": "NULL",
    "context": "NULL",
    "diff": """'[{"op": "add", "path": "userName", "after": "eve@example.com"}]'""",
    "changed": "'{active}'",
    "schema_version": "2",
    "salt": "gen_random_uuid()",
    "personal_hash": "'\\x00'",
    "erasure_id": "gen_random_uuid()",
    "id": "gen_random_uuid()",
}


@pytest.mark.parametrize("column", EDITS)
async def test_an_edited_column_is_found_in_its_row(column: str, log: Log) -> None:
    victim = (await log.rows())[10]
    await log.as_superuser(
        f"UPDATE audit_event SET {column} = {EDITS[column]} WHERE correlation_id = $1",  # noqa: S608  constants
        victim["correlation_id"],
    )
    report = await log.verify()
    assert {finding.kind for finding in report.findings} == {"edited"}
    [event] = {finding.event_id for finding in report.findings}
    if column == "id":
        assert str(victim["id"]) in report.findings[0].detail
    else:
        assert event == str(victim["id"])
    assert report.exit_code == 2
    assert report.findings[0].stream == log.tenant_id


async def test_every_column_of_an_event_is_under_its_leaf(log: Log) -> None:
    columns = await log.connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'audit_event'::regclass AND attnum > 0"
    )
    generated = {"target_type", "target_id"}  # no statement can set them; they are in the leaf none the less
    assert {column["attname"] for column in columns} - generated - {"xid"} == set(EDITS)
    text = await log.connection.fetchval(lines("true", "LIMIT 1"))
    assert len({leaf_of(text, **{name: "x"}).hash for name in generated} | {leaf_of(text).hash}) == 3


async def test_an_emptied_event_that_no_erasure_accounts_for_is_edited(log: Log) -> None:
    victim, other = (await log.rows())[5:7]
    await log.as_superuser(
        "UPDATE audit_event SET diff = NULL, actor_label = NULL, context = context - 'ip', salt = NULL,"
        """ targets = '[{"type": "User"}]', erasure_id = $2 WHERE id = $1""",
        victim["id"],
        other["id"],
    )
    assert ("edited", str(victim["id"])) in found(await log.verify())


async def test_a_deleted_event_is_named(log: Log) -> None:
    victims = (await log.rows())[3:5]
    await log.as_superuser("DELETE FROM audit_event WHERE id = ANY ($1)", [victim["id"] for victim in victims])
    assert found(await log.verify()) == {("deleted", str(victim["id"])) for victim in victims}


@pytest.mark.parametrize("place", [0, 9])
async def test_an_event_inserted_in_the_past_is_found(place: int, log: Log) -> None:
    beside = (await log.rows())[place]
    inserted = uuid7()
    await log.as_superuser(
        "INSERT INTO audit_event (occurred_at, id, xid, tenant_id, action, phase, outcome, severity, actor_type,"
        " targets, correlation_id) VALUES ($1, $2, $3::text::xid8, $4, 'scim.user.delete', 'applied', 'success', 1,"
        " 'job', '[]', $2)",
        beside["occurred_at"],
        inserted,
        str(beside["xid"]),
        log.tenant_id,
    )
    assert found(await log.verify()) == {("inserted", str(inserted))}


@pytest.mark.parametrize("tenant", [None, "unknown"])
async def test_an_event_inserted_where_its_tenant_had_none_is_found(tenant: str | None, log: Log) -> None:
    beside = (await log.rows())[12]
    inserted = uuid7()
    await log.as_superuser(
        "INSERT INTO audit_event (occurred_at, id, xid, tenant_id, action, phase, outcome, severity, actor_type,"
        " targets, correlation_id) VALUES ($1, $2, $3::text::xid8, $4, 'scim.user.delete', 'applied', 'success', 1,"
        " 'job', '[]', $2)",
        beside["occurred_at"],
        inserted,
        str(beside["xid"]),
        tenant and uuid7(),
    )
    assert found(await log.verify()) == {("inserted", str(inserted))}


@pytest.mark.parametrize(("first", "second"), [(1, 2), (8, 23)])
async def test_two_events_that_changed_places_are_found(first: int, second: int, log: Log) -> None:
    rows = await log.rows()
    one, two = rows[first], rows[second]
    for row, xid in ((one, two["xid"]), (two, one["xid"])):
        await log.as_superuser("UPDATE audit_event SET xid = $2::text::xid8 WHERE id = $1", row["id"], str(xid))
    assert found(await log.verify()) == {("reordered", str(one["id"])), ("reordered", str(two["id"]))}


async def test_what_left_its_window_is_found_in_another(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await log.verify()
    monkeypatch.setattr(rows, "WINDOW", 1)  # one for each round of sealing
    clean = await log.verify()
    assert clean.exit_code == 0
    assert clean.events == whole.events > 0
    events = await log.rows()
    one, two = events[8], events[23]
    for row, xid in ((one, two["xid"]), (two, one["xid"])):
        await log.as_superuser("UPDATE audit_event SET xid = $2::text::xid8 WHERE id = $1", row["id"], str(xid))
    await log.as_superuser("UPDATE audit_event SET reason = 'other' WHERE id = $1", events[1]["id"])
    await log.as_superuser("DELETE FROM audit_event WHERE id = $1", events[15]["id"])
    assert found(await log.verify()) == {
        ("reordered", str(one["id"])),
        ("reordered", str(two["id"])),
        ("edited", str(events[1]["id"])),
        ("deleted", str(events[15]["id"])),
    }


async def test_an_event_that_was_moved_behind_all_seals_is_found(log: Log) -> None:
    victim = (await log.rows())[4]
    await log.as_superuser("UPDATE audit_event SET xid = '9000000000' WHERE id = $1", victim["id"])
    assert found(await log.verify()) == {("reordered", str(victim["id"]))}


async def test_a_seal_dropped_from_the_middle_is_named(log: Log) -> None:
    await log.as_superuser("DELETE FROM audit_seal WHERE stream = $1 AND seq = 2", log.tenant_id)
    [finding] = (await log.verify()).findings
    assert (finding.kind, finding.stream, finding.seq) == ("seal_dropped", log.tenant_id, 2)


async def test_an_edited_seal_is_named(log: Log) -> None:
    await log.as_superuser("UPDATE audit_seal SET count = 6 WHERE stream = $1 AND seq = 2", log.tenant_id)
    kinds = {(finding.kind, finding.seq) for finding in (await log.verify()).findings}
    assert ("edited", 2) in kinds
    assert {kind for kind, _ in kinds} == {"edited"}


async def test_leaves_that_were_changed_with_their_event_do_not_hide_it(log: Log) -> None:
    victim = (await log.rows())[10]
    await log.as_superuser("UPDATE audit_event SET reason = 'other' WHERE id = $1", victim["id"])
    await log.as_superuser("UPDATE audit_leaves SET leaves = '' WHERE stream = $1", log.tenant_id)
    report = await log.verify()
    assert {finding.kind for finding in report.findings} == {"edited"}
    assert {finding.seq for finding in report.findings} == {2}


async def test_a_log_cut_off_at_its_end_is_truncated(log: Log) -> None:
    last = (await log.rows())[-7:]
    await log.as_superuser("DELETE FROM audit_event WHERE id = ANY ($1)", [row["id"] for row in last])
    await log.as_superuser("DELETE FROM audit_seal WHERE stream = $1 AND seq = $2", log.tenant_id, ROUNDS)
    await write_events(log.connection, None, 1)
    [finding] = (await log.verify()).findings
    assert (finding.kind, finding.stream, finding.seq) == ("truncated", log.tenant_id, ROUNDS)


async def test_the_last_seal_dropped_without_its_events_is_truncated(log: Log) -> None:
    await log.as_superuser("DELETE FROM audit_seal WHERE stream = $1 AND seq = $2", log.tenant_id, ROUNDS)
    await write_events(log.connection, None, 1)
    assert found(await log.verify()) == {("truncated", None)}


async def test_seals_signed_anew_with_another_key_are_named(log: Log) -> None:
    stranger = new_signer()
    victim = (await log.rows())[10]
    await log.as_superuser("DELETE FROM audit_event WHERE id = $1", victim["id"])
    async with superuser(log.url) as connection:
        await connection.execute("INSERT INTO audit_key VALUES ($1, $2)", *key(stranger))
        await connection.execute("DELETE FROM audit_leaves WHERE stream = $1", log.tenant_id)
        rows = await connection.fetch(
            f"DELETE FROM audit_seal WHERE stream = $1 RETURNING {', '.join(COLUMNS)}",  # noqa: S608  constants
            log.tenant_id,
        )
        await write_seals(connection, [signed(read_seal(row), stranger) for row in rows])
    findings = (await log.verify()).findings
    assert {finding.seq for finding in findings if finding.kind == "re_signed"} == {1, 2, 3, 4}


def key(signer: Signer) -> tuple[str, str]:
    return signer.verifier.key_id, signer.verifier.text


async def test_a_signature_that_was_exchanged_under_the_same_name_is_named(log: Log) -> None:
    await log.as_superuser(
        "UPDATE audit_seal SET signature = decode(repeat('00', 64), 'hex') WHERE stream = $1 AND seq = 3", log.tenant_id
    )
    [finding] = (await log.verify()).findings
    assert (finding.kind, finding.seq) == ("re_signed", 3)


async def test_without_anchors_or_late_the_verification_is_incomplete(log: Log) -> None:
    report = await verify(log.connection, [log.signer.verifier])
    assert report.exit_code == 3
    assert "Without anchors" in report.incomplete[0]
    await write_events(log.connection, log.tenant_id, 1)
    await log.as_superuser(
        "UPDATE audit_event SET occurred_at = occurred_at - interval '1 hour'"
        " WHERE occurred_at = (SELECT max(occurred_at) FROM audit_event)"
    )
    [sentence] = (await log.verify()).incomplete
    assert sentence.startswith("1 events since ")


# An old copy put in the place of the database


async def test_an_old_copy_of_the_database_is_known_by_the_anchors(log: Log) -> None:
    copy = [dict(row) for row in await log.connection.fetch("SELECT * FROM audit_seal")]
    await log.grow(1)
    await log.publish()
    # The database as it was before: nothing in it is younger than the copy.
    last = (await log.rows())[-7:]
    await log.as_superuser("DELETE FROM audit_event WHERE id = ANY ($1)", [row["id"] for row in last])
    await log.as_superuser(
        "DELETE FROM audit_seal WHERE NOT (stream, seq) = ANY "
        "(SELECT stream, seq FROM unnest($1::uuid[], $2::bigint[]) AS s (stream, seq))",
        [row["stream"] for row in copy],
        [row["seq"] for row in copy],
    )
    kinds = {finding.kind for finding in (await log.verify()).findings}
    assert kinds == {"rolled_back"}
    await log.as_superuser(
        "DELETE FROM audit_leaves WHERE NOT EXISTS "
        "(SELECT FROM audit_seal AS s WHERE s.stream = audit_leaves.stream AND s.seq = audit_leaves.seq)"
    )
    # And as it went on from there: another seal of the same number.
    await log.grow(1)
    kinds = {finding.kind for finding in (await log.verify()).findings}
    assert kinds == {"rolled_back"}
