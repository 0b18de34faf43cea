"""What an operator and an administrator do, with JavaScript switched off: every step is a link, a form or a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.ui.visitor import Visitor
    from tests.ui.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_failed_invitation_is_found_and_retried(world: World, plain_visitor: Visitor) -> None:
    visitor, page = plain_visitor, plain_visitor.page
    acme = await world.tenant("acme")
    await visitor.sign_in("operator")
    assert not await page.locator("#live-pause").is_visible()
    await world.stop_mail()
    await world.create(acme, "ana@acme.example")
    await world.until_jobs("retry", 1)
    await visitor.open("/ops")
    retry = page.locator("tbody tr", has_text="invitation.send").locator("td").nth(3)

    async def shown() -> bool:
        if await retry.inner_text() == "1":
            return True
        await visitor.follow("Refresh")
        return False

    await wait_until(shown, "the overview shows the retry")
    await visitor.follow("1", page.locator("tbody tr", has_text="invitation.send"))
    assert "1 job matches" in await visitor.text()
    assert "1 job matches" in await visitor.search("user:ana@acme.example kind:invitation.send")
    await page.locator("tbody a.mono").click()
    assert "smtp_unreachable" in await visitor.text()
    await world.start_mail()
    await visitor.press("Retry")
    await visitor.until_text("✓ done")
    await world.mailbox.wait_for(1, "ana@acme.example")


async def test_dead_letters_are_retried_as_a_group(world: World, plain_visitor: Visitor) -> None:
    visitor = plain_visitor
    globex = await world.tenant("globex")
    await world.mailbox.behave(at="data", reply="554 5.7.1 Message refused")
    for name in ("bo", "cleo"):
        await world.create(globex, f"{name}@globex.example")
    await world.until_jobs("dead", 2)
    await world.mailbox.behave()
    await visitor.sign_in("operator")
    await visitor.open("/ops/dead")
    await visitor.follow("Retry")
    assert "2 jobs would be sent round again" in await visitor.text()
    await visitor.press("Retry 2 jobs")
    await visitor.until_text("2 of 2")
    await visitor.open("/ops/dead")
    assert "No job is dead." in await visitor.text()
    await world.mailbox.wait_for(2, "globex.example")


async def test_a_tenant_is_held_back_and_let_go(world: World, plain_visitor: Visitor) -> None:
    visitor = plain_visitor
    held = await world.tenant("initech", invitations=False)
    await visitor.sign_in("operator")
    await visitor.open("/ops/queues")
    await visitor.fill("Tenant", "initech")
    await visitor.fill("Why", "Their directory is being moved")
    await visitor.press("Pause")
    assert "Their directory is being moved" in await visitor.text()
    user = await world.create(held, "ana@initech.example")
    job = f"user:{user['id']} kind:user.create"
    assert "1 job matches" in await visitor.search(f"{job} state:staged")
    await visitor.open("/ops/queues")
    await visitor.press("Resume", visitor.page.locator("#paused"))
    assert "Nothing is paused." in await visitor.text()

    async def done() -> bool:
        return "1 job matches" in await visitor.search(f"{job} state:done")

    _: bool = await wait_until(done, "the create that waited is done", 20)


async def test_the_audit_log_is_searched_kept_and_read_page_by_page(world: World, plain_visitor: Visitor) -> None:
    visitor, page = plain_visitor, plain_visitor.page
    hooli = await world.tenant("hooli", invitations=False)
    for number in range(60):
        await world.create(hooli, f"user-{number}@hooli.example")
    await visitor.sign_in("viewer")
    await visitor.open("/admin/audit")
    await visitor.fill("Search", "action:scim.user.create phase:requested tenant:hooli")
    await visitor.press("Search")
    rows = page.get_by_role("region", name="Events").locator("tbody tr")
    first = await rows.all_inner_texts()
    await visitor.follow("Older")
    rest = await rows.all_inner_texts()
    assert (len(first), len(rest)) == (50, 10)
    assert not set(first) & set(rest)
    await visitor.fill("Save this search as", "Creates of Hooli")
    await visitor.press("Save view")
    await visitor.open("/admin/audit")
    await visitor.follow("Creates of Hooli")
    assert await rows.count() == 50
    await rows.first.get_by_role("link", name="all of it").click()
    assert "scim.user.create" in await visitor.text()
    await visitor.open("/admin/audit")
    await visitor.press("Delete Creates of Hooli")
    assert "Saved views" not in await visitor.text()
    await visitor.press("dark")
    assert await page.locator("html").get_attribute("data-theme") == "dark"
    await visitor.press("Sign out")
    await visitor.open("/ops")
    assert await visitor.heading() == "Sign in to Usher"
