"""`/ops/jobs/ID`: one job's life, and what may be done to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from api.keys import PAGES_POOL, RING
from api.ops.jobs import permitted
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import offered, page, problem, redirect
from models.errors import UsageError
from models.job_actions import ACTIONS, act, explain, seen_mark
from models.job_detail import read_detail, reveal
from models.job_search import as_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

DELAYS = {"now": 0.0, "in 5 minutes": 300.0, "in 1 hour": 3600.0, "in 1 day": 86400.0}
"""What a retry can be put off by, in seconds, by what the form calls it."""


def read_delay(text: str) -> float:
    """Return the seconds of a choice out of `DELAYS`.

    Raises:
        UsageError: it is none of them.
    """
    if text not in ("", *DELAYS):
        raise UsageError(f"Choose one of {', '.join(DELAYS)}.")
    return DELAYS.get(text, 0.0)


def _job_id(request: web.Request) -> UUID:
    job_id = as_uuid(request.match_info["id"])
    if job_id is None:
        raise web.HTTPNotFound
    return job_id


async def _read(request: web.Request, job_id: UUID) -> dict[str, Any] | None:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        try:
            return await read_detail(connection, job_id)
        except UsageError:
            return None


def _gone(request: web.Request, job_id: UUID) -> web.Response:
    return problem(request, 404, f"There is no job {job_id}.")


def _able(request: web.Request, job: Mapping[str, Any]) -> list[str]:
    """Return what the person may do to the job as it stands; the dead are discarded, which wants a reason."""
    able = [action for action in permitted(person(request)) if job["state"] in ACTIONS[action].states]
    return [action for action in able if action != "cancel" or "discard" not in able]


async def _page(request: web.Request, job: dict[str, Any], *, revealed: bool) -> web.Response:
    text = None if job["payload"] is None else json.dumps(job["payload"], indent=2, ensure_ascii=False)
    return await page(
        request,
        "ops/job.html",
        job=job,
        payload=text,
        revealed=revealed,
        seen=seen_mark(job),
        actions=_able(request, job),
        delays=list(DELAYS),
        pages={path for path, _ in offered(request)},
    )


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    job_id = _job_id(request)
    job = await _read(request, job_id)
    return _gone(request, job_id) if job is None else await _page(request, job, revealed=False)


@allowed("reveal_args")
async def _reveal(request: web.Request) -> web.StreamResponse:
    job_id = _job_id(request)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        payload = await reveal(connection, job_id, actor=person(request).actor)
    job = await _read(request, job_id)
    return _gone(request, job_id) if job is None else await _page(request, {**job, "payload": payload}, revealed=True)


@allowed("view_jobs")
async def _confirm(request: web.Request) -> web.StreamResponse:
    job_id, action = _job_id(request), request.match_info["action"]
    job = await _read(request, job_id)
    if job is None or action not in ("cancel", "discard"):
        return _gone(request, job_id)
    if action not in _able(request, job):
        return redirect(request, f"/ops/jobs/{job_id}", explain(action, job_id, job["state"]))
    return await page(
        request, "ops/job_confirm.html", job=job, action=action, rule=ACTIONS[action], seen=seen_mark(job)
    )


async def _act(request: web.Request, action: str) -> web.StreamResponse:
    job_id = _job_id(request)
    seen, reason, delay = await fields(request, "seen", "reason", "delay")
    seconds = read_delay(delay)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        outcome = await act(
            connection,
            action,
            [job_id],
            actor=person(request).actor,
            reason=reason,
            delay_seconds=seconds,
            seen=seen or None,
        )
    for queue, ids in outcome.due.items():
        request.config_dict[RING].ring(queue, ids)
    if job_id in outcome.left:
        return redirect(request, f"/ops/jobs/{job_id}", explain(action, job_id, outcome.left[job_id]))
    when = f", due {delay}" if seconds else ""
    return redirect(request, f"/ops/jobs/{job_id}", f"Job {job_id} was {ACTIONS[action].done}{when}.")


@allowed("retry_job")
async def _retry(request: web.Request) -> web.StreamResponse:
    return await _act(request, "retry")


@allowed("cancel_job")
async def _cancel(request: web.Request) -> web.StreamResponse:
    return await _act(request, "cancel")


@allowed("discard_job")
async def _discard(request: web.Request) -> web.StreamResponse:
    return await _act(request, "discard")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    return [
        web.get("/ops/jobs/{id}", _show),
        web.get("/ops/jobs/{id}/{action:cancel|discard}", _confirm),
        web.post("/ops/jobs/{id}/reveal", _reveal),
        web.post("/ops/jobs/{id}/retry", _retry),
        web.post("/ops/jobs/{id}/cancel", _cancel),
        web.post("/ops/jobs/{id}/discard", _discard),
    ]
