"""`/metrics` on the internal listener, and the counting of requests."""

from __future__ import annotations

import time
from functools import wraps
from typing import TYPE_CHECKING

from aiohttp import web

from api.keys import GAUGES
from models import exposition, metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")


def count_request(route: str, method: str, status: int, scim_type: str | None, seconds: float) -> None:
    """Count an answered request.

    Args:
        route: the template of its path; never the path itself.
        method: any token; one that HTTP does not have counts as `other`.
        status: of the answer.
        scim_type: of a SCIM error.
        seconds: from its head to its answer.
    """
    if method not in _METHODS:
        method = "other"
    metrics.HTTP_REQUESTS.add(1, route, method, _CLASSES[status // 100], scim_type or "")
    metrics.HTTP_SECONDS.observe(seconds, route, method)


def counted(routes: Iterable[web.AbstractRouteDef]) -> list[web.AbstractRouteDef]:
    """Return routes whose requests are counted under the path that each is defined with.

    For the public listener, where a middleware would cost every SCIM request.
    """
    return [
        web.RouteDef(each.method, each.path, _counting(each.handler, each.path), each.kwargs)
        if isinstance(each, web.RouteDef)
        else each
        for each in routes
    ]


def _counting(handler: Handler, route: str) -> Handler:
    @wraps(handler)
    async def counting(request: web.Request) -> web.StreamResponse:
        return await _count(request, handler, route)

    return counting


@web.middleware
async def count_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a request of the internal listener."""
    resource = request.match_info.route.resource
    return await _count(request, handler, resource.canonical if resource is not None else "(unknown)")


async def _count(request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
    began = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
    except web.HTTPException as answer:
        status = answer.status
        raise
    finally:
        count_request(route, request.method, status, None, time.perf_counter() - began)
    return response


async def show(request: web.Request) -> web.Response:
    """GET /metrics: all that the processes of this machine count, and how the whole installation stands."""
    further = await request.config_dict[GAUGES].read()
    text, media_type = exposition.write(request.headers.get("Accept", ""), further)
    return web.Response(body=text, headers={"Content-Type": media_type})


def routes() -> Iterable[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/metrics", show)]
