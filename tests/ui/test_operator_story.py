"""One day of an operator, in a real browser: watch, find, mend, hold back and let go."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ui.visitor import Visitor
    from tests.ui.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


def number(text: str) -> int:
    """Read a number as a page writes it, with spaces between thousands."""
    return int(re.sub(r"\D", "", text) or "0")


async def numbers(visitor: Visitor) -> tuple[int, int]:
    """Return what the overview says of creates that are done, and of invitations that are tried again."""
    done = await visitor.cell("queues", "user.create", "Done, last hour")
    retry = number(await visitor.cell("queues", "invitation.send", "Retry"))
    found = re.search(r"([\d \u00a0\u202f]+) in all$", done)
    assert found, done
    return number(found[1]), retry


async def retry_all(visitor: Visitor) -> None:
    """Confirm a bulk retry whose preview is open, and watch its progress to the end."""
    page = visitor.page
    assert "would be sent round again" in await visitor.text()
    typed = page.get_by_label(re.compile(r"^Type \d+ to confirm"))
    if await typed.count():
        await typed.fill(str(number(await page.locator("label", has_text="to confirm").inner_text())))
    await visitor.fill("Why (may be left out)", "The mail server is back")
    await visitor.press("Retry")
    assert "The operation is under way." in await visitor.text()
    await visitor.until_text("done")


async def test_an_outage_of_the_mail_server_is_seen_and_mended(
    world: World, visitor: Visitor, users: int, screenshots: Path | None
) -> None:
    page = visitor.page
    acme = await world.tenant("acme")
    await visitor.sign_in()
    assert await numbers(visitor) == (0, 0)
    await page.evaluate("window.neverLeft = true")

    # Nobody takes mail when Entra's initial cycle comes. The page counts by itself, in steps.
    await world.stop_mail()
    cycle = asyncio.create_task(world.simulate(acme, users, "--seed", "4"))
    seen = [(0, 0)]

    async def all_done() -> bool:
        now = await numbers(visitor)
        if now != seen[-1]:
            seen.append(now)
        return now[0] == users and now[1] > 0

    _: bool = await wait_until(all_done, "the overview shows every create", 60 + users / 20)
    report = await cycle
    assert len(seen) >= 3, seen
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert await page.evaluate("window.neverLeft")
    await visitor.paint(screenshots, "story-1-overview-in-an-outage")
    await visitor.open("/ops/cycle/acme")
    await visitor.paint(screenshots, "story-2-cycle")

    # One user's failed invitation, by name, and why.
    await world.until_jobs("retry", report["invitable"], seconds=60)
    async with world.store() as connection:
        found = await connection.fetchrow(
            "SELECT users.doc ->> 'userName', email FROM invitation JOIN users ON users.id = user_id LIMIT 1"
        )
    assert found is not None
    name, address = found
    text = await visitor.search(f"user:{name} kind:invitation.send")
    assert "1 job matches" in text
    assert name in text
    await visitor.paint(screenshots, "story-3-one-users-job")
    await page.locator("tbody a.mono").first.click()
    text = await visitor.text()
    assert "smtp_unreachable" in text
    assert "The connection failed at" in text
    assert "Where it was raised" in text
    await visitor.paint(screenshots, "story-4-the-error")

    # The server is back: the whole group is sent round again at once.
    await world.start_mail()
    await visitor.search("state:retry error:smtp_unreachable")
    await visitor.follow("Retry all that match")
    await visitor.paint(screenshots, "story-5-preview")
    await retry_all(visitor)
    await visitor.paint(screenshots, "story-6-progress")
    await world.until_jobs("done", report["invitable"], seconds=60)
    assert "No job matches." in await visitor.search("state:retry,dead")
    assert len(await world.mailbox.messages()) == report["invitable"]
    assert len(await world.mailbox.messages(address)) == 1


async def test_dead_letters_are_retried_as_a_group(world: World, visitor: Visitor, screenshots: Path | None) -> None:
    globex = await world.tenant("globex")
    await world.mailbox.behave(at="data", reply="554 5.7.1 Message refused")
    people = ["ana@globex.example", "bo@globex.example", "cleo@globex.example"]
    for person in people:
        await world.create(globex, person)
    await visitor.sign_in("operator")
    await visitor.open("/ops/dead")
    await visitor.until_text("smtp_5xx")
    await world.until_jobs("dead", len(people))
    group = visitor.page.locator("#groups tbody tr")
    await wait_until(lambda: counted(visitor, len(people)), "the group has all of them", 20)
    assert await group.count() == 1
    assert "smtp_5xx" in await group.inner_text()
    await visitor.paint(screenshots, "story-7-dead-letters")

    await world.mailbox.behave()
    await visitor.follow("Retry", group)
    for person in people:
        assert person in await visitor.text()
    await retry_all(visitor)
    await visitor.open("/ops/dead")
    await visitor.until_text("No job is dead.")
    await world.mailbox.wait_for(len(people), "globex.example")


async def counted(visitor: Visitor, count: int) -> bool:
    heads = await visitor.page.locator("#groups tbody th").all_inner_texts()
    return [number(head) for head in heads] == [count]


async def test_a_tenant_is_held_back_and_let_go(world: World, visitor: Visitor, screenshots: Path | None) -> None:
    page = visitor.page
    held, other = await world.tenant("initech"), await world.tenant("hooli")
    await visitor.sign_in("operator")
    await visitor.open("/ops/queues")
    await visitor.fill("Tenant", "initech")
    await visitor.fill("Why", "Their directory is being moved")
    await visitor.press("Pause")
    await visitor.until_live()  # which takes nothing back
    assert "Their directory is being moved" in await visitor.text()
    await visitor.paint(screenshots, "story-8-paused")

    waits = await world.create(held, "ana@initech.example")
    passes = await world.create(other, "ana@hooli.example")

    async def applied(identifier: str) -> bool:
        return await world.count("SELECT count(*) FROM users WHERE id = $1", identifier) == 1

    await wait_until(lambda: applied(passes["id"]), "the other tenant's user is applied")
    assert not await applied(waits["id"])
    assert (await held.get(f"/Users/{waits['id']}")).status == 200
    assert "1 job matches" in await visitor.search(f"user:{waits['id']} kind:user.create state:staged")
    await visitor.open("/ops")
    await visitor.until_text("paused for initech")
    await visitor.paint(screenshots, "story-9-overview-with-a-pause")

    await visitor.open("/ops/queues")
    await visitor.press("Resume", page.locator("#paused"))
    assert "Nothing is paused." in await visitor.text()
    await wait_until(lambda: applied(waits["id"]), "the user who waited is applied")
    assert "1 job matches" in await visitor.search(f"user:{waits['id']} kind:user.create state:done")
