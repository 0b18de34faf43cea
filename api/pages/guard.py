"""Who may see and do what on the internal listener, and what becomes of a request that fails."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

import asyncpg
import structlog
from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, PEERS, SETTINGS
from api.pages.cookies import read_cookie
from api.pages.render import SESSION, page, problem
from models.audit.record import Event, record
from models.db import is_unavailable
from models.errors import UsageError
from models.sessions import find_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from models.operators import Operator
    from models.sessions import Session

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSION_COOKIE: Final = "usher"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_BEHIND = ("/ops", "/admin", "/account")  # nothing of this is for people who have not signed in
_log = structlog.get_logger("pages")


def person(request: web.Request) -> Operator:
    """Return who is signed in; for handlers behind `allowed`."""
    return request[SESSION].operator


async def signed_in(request: web.Request) -> Session | None:
    """Return the session that the request's cookie is good for, and keep it with the request."""
    value = read_cookie(request, SESSION_COOKIE)
    if not value:
        return None
    # A page that updates itself is not a person at the keyboard.
    keep_alive = "live" not in request.query
    session = await find_session(request.config_dict[PAGES_POOL], value, keep_alive=keep_alive)
    if session is not None:
        request[SESSION] = session
    return session


def safe_next(url: str | None) -> str:
    """Return where to go after signing in: a page of ours, whatever was asked for."""
    if not url or not url.isprintable() or "\\" in url or not url.startswith("/") or url.startswith("//"):
        return "/ops"
    return url if _is_behind(urlsplit(url).path) else "/ops"


def _is_behind(path: str) -> bool:
    return any(path == start or path.startswith(start + "/") for start in _BEHIND)


def from_elsewhere(request: web.Request) -> bool:
    """Tell whether a link on another site, or in an e-mail, led here.

    Browsers keep a SameSite=Strict cookie back then. Asked again by a page of our own they send it, if they have it.
    """
    return request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")


def allowed(permission: str | None = None) -> Callable[[Handler], Handler]:
    """Return a decorator: only for people who are signed in and have ``permission`` (if any is named)."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(request: web.Request) -> web.StreamResponse:
            session = request.get(SESSION) or await signed_in(request)
            if session is None:
                return await _ask_to_sign_in(request)
            if permission is not None and not session.operator.may(permission):
                await _record_denial(request, session.operator, permission)
                return problem(
                    request,
                    403,
                    f"Your role is {session.operator.role}, which does not include {permission}."
                    " An admin can change it under Operators.",
                )
            return await handler(request)

        return guarded

    return decorate


async def _record_denial(request: web.Request, operator: Operator, permission: str) -> None:
    resource = request.match_info.route.resource
    context = {
        "method": request.method,
        "route": resource.canonical if resource else None,
        "permission": permission,
        "peer": request.config_dict[PEERS].of(request),
    }
    event = Event(
        action="auth.request.deny",
        phase="denied",
        actor=operator.actor,
        correlation_id=uuid7(),
        reason="permission",
        context=context,
    )
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        await record(connection, [event])


async def _ask_to_sign_in(request: web.Request) -> web.StreamResponse:
    if "live" in request.query:
        return web.Response(status=401, text="Signed out.")
    if request.method not in _SAFE:
        return web.Response(status=303, headers={"Location": "/sign-in"})
    if from_elsewhere(request):
        return await page(request, "again.html", again=request.path_qs)
    return web.Response(status=303, headers={"Location": "/sign-in?" + urlencode({"next": request.path_qs})})


def _is_same_origin(request: web.Request) -> bool:
    """Tell whether a request comes from a page of ours, or from a program that bears a token.

    Browsers say so in Sec-Fetch-Site over https and to this very machine, and in Origin everywhere.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    if origin is not None:
        own = urlsplit(request.config_dict[SETTINGS].pages_url)
        sent = urlsplit(origin)
        return bool(sent.netloc) and (sent.netloc == request.host or (sent.scheme, sent.netloc) == own[:2])
    return "Authorization" in request.headers and "Cookie" not in request.headers


def _wants_page(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _http_failure(request: web.Request, error: web.HTTPException) -> web.Response | None:
    if not _wants_page(request):
        return None
    if isinstance(error, web.HTTPNotFound):
        return problem(request, 404, "The address is wrong, or what it led to is gone.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = problem(request, 405, "Go back, open the page and use its buttons.")
        response.headers["Allow"] = error.headers["Allow"]
        return response
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(request, 413, "The form holds more than pages take.")
    return None


def _failure(request: web.Request, error: Exception) -> web.Response:
    """Return the page for a failure."""
    if isinstance(error, UsageError):
        return problem(request, 400, error.detail)
    if isinstance(error, asyncpg.QueryCanceledError):
        return problem(
            request, 503, "The search took longer than pages may take. Narrow it: name a state, a tenant or a time."
        )
    if is_unavailable(error):
        _log.warning("A page could not be made", action="pages.busy", error=type(error).__name__)
        response = problem(request, 503, "The database does not answer just now. Try again in a minute.")
        response.headers["Retry-After"] = "10"
        return response
    _log.exception("A page failed", action="pages.failed", method=request.method)
    return problem(request, 500, "That is a fault of Usher's, not of yours. The log of the api process has more.")


async def _read_form(request: web.Request) -> web.Response | None:
    """Have the form read, which handlers then find; return what is wrong with it."""
    try:
        async with asyncio.timeout(request.config_dict[SETTINGS].body_seconds):
            await request.post()
    except TimeoutError:
        return problem(request, 408, "The form did not arrive in time. Send it again.")
    except (ValueError, web.RequestPayloadError):
        return problem(request, 400, "The form cannot be read.")
    return None


@web.middleware
async def frame(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what other sites send, and turn failures into pages that say what to mend."""
    if request.method not in _SAFE and not _is_same_origin(request):
        _log.warning("A request from another site was refused", action="pages.cross_site", method=request.method)
        return problem(request, 403, "The request did not come from a page of this site. Open the page and try again.")
    try:
        if request.method not in _SAFE and (unread := await _read_form(request)) is not None:
            return unread
        # Whatever a handler forgets: nobody gets as far as it without having signed in.
        if _is_behind(request.path) and await signed_in(request) is None:
            return await _ask_to_sign_in(request)
        return await handler(request)
    except web.HTTPException as error:
        response = _http_failure(request, error)
        if response is None:
            raise
        return response
    except Exception as error:  # noqa: BLE001  whatever it is, people get a page
        return _failure(request, error)
