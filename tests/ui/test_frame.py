"""The frame of the pages in a real browser: what updates itself, and cookies that other sites cannot use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import async_playwright, expect

from api.ops import routes as ops
from api.pages.guard import allowed
from api.pages.live import _STREAMS, live_page
from api.pages.static import static_url
from tests.support.api import Api, fresh_settings, serving
from tests.support.pages import browser
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Page

    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")


class _Page:
    """A page with two regions, of which a test says what stands in them."""

    def __init__(self) -> None:
        self.regions: dict[str, str] = {}
        self.begin()

    def begin(self) -> None:
        self.regions = {
            "first": "<p>one</p>",
            "second": '<input id="field"><details><summary>more</summary>x</details>',
        }

    def routes(self) -> list[web.AbstractRouteDef]:
        return [web.get("/ops/trial", allowed("view_jobs")(self._show))]

    async def _regions(self) -> dict[str, str]:
        return dict(self.regions)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        if "live" in request.query:
            return await live_page(request, self._regions, every_seconds=0.05)
        sections = "".join(f'<section id="{name}" data-live>{html}</section>' for name, html in self.regions.items())
        text = (
            f'<!doctype html><title>Trial</title><script src="{static_url("live.js")}" defer></script><body>{sections}'
            '<p id="live-state"></p><button id="live-pause" type="button" hidden>Pause updates</button>'
        )
        return web.Response(text=text, content_type="text/html")


TRIAL = _Page()


@pytest.fixture(scope="module", autouse=True)
def trial() -> Iterator[None]:
    """Have the page above in every front end of this module."""
    before = ops._PAGES
    ops._PAGES = (*before, TRIAL)  # type: ignore[arg-type]  # it has what a module of pages has
    yield
    ops._PAGES = before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(servers: Servers, trial: None) -> AsyncIterator[Api]:
    """A front end of the module's own."""
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def window() -> AsyncIterator[Browser]:
    """The system's Chromium without a screen."""
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses to work for root
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=os.environ.get("USHER_TEST_CHROMIUM", "/usr/bin/chromium"), args=alone
        )
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(site: Api, window: Browser) -> AsyncIterator[Page]:
    """A window in which an admin is signed in."""
    TRIAL.begin()
    signed_in = await browser(site)
    context = await window.new_context()
    for name, value in signed_in.cookies.items():
        await context.add_cookies(
            [{"name": name, "value": value, "url": site.internal_url, "httpOnly": True, "sameSite": "Strict"}]
        )
    yield await context.new_page()
    await context.close()


async def test_a_region_is_swapped_when_it_changed_and_only_then(site: Api, page: Page) -> None:
    await page.goto(site.internal_url + "/ops/trial")
    await expect(page.locator("#live-state")).to_contain_text("Updating by itself")
    await page.locator("summary").click()
    TRIAL.regions["first"] = "<p>two &lt;b&gt;</p>\n<p>lines</p>"
    await expect(page.locator("#first")).to_have_text("two <b>\nlines")
    # What was opened stays open when its region comes anew.
    TRIAL.regions["second"] = '<input id="field" value="new"><details><summary>more</summary>y</details>'
    await expect(page.locator("#field")).to_have_value("new")
    await expect(page.locator("details")).to_have_attribute("open", "")
    assert await page.evaluate("document.activeElement.textContent") == "more"


async def test_where_somebody_types_nothing_is_swapped_until_they_leave(site: Api, page: Page) -> None:
    await page.goto(site.internal_url + "/ops/trial")
    await page.fill("#field", "half a wo")
    TRIAL.regions = {"first": "<p>two</p>", "second": "<p>gone</p>"}
    await expect(page.locator("#first")).to_have_text("two")
    await expect(page.locator("#live-state")).to_contain_text("waits until you leave it")
    assert await page.input_value("#field") == "half a wo"
    assert await page.evaluate("document.activeElement.id") == "field"
    await page.locator("#live-pause").focus()
    await expect(page.locator("#second")).to_have_text("gone")
    assert await page.evaluate("document.activeElement.id") == "live-pause"


async def test_updates_pause_until_they_are_resumed(site: Api, page: Page) -> None:
    await page.goto(site.internal_url + "/ops/trial")
    await expect(page.locator("#live-state")).to_contain_text("Updating by itself")
    await page.click("text=Pause updates")
    await expect(page.locator("#live-state")).to_have_text("Paused")
    # The stream is closed: nobody asks for the regions any more.
    _: bool = await wait_until(lambda: not site.faces.internal[_STREAMS], "the stream to be closed")
    TRIAL.regions["first"] = "<p>two</p>"
    await expect(page.locator("#first")).to_have_text("one")
    await page.click("text=Resume updates")
    await expect(page.locator("#first")).to_have_text("two")


async def test_a_person_who_signed_out_elsewhere_is_told(site: Api, page: Page) -> None:
    await page.goto(site.internal_url + "/ops/trial")
    await expect(page.locator("#live-state")).to_contain_text("Updating by itself")
    other = await page.context.new_page()
    await other.goto(site.internal_url + "/account")
    await other.click("text=Sign out")
    await expect(page.locator("#live-state")).to_have_text("You are signed out.")


async def test_what_leads_here_from_another_site_finds_the_session_but_cannot_act(site: Api, page: Page) -> None:
    text = (
        f'<a href="{site.internal_url}/account?from=mail">look</a>'
        f'<form method="post" action="{site.internal_url}/sign-out"><button>act</button></form>'
    )

    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", elsewhere)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://localhost:{runner.addresses[0][1]}/"  # another site than 127.0.0.1
        await page.goto(address)
        await page.click("text=look")
        await expect(page.locator("h1")).to_have_text("Your account")
        assert page.url == f"{site.internal_url}/account?from=mail"
        await page.goto(address)
        await page.click("text=act")
        await expect(page.locator("main")).to_contain_text("did not come from a page of this site")
        await page.goto(f"{site.internal_url}/account")
        await expect(page.locator("h1")).to_have_text("Your account")
    finally:
        await runner.cleanup()
