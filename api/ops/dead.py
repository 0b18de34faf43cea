"""`/ops/dead`: dead jobs in groups of one kind and one fault, and what may be done to a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from api.keys import PAGES_POOL
from api.ops.jobs import permitted
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page
from models.errors import UsageError
from models.job_detail import MOST_DEAD, dead_groups
from models.jobs import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    kind = request.query.get("kind") or None
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind {kind}; there are {', '.join(KINDS)}.")
    operator = person(request)
    actions = [one for one in permitted(operator) if one != "cancel"] if operator.may("bulk") else []

    async def read() -> Mapping[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            groups, short = await dead_groups(connection, kind=kind)
        return {"groups": groups, "short": short}

    def values(seen: Mapping[str, Any]) -> dict[str, Any]:
        return {**seen, "kind": kind, "kinds": ["", *KINDS], "actions": actions, "most": MOST_DEAD}

    async def regions() -> dict[str, str]:
        seen = await shared(request, f"dead {kind}", read, seconds=2)
        return {"groups": await fragment(request, "ops/dead.html", "groups", **values(seen))}

    if "live" in request.query:
        return await live_page(request, regions)
    return await page(request, "ops/dead.html", **values(await read()))


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    return [web.get("/ops/dead", _show)]
