"""The pages of the overview, workers, schedules and cycles, over HTTP as a browser asks for them."""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from api.probes import Probes
from models.heartbeat import Heartbeat, identify
from models.schedules import SCHEDULES
from models.statistics import write_minutes
from models.tally import Tally
from tests.support.api import altered, document, serving
from tests.support.ledger import new_tenant, stage
from tests.support.pages import Browser, browser
from tests.support.processes import processes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp
    import asyncpg

    from models.settings import Settings
    from tests.support.api import Api


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as served:
        yield served


def cells(text: str, head: str) -> list[str]:
    """Return the text of the cells of the table row with this head, without what a line has as a table beside it."""
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    row = next(row for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if re.search(rf">\s*{re.escape(head)}", row))
    return [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]


async def row(page: Browser, path: str, head: str) -> list[str]:
    return [html.unescape(cell) for cell in cells(await page.read(path), head)]


async def beaten(pool: asyncpg.Pool, role: str = "worker", **more: Any) -> Heartbeat:
    """Have a process tell of itself once."""
    heartbeat = Heartbeat(pool, identify(uuid7(), role, queues=["provision"], slots=4), **more)
    await heartbeat._beat()
    return heartbeat


# The overview


async def test_an_empty_house_says_so_in_words(api: Api) -> None:
    page = await browser(api, "viewer")
    text = await page.read("/ops")
    assert "nobody works" in text
    assert "nothing due, target 1 min" in text
    assert "Nobody has work that is due." in text
    for name in ("user.create", "invitation.send"):
        assert (await row(page, "/ops", name))[1:5] == ["0", "0", "0", "0"]


async def test_the_overview_tells_how_the_queues_stand(api: Api, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant = await new_tenant(connection)
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", tenant)
        await stage(connection, tenant, 3)
        (dead,) = await stage(connection, tenant)
        await connection.execute("UPDATE job SET run_at = now() - interval '4 minutes'")
        await connection.execute("UPDATE job SET state = 'dead' WHERE id = $1", dead.id)
        await connection.execute(
            "INSERT INTO job_pause (id, kind, reason, paused_by) VALUES ($1, 'user.create', 'a migration', 'olga')",
            uuid7(),
        )
        tally = Tally()
        tally.started("user.create", 100, [0.04] * 100)
        tally.done("user.create", 100, 2.0)
        tally.failed("user.create", 2.0, dead=False)
        await write_minutes(connection, uuid7(), [minute for minute, _ in tally.unwritten()])
    await beaten(pool, busy=lambda: 3)
    page = await browser(api, "viewer")
    found = await row(page, "/ops", "user.create")
    assert found[:5] == ["provision", "3", "0", "0", "1"]
    assert re.fullmatch(r"! oldest 4 min( \d s)?, target 1 min", found[5])
    queueing = re.fullmatch(r"(\d\d) ms / (\d\d) ms", found[6])
    assert queueing is not None
    assert all(28 < int(each) <= 57 for each in queueing.groups())
    assert found[8] == "1"
    assert found[9].endswith("100 in all")
    text = await page.read("/ops")
    assert "paused" in text
    assert "3 of 4 slots busy" in text
    assert f'<a href="/ops/cycle/{name}">{name}</a>' in text
    link = re.search(r'href="(/ops/jobs\?q=[^"]*dead[^"]*)"', text)
    assert link is not None
    assert str(dead.id) in await page.read(html.unescape(link[1])), "every number leads to the rows behind it"


async def test_charts_are_lines_numbers_and_a_sentence(api: Api, pool: asyncpg.Pool) -> None:
    tally, earlier = Tally(), Tally(lambda: time.time() - 7200)
    earlier.done("invitation.send", 1, 0.1)
    tally.done("user.create", 7, 0.1)
    async with pool.acquire() as connection:
        for each in (earlier, tally):
            await write_minutes(connection, uuid7(), [minute for minute, _ in each.unwritten()])
    text = await (await browser(api, "viewer")).read("/ops")
    data = [json.loads(html.unescape(each)) for each in re.findall(r'data-chart="([^"]+)"', text)]
    assert [len(each["at"]) for each in data] == [60, 60, 96, 96]
    found = [[(line["label"], sum(line["values"])) for line in each["lines"]] for each in data]
    none = [("user.create", 0), ("invitation.send", 0)]
    assert found == [
        [("user.create", 7), ("invitation.send", 0)],
        none,
        [("user.create", 7), ("invitation.send", 1)],
        none,
    ], "a line is the same kind in every chart"
    assert all(len(line["values"]) == len(each["at"]) for each in data for line in each["lines"])
    assert "7 user.create; most at" in text
    assert '<caption class="hidden">Jobs done, last hour, a minute</caption>' in text
    for script in ("vendor/uPlot.iife.min.js", "charts.js"):
        address = re.search(rf'src="(/static/[0-9a-f]+/{re.escape(script)})"', text)
        assert address is not None
        assert (await (await browser(api, "viewer")).get(address[1])).status == 200


async def test_servers_that_are_away_are_told_and_hold_no_page_up(settings: Settings) -> None:
    lost = altered(settings, redis_url="redis://127.0.0.1:9/1", smtp_url="smtp://127.0.0.1:9")
    async with serving(lost) as served:
        page = await browser(served, "viewer")

        async def told() -> bool:
            text = await page.read("/ops")
            return text.count("unreachable (ConnectionRefusedError)") + text.count("unreachable (ConnectionError)") == 2

        await wait_until(told, "Redis and SMTP are called unreachable")
        assert "version " in await page.read("/ops"), "PostgreSQL answers"


async def test_a_silent_server_is_waited_for_in_the_background(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: Probes) -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(Probes, "_smtp", silent)
    monkeypatch.setattr("api.probes._PATIENCE_SECONDS", 0.5)
    async with serving(settings) as served:
        page = await browser(served, "viewer")
        assert "not asked yet" in await page.read("/ops")

        async def told() -> bool:
            return "no answer within 0.5 s" in await page.read("/ops")

        await wait_until(told, "the probe gives up")


async def live_event(response: aiohttp.ClientResponse, name: str) -> str:
    """Return the next HTML of a region."""
    async with asyncio.timeout(15):
        while True:
            block = await response.content.readuntil(b"\n\n")
            lines = block.decode().splitlines()
            if lines and lines[0] == f"event: {name}":
                return "\n".join(line[6:] for line in lines[1:] if line)


async def test_the_overview_updates_by_itself(api: Api, pool: asyncpg.Pool) -> None:
    page = await browser(api, "viewer")
    cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in page.cookies.items())}
    async with api.session.get(api.internal_url + "/ops?live=1", headers=cookie) as response:
        assert response.status == 200
        first = await live_event(response, "queues")
        assert cells(first, "user.create")[1] == "0"
        async with pool.acquire() as connection:
            await stage(connection, await new_tenant(connection), 2)
        assert cells(await live_event(response, "queues"), "user.create")[1] == "2"


# Workers


async def test_a_worker_is_made_quiet_and_called_back_on_the_page(api: Api, pool: asyncpg.Pool) -> None:
    told: list[bool] = []
    worker = await beaten(pool, told=told.append)
    await beaten(pool, "api")
    page, name = await browser(api, "operator"), f"{worker._identity.host} {worker._identity.pid}"
    text = await page.read("/ops/workers")
    assert (await row(page, "/ops/workers", '<span class="mono">' + name))[:3] == ["✓ working", "provision", "0 / 4"]
    (action,) = re.findall(r'action="(/ops/workers/[^"]+/quiet)"', text)
    assert "takes no more jobs" in await page.follow(await page.post(action))
    assert "quiet already" in await page.follow(await page.post(action)), "a second click is told so"
    await worker._beat()
    assert told == [False, True]
    text = await page.read("/ops/workers")
    (action,) = re.findall(r'action="(/ops/workers/[^"]+/unquiet)"', text)
    assert "takes jobs again" in await page.follow(await page.post(action))
    await worker._beat()
    assert told == [False, True, False]
    events = await pool.fetch("SELECT action, actor_label FROM audit_event WHERE action LIKE 'ops.worker.%'")
    assert page.operator is not None
    assert sorted((each["action"], each["actor_label"]) for each in events) == [
        ("ops.worker.quiet", page.operator.name),
        ("ops.worker.unquiet", page.operator.name),
    ]


async def test_what_is_no_worker_cannot_be_told(api: Api, pool: asyncpg.Pool) -> None:
    gone = await beaten(pool)
    await gone.stop()
    page = await browser(api, "operator")
    for identifier in ("nonsense", str(uuid7())):
        answer = await page.post(f"/ops/workers/{identifier}/quiet")
        assert (answer.status, b"There is no" in answer.content) == (400, True)
    answer = await page.post(f"/ops/workers/{gone._identity.id}/quiet")
    assert (answer.status, b"has stopped" in answer.content) == (400, True)
    assert "stopped" in await page.read("/ops/workers")


@pytest.mark.parametrize("role", ["viewer", "operator"])
async def test_only_who_may_sees_and_uses_the_buttons(api: Api, pool: asyncpg.Pool, role: str) -> None:
    worker = await beaten(pool)
    page = await browser(api, role)
    may = role != "viewer"
    assert ("/quiet" in await page.read("/ops/workers")) is may
    assert ("Run now" in await page.read("/ops/schedules")) is may
    expected = 303 if may else 403
    assert (await page.post(f"/ops/workers/{worker._identity.id}/quiet")).status == expected
    assert (await page.post("/ops/schedules/audit.partitions/run")).status == expected
    assert (
        await page.post("/ops/schedules/audit.partitions/run", None, **{"Sec-Fetch-Site": "cross-site"})
    ).status == 403


# Schedules


async def test_schedules_are_listed_and_asked_for(api: Api, pool: asyncpg.Pool) -> None:
    page = await browser(api, "operator")
    text = await page.read("/ops/schedules")
    assert all(f">{name}<" in text for name in SCHEDULES)
    assert "not yet run" in text
    assert "runs as soon as" in await page.follow(await page.post("/ops/schedules/statistics.cleanup/run"))
    assert "asked to run already" in await page.follow(await page.post("/ops/schedules/statistics.cleanup/run"))
    assert await pool.fetchval("SELECT run_now FROM schedule WHERE name = 'statistics.cleanup'")
    assert "asked for" in await page.read("/ops/schedules")
    for name, words in (("nonsense", b"There is no schedule"), ("ledger.sweep", b"pace of its own")):
        answer = await page.post(f"/ops/schedules/{name}/run")
        assert (answer.status, words in answer.content) == (400, True)


# Cycles


async def test_a_cycle_is_shown_while_it_goes_on(api: Api) -> None:
    page, caller = await browser(api, "viewer"), await api.caller()
    assert "No cycle is going on" in await page.read("/ops/cycle")
    for number in range(4):
        await caller.create(document(f"user{number}@contoso.example"))
    name = caller.tenant.name

    async def listed() -> list[str]:
        text = await page.read("/ops/cycle")
        return cells(text, name) if name in text else []

    found = await wait_until(listed, "the cycle is listed")
    assert found[0] == "◐ accepting"
    assert (found[2], found[4], found[5]) == ("4", "0", "0")
    assert found[7] == "! nothing moves", "there is no worker"
    text = await page.read(f"/ops/cycle/{name}")
    assert cells(text, "Applied")[0] == "0"
    assert "user0@" not in text
    assert (await page.get("/ops/cycle/nobody")).status == 400


# Real processes


async def test_real_processes_are_there_work_and_stop(settings: Settings, tmp_path: Path, pool: asyncpg.Pool) -> None:
    """An api and a worker as they are started in production; what they did is on the pages of another."""
    beat_file = tmp_path / "beat"
    own = altered(settings, beat_file=str(beat_file))
    async with serving(settings) as served, processes(own, tmp_path, workers=1) as fleet:
        page = await browser(served, "viewer")
        await fleet.workers[0].start()

        async def serving_and_working() -> bool:
            text = await page.read("/ops/workers")
            return "✓</span> working" in text and "✓</span> serving" in text

        await wait_until(serving_and_working, "both processes are on the page", 20)
        assert beat_file.exists()
        async with pool.acquire() as connection:
            await stage(connection, await new_tenant(connection), 5)

        async def told() -> bool:
            return "5 in all" in (await row(page, "/ops", "user.create"))[9]

        await wait_until(told, "what the worker did is on the overview", 30)

        async def upkept() -> bool:
            return (await row(page, "/ops/schedules", '<span class="mono">audit.partitions'))[2].startswith("✓ ok")

        await wait_until(upkept, "the schedules ran", 20)
        await fleet.workers[0].stop()
        found = await pool.fetchrow("SELECT jobs_done, stopped_at FROM process WHERE role = 'worker'")
        assert found is not None
        assert found["jobs_done"] == 5
        assert found["stopped_at"] is not None
