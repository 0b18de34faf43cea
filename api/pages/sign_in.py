"""`/sign-in` and `/sign-out`: with a password, or with a link that comes by e-mail and works once."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, PEERS, RING, SETTINGS
from api.pages.cookies import drop_cookie, read_cookie, set_cookie
from api.pages.forms import fields
from api.pages.guard import SESSION_COOKIE, allowed, from_elsewhere, person, safe_next, signed_in
from api.pages.render import SESSION, page, problem, redirect
from models.audit.record import Event, record
from models.jobs import EMAIL
from models.links import LINK_MINUTES, find_link, stage_link, use_link
from models.operators import target
from models.sessions import LONGEST_DAYS, end_session, hash_value
from models.sign_in import FREE_BY_NAME, Refused, failure_key, peer_key, reserve_try, sign_in

if TYPE_CHECKING:
    from uuid import UUID

_log = structlog.get_logger("sign_in")
_LINK_SECONDS = 0.4  # how long asking for a link takes, whether or not there is such a person
_SENT = f"If there is such an operator, a link is on its way to them. It works once, for {LINK_MINUTES} minutes."
_STANDING = {
    "used": "This link has been used. A link signs in once; ask for another.",
    "expired": f"This link is older than {LINK_MINUTES} minutes. Ask for another.",
    "disabled": "This link no longer works: an admin has shut this operator out.",
    "unknown": "There is no such link, or it is long gone. Copy all of it, or ask for another.",
}


def _secret(request: web.Request) -> str:
    return request.config_dict[SETTINGS].secret_key.get_secret_value()


async def _show(request: web.Request) -> web.StreamResponse:
    url = safe_next(request.query.get("next"))
    if await signed_in(request) is not None:
        return redirect(request, url)
    if from_elsewhere(request):
        return await page(request, "again.html", again=request.path_qs)
    return await page(request, "sign_in.html", next=url, word="", error=None)


async def _welcome(request: web.Request, url: str, value: str) -> web.StreamResponse:
    old = read_cookie(request, SESSION_COOKIE)
    if old:
        await end_session(request.config_dict[PAGES_POOL], hash_value(old))
    response = redirect(request, url)
    set_cookie(request, response, SESSION_COOKIE, value, max_age=LONGEST_DAYS * 86400)
    return response


async def _sign_in(request: web.Request) -> web.StreamResponse:
    word, password, wanted = await fields(request, "word", "password", "next")
    url = safe_next(wanted)
    outcome = await sign_in(
        request.config_dict[PAGES_POOL],
        word=word,
        password=password,
        address=request.config_dict[PEERS].of(request),
        secret_key=_secret(request),
        correlation_id=uuid7(),
    )
    if not isinstance(outcome, Refused):
        operator, value = outcome
        _log.info("An operator signed in", action="sign_in.password", operator_id=str(operator.id))
        return await _welcome(request, url, value)
    if not outcome.wait_seconds:
        _log.info("A sign-in was refused", action="sign_in.wrong")
        error = "The name or the password is wrong."
        return await page(request, "sign_in.html", status=403, next=url, word=word, error=error)
    _log.warning("Sign-ins come too fast", action="sign_in.wait")
    wait = math.ceil(outcome.wait_seconds)
    error = f"Too many wrong tries. Wait {wait} s, or ask for a link by e-mail."
    response = await page(request, "sign_in.html", status=429, next=url, word=word, error=error)
    response.headers["Retry-After"] = str(wait)
    return response


async def _stage(request: web.Request, word: str) -> tuple[UUID | None, float]:
    secret = _secret(request)
    key = failure_key(secret, "link", peer_key(request.config_dict[PEERS].of(request)))
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        _, wait = await reserve_try(connection, {key: FREE_BY_NAME})
        job_id = None if wait else await stage_link(connection, word, secret_key=secret, correlation_id=uuid7())
    return job_id, wait


async def _send_link(request: web.Request) -> web.StreamResponse:
    (word,) = await fields(request, "word")
    (job_id, wait), _ = await asyncio.gather(_stage(request, word), asyncio.sleep(_LINK_SECONDS))
    if wait:
        response = problem(request, 429, f"Too many links were asked for from your address. Wait {math.ceil(wait)} s.")
        response.headers["Retry-After"] = str(math.ceil(wait))
        return response
    if job_id is not None:
        request.config_dict[RING].ring(EMAIL, [job_id])
    return redirect(request, "/sign-in", _SENT)


async def _show_link(request: web.Request) -> web.StreamResponse:
    """Show a button: mail scanners follow links, but press none."""
    operator, standing = await find_link(request.config_dict[PAGES_POOL], request.match_info["token"])
    if operator is None or standing != "open":
        return problem(request, 404 if operator is None else 410, _STANDING[standing])
    return await page(request, "sign_in_link.html", name=operator.name)


async def _use_link(request: web.Request) -> web.StreamResponse:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        outcome = await use_link(
            connection,
            request.match_info["token"],
            address=request.config_dict[PEERS].of(request),
            correlation_id=uuid7(),
        )
    if isinstance(outcome, str):
        return problem(request, 404 if outcome == "unknown" else 410, _STANDING[outcome])
    operator, value = outcome
    _log.info("An operator signed in", action="sign_in.link", operator_id=str(operator.id))
    return await _welcome(request, "/ops", value)


@allowed()
async def _sign_out(request: web.Request) -> web.StreamResponse:
    session = request[SESSION]
    async with request.config_dict[PAGES_POOL].acquire() as connection, connection.transaction():
        if await end_session(connection, session.id_hash):
            event = Event(
                action="auth.session.sign_out",
                phase="applied",
                actor=person(request).actor,
                correlation_id=uuid7(),
                targets=[target(person(request))],
                context={"peer": request.config_dict[PEERS].of(request), "sessions": 1},
            )
            await record(connection, [event])
    response = redirect(request, "/sign-in", "You are signed out.")
    drop_cookie(request, response, SESSION_COOKIE)
    return response


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/sign-in", _show),
        web.post("/sign-in", _sign_in),
        web.post("/sign-in/link", _send_link),
        web.get("/sign-in/link/{token}", _show_link),
        web.post("/sign-in/link/{token}", _use_link),
        web.post("/sign-out", _sign_out),
    ]
