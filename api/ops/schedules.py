"""/ops/schedules: what runs again and again, how it went last, and asking for a run."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.keys import PAGES_POOL
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, redirect
from models.schedules import Schedule, list_schedules, run_now

_TEMPLATE = "ops/schedules.html"


async def _read(request: web.Request) -> list[Schedule]:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        return await list_schedules(connection)


def _values(request: web.Request, found: list[Schedule]) -> dict[str, Any]:
    return {"schedules": found, "may": person(request).may("quiet_worker")}


@allowed("view_jobs")
async def schedules(request: web.Request) -> web.StreamResponse:
    """Show every schedule."""
    if "live" in request.query:

        async def regions() -> dict[str, str]:
            found = await shared(request, "schedules", lambda: _read(request))
            return {"schedules": await fragment(request, _TEMPLATE, "schedules", **_values(request, found))}

        return await live_page(request, regions)
    return await page(request, _TEMPLATE, title="Schedules", **_values(request, await _read(request)))


@allowed("quiet_worker")
async def run(request: web.Request) -> web.StreamResponse:
    """Ask for a run at once."""
    name = request.match_info["name"]
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        asked = await run_now(connection, name, actor=person(request).actor)
    message = (
        f"{name} runs as soon as a worker sees it, within seconds." if asked else f"{name} was asked to run already."
    )
    return redirect(request, "/ops/schedules", message)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/ops/schedules", schedules), web.post("/ops/schedules/{name}/run", run)]
