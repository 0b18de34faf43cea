"""/ops/cycle: how far the cycles that Entra is running are, tenant by tenant."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api.keys import BEGINNINGS, PAGES_POOL
from api.pages.guard import allowed
from api.pages.live import live_page, shared
from api.pages.render import fragment, page
from models.cycle import Cycle, list_cycles
from models.tenants import find_tenant

_TEMPLATE = "ops/cycle.html"
_SECONDS = 2.0


async def _read(request: web.Request, tenant: str | None) -> list[Cycle]:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        if tenant is not None:
            await find_tenant(connection, tenant)
        return await list_cycles(connection, tenant, beginnings=request.config_dict[BEGINNINGS])


async def _show(request: web.Request, tenant: str | None) -> web.StreamResponse:
    async def values() -> dict[str, Any]:
        key = f"cycles {tenant}" if tenant is not None else "cycles"
        return {
            "cycles": await shared(request, key, lambda: _read(request, tenant), seconds=_SECONDS),
            "tenant": tenant,
        }

    async def regions() -> dict[str, str]:
        return {"cycles": await fragment(request, _TEMPLATE, "cycles", **await values())}

    if "live" in request.query:
        return await live_page(request, regions, every_seconds=_SECONDS)
    title = "Cycles" if tenant is None else f"Cycle of {tenant}"
    return await page(request, _TEMPLATE, title=title, **await values())


@allowed("view_jobs")
async def cycles(request: web.Request) -> web.StreamResponse:
    """Show every cycle that is going on."""
    return await _show(request, None)


@allowed("view_jobs")
async def cycle(request: web.Request) -> web.StreamResponse:
    """Show one tenant's latest cycle."""
    return await _show(request, request.match_info["tenant"])


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/ops/cycle", cycles), web.get("/ops/cycle/{tenant}", cycle)]
