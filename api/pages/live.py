"""Pages that update themselves: one stream of server-sent events a page, with the regions that changed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiohttp import web

from api.keys import DRAINING, PAGES_POOL
from api.pages.cookies import read_cookie
from api.pages.guard import SESSION_COOKIE, person
from models.db import is_unavailable
from models.sessions import find_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Made = TypeVar("Made")

LONGEST_SECONDS = 600.0
"""After this a stream ends; the browser opens another, whereby its person is checked anew."""
MOST_STREAMS = 100
"""Streams that one process serves at once."""
_STREAMS: web.AppKey[set[web.StreamResponse]] = web.AppKey("streams")
_SHARED: web.AppKey[dict[str, _Shared]] = web.AppKey("shared")
_REST = 20  # for how many times as long as making takes nothing is made
_LONGEST_KEPT_SECONDS = 15.0
_SINCE: web.RequestKey[float] = web.RequestKey("live since", float)
"""The moment at which a stream began."""
_log = structlog.get_logger("live")


def set_up(app: web.Application) -> None:
    """Give the application what live pages need; they end when it shuts down."""
    app[_STREAMS], app[_SHARED] = set(), {}

    async def drain(_: web.Application) -> None:
        app[DRAINING].set()

    app.on_shutdown.append(drain)


def event(name: str, data: str) -> bytes:
    """Return a server-sent event (HTML Living Standard §9.2.6)."""
    # splitlines() would also cut at characters that are no line's end there.
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join([f"event: {name}\n", *(f"data: {line}\n" for line in lines), "\n"]).encode()


async def live_page(
    request: web.Request, render_regions: Callable[[], Awaitable[dict[str, str]]], *, every_seconds: float = 2.0
) -> web.StreamResponse:
    """Send a page's regions whenever they change, until the process stops or the person signs out.

    They are made once for everybody of one role who has the page open.

    Args:
        request: with `?live=1`, behind `api.pages.guard.allowed`.
        render_regions: makes the inner HTML of each region by the `id` of its element; it may depend on the address
            and on the person's role, and on nothing else of the person.
        every_seconds: how often to look.
    """
    streams = request.config_dict[_STREAMS]
    if len(streams) >= MOST_STREAMS or request.config_dict[DRAINING].is_set():
        return web.Response(status=503, text="No more live pages just now.", headers={"Retry-After": "15"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    streams.add(response)
    request[_SINCE] = time.monotonic()
    key = f"regions {person(request).role} {request.path_qs}"

    async def regions() -> dict[str, str]:
        return await shared(request, key, render_regions, seconds=every_seconds / 2)

    try:
        await response.prepare(request)
        await _stream(request, response, regions, every_seconds)
    except ConnectionError:
        pass  # the browser went away
    finally:
        streams.discard(response)
    return response


async def _stream(
    request: web.Request,
    response: web.StreamResponse,
    render_regions: Callable[[], Awaitable[dict[str, str]]],
    every_seconds: float,
) -> None:
    cookie = read_cookie(request, SESSION_COOKIE) or ""
    draining = request.config_dict[DRAINING]
    sent: dict[str, str] | None = None
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        try:
            if sent is not None:
                session = await find_session(request.config_dict[PAGES_POOL], cookie, keep_alive=False)
                if session is None:
                    await response.write(event("over", "signed out"))
                    return
                if session.operator.role != person(request).role:
                    return  # the browser asks anew, and is told what the new role may see
            regions = await render_regions()
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("A live page was not updated", action="live.busy", error=type(error).__name__)
            await response.write(event("trouble", "The database does not answer; trying on."))
        else:
            changed = {name: html for name, html in regions.items() if (sent or {}).get(name) != html}
            # The comment keeps proxies from hanging up, and tells us when nobody listens.
            await response.write(b"".join(event(name, html) for name, html in changed.items()) or b":\n\n")
            sent = regions
        try:
            async with asyncio.timeout(every_seconds):
                await draining.wait()
        except TimeoutError:
            continue
        return


@dataclass(slots=True)
class _Shared:
    """Something that is made once for everybody."""

    began: float
    """When it was asked for; seconds of the monotonic clock, as below."""
    until: float
    """When it is too old."""
    future: asyncio.Future[Any]


async def shared(request: web.Request, key: str, make: Callable[[], Awaitable[Made]], *, seconds: float = 1.0) -> Made:
    """Return what ``make`` made for anybody at most ``seconds`` ago, so that twenty open pages ask once.

    What takes long is kept for longer, so that all that is made here together takes no more than one twentieth of the
    time, however many pages are open and however much there is to count: pages can never starve SCIM.

    A stream is never given what is older than itself: it would take back what somebody just did, and saw on the page.

    Args:
        request: any of the application's.
        key: names what is made; whatever the answer depends on must be part of it, the person's rights too.
        make: asked when there is nothing fresh; a failure goes to all who wait for it, and is not kept.
        seconds: how old the answer may be, if it is made in no time.
    """
    known = request.config_dict[_SHARED]
    now = time.monotonic()
    for old in [name for name, one in known.items() if one.until < now and one.future.done()]:
        del known[old]
    if key not in known or known[key].began < request.get(_SINCE, 0.0):
        one = known[key] = _Shared(now, now + seconds, asyncio.ensure_future(make()))

        def made(future: asyncio.Future[Any]) -> None:
            took = time.monotonic() - one.began
            one.until = one.began + max(seconds, min(took * _REST * len(known), _LONGEST_KEPT_SECONDS))
            if not future.cancelled():
                future.exception()  # spares the complaint about an error that nobody waited for any more

        one.future.add_done_callback(made)
    one = known[key]
    try:
        found: Made = await asyncio.shield(one.future)
    except BaseException:
        if one.future.done() and known.get(key) is one:
            del known[key]
        raise
    return found
