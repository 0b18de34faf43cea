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


async def numbers(visitor: Visitor) -> tuple[str, str]:
    """Return what the overview says of creates that are done, and of invitations that are tried again."""
    done = await visitor.cell("queues", "user.create", "Done, last hour")
    found = re.search(r"([\d\s,\u00a0\u202f]+) in all", done)
    assert found, done
    return found[1].strip(), await visitor.cell("queues", "invitation.send", "Retry")


async def test_an_outage_of_the_mail_server_seen_and_mended(
    world: World, visitor: Visitor, users: int, screenshots: Path | None
) -> None:
    page = visitor.page
    acme = await world.tenant("acme")
    await visitor.sign_in()
    assert (await numbers(visitor))[1] == "0"
    await page.evaluate("window.neverLeft = true")

    # Nobody takes mail when Entra's initial cycle comes.
    await world.stop_mail()
    cycle = asyncio.create_task(world.simulate(acme, users, "--seed", "4"))
    seen: list[tuple[str, str]] = []

    async def all_seen() -> bool:
        now = await numbers(visitor)
        if now not in seen:
            seen.append(now)
        return cycle.done() and now == (f"{users:,}".replace(",", "\u00a0"), now[1]) and now[1] != "0"

    print(seen)
    try:
        _: bool = await wait_until(all_seen, "the overview shows every create", 60 + users / 20)
    finally:
        print(seen)
    report = await cycle
