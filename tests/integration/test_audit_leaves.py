"""The leaves that sealing and verifying make straight from the table are those of the events' lines."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from models.audit import leaves
from models.audit.canonical import PLATFORM, leaf_of
from models.audit.leaves import line_of, place_of, read, rows_of
from models.audit.lines import each_block, lines
from tests.support.ledger import new_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from models.db import Connection

ODD = 'a"b\\c\n\t\x01\x02\x7fž\u2028\U0010ffff,{} 0'
USER = {"type": "User", "id": "7", "label": "ana@example.com", "external_id": "e-7"}
PLAIN: dict[str, Any] = {
    "targets": [USER],
    "context": {"route": "/Users", "ip": "192.0.2.7", "status": 201},
    "diff": [{"op": "replace", "path": "title", "before": "Room 5", "after": "x"}],
    "changed": ["title"],
}
KINDS: list[dict[str, Any]] = [
    {},
    {"actor_label": ODD, "actor_id": ODD, "reason": ODD, "changed": [ODD, None, ""]},
    {"targets": [{**USER, "label": ODD}], "context": {ODD: ODD, "user_agent": ODD}, "diff": [{ODD: ODD}]},
    {"targets": [], "context": None, "diff": None, "changed": None},
    {"targets": [USER, {"type": "Group"}, {}], "context": {}, "diff": [], "changed": []},
    {"targets": [{**USER, "label": None, "id": None}]},
    {"targets": [{**USER, "label": ""}], "context": {"ip": None}},
    {"targets": [{**USER, "label": ': "'}], "diff": [{"path": "x", "after": '": 1.5'}]},
    {"targets": [{**USER, "type": "a", "also": "b"}]},
    {"targets": [{"id": "7", "type": "User", "label": "x", "external_ie": "y"}]},
    {"diff": [{"path": "x", "after": 1.5}]},
    {"diff": [{"path": "x", "after": [0.1, {"y": [-12345678901234567890123]}]}]},
    {"diff": [{"path": "x", "after": [2**60, -5, 0, True, None]}]},
    {"diff": 1.5},
    {"diff": "x"},
    {"diff": {"op": "add", "after": -2.5}},
    {"context": {"duration": 0.25}},
    {"targets": [{"type": "User", "id": 1.25}]},
    {"targets": [7, "x", None], "context": ["ip"], "diff": {"op": "add"}},
    {"targets": {"id": "7"}, "context": "ip and peer", "diff": 1.5},
    {"targets": 5, "context": 1.5, "diff": "x"},
    {"targets": None, "context": False, "diff": 7},
]


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


def chance(dice: Random, deep: int = 3) -> Any:
    """Return some JSON value."""
    kind = dice.randrange(9 if deep else 6)
    if kind >= 7:
        return {word(dice): chance(dice, deep - 1) for _ in range(dice.randrange(4))}
    if kind == 6:
        return [chance(dice, deep - 1) for _ in range(dice.randrange(4))]
    return [None, True, word(dice), word(dice), dice.randrange(-(2**70), 2**70), dice.uniform(-9, 9)][kind]


def word(dice: Random) -> str:
    return "".join(dice.choice([ODD, *ODD, "id", "type", "label", "ip", '": ', "-1", " 1."]) for _ in range(5))


async def write(connection: Connection, tenant_id: UUID | None, number: int, event: dict[str, Any]) -> None:
    """Write an event as it is, whatever it is, past `models.audit.record`."""
    texts = {name: json.dumps(event[name]) for name in ("targets", "context", "diff")}
    if event["context"] is None:
        texts["context"] = None  # type: ignore[assignment]  # the column is empty, not JSON's null
    await connection.execute(
        "INSERT INTO audit_event (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id,"
        " actor_label, targets, correlation_id, context, diff, changed) VALUES (gen_random_uuid(), $1, 'a', 'applied',"
        " 'success', $2, $3, 'token', $4, $5, $6::text::jsonb, gen_random_uuid(), $7::text::jsonb, $8::text::jsonb,"
        " $9)",
        *(tenant_id, event.get("reason"), number % 5, event.get("actor_id"), event.get("actor_label")),
        *(texts["targets"], texts["context"], texts["diff"], event["changed"]),
    )


async def taken(connection: Connection, statement: str) -> list[bytes]:
    found: list[bytes] = []
    await each_block(connection, statement, work=lambda block: found.extend(block.splitlines(keepends=True)))
    return found


async def hold(connection: Connection) -> list[bytes]:
    """Hold both ways to each other over the whole log; return the rows."""
    order = " ORDER BY e.id"
    rows = await taken(connection, rows_of(f"true{order}"))
    events = await taken(connection, lines("true", order))
    assert len(rows) == len(events) > 1
    together = read(b"".join(rows))
    for row, line, (tail, event_id, leaf, sound, erasure_id) in zip(rows, events, together, strict=True):
        assert read(row) == [(tail, event_id, leaf, sound, erasure_id)]
        other = leaf_of(line)
        stream, xid = place_of(tail)
        assert (str(stream), xid, event_id) == (other.stream, other.xid, other.id)
        assert (leaf, sound, erasure_id) == (other.hash, other.sound, other.erasure_id), line
        assert leaf_of(line_of(row.rstrip(b"\n"))) == other
    return rows


@pytest.mark.parametrize("kind", range(len(KINDS)))
async def test_a_leaf_is_that_of_the_line(kind: int, connection: Connection) -> None:
    for tenant_id in (None, await new_tenant(connection)):
        await write(connection, tenant_id, kind, PLAIN | KINDS[kind])
    await hold(connection)


async def test_events_of_every_kind_are_read_together(connection: Connection) -> None:
    for number, kind in enumerate([*KINDS, *KINDS]):
        await write(connection, None, number, PLAIN | kind)
    await connection.execute(
        "INSERT INTO audit_event (id, action, phase, outcome, severity, actor_type, targets, correlation_id, salt,"
        " personal_hash, erasure_id) SELECT gen_random_uuid(), 'a', 'applied', 'success', 1, 'token', '[]',"
        " gen_random_uuid(), salt, sha256('x'), erasure FROM (VALUES (NULL::uuid, gen_random_uuid()), (NULL, NULL),"
        " (gen_random_uuid(), NULL), (gen_random_uuid(), gen_random_uuid())) AS v (salt, erasure)"
    )
    await hold(connection)


async def test_leaves_of_anything_are_those_of_the_lines(connection: Connection) -> None:
    dice = Random(11)  # noqa: S311  the same events in every run
    for number in range(500):
        event = {name: [{word(dice): chance(dice), "id": word(dice)}] for name in ("targets", "diff")}
        labels = {"actor_label": word(dice), "changed": [word(dice)]}
        await write(connection, None, number, PLAIN | event | labels | {"context": {word(dice): chance(dice)}})
    await hold(connection)


async def test_a_usual_event_does_not_go_the_long_way(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(connection, None, 1, PLAIN)
    await write(connection, None, 2, PLAIN | {"targets": [USER, {"type": "Group", "id": "8"}], "diff": None})
    [*some] = await taken(connection, rows_of("e.action = 'a'"))

    def long(_: bytes) -> None:
        raise AssertionError("the long way was taken")

    monkeypatch.setattr(leaves, "leaf_of", long)
    found = read(b"".join(some))
    assert len({leaf for _, _, leaf, _, _ in found}) == 2
    assert {place_of(tail)[0] for tail, _, _, _, _ in found} == {PLATFORM}
