"""The pages of audit streams, over HTTP as a browser without scripts asks for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import pytest_asyncio

from models.audit.streams import find_stream
from tests.support.api import altered, make_tenant, store
from tests.support.pages import browser, operators_pool
from tests.support.stream_places import collecting, make_authority
from worker.context import Context
from worker.smtp import SmtpPool
from worker.streamer import send_stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from models.audit.streams import Stream
    from tests.support.api import Answer, Api
    from tests.support.pages import Browser
    from tests.support.stream_places import Collector

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "/admin/audit/streams"
NOBODY = f"{PAGE}/01900000-0000-7000-8000-000000000000"


@dataclass
class Place:
    """Where a stream goes, and a worker that sends to it when it is told."""

    collector: Collector
    context: Context

    async def take(self, stream_id: UUID) -> None:
        """Have everything sent that waits."""
        await send_stream(self.context, stream_id)


@pytest_asyncio.fixture(loop_scope="module")
async def place(api: Api, tmp_path: Path) -> AsyncIterator[Place]:
    authority = make_authority(tmp_path)
    own = altered(api.settings, audit_stream_allow="127.0.0.0/8", audit_stream_ca_file=authority.file)
    async with collecting(authority) as collector, operators_pool(own) as pool:
        yield Place(collector, Context(own, pool, SmtpPool(own), lambda _queue, _ids: None))


def form(destination: str, **more: str) -> dict[str, str]:
    return {"destination": destination, "tenant": "the installation's own", "format": "jsonl", **more}


async def add(page: Browser, values: Mapping[str, str]) -> tuple[UUID, str]:
    """Add a stream to an HTTPS place; return its id and the secret that the answer shows."""
    answer = await page.post(PAGE, values)
    assert answer.status == 200, answer.content
    assert answer.headers["Cache-Control"] == "no-store"
    text = answer.content.decode()
    shown, found = re.search(r"<dd><code>([\w-]{43})</code>", text), re.search(rf'"{PAGE}/([0-9a-f-]+)"', text)
    assert shown
    assert found
    return UUID(found[1]), shown[1]


async def stream_of(api: Api, stream_id: UUID) -> Stream:
    async with store(api.settings) as connection:
        return await find_stream(connection, stream_id)


async def test_a_stream_is_added_tested_changed_paused_and_removed(api: Api, place: Place) -> None:
    tenant, page = await make_tenant(api.settings), await browser(api)
    assert PAGE in await page.read("/admin/audit"), "the audit log's page leads there"
    url = place.collector.url
    wanted = form(url, tenant=tenant.name, levels="name=hash, displayName=full", credentials="Bearer planted-one")
    stream_id, secret = await add(page, wanted)
    here = f"{PAGE}/{stream_id}"
    assert url in await page.read(PAGE)
    text = await page.read(here)
    for part in (url, tenant.name, "displayname=full, name=hash", "never"):
        assert part in text

    assert "A test event was written" in await page.follow(await page.post(f"{here}/test"))
    assert "not confirmed yet" in await page.read(here)
    place.collector.answers.append(403)
    await place.take(stream_id)
    for path in (PAGE, here):
        text = await page.read(path)
        assert "The credentials were refused (HTTP 403 Forbidden)." in text
        assert "retry" in text
    await page.follow(await page.post(f"{here}/resume"))
    await place.take(stream_id)
    assert "confirmed" in (text := await page.read(here))
    assert "not confirmed yet" not in text
    assert place.collector.posted[-1].is_signed_with(secret)
    assert place.collector.posted[-1].headers["Authorization"] == "Bearer planted-one"

    text = await page.follow(await page.post(f"{here}/change", form(url + "/new", format="ocsf", levels="")))
    assert "was changed" in text
    now = await stream_of(api, stream_id)
    assert (now.destination, now.format, now.levels) == (url + "/new", "ocsf", {})
    answer = await page.post(f"{here}/secret")
    found = re.search(r"<dd><code>([\w-]{43})</code>", answer.content.decode())
    assert found
    renewed = found[1]
    await page.follow(await page.post(f"{here}/test"))
    await place.take(stream_id)
    assert place.collector.posted[-1].is_signed_with(renewed)
    assert place.collector.posted[-1].headers["Authorization"] == "Bearer planted-one", "kept, as nothing else was said"

    assert "is paused" in await page.follow(await page.post(f"{here}/pause"))
    assert (await page.post(f"{here}/test")).status == 400
    assert "goes on" in await page.follow(await page.post(f"{here}/resume"))
    everywhere = await page.read(PAGE) + await page.read(here) + await page.read(f"/admin/audit?q=target:{stream_id}")
    for planted in (secret, renewed, "planted-one"):
        assert planted not in everywhere
    assert page.operator
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT action, actor_label FROM audit_event WHERE target_id = $1 AND actor_type <> 'system'"
            " ORDER BY occurred_at",
            str(stream_id),
        )
    assert [row["action"].removeprefix("audit.stream.") for row in rows] == [
        *("add", "test", "change", "change", "test", "pause", "resume"),
    ]
    assert {row["actor_label"] for row in rows} == {page.operator.name}
    assert "was removed" in await page.follow(await page.post(f"{here}/remove"))
    assert (await page.get(here)).status == 404


async def test_syslog_and_s3_have_no_secret_to_show(api: Api) -> None:
    page = await browser(api)
    syslog = await page.post(PAGE, form("syslog+tls://siem.example.com:6514", history="yes"))
    text = await page.follow(syslog)
    assert "was added" in text
    assert "Make a new secret" not in text
    assert 'name="credentials"' not in text
    stream = await stream_of(api, UUID(syslog.headers["Location"].rpartition("/")[2]))
    assert stream.cursor_xid == 0, "from the beginning"
    s3 = await page.post(PAGE, form("s3+https://s3.example.com/logs", credentials="key:planted-two"))
    text = await page.follow(s3)
    assert "Make a new secret" not in text
    assert "planted-two" not in text
    for answer in (syslog, s3):
        await page.post(answer.headers["Location"] + "/remove")


async def test_what_cannot_be_is_said_beside_what_was_typed(api: Api) -> None:
    page = await browser(api)

    def refused(answer: Answer, *parts: str) -> None:
        text = answer.content.decode()
        assert answer.status == 400
        assert 'role="alert"' in text
        for part in parts:
            assert part in text
        assert "planted" not in text

    refused(await page.post(PAGE, form("http://x", credentials="planted")), "A destination looks like", "http://x")
    refused(await page.post(PAGE, form("https://s.example.com/", format="xml")), "There is no format xml")
    refused(await page.post(PAGE, form("https://s.example.com/", levels="password=full")), "never leaves")
    refused(await page.post(PAGE, form("https://s.example.com/", tenant="nobody")), "nobody")
    refused(await page.post(PAGE, form("s3+https://s3.example.com/logs")), "ACCESS_KEY_ID")
    stream_id, _ = await add(page, form("https://s.example.com/", credentials="Bearer planted"))
    here = f"{PAGE}/{stream_id}"
    refused(await page.post(f"{here}/change", form("https://elsewhere.example.com/")), "another host", "elsewhere")
    refused(await page.post(f"{here}/change", form("syslog+tls://s.example.com")), "of kind https")
    assert (await stream_of(api, stream_id)).destination == "https://s.example.com/"
    await page.post(f"{here}/remove")


async def test_after_another_secret_key_the_secret_is_made_anew(api: Api, place: Place) -> None:
    page = await browser(api)
    stream_id, _ = await add(page, form(place.collector.url))
    async with store(api.settings) as connection:
        await connection.execute("UPDATE audit_stream SET secret = '\\x0102' WHERE id = $1", stream_id)
    await place.take(stream_id)
    here = f"{PAGE}/{stream_id}"
    assert "USHER_SECRET_KEY was changed" in await page.read(here)
    refused = await page.post(f"{here}/change", form(place.collector.url, credentials="Bearer new"))
    assert (refused.status, "Make a new secret below" in refused.content.decode()) == (400, True)
    answer = await page.post(f"{here}/secret")
    found = re.search(r"<dd><code>([\w-]{43})</code>", answer.content.decode())
    assert found
    await place.take(stream_id)
    assert place.collector.posted[-1].is_signed_with(found[1])
    await page.post(f"{here}/remove")


async def test_only_admins_and_only_pages_of_this_site_come_so_far(api: Api) -> None:
    operator, page, nobody = await browser(api, "operator"), await browser(api), await browser(api, None)
    assert PAGE not in await operator.read("/admin/audit")
    assert (await operator.get(PAGE)).status == 403
    values = form("https://siem.example.com/")
    for path in (PAGE, *(f"{NOBODY}/{act}" for act in ("change", "secret", "pause", "resume", "test", "remove"))):
        assert (await operator.post(path, values)).status == 403
        assert (await nobody.post(path, values)).headers["Location"].startswith("/sign-in")
        elsewhere = await page.post(path, values, **{"Sec-Fetch-Site": "cross-site"})
        assert (elsewhere.status, b"did not come from a page of this site" in elsewhere.content) == (403, True)
    for act in ("pause", "resume", "test", "remove", "secret"):
        assert (await page.post(f"{NOBODY}/{act}")).status == 400
    assert (await page.get(NOBODY)).status == 404
    assert (await page.get(f"{PAGE}/nonsense")).status == 404
    assert "No streams." in await page.read(PAGE)
