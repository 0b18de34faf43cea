"""Exports: every format says the same, and a script that knows nothing of us verifies what was exported as lines."""

from __future__ import annotations

import ast
import asyncio
import csv
import hashlib
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from models.audit.actions import ACTIONS
from models.audit.anchors import publish
from models.audit.erasure import erase_person
from models.audit.export import export_events, tell, write_manifest
from models.audit.keys import new_signer
from models.audit.lines import each_block, lines
from models.audit.ocsf import as_ocsf
from models.audit.record import SYSTEM, Actor, Event, record
from models.audit.seal import know_key, seal_waiting
from models.audit.search import read_search
from tests.support.audit import write_events
from tests.support.ledger import new_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from models.audit.export import Exported
    from models.db import Connection

VERIFIER = Path(__file__).parents[2] / "deploy" / "verify_audit.py"
WHO: dict[str, Any] = {"actor": SYSTEM, "correlation_id": UUID(int=1)}


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


async def exported(
    connection: Connection, folder: Path, *, form: str = "jsonl", text: str = "", tenant_id: UUID | None = None
) -> tuple[Exported, Path, dict[str, Any]]:
    """Export to files; returns what was done, the file and the manifest."""
    now = await connection.fetchval("SELECT now()")
    search = read_search(text, now=now)
    out, beside = folder / "events", folder / "manifest"
    with out.open("wb") as file, beside.open("wb") as manifest:
        done = await export_events(connection, search, tenant_id=tenant_id, form=form, file=file)
        await write_manifest(connection, done, text=text, search=search, form=form, file=manifest)
    return done, out, json.loads(beside.read_text())


async def test_a_line_is_what_postgresql_writes_of_the_row_to_the_byte(connection: Connection) -> None:
    odd = 'a"b\\c\n\t\x01\x02\x7fž\u2028\U0010ffff,{}'
    kinds: list[tuple[Any, ...]] = [
        (None, None, None, [], None, None),
        (uuid7(), uuid7(), odd, [{"type": odd, "id": odd, "label": odd}], {odd: odd}, [{"path": odd, "n": 1.5}]),
        (uuid7(), None, "", [{"id": ""}], {}, [{"path": "x", "after": None}, {"path": "y", "after": [2**60]}]),
    ]
    await record(
        connection,
        [
            Event(
                action="scim.user.update",
                phase="applied",
                actor=Actor("token", id=odd, label=odd),
                correlation_id=uuid7(),
                tenant_id=tenant_id,
                reason=reason,
                targets=targets,
                job_id=job_id,
                context=context,
                diff=diff,
            )
            for tenant_id, job_id, reason, targets, context, diff in kinds
        ],
    )
    fields = """
        e.id, e.xid::text AS xid, e.tenant_id,
        to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at,
        e.action, e.phase, e.outcome, e.reason, e.severity, e.actor_type, e.actor_id, e.actor_label, e.targets,
        e.target_type, e.target_id, e.correlation_id, e.job_id, e.context, e.diff, e.changed, e.schema_version, e.salt,
        encode(e.personal_hash, 'hex') AS personal_hash, e.erasure_id
    """
    rows = await connection.fetch(
        f"SELECT row_to_json(x)::text AS line FROM (SELECT {fields} FROM audit_event AS e ORDER BY e.xid, e.id) AS x"  # noqa: S608  tests' own
    )
    found: list[bytes] = []
    await each_block(
        connection, lines("true", "ORDER BY e.xid, e.id"), work=lambda block: found.extend(block.splitlines())
    )
    assert len(found) > 2
    assert found == [row["line"].encode() for row in rows]


async def test_the_lines_are_the_events_oldest_first(connection: Connection, tmp_path: Path) -> None:
    tenant_id = await new_tenant(connection)
    await write_events(connection, tenant_id, 30)
    await write_events(connection, await new_tenant(connection), 3)
    done, out, manifest = await exported(connection, tmp_path, tenant_id=tenant_id)
    events = [json.loads(text) for text in out.read_text().splitlines()]
    rows = await connection.fetch("SELECT * FROM audit_event WHERE tenant_id = $1 ORDER BY occurred_at, id", tenant_id)
    assert [event["id"] for event in events] == [str(row["id"]) for row in rows]
    for event, row in zip(events, rows, strict=True):
        for name in ("targets", "diff", "context", "changed", "action", "actor_label"):
            assert event[name] == row[name]
        assert datetime.fromisoformat(event["occurred_at"]) == row["occurred_at"]
    assert (done.rows, done.first_id, done.last_id) == (31, events[0]["id"], events[-1]["id"])
    assert done.size == out.stat().st_size
    assert manifest["sha256"] == done.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert {name: manifest[name] for name in ("rows", "format", "first_id")} == {
        "rows": 31,
        "format": "jsonl",
        "first_id": done.first_id,
    }


async def test_a_search_decides_what_is_exported_and_the_tenant_stands_beside_it(
    connection: Connection, tmp_path: Path
) -> None:
    acme, other = await new_tenant(connection), await new_tenant(connection)
    [user, _] = await write_events(connection, acme, 2)
    await write_events(connection, other, 1, user=user)
    for text, expected in (
        ("action:scim.user.*,tenant.settings.create", 3),
        (f"target:{user}", 1),
        (f"tenant:{other}", 0),
        ("-action:scim.user.create created:7d", 1),
    ):
        done, out, _ = await exported(connection, tmp_path, text=text, tenant_id=acme)
        assert (done.rows, len(out.read_text().splitlines())) == (expected, expected), text


async def test_a_spreadsheet_calculates_nothing(connection: Connection, tmp_path: Path) -> None:
    tenant_id = await new_tenant(connection)
    for label in ("=1+1", "+1", "-1", "@SUM(A1)", 'a "quoted", \\ name\nin lines'):
        target = {"type": "User", "id": "1", "label": label}
        await record(
            connection,
            [Event(action="scim.user.update", phase="applied", tenant_id=tenant_id, targets=[target], **WHO)],
        )
    _, out, _ = await exported(connection, tmp_path, form="csv", tenant_id=tenant_id)
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    labels = [row["target_label"] for row in rows if row["action"] == "scim.user.update"]
    assert labels == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", 'a "quoted", \\ name\nin lines']


async def test_every_action_is_an_ocsf_event(connection: Connection, tmp_path: Path) -> None:
    tenant_id = await new_tenant(connection)
    targets = [{"type": "Group", "id": "7", "label": "Staff"}, {"type": "User", "id": "8", "label": "ana"}]
    for action in ACTIONS:
        await record(
            connection,
            [
                Event(
                    action=action,
                    phase="applied",
                    tenant_id=tenant_id,
                    targets=targets,
                    context={"ip": "192.0.2.7"},
                    **WHO,
                )
            ],
        )
    _, out, manifest = await exported(connection, tmp_path, form="ocsf", tenant_id=tenant_id)
    events = [json.loads(text) for text in out.read_text().splitlines()]
    by_action = {event["metadata"]["event_code"]: event for event in events}
    assert by_action.keys() >= ACTIONS.keys()
    for event in events:
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert event["category_uid"] == 3
        assert abs(event["time"] / 1000 - datetime.now(UTC).timestamp()) < 600
    uids = {name: by_action[name]["type_uid"] for name in by_action}
    assert uids["scim.user.create"] == 300701
    assert uids["scim.user.update"] == 300702
    assert uids["scim.user.disable"] == 300705
    assert uids["scim.group.create"] == 300606
    assert uids["scim.group.member.add"] == 300603
    assert uids["auth.token.issue"] == 300401
    assert uids["ops.queue.pause"] == 300409
    member = by_action["scim.group.member.add"]
    assert (member["group"]["uid"], member["user"]["uid"]) == ("7", "8")
    assert member["src_endpoint"] == {"ip": "192.0.2.7"}
    assert manifest["schema"].startswith("OCSF 1.9")
    with pytest.raises(KeyError):
        as_ocsf({})


async def test_an_export_is_audited_with_its_search_where_it_can_be_erased(connection: Connection) -> None:
    tenant_id = await new_tenant(connection)
    await tell(connection, uuid7(), text="target:ana@example.com", form="csv", rows=7, tenant_id=tenant_id, **WHO)
    row = await connection.fetchrow("SELECT * FROM audit_event WHERE action = 'audit.log.export'")
    assert row is not None
    assert row["targets"][0]["label"] == "target:ana@example.com"
    assert row["context"] == {"format": "csv", "events": 7}


# The script for auditors


class Sealed:
    """An export of sealed events, and the script that verifies it."""

    def __init__(self, folder: Path, key: str) -> None:
        self.events, self.manifest, self.anchors = folder / "events", folder / "manifest", folder / "anchors"
        self.key = key

    async def run(self, *more: str, key: str | None = None) -> tuple[int, str]:
        """Run the script, isolated from everything that is installed but the standard library and site-packages."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(VERIFIER), str(self.events), str(self.manifest)),
            *("--key", key or self.key, "--anchors", str(self.anchors), *more),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()


@pytest.fixture
async def sealed(connection: Connection, tmp_path: Path) -> Sealed:
    signer = new_signer()
    await know_key(connection, signer)
    tenant_id = await new_tenant(connection)
    [user, *_] = await write_events(connection, tenant_id, 9)
    odd = {"op": "add", "path": "x", "after": {"ž": [1.10, 2**63, -0.5, None], "a": '\u2028\\"é\n'}}
    await record(
        connection, [Event(action="scim.user.update", phase="applied", tenant_id=tenant_id, diff=[odd], **WHO)]
    )
    await connection.execute(
        "INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, targets, correlation_id,"
        """ diff) VALUES ($1, $2, 'scim.user.update', 'applied', 'success', 1, 'job', '[]', $1,"""
        """ '[{"after": 12345678901234567890.10}]'::text::jsonb)""",
        uuid7(),
        tenant_id,
    )
    await seal_waiting(connection, signer)
    await write_events(connection, tenant_id, 4)
    await seal_waiting(connection, signer)
    await publish(connection, tmp_path / "anchors")
    await erase_person(connection, tenant_id=tenant_id, user_id=user, **WHO)
    await seal_waiting(connection, signer)
    await exported(connection, tmp_path, tenant_id=tenant_id)
    return Sealed(tmp_path, signer.verifier.text)


async def test_the_script_verifies_an_export_with_erased_events(sealed: Sealed) -> None:
    assert await sealed.run() == (0, "17 events verified under 3 seals; 0 more are not here.\n")


def test_the_script_imports_nothing_of_ours() -> None:
    tree = ast.parse(VERIFIER.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - sys.stdlib_module_names == {"cryptography"}
    assert len(VERIFIER.read_text().splitlines()) < 220


async def test_the_script_finds_what_was_done_to_an_export(sealed: Sealed) -> None:
    lines = sealed.events.read_text().splitlines(keepends=True)
    sealed.events.write_text("".join(lines).replace('"phase":"applied"', '"phase":"failed"', 1))
    status, out = await sealed.run()
    assert status == 2
    assert f"event {json.loads(lines[0])['id']} (line 1) is under no seal" in out
    assert "not the one that the manifest was written for" in out
    sealed.events.write_text("".join([*lines, lines[0]]))
    assert "is there twice" in (await sealed.run())[1]
    sealed.events.write_text("".join(lines))
    assert (await sealed.run(key=new_signer().verifier.text))[0] == 2
    manifest = sealed.manifest.read_text()
    sealed.manifest.write_text(manifest.replace("count 12", "count 11"))
    status, out = await sealed.run()
    assert status == 2
    assert "re_signed: seal 1" in out
    assert "edited: the leaves of seal 1" in out


async def test_the_script_verifies_an_export_of_everybody(
    connection: Connection, sealed: Sealed, tmp_path: Path
) -> None:
    for action in ("auth.request.deny", "ops.job.retry", "tenant.settings.create"):
        await record(connection, [Event(action=action, phase="applied", **WHO)])
    signer = new_signer()
    await know_key(connection, signer)
    await seal_waiting(connection, signer)
    done, _, manifest = await exported(connection, tmp_path)
    names = [(seal["stream"], seal["seq"]) for seal in manifest["seals"]]
    assert (
        len(names)
        == len(set(names))
        == await connection.fetchval("SELECT count(*) FROM audit_seal WHERE kind = 'events'")
    )
    status, out = await sealed.run("--key", signer.verifier.text)
    assert (status, out) == (0, f"{done.rows} events verified under {len(names)} seals; 0 more are not here.\n")


async def test_the_script_says_when_an_export_is_a_part(connection: Connection, sealed: Sealed) -> None:
    done, _, _ = await exported(connection, sealed.events.parent, text="action:tenant.*")
    assert done.rows == 1
    status, out = await sealed.run()
    assert (status, out) == (3, "1 events verified under 1 seals; 11 more are not here.\n")


async def test_the_script_refuses_what_it_cannot_read(sealed: Sealed) -> None:
    assert (await sealed.run("--more"))[0] == 1
    assert (await sealed.run(key="usher-audit+00000000+AQ"))[0] == 1
    sealed.manifest.write_text("{}")
    assert (await sealed.run())[0] == 1
