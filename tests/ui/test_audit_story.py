"""What an administrator asks after a tenant's whole life: in the page, at the shell and over HTTP, with one answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.api import Caller
    from tests.ui.visitor import Visitor
    from tests.ui.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def by_page(visitor: Visitor, query: str) -> set[str]:
    """Return the ids of the events that the page finds, to its last page."""
    await visitor.audit(query)
    found: set[str] = set()
    while True:
        links = visitor.page.locator("tbody th a[href^='/admin/audit/events/']")
        found |= {href.rpartition("/")[2] for href in await links.evaluate_all("(all) => all.map((one) => one.href)")}
        if not await visitor.page.get_by_role("link", name="Older").count():
            return found
        await visitor.follow("Older")


async def by_shell(world: World, query: str) -> set[str]:
    """Return the ids of the events that `usher audit ls` lists."""
    return {event["id"] for event in json.loads(await world.usher("audit", "ls", query, "--tenant", "acme", "--json"))}


async def by_http(acme: Caller, query: str) -> list[dict[str, Any]]:
    """Return the events that the API answers, newest first."""
    address = acme.scim_url.removesuffix("/scim/v2") + "/audit/events"
    headers = {"Authorization": f"Bearer {acme.tenant.token}"}
    async with acme.session.get(address, params={"q": query, "limit": 500}, headers=headers) as response:
        assert response.status == 200, await response.text()
        return list((await response.json())["events"])


async def test_three_questions_have_one_answer_each_in_three_places(
    world: World, visitor: Visitor, screenshots: Path | None
) -> None:
    acme = await world.tenant("acme")
    await world.simulate(acme, 20, "--groups", "4", "--seed", "5")
    ana = await world.create(acme, "ana@acme.example")
    await world.mailbox.wait_for(1, "ana@acme.example", 30)
    path = f"/Users/{ana['id']}"
    wanted = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}
    change = {**wanted, "Operations": [{"op": "replace", "path": "title", "value": "Boss"}]}
    patched = await acme.send("PATCH", path, body=json.dumps(change).encode())
    assert patched.status in (200, 204)
    assert (await acme.post("/Users", {"schemas": ana["schemas"], "userName": "ana@acme.example"})).status == 409
    await visitor.sign_in("viewer")

    # What went wrong with users.
    query = "action:scim.user.* outcome:failure,denied tenant:acme"
    await wait_until(lambda: recorded(acme, "outcome:failure,denied reason:uniqueness"), "the refusal is recorded")
    events = await by_http(acme, query.removesuffix(" tenant:acme"))
    assert "uniqueness" in {event["reason"] for event in events}
    await agree(world, visitor, query, events)
    assert "uniqueness" in (await visitor.audit(query))
    await visitor.paint(screenshots, "audit-story-1-failures")

    # One person's whole history.
    query = f"target:{ana['id']}"
    await wait_until(lambda: recorded(acme, f"{query} action:invitation.email.send"), "the e-mail is recorded")
    events = await by_http(acme, query)
    actions = {event["action"] for event in events}
    assert actions >= {"scim.user.create", "scim.user.update", "invitation.email.send"}, actions
    await agree(world, visitor, query, events)
    await visitor.audit(query)
    await visitor.paint(screenshots, "audit-story-2-one-person")

    # One request, from HTTP to the e-mail.
    created = next(event for event in events if (event["action"], event["phase"]) == ("scim.user.create", "requested"))
    query = f"correlation:{created['correlation_id']}"
    events = await by_http(acme, query)
    await agree(world, visitor, query, events)
    await visitor.audit(query)
    await visitor.follow("all of it")
    steps = [
        step.split("\t") for step in await visitor.page.locator("table").first.locator("tbody tr").all_inner_texts()
    ]
    told = [(step[2].strip(), step[3].strip()) for step in steps]
    assert [action for action, _ in told] == [event["action"] for event in reversed(events)]
    assert told[0][0] == "scim.user.create"
    assert "requested" in told[0][1]
    assert told[-1][0] == "invitation.email.send"
    assert "applied" in told[-1][1]
    await visitor.paint(screenshots, "audit-story-3-one-request")


async def recorded(acme: Caller, query: str) -> bool:
    return bool(await by_http(acme, query))


async def agree(world: World, visitor: Visitor, query: str, events: list[dict[str, Any]]) -> None:
    """Check that page and shell find the events that the API found."""
    wanted = {event["id"] for event in events}
    assert wanted
    assert await by_page(visitor, query) == wanted
    assert await by_shell(world, query) == wanted
