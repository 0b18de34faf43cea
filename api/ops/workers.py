"""/ops/workers: the processes that live, and telling workers to take no more jobs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aiohttp import web

from api.keys import PAGES_POOL
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, redirect
from models.errors import UsageError
from models.processes import Process, list_processes, set_quiet

_TEMPLATE = "ops/workers.html"


async def _read(request: web.Request) -> list[Process]:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        return await list_processes(connection)


def _values(request: web.Request, processes: list[Process]) -> dict[str, Any]:
    return {
        "workers": [one for one in processes if one.role == "worker"],
        "apis": [one for one in processes if one.role == "api"],
        "may": person(request).may("quiet_worker"),
    }


@allowed("view_jobs")
async def workers(request: web.Request) -> web.StreamResponse:
    """Show every process of the last day."""
    if "live" in request.query:

        async def regions() -> dict[str, str]:
            processes = await shared(request, "processes", lambda: _read(request))
            return {"processes": await fragment(request, _TEMPLATE, "processes", **_values(request, processes))}

        return await live_page(request, regions)
    return await page(request, _TEMPLATE, title="Workers", **_values(request, await _read(request)))


def _identifier(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise UsageError("There is no such worker.") from None


async def _tell(request: web.Request, *, quiet: bool) -> web.StreamResponse:
    process_id = _identifier(request.match_info["id"])
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        changed = await set_quiet(connection, process_id, quiet=quiet, actor=person(request).actor)
    if quiet:
        message = (
            "The worker takes no more jobs from its next beat on, within five seconds."
            if changed
            else "The worker is quiet already; somebody else was faster."
        )
    else:
        message = (
            "The worker takes jobs again from its next beat on, within five seconds."
            if changed
            else "The worker takes jobs already; somebody else was faster."
        )
    return redirect(request, "/ops/workers", message)


@allowed("quiet_worker")
async def quiet(request: web.Request) -> web.StreamResponse:
    """Tell a worker to take no more jobs."""
    return await _tell(request, quiet=True)


@allowed("quiet_worker")
async def unquiet(request: web.Request) -> web.StreamResponse:
    """Tell a worker to take jobs again."""
    return await _tell(request, quiet=False)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/ops/workers", workers),
        web.post("/ops/workers/{id}/quiet", quiet),
        web.post("/ops/workers/{id}/unquiet", unquiet),
    ]
