"""`/ops/emails`: invitation e-mails by state and by what the mail server said; sending again; the suppression list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, RING
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, problem, query, redirect
from models.directory.read import as_uuid
from models.errors import UsageError
from models.jobs import EMAIL
from models.mailings import (
    MOST_COUNTED,
    PAGE,
    STATES,
    Mailings,
    count_mailings,
    count_replies,
    count_states,
    find_mailing,
    list_mailings,
    resend_matching,
)
from models.resending import REFUSALS, Resent, resend
from models.suppression import is_suppressed
from models.tenants import find_tenant

if TYPE_CHECKING:
    from models.db import Connection

_PAGE = "/ops/emails"
_TEMPLATE = "ops/emails.html"
_NAMES = ("tenant", "state", "code", "reply", "user")
MOST_AT_ONCE = 2000
"""Invitations that one press of the button sends again; the next press goes on."""
_COUNTS_SECONDS = 3.0
_EXAMPLES = 10


def _filters(request: web.Request) -> dict[str, str]:
    return {name: request.query.get(name, "").strip() for name in (*_NAMES, "before")}


async def _wanted(connection: Connection, filters: dict[str, str]) -> Mailings:
    before = as_uuid(filters["before"]) if filters.get("before") else None
    if filters.get("before") and before is None:
        raise UsageError("The page's address is damaged; open the list anew.")
    return Mailings(
        tenant_id=(await find_tenant(connection, filters["tenant"]))["id"] if filters["tenant"] else None,
        state=filters["state"] or None,
        code=filters["code"] or None,
        reply=filters["reply"] or None,
        user_name=filters["user"] or None,
        before=before,
    )


async def _find(connection: Connection, filters: dict[str, str]) -> dict[str, Any]:
    wanted = await _wanted(connection, filters)
    rows = await list_mailings(connection, wanted, limit=PAGE + 1)
    return {"rows": rows[:PAGE], "older": rows[PAGE - 1]["id"] if len(rows) > PAGE else None}


async def _summary(request: web.Request, tenant: str) -> dict[str, Any]:
    """Return the counts, which cost most, for everybody who looks at the same tenant."""

    async def count() -> dict[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            tenant_id = (await find_tenant(connection, tenant))["id"] if tenant else None
            return {
                "counts": await count_states(connection, tenant_id),
                "replies": await count_replies(connection, tenant_id),
            }

    return await shared(request, f"email counts {tenant}", count, seconds=_COUNTS_SECONDS)


@allowed("view_jobs")
async def _list(request: web.Request) -> web.StreamResponse:
    filters = _filters(request)
    fixed: dict[str, Any] = {"filters": filters, "states": STATES, "most": MOST_COUNTED, "at_once": MOST_AT_ONCE}

    async def found() -> dict[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return await _find(connection, filters)

    async def regions() -> dict[str, str]:
        values = await shared(request, f"emails {sorted(filters.items())}", found)
        values = {**values, **await _summary(request, filters["tenant"])}
        return {name: await fragment(request, _TEMPLATE, name, **fixed, **values) for name in ("summary", "mailings")}

    if "live" in request.query:
        return await live_page(request, regions)
    return await page(request, _TEMPLATE, **fixed, **await found(), **await _summary(request, filters["tenant"]))


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    found_id = as_uuid(request.match_info["id"])
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_mailing(connection, found_id) if found_id else None
        if found is None:
            return problem(request, 404, "There is no such invitation.")
        suppressed = await is_suppressed(connection, found["tenant_id"], found["email"])
    return await page(request, "ops/email.html", found=found, suppressed=suppressed)


@allowed("resend_email")
async def _resend_one(request: web.Request) -> web.StreamResponse:
    found_id = as_uuid(request.match_info["id"])
    if found_id is None:
        return problem(request, 404, "There is no such invitation.")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        done = await resend(connection, [found_id], actor=person(request).actor, correlation_id=uuid7())
    request.config_dict[RING].ring(EMAIL, done.job_ids)
    if done.refused:
        return problem(request, 409, f"It was not sent again: {REFUSALS[done.refused[found_id]]}")
    return redirect(
        request, f"{_PAGE}/{done.made[found_id]}", "A new invitation is on its way; the old link has ended."
    )


@allowed("resend_email")
async def _ask(request: web.Request) -> web.StreamResponse:
    """Show what sending everything again would mean, for the person to confirm."""
    filters = {name: request.query.get(name, "").strip() for name in _NAMES}
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        wanted = await _wanted(connection, filters)
        rows = await list_mailings(connection, wanted, limit=_EXAMPLES)
        count = await count_mailings(connection, wanted) if len(rows) == _EXAMPLES else len(rows)
    return await page(
        request, "ops/emails_resend.html", filters=filters, rows=rows, count=count, most=MOST_COUNTED,
        at_once=MOST_AT_ONCE,
    )  # fmt: skip


@allowed("resend_email")
async def _resend_all(request: web.Request) -> web.StreamResponse:
    filters = dict(zip(_NAMES, await fields(request, *_NAMES), strict=True))
    total, correlation_id = Resent(), uuid7()
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        wanted = await _wanted(connection, filters)
        if wanted == Mailings():
            raise UsageError(
                "Name a state, an error, a tenant or a person: not every invitation is sent again at once."
            )
        async for done in resend_matching(
            connection, wanted, actor=person(request).actor, correlation_id=correlation_id, most=MOST_AT_ONCE
        ):
            total.made.update(done.made)
            total.refused.update(done.refused)
            request.config_dict[RING].ring(EMAIL, done.job_ids)
    return redirect(request, _PAGE + query(filters), told(total))


def told(done: Resent) -> str:
    """Return in words what became of invitations that were to be sent again."""
    count = len(done.made)
    text = f"{count} invitation{' is' if count == 1 else 's are'} on {'its' if count == 1 else 'their'} way again."
    reasons = sorted(set(done.refused.values()))
    if reasons:
        parts = [
            f"{sum(each == reason for each in done.refused.values())} because: {REFUSALS[reason].rstrip('.')}"
            for reason in reasons
        ]
        text += f" Not sent: {'; '.join(parts)}."
    return text


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get(_PAGE, _list),
        web.get(_PAGE + "/resend", _ask),
        web.post(_PAGE + "/resend", _resend_all),
        web.get(_PAGE + "/{id}", _show),
        web.post(_PAGE + "/{id}/resend", _resend_one),
    ]
