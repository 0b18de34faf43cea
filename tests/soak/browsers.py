"""What looks on during a soak: a scraper of metrics, and an operator who opens live pages and leaves them again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Final

import aiohttp
from uuid_utils.compat import uuid7

from api.pages.cookies import cookie_name
from api.pages.guard import SESSION_COOKIE
from models.audit.record import OPERATOR
from models.db import open_pool
from models.operators import add_operator
from models.sessions import begin_session
from tests.support.api import altered

if TYPE_CHECKING:
    from tests.soak.stage import Stage

_SCRAPE_SECONDS: Final = 15.0
_STAY_SECONDS: Final = 12.0
_PAGES: Final = ("/ops", "/ops/jobs", "/ops/queues", "/ops/workers", "/ops/requests", "/ops/emails", "/admin/audit")
_LIVE: Final = ("/ops", "/ops/queues", "/ops/workers")


async def scrape(stage: Stage, over: asyncio.Event) -> None:
    """Scrape `/metrics` as Prometheus does, until it is over."""
    url = f"http://127.0.0.1:{stage.fleet.apis[0].settings.admin_port}/metrics"
    while not over.is_set():
        async with stage.client.get(url) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), _SCRAPE_SECONDS)


async def look(stage: Stage, over: asyncio.Event) -> int:
    """Open pages, stay on live ones for a while and leave them, until it is over; return how many were opened."""
    settings = stage.fleet.apis[0].settings
    base = f"http://127.0.0.1:{settings.admin_port}"
    cookie = await _sign_in(stage, base)
    headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
    opened = 0
    for page, live in zip(cycle(_PAGES), cycle(_LIVE), strict=False):
        if over.is_set():
            break
        with suppress(aiohttp.ClientError, TimeoutError):
            async with stage.client.get(base + page, headers=headers) as answer:
                await answer.read()
                opened += answer.status == 200
            stream = {**headers, "Accept": "text/event-stream"}
            async with (
                asyncio.timeout(_STAY_SECONDS),
                stage.client.get(f"{base}{live}?live=1", headers=stream) as event,
            ):
                await event.read()
        with suppress(TimeoutError):  # when the page could not be opened
            await asyncio.wait_for(over.wait(), 1.0)
    return opened


async def _sign_in(stage: Stage, base: str) -> str:
    pool = await open_pool(stage.settings, name="soak", size=1)
    try:
        async with pool.acquire() as connection:
            operator = await add_operator(
                connection, name="soak", email="s@example.com", role="admin", actor=OPERATOR, correlation_id=uuid7()
            )
            value = await begin_session(connection, operator.id)
    finally:
        await pool.close()
    return f"{cookie_name(altered(stage.settings, admin_url=base), SESSION_COOKIE)}={value}"
