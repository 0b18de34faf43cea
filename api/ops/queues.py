"""`/ops/queues`: how each kind stands, and holding back a kind, a tenant or both."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

from api.keys import PAGES_POOL, RING
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, redirect
from models import backlog, pauses
from models.errors import UsageError
from models.job_search import as_uuid
from models.jobs import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

_DURATIONS = {
    "until somebody resumes": None,
    "15 minutes": timedelta(minutes=15),
    "1 hour": timedelta(hours=1),
    "4 hours": timedelta(hours=4),
    "1 day": timedelta(days=1),
    "1 week": timedelta(weeks=1),
}
_MOST_ROWS = 100


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    async def read() -> Mapping[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return {
                "standing": await backlog.stats(connection),
                "pauses": await pauses.list_pauses(connection),
            }

    def values(seen: Mapping[str, Any]) -> dict[str, Any]:
        paused = {(one["kind"], one["tenant"]) for one in seen["pauses"]}
        rows = [
            {
                **row,
                "paused": any(
                    kind in (None, row["kind"]) and tenant in (None, row["tenant"]) for kind, tenant in paused
                ),
            }
            for row in sorted(seen["standing"], key=lambda row: -(row["oldest_seconds"] or 0))
        ]
        return {
            "rows": rows[:_MOST_ROWS],
            "more": max(len(rows) - _MOST_ROWS, 0),
            "pauses": seen["pauses"],
            "scope": pauses.scope,
            "kinds": KINDS,
            "may_pause": person(request).may("pause_queue"),
        }

    async def regions() -> dict[str, str]:
        found = values(await shared(request, "queues", read, seconds=2))
        return {name: await fragment(request, "ops/queues.html", name, **found) for name in ("paused", "standing")}

    if "live" in request.query:
        return await live_page(request, regions)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        rows = await connection.fetch("SELECT name FROM tenant ORDER BY name LIMIT 500")
    names = [row["name"] for row in rows]
    return await page(request, "ops/queues.html", tenants=names, durations=list(_DURATIONS), **values(await read()))


@allowed("pause_queue")
async def _pause(request: web.Request) -> web.StreamResponse:
    kind, tenant, reason, length = await fields(request, "kind", "tenant", "reason", "length")
    if length not in _DURATIONS:
        raise UsageError(f"Choose one of {', '.join(_DURATIONS)}.")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        made, new = await pauses.pause(
            connection,
            kind=kind or None,
            tenant=tenant.strip() or None,
            reason=reason,
            actor=person(request).actor,
            duration=_DURATIONS[length],
        )
    what = pauses.scope(made)
    if new:
        return redirect(request, "/ops/queues", f"{what}: paused. What is running goes on; nothing is refused.")
    return redirect(request, "/ops/queues", f"{what}: paused already, by {made['paused_by']}; nothing was changed.")


@allowed("pause_queue")
async def _resume(request: web.Request) -> web.StreamResponse:
    (named,) = await fields(request, "id")
    pause_id = as_uuid(named)
    if pause_id is None:
        raise UsageError("The form is not whole. Open the page and try again.")
    try:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            ended, rung = await pauses.resume(connection, pause_id, actor=person(request).actor)
    except UsageError as error:
        return redirect(request, "/ops/queues", error.detail)
    for queue, ids in rung.items():
        request.config_dict[RING].ring(queue, ids)
    return redirect(request, "/ops/queues", f"{pauses.scope(ended)}: resumed.")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    return [
        web.get("/ops/queues", _show),
        web.post("/ops/queues/pause", _pause),
        web.post("/ops/queues/resume", _resume),
    ]
