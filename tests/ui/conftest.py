"""A real Chromium for the tests of pages: one a session, with nothing kept from one test to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright

from tests.ui.visitor import Visitor, visiting
from tests.ui.world import running_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

    from tests.support.servers import Servers
    from tests.ui.world import World


@pytest.fixture(scope="session")
def users() -> int:
    """How many users a story pushes: few in a test, as many as `USHER_TEST_UI_USERS` says by hand."""
    return int(os.environ.get("USHER_TEST_UI_USERS", "300"))


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    """The folder for pictures of the pages, `USHER_TEST_UI_SCREENSHOTS`; nothing is painted without one."""
    named = os.environ.get("USHER_TEST_UI_SCREENSHOTS")
    if not named:
        return None
    folder = Path(named)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium without a screen."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses to work for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=os.environ.get("USHER_TEST_CHROMIUM", "/usr/bin/chromium"), args=alone
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(servers: Servers) -> AsyncIterator[World]:
    """An Usher of the module's own."""
    async with running_world(servers) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(chromium: Browser, world: World) -> AsyncIterator[Visitor]:
    """A person with a browser of their own, who looks at this world; complains at the end of what was wrong in it."""
    await world.mend()
    async with visiting(chromium, world) as somebody:
        yield somebody


@pytest_asyncio.fixture(loop_scope="session")
async def plain_visitor(chromium: Browser, world: World) -> AsyncIterator[Visitor]:
    """The same with JavaScript switched off."""
    await world.mend()
    async with visiting(chromium, world, javascript=False) as somebody:
        yield somebody
