"""The pages of the audit log: search, one event, one request, saved views, zones; without JavaScript."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import pytest
from uuid_utils.compat import uuid7

from api.admin.audit_view import changes, clock
from models.audit.record import OPERATOR, Actor, Event, record
from models.audit.search import QUALIFIERS
from models.audit.zones import find_zone
from tests.support.api import document, make_tenant, store
from tests.support.pages import browser

if TYPE_CHECKING:
    from uuid import UUID

    from tests.support.api import Api, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def one_change(api: Api, tenant: Tenant) -> UUID:
    """Write an event with a change of every sort; return its correlation id."""
    correlation_id = uuid7()
    diff: list[dict[str, Any]] = [
        {"op": "replace", "path": "name.familyName", "before": "<b>Old</b>", "after": "New"},
        {"op": "add", "path": "title", "after": "Boss"},
        {"op": "remove", "path": "nickName", "before": {"x": 1}},
        {"op": "replace", "path": "password", "redacted": True},
    ]
    user = {"type": "User", "id": str(uuid7()), "label": f"ana.{correlation_id}@example.com"}
    async with store(api.settings) as connection:
        for phase, action in (("requested", "scim.user.create"), ("applied", "scim.user.update")):
            event = Event(
                action=action,
                phase=phase,
                actor=Actor("token", "tok", "Entra"),
                tenant_id=tenant.id,
                correlation_id=correlation_id,
                targets=[user],
                diff=diff if phase == "applied" else None,
                context={"route": "/Users", "ip": "192.0.2.1"},
            )
            await record(connection, [event])
    return correlation_id


def links(text: str, start: str) -> list[str]:
    return [unescape(found) for found in re.findall(rf'href="({re.escape(start)}[^"]*)"', text)]


async def test_from_the_list_to_an_event_and_to_the_whole_request(api: Api) -> None:
    tenant = await make_tenant(api.settings)
    correlation_id = await one_change(api, tenant)
    viewer = await browser(api, "viewer")
    text = await viewer.read(f"/admin/audit?q={quote_plus(f'tenant:{tenant.name} action:scim.*')}")
    events = links(text, "/admin/audit/events/")
    assert len(events) == 2
    assert links(text, "/admin/audit/timeline/") == [f"/admin/audit/timeline/{correlation_id}"] * 2
    assert f"ana.{correlation_id}@example.com" in text
    assert "2 events by action and outcome" in text

    event = await viewer.read(events[0])
    assert "scim.user.update" in event
    assert "A user was changed" in event
    assert "<del>&lt;b&gt;Old&lt;/b&gt;</del>" in event
    assert "<ins>New</ins>" in event
    for word in ("added", "removed", "changed", "not kept"):
        assert word in event, "told in words, not by colour alone"

    timeline = await viewer.read(f"/admin/audit/timeline/{correlation_id}")
    assert timeline.index("scim.user.create") < timeline.index("scim.user.update")
    assert "2 events within" in timeline
    assert "192.0.2.1" in timeline


async def test_a_list_goes_on_page_by_page(api: Api) -> None:
    tenant = await make_tenant(api.settings)
    async with store(api.settings) as connection:
        event = Event(
            action="ops.job.retry", phase="applied", actor=OPERATOR, tenant_id=tenant.id, correlation_id=uuid7()
        )
        await record(connection, [event] * 60)
    viewer = await browser(api, "viewer")
    text = await viewer.read(f"/admin/audit?q=tenant:{tenant.name}+action:ops.*")
    first = links(text, "/admin/audit/events/")
    (older,) = re.findall(r'rel="next" href="([^"]+)"', text)
    more = await viewer.read(unescape(older))
    rest = links(more, "/admin/audit/events/")
    assert (len(first), len(rest)) == (50, 10)
    assert not set(first) & set(rest)
    assert 'rel="next"' not in more
    forged = await viewer.get(unescape(older).replace(tenant.name, "other"))
    assert forged.status == 400
    assert "begin again" in forged.content.decode()


async def test_a_search_that_cannot_be_read_is_marked_at_its_place(api: Api) -> None:
    viewer = await browser(api, "viewer")
    answer = await viewer.get("/admin/audit?q=" + quote_plus('action:auth.* colour:"<script>"'))
    assert answer.status == 400
    text = answer.content.decode()
    assert "There is no qualifier colour:" in text
    assert "action:auth.* <mark>c</mark>olour:" in text
    assert "<script>" not in text.replace('<script src="', "")
    assert "(character 15)" in text
    for name in QUALIFIERS:
        assert f"<code>{name}:</code>" in text


async def test_times_are_those_of_the_zone_that_the_viewer_chose(api: Api) -> None:
    tenant = await make_tenant(api.settings)
    await one_change(api, tenant)
    viewer = await browser(api, "viewer")
    page = f"/admin/audit?q=tenant:{tenant.name}"
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} UTC</time>", await viewer.read(page))
    answer = await viewer.post("/admin/audit/zone", {"zone": "Asia/Tokyo", "q": f"tenant:{tenant.name}"})
    text = await viewer.follow(answer)
    assert re.search(r"\d\d:\d\d:\d\d\.\d{3} JST</time>", text)
    assert re.search(r'title="[^"]+ UTC"', text), "and in UTC beside"
    assert '<option value="Asia/Tokyo" selected>' in text
    # It stays; an address that names a zone wins, so that a link means the same days to everybody.
    assert "JST</time>" in await viewer.read(page)
    assert "JST</time>" not in await viewer.read(page + "&zone=Europe/Berlin")
    (event, *_) = links(text, "/admin/audit/events/")
    assert "JST</time>" in await viewer.read(event)
    assert (await viewer.post("/admin/audit/zone", {"zone": "Mars/Base"})).status == 400


async def test_views_are_kept_for_each_operator(api: Api) -> None:
    one, other = await browser(api, "viewer"), await browser(api, "admin")
    text = await one.follow(
        await one.post("/admin/audit/views", {"name": " My  failures ", "q": "outcome:failure created:30d"})
    )
    assert "The view My failures was saved." in text
    assert "/admin/audit?q=outcome%3Afailure+created%3A30d" in text
    assert ">My failures</a>" in text
    assert "My failures" not in await other.read("/admin/audit")
    await one.post("/admin/audit/views", {"name": "My failures", "q": "outcome:denied"})
    text = await one.read("/admin/audit")
    assert text.count(">My failures</a>") == 1, "saved again it is replaced"
    assert "outcome%3Adenied" in text
    (action,) = re.findall(r'action="(/admin/audit/views/[^"]+/delete)"', text)
    await other.post(action)
    assert "My failures" in await one.read("/admin/audit"), "nobody deletes another's"
    assert "My failures</a>" not in await one.follow(await one.post(action))
    for form in ({"name": "", "q": ""}, {"name": "x" * 81, "q": ""}, {"name": "x", "q": "colour:red"}):
        assert (await one.post("/admin/audit/views", form)).status == 400, form
    for place in range(51):
        answer = await one.post("/admin/audit/views", {"name": f"v{place}", "q": ""})
    assert answer.status == 400
    assert b"delete one first" in answer.content


async def test_only_who_is_signed_in_sees_it(api: Api) -> None:
    nobody = await browser(api, None)
    for path in ("/admin/audit", f"/admin/audit/events/{uuid7()}", f"/admin/audit/timeline/{uuid7()}"):
        answer = await nobody.get(path)
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/sign-in")
    viewer = await browser(api, "viewer")
    for path in ("events/x", f"events/{uuid7()}", "timeline/x", f"timeline/{uuid7()}"):
        assert (await viewer.get(f"/admin/audit/{path}")).status == 404
    crossed = await viewer.post("/admin/audit/views", {"name": "x", "q": ""}, **{"Sec-Fetch-Site": "cross-site"})
    assert crossed.status == 403


async def test_what_people_are_called_is_only_text(api: Api) -> None:
    caller = await api.caller()
    await caller.create(document('"><img src=x onerror=1>'))
    viewer = await browser(api, "viewer")
    text = await viewer.read(f"/admin/audit?q=tenant:{caller.tenant.name}")
    assert "<img" not in text
    link, *_ = links(text, "/admin/audit/timeline/")
    assert "<img" not in await viewer.read(link)


async def test_a_clock_shows_the_moment_in_the_zone() -> None:
    moment = datetime(2026, 7, 1, 22, 30, 1, 250_999, tzinfo=UTC)
    assert clock(moment, find_zone("Europe/Berlin")) == "2026-07-02 00:30:01.250 CEST"
    assert clock(moment, find_zone("UTC")) == "2026-07-01 22:30:01.250 UTC"


async def test_changes_are_signed_and_named() -> None:
    rows = changes({"diff": [{"op": "add", "path": "x", "after": 1}, {"op": "remove", "path": "y", "before": True}]})
    assert [(row["sign"], row["word"], row["before"], row["after"]) for row in rows] == [
        ("+", "added", None, "1"),
        ("\N{MINUS SIGN}", "removed", "true", None),
    ]
    email = {"type": "work", "value": "ana@example.com", "primary": True}
    (row,) = changes({"diff": [{"op": "add", "path": "emails", "after": email}]})
    assert row["after"] == "type: work, value: ana@example.com, primary: true"
    assert changes({"diff": None}) == []
