"""`/ops/bulk`: one action on all that a search finds: what it would do, the word to go, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL
from api.ops.job import DELAYS, read_delay
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.live import live_page
from api.pages.render import fragment, page, problem, redirect
from models import bulk
from models.errors import UsageError
from models.job_actions import ACTIONS
from models.job_find_sql import MOST_COUNTED
from models.job_search import as_uuid

if TYPE_CHECKING:
    from uuid import UUID


def _forbidden(request: web.Request, action: str) -> web.Response | None:
    """Return the refusal for a person who may not do to single jobs what they want to do to many."""
    if action not in ACTIONS or person(request).may(f"{action}_job"):
        return None
    return problem(request, 403, f"Your role is {person(request).role}, which does not include {action}_job.")


@allowed("view_jobs")
async def _list(request: web.Request) -> web.StreamResponse:
    async def regions() -> dict[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return {"operations": await bulk.list_operations(connection), "actions": ACTIONS}

    async def live() -> dict[str, str]:
        return {"operations": await fragment(request, "ops/bulk.html", "operations", **await regions())}

    if "live" in request.query:
        return await live_page(request, live)
    return await page(request, "ops/bulk.html", **await regions())


async def _preview(
    request: web.Request, action: str, text: str, operation_id: UUID, *, error: str | None = None, status: int = 200
) -> web.Response:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        seen = await bulk.preview(connection, action, text)
    return await page(
        request,
        "ops/bulk_new.html",
        status=status,
        preview=seen,
        rule=ACTIONS[action],
        operation_id=operation_id,
        delays=list(DELAYS),
        most=MOST_COUNTED,
        typed=seen.count > bulk.CONFIRM_ABOVE,
        word=_word(seen),
        error=error,
    )


def _word(seen: bulk.Preview) -> str:
    """Return what a person types to confirm: the number that was counted."""
    return str(seen.count - 1) if seen.capped else str(seen.count)


@allowed("bulk")
async def _new(request: web.Request) -> web.StreamResponse:
    action, text = request.query.get("action", ""), request.query.get("q", "")
    return _forbidden(request, action) or await _preview(request, action, text, uuid7())


@allowed("bulk")
async def _start(request: web.Request) -> web.StreamResponse:
    action, text, named, reason, delay, count, typed = await fields(
        request, "action", "q", "operation_id", "reason", "delay", "count", "typed"
    )
    operation_id = as_uuid(named)
    if operation_id is None:
        raise UsageError("The form is not whole. Open the page and try again.")
    refused = _forbidden(request, action)
    if refused is not None:
        return refused
    many = not count.isdigit() or int(count) > bulk.CONFIRM_ABOVE
    if many and typed.strip().replace(" ", "").replace(",", "") != count:
        error = f"To go on, type the number of jobs: {count}."
        return await _preview(request, action, text, operation_id, error=error, status=400)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        operation, new = await bulk.start(
            connection,
            operation_id,
            action,
            text,
            actor=person(request).actor,
            reason=reason,
            delay_seconds=read_delay(delay),
            at_most=None if many else bulk.CONFIRM_ABOVE,
        )
    message = "The operation is under way." if new else "The operation was asked for already; this is how far it is."
    return redirect(request, f"/ops/bulk/{operation['id']}", message)


async def _operation(request: web.Request) -> dict[str, Any]:
    operation_id = as_uuid(request.match_info["id"])
    if operation_id is None:
        raise web.HTTPNotFound
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        operation = await bulk.get(connection, operation_id)
    return {"operation": operation, "rule": ACTIONS[operation["action"]], "may_stop": person(request).may("bulk")}


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    async def regions() -> dict[str, str]:
        return {"progress": await fragment(request, "ops/bulk_show.html", "progress", **await _operation(request))}

    found = await _operation(request)
    if "live" in request.query:
        return await live_page(request, regions, every_seconds=1)
    return await page(request, "ops/bulk_show.html", **found)


@allowed("bulk")
async def _stop(request: web.Request) -> web.StreamResponse:
    operation = (await _operation(request))["operation"]
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        stopped = await bulk.stop(connection, operation["id"], actor=person(request).actor)
    message = (
        "Stopped. What was done stays done." if stopped else "It had come to its end already; nothing was changed."
    )
    return redirect(request, f"/ops/bulk/{operation['id']}", message)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of these pages."""
    return [
        web.get("/ops/bulk", _list),
        web.get("/ops/bulk/new", _new),
        web.post("/ops/bulk", _start),
        web.get("/ops/bulk/{id}", _show),
        web.post("/ops/bulk/{id}/stop", _stop),
    ]
