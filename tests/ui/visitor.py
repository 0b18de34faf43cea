"""A person in front of a real browser, and everything that must never be seen there."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, Response

    from tests.ui.world import World

WIDTH, HEIGHT = 1280, 800  # CSS pixels
_SCREENS = {"wide": (WIDTH, HEIGHT), "narrow": (400, 800)}

# In one go: a region may be swapped between two looks.
_CELL = """(table, [row, column]) => {
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
  const line = [...table.tBodies[0].rows].find((one) => one.querySelector("th").innerText.trim().startsWith(row));
  return line.cells[heads.indexOf(column)].innerText;
}"""

_PROSE = """() => {
  const copy = document.querySelector("main").cloneNode(true);
  copy.querySelectorAll("pre, code, datalist, select, details, del, ins, svg").forEach((one) => one.remove());
  return copy.textContent;
}"""


@dataclass
class Visitor:
    """One page of one browser context."""

    page: Page
    world: World
    javascript: bool = True
    refused: bool = False
    """Whether the page at hand is a refusal; the console tells of its status then, and only then."""
    faults: list[str] = field(default_factory=list)

    async def sign_in(self, role: str = "admin") -> None:
        """Come in through a link, as a person does the first time."""
        await self.page.goto(await self.world.sign_in_link(role))
        await self.press("Sign in as")
        assert await self.heading() == "Overview"

    async def open(self, path: str, status: int = 200) -> str:
        """Open a page and return what it says."""
        self.refused = status >= 400
        response = await self.page.goto(self.world.pages_url + path)
        assert response is not None
        assert response.status == status, (path, response.status)
        return await self.text()

    async def search(self, words: str) -> str:
        """Search the jobs through the form."""
        await self.open("/ops/jobs")
        await self.page.get_by_label("Search").fill(words)
        await self.press("Search")
        return await self.text()

    async def audit(self, words: str) -> str:
        """Search the audit log by address, as a permalink does."""
        return await self.open(f"/admin/audit?q={quote(words)}")

    async def text(self) -> str:
        """Return what the page says below its head."""
        return await self.page.locator("main").inner_text()

    async def prose(self) -> str:
        """Return the same without code, searches and folded parts, in which anything may stand."""
        return str(await self.page.evaluate(_PROSE))

    async def heading(self) -> str:
        """Return the page's first heading."""
        return await self.page.locator("h1").first.inner_text()

    async def press(self, name: str, within: Locator | None = None) -> None:
        """Press the first button with this name."""
        await (within or self.page).get_by_role("button", name=name).first.click()

    async def follow(self, name: str, within: Locator | None = None) -> None:
        """Follow the first link with this name."""
        await (within or self.page).get_by_role("link", name=name).first.click()

    async def fill(self, label: str, value: str) -> None:
        """Write into a field."""
        await self.page.get_by_label(label, exact=True).fill(value)

    async def cell(self, region: str, row: str, column: str) -> str:
        """Return what stands in a region's first table, by the heads of its row and its column."""
        return str(await self.page.locator(f"#{region} table").first.evaluate(_CELL, [row, column])).strip()

    async def until_live(self) -> None:
        """Wait until the page has been sent its regions anew."""
        state = self.page.locator("#live-state")

        async def live() -> bool:
            return "last at" in await state.inner_text()

        _: bool = await wait_until(live, f"{self.page.url} updates itself")

    async def until_text(self, words: str, seconds: float = 20) -> str:
        """Wait until the page says something: by itself, or by Refresh where it has no scripts."""

        async def says() -> str:
            text = await self.text()
            if words in text:
                return text
            if not self.javascript:
                await self.follow("Refresh")
            return ""

        return await wait_until(says, f"{self.page.url} says {words!r}", seconds)

    async def paint(self, folder: Path | None, name: str) -> None:
        """Paint the page, wide and narrow, in both schemes, if there is a folder to paint into."""
        if folder is None:
            return
        for width, (across, down) in _SCREENS.items():
            await self.page.set_viewport_size({"width": across, "height": down})
            for scheme in ("light", "dark"):
                await self.page.emulate_media(color_scheme=scheme)
                await self.page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
        await self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        await self.page.emulate_media(color_scheme="light")

    async def spilled(self) -> list[str]:
        """Return the widths at which the page is wider than its window; a table scrolls by itself."""
        wrong = []
        for width, (across, down) in _SCREENS.items():
            await self.page.set_viewport_size({"width": across, "height": down})
            wide = await self.page.evaluate("document.documentElement.scrollWidth")
            if wide > across:
                wrong.append(f"{width}: {wide} px in {across} px")
        await self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        return wrong

    def _watch(self) -> None:
        page = self.page
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._fault("script", str(error)))
        page.on("request", self._on_request)
        page.on("response", self._on_response)

    def _fault(self, kind: str, what: str) -> None:
        self.faults.append(f"{kind} at {urlsplit(self.page.url).path}: {what}")

    def _on_console(self, said: ConsoleMessage) -> None:
        told = self.refused and said.text.startswith("Failed to load resource: the server responded with a status of 4")
        if said.type == "error" and not told:
            self._fault("console", said.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.world.pages_url}/", "data:")):
            self._fault("request to another origin", request.url)

    def _on_response(self, response: Response) -> None:
        if response.request.resource_type != "document" or 300 <= response.status < 400:
            return
        policy = response.headers.get("content-security-policy", "")
        if "default-src 'none'" not in policy and "default-src 'self'" not in policy:
            self._fault("no strict policy", f"{policy!r}")
        if "unsafe" in policy:
            self._fault("loose policy", policy)


@asynccontextmanager
async def visiting(chromium: Browser, world: World, *, javascript: bool = True) -> AsyncIterator[Visitor]:
    """Open a fresh context and a page in it; raise what was wrong in it once the test is through."""
    context = await chromium.new_context(
        java_script_enabled=javascript, viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce"
    )
    context.set_default_timeout(15_000)
    try:
        visitor = Visitor(await context.new_page(), world, javascript)
        visitor._watch()
        yield visitor
        assert visitor.faults == []
    finally:
        await context.close()
