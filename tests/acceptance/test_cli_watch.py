"""`usher process`, `usher schedule` and `usher cycle`: what the pages show and do, in the shell."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from uuid_utils.compat import uuid7

from cli import main
from models.heartbeat import Heartbeat, identify
from models.schedules import SCHEDULES
from tests.support.ledger import new_tenant, stage

if TYPE_CHECKING:
    import asyncpg

    from models.settings import Settings


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("database_url", "redis_url", "smtp_url", "secret_key"):
        monkeypatch.setenv(f"USHER_{key.upper()}", getattr(settings, key).get_secret_value())
    monkeypatch.setenv("COLUMNS", "200")


def _run(words: tuple[str, ...]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["usher", *words]):
        try:
            main.main()
        except SystemExit as end:
            status = end.code
    return int(status or 0), out.getvalue(), err.getvalue()


async def usher(*words: str) -> str:
    """Return what a command printed that must succeed."""
    status, out, err = await asyncio.to_thread(_run, words)
    assert status == 0, err
    return out


async def refused(*words: str) -> str:
    """Return why a command was refused."""
    status, _, err = await asyncio.to_thread(_run, words)
    assert status != 0
    return err


async def test_a_worker_is_found_made_quiet_and_called_back(pool: asyncpg.Pool) -> None:
    assert "No process was heard of" in await usher("process", "ls")
    told: list[bool] = []
    heartbeat = Heartbeat(pool, identify(uuid7(), "worker", queues=["provision"], slots=2), told=told.append)
    await heartbeat._beat()
    (found,) = json.loads(await usher("process", "ls", "--json"))
    assert (found["role"], found["state"], found["queues"], found["slots"]) == ("worker", "working", ["provision"], 2)
    table = await usher("process", "ls")
    assert found["id"] in table
    assert "takes no more jobs within five seconds" in await usher("process", "quiet", found["id"])
    assert json.loads(await usher("process", "quiet", found["id"], "--json"))["changed"] is False
    await heartbeat._beat()
    assert "takes jobs again" in await usher("process", "unquiet", found["id"])
    await heartbeat._beat()
    assert told == [False, True, False]
    assert "There is no worker" in await refused("process", "quiet", str(uuid7()))
    assert "Invalid value for" in await refused("process", "quiet", "nonsense")
    label = await pool.fetchval("SELECT actor_label FROM audit_event WHERE action = 'ops.worker.quiet'")
    assert label == "command line"


async def test_schedules_are_listed_and_asked_for(pool: asyncpg.Pool) -> None:
    rows = {row["name"]: row for row in json.loads(await usher("schedule", "ls", "--json"))}
    assert set(rows) == set(SCHEDULES)
    assert rows["audit.partitions"]["state"] == "waiting"
    assert "runs as soon as" in await usher("schedule", "run", "audit.partitions")
    assert json.loads(await usher("schedule", "run", "audit.partitions", "--json"))["asked"] is False
    assert await pool.fetchval("SELECT run_now FROM schedule WHERE name = 'audit.partitions'")
    assert "There is no schedule nonsense; there are" in await refused("schedule", "run", "nonsense")
    assert "statistics.cleanup" in await usher("schedule", "ls")


async def test_cycles_are_shown(pool: asyncpg.Pool) -> None:
    assert "No cycle is going on" in await usher("cycle")
    async with pool.acquire() as connection:
        tenant = await new_tenant(connection)
        await stage(connection, tenant, 3)
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", tenant)
    (found,) = json.loads(await usher("cycle", "--json"))
    assert (found["tenant"], found["accepted"], found["applied"], found["waiting"]) == (name, 3, 0, 3)
    assert (found["state"], found["seconds_left"]) == ("applying", None)
    assert name in await usher("cycle", name)
    assert "There is no tenant nobody" in await refused("cycle", "nobody")
