"""`usher queue` finds, shows and acts as the pages do."""

from __future__ import annotations

import asyncio
import os
import pty
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from models import bulk
from models import jobs as ledger
from models.errors import PermanentJobError
from tests.acceptance.test_cli import USHER, Usher
from tests.support.api import fresh_settings, make_tenant, store
from tests.support.ledger import row, stage, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings
    from tests.support.api import Tenant
    from tests.support.ledger import Staged
    from tests.support.servers import Servers

SECONDS = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(servers: Servers) -> AsyncIterator[Settings]:
    async with fresh_settings(servers) as made:
        yield made


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "COLUMNS": "200",
        "TZ": "UTC",
    }


@pytest.fixture
def usher(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Usher:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return Usher()


@pytest.fixture
async def tenant(settings: Settings) -> Tenant:
    return await make_tenant(settings)


async def dead_in(settings: Settings, tenant: Tenant, count: int = 1) -> list[Staged]:
    async with store(settings) as connection:
        staged = await stage(connection, tenant.id, count)
        lease = uuid7()
        held = {job.id: job for job in await take(connection, lease)}
        for one in staged:
            error = PermanentJobError("hopeless", f"No room for {one.user_name}")
            await ledger.fail(connection, held[one.id], lease, error, trace="a:1 > b:2")
        await ledger.release(connection, lease)
    return staged


async def state_of(settings: Settings, one: Staged) -> dict[str, Any]:
    async with store(settings) as connection:
        return await row(connection, one.id)


async def work_off(settings: Settings) -> None:
    async with store(settings) as connection:
        while await bulk.carry_on(connection) is not None:
            pass


async def test_jobs_are_listed_by_a_search(usher: Usher, settings: Settings, tenant: Tenant) -> None:
    dead = await dead_in(settings, tenant, 3)
    mine = f"tenant:{tenant.name}"
    by_search, by_user, newest, table, none, after = await usher.together(
        ("queue", "ls", f"state:dead {mine}", "--json"),
        ("queue", "ls", dead[1].user_name, "--json"),
        ("queue", "ls", mine, "--newest", "--limit", "1", "--json"),
        ("queue", "ls", f"user:{dead[0].user_name}"),
        ("queue", "ls", f"state:done {mine}"),
        ("queue", "ls", mine, "--after", str(dead[0].id), "--json"),
    )
    assert [one["id"] for one in by_search.json] == [str(one.id) for one in dead]
    assert [(one["id"], one["user_name"]) for one in by_user.json] == [(str(dead[1].id), dead[1].user_name)]
    assert [one["id"] for one in newest.json] == [str(dead[2].id)]
    assert any(dead[0].user_name in line and "hopeless" in line for line in table.lines)
    assert none.lines == ["No such jobs."]
    assert [one["id"] for one in after.json] == [str(one.id) for one in dead[1:]]
    wrong, tenantless = await usher.together(("queue", "ls", "colour:red"), ("queue", "ls", "tenant:nobody-here"))
    assert "There is no qualifier colour: (at character 1); there are state, kind" in wrong.refusal()
    assert "There is no tenant nobody-here" in tenantless.refusal()


async def test_one_job_is_shown_with_its_attempts_and_revealed_with_an_event(
    usher: Usher, settings: Settings, tenant: Tenant
) -> None:
    (dead,) = await dead_in(settings, tenant)
    shown, revealed, text, none = await usher.together(
        ("queue", "show", str(dead.id), "--json"),
        ("queue", "show", str(dead.id), "--reveal", "--json"),
        ("queue", "show", str(dead.id)),
        ("queue", "show", str(uuid7())),
    )
    assert shown.json["payload"]["doc"]["userName"] == "(text)"
    assert shown.json["attempts_failed"][0]["trace"] == "a:1 > b:2"
    assert revealed.json["payload"]["doc"]["userName"] == dead.user_name
    assert "hopeless" in text.out
    assert "There is no job" in none.refusal()
    async with store(settings) as connection:
        told = await connection.fetchval(
            "SELECT count(*) FROM audit_event WHERE action = 'ops.job.reveal' AND job_id = $1", dead.id
        )
    assert told == 1


async def test_jobs_are_retried_later_discarded_and_what_cannot_be_is_told(
    usher: Usher, settings: Settings, tenant: Tenant
) -> None:
    first, second, third = await dead_in(settings, tenant, 3)
    later, gone, both = await usher.together(
        ("queue", "retry", str(first.id), "--delay", "1h"),
        ("queue", "discard", str(second.id), "--reason", "A test user", "--json"),
        ("queue", "retry", str(second.id), str(third.id)),
    )
    assert later.lines == [f"Job {first.id} is due in 3600 s."]
    assert 3590 < (await state_of(settings, first))["due_in"] <= 3600
    assert gone.json == {"id": str(second.id), "state": "cancelled"}
    assert (both.status, both.out) == (1, f"Job {third.id} is due now; a worker takes it within seconds.\n")
    assert f"Job {second.id} is cancelled; only a staged, retry or dead job can be retried." in both.err
    neither, reasonless, twice, delay = await usher.together(
        ("queue", "retry"),
        ("queue", "discard", str(first.id)),
        ("queue", "retry", str(first.id), "--query", "state:dead"),
        ("queue", "retry", str(first.id), "--delay", "60d"),
    )
    assert "Say which jobs to retry: ids, or --query" in neither.refusal()
    assert "--reason" in reasonless.refusal()
    assert "ids, or --query" in twice.refusal()
    assert "between 0 seconds and 30 days" in delay.refusal()


async def test_all_that_match_are_counted_first_and_then_left_to_a_worker(
    usher: Usher, settings: Settings, tenant: Tenant
) -> None:
    dead = await dead_in(settings, tenant, 4)
    search = f"state:dead tenant:{tenant.name}"
    preview, text, warned = await usher.together(
        ("queue", "retry", "--query", search, "--json"),
        ("queue", "retry", "--query", search),
        ("queue", "discard", "--query", search, "--reason", "x"),
    )
    assert (preview.json["count"], preview.json["users_vanish"], len(preview.json["examples"])) == (4, False, 4)
    assert text.lines == ["4 jobs would be sent round again. Nothing was changed; --yes does it."]
    assert warned.lines[1] == "Creates are among them: their users vanish, and their userNames are free again."
    assert {(await state_of(settings, one))["state"] for one in dead} == {"dead"}

    started = (await usher("queue", "retry", "--query", search, "--yes", "--json")).json
    assert (started["state"], started["expected"]) == ("running", 4)
    await work_off(settings)
    one, listed, stopped, nothing, empty = await usher.together(
        ("queue", "bulk", started["id"], "--json"),
        ("queue", "bulk"),
        ("queue", "bulk", started["id"], "--stop"),
        ("queue", "retry", "--query", search, "--yes"),
        ("queue", "cancel", "--query", "", "--yes"),
    )
    assert (one.json["state"], one.json["applied"], one.json["requested_by"]) == ("done", 4, "command line")
    assert any(started["id"] in line for line in listed.lines)
    assert stopped.lines[-1] == "It had come to its end already; nothing was changed."
    assert {(await state_of(settings, each))["state"] for each in dead} == {"staged"}
    assert "No job that this could be done to matches any more" in nothing.refusal()
    assert "Name at least one condition" in empty.refusal()


async def test_waiting_for_a_bulk_operation_ends_with_it(usher: Usher, settings: Settings, tenant: Tenant) -> None:
    await dead_in(settings, tenant, 2)
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            await work_off(settings)
            await asyncio.sleep(0.1)

    worker = asyncio.create_task(work())
    said = await usher("queue", "cancel", "--query", f"tenant:{tenant.name}", "--yes", "--wait")
    over.set()
    await worker
    assert said.lines == ["done: 2 cancelled, 0 had moved on by themselves."]


async def test_a_tenant_is_paused_and_resumed(usher: Usher, tenant: Tenant) -> None:
    scope = ("--tenant", tenant.name)
    paused, again, standing, ended, twice, none, unknown, long = await usher.together(
        ("queue", "pause", *scope, "--reason", "Mail is down", "--for", "2h", "--json"),
        ("queue", "pause", *scope, "--reason", "Another"),
        ("queue", "stats", "--json"),
        ("queue", "resume", *scope),
        ("queue", "resume", *scope),
        ("queue", "pause", "--reason", "x"),
        ("queue", "pause", "--kind", "user.fold", "--reason", "x"),
        ("queue", "pause", "--kind", "user.create", "--reason", "x", "--for", "400d"),
    )
    assert (paused.json["tenant"], paused.json["reason"], paused.json["new"]) == (tenant.name, "Mail is down", True)
    assert again.lines == [f"All jobs of {tenant.name}: paused already, by command line: Mail is down"]
    assert [one["tenant"] for one in standing.json["pauses"]] == [tenant.name]
    assert ended.lines == [f"All jobs of {tenant.name}: resumed."]
    assert "That is not paused. Paused: nothing." in twice.refusal()
    assert "Say what to pause" in none.refusal()
    assert "There is no kind user.fold" in unknown.refusal()
    assert "at most 365 days" in long.refusal()


async def test_stats_and_top_show_queues_and_dead_jobs_by_fault(
    usher: Usher, settings: Settings, tenant: Tenant
) -> None:
    await dead_in(settings, tenant, 2)
    stats, table, once, as_json = await usher.together(
        ("queue", "stats", "--json"), ("queue", "stats"), ("queue", "top", "--once"), ("queue", "top", "--json")
    )
    group = max(stats.json["dead"], key=lambda one: one["last_at"])
    assert group["query"].startswith("state:dead kind:user.create error:hopeless~")
    assert tenant.name in table.out
    assert "usher queue top" in once.out
    assert tenant.name in once.out
    assert {one["tenant"] for one in as_json.json["queues"]} >= {tenant.name}


async def test_top_is_live_in_a_terminal_and_ends_with_q(
    environment: dict[str, str], settings: Settings, tenant: Tenant
) -> None:
    """It takes the screen, shows what happens while it is open, and gives the screen back."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(str(USHER), "queue", "top", "--every", "0.2"),
        env={**os.environ, **environment, "TERM": "xterm", "LINES": "50"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = b""

    async def until(pattern: bytes) -> None:
        nonlocal seen
        async with asyncio.timeout(SECONDS):
            while not re.search(pattern, seen):
                await asyncio.sleep(0.05)
                try:
                    seen += os.read(ours, 65536)
                except BlockingIOError:
                    continue
                except OSError:  # the other end is closed
                    assert re.search(pattern, seen), seen[-2000:]

    try:
        await until(rb"usher queue top")
        await dead_in(settings, tenant)
        await until(tenant.name.encode())
        os.write(ours, b"q")
        await until(rb"\x1b\[\?1049l")
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
