"""The way of every SCIM request: route, authenticate, handle, answer; one log line; never an error page.

Routing is done here and not by aiohttp's router, because Entra and its administrators write the same address
in several ways (`/Users/`, `//Users`: entra-cases.md 6) and because every answer must be a SCIM message.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from aiohttp import HttpVersion11, web

from api.auth import OutOfScopeError, RefusedError, authorization
from api.keys import STRAIGHT
from api.limits import OverLimitError
from api.metrics import count_request
from api.scim import asynchronous, bulk, discovery, groups, me, search, users
from api.scim.call import Call
from api.scim.responses import error_answer
from api.scim.wire import straight
from models.audit.record import ANONYMOUS, Event
from models.db import is_unavailable
from models.errors import (
    ClientError,
    HttpError,
    InvalidValueError,
    MethodNotAllowedError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from models.ids import new_id
from models.log import tell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from api.scim.front import Front
    from models.audit.record import Actor

    Handler = Callable[[Call], Awaitable[web.Response]]

_SEARCH = ".search"
CORRELATION_HEADER = "X-Correlation-Id"

_log = structlog.get_logger("scim")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One resource endpoint: its handlers by method, for the collection, one resource in it, and searches."""

    name: str
    collection: dict[str, Handler]
    one: dict[str, Handler] = field(default_factory=dict)
    search: dict[str, Handler] = field(default_factory=dict)
    """For `.search` below it."""
    open: bool = False
    """Whether it answers without a token (RFC 7644 §4 wants the discovery documents readable)."""
    later: bool = False
    """Whether a client can ask for its writes to be carried out after the answer (RFC 9967)."""
    lasting: bool = False
    """Whether it has no time limit as a whole, because its parts have."""


async def _bulk(call: Call) -> web.Response:
    """POST /Bulk, each operation of which is answered here as a request is."""
    return await bulk.bulk(call, _answer)


_ENDPOINTS = {
    endpoint.name.lower(): endpoint
    for endpoint in (
        Endpoint("", {"GET": search.query_everything}, search={"POST": search.search_everything}),
        Endpoint(
            "Users",
            {"GET": users.query_users, "POST": users.create_user},
            {
                "GET": users.get_user_by_id,
                "PATCH": users.patch_user,
                "PUT": users.put_user,
                "DELETE": users.remove_user,
            },
            {"POST": search.search_users},
            later=True,
        ),
        Endpoint(
            "Groups",
            {"GET": groups.query_groups, "POST": groups.post_group},
            {
                "GET": groups.get_group_by_id,
                "PATCH": groups.patch_group,
                "PUT": groups.put_group,
                "DELETE": groups.remove_group,
            },
            {"POST": search.search_groups},
            later=True,
        ),
        Endpoint("Bulk", {"POST": _bulk}, later=True, lasting=True),
        Endpoint("AsyncRequests", {}, {"GET": asynchronous.status}),
        Endpoint("Me", me.HANDLERS, me.HANDLERS),
        Endpoint("ServiceProviderConfig", {"GET": discovery.service_provider_config}, open=True),
        Endpoint("ResourceTypes", {"GET": discovery.resource_types}, {"GET": discovery.resource_type}, open=True),
        Endpoint("Schemas", {"GET": discovery.schemas}, {"GET": discovery.schema}, open=True),
    )
}


def _route(call: Call, tail: str) -> tuple[Endpoint, Handler]:
    """Find who handles the request, and fill in the call's route and resource id."""
    parts = [part for part in tail.split("/") if part]
    searched = bool(parts) and parts[-1].lower() == _SEARCH
    if searched:
        parts.pop()
    endpoint = _ENDPOINTS.get(parts[0].lower() if parts else "")
    # A flag in the middle of the Tenant URL leaves the root, with the path in its query (entra-cases.md 5).
    misplaced = not parts and any("/" in name for name in call.request.query)
    if endpoint is None or misplaced or len(parts) > (1 if searched else 2):
        raise NotFoundError(
            "There is no such SCIM endpoint. The Tenant URL ends in /scim/v2, and feature flags such as"
            " ?aadOptscim062020 stand at its very end."
        )
    single = len(parts) == 2
    call.route = f"/{endpoint.name}/{{id}}" if single else f"/{endpoint.name}"
    if searched:
        call.route = f"{call.route.rstrip('/')}/{_SEARCH}"
    call.resource_id = parts[1] if single else ""
    handlers = endpoint.search if searched else endpoint.one if single else endpoint.collection
    if not handlers:
        raise NotFoundError
    handler = handlers.get(call.request.method)
    if handler is None:
        raise _NotAllowedError(handlers)
    return endpoint, handler


class _NotAllowedError(MethodNotAllowedError):
    """The method is not supported here."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.allow = ", ".join(sorted(handlers))
        super().__init__(f"The method is not supported here; there is {self.allow}.")


def _as_http_error(error: Exception) -> HttpError | None:
    """Return the error's answer, or None if it is a fault of Usher itself."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLargeError()
    if is_unavailable(error):
        return UnavailableError("The user store does not answer in time; please try again.")
    if isinstance(error, asyncpg.DataError):
        return InvalidValueError("A value cannot be stored.")
    return None


class _FaultError(HttpError):
    """Something unexpected went wrong; the correlation id finds it in the log."""

    status = 500


def _deny(call: Call, error: ClientError) -> None:
    """Have a refusal audited. A read that finds nothing is no refusal, and a stranger's wrong path no event."""
    if isinstance(error, RefusedError | OutOfScopeError):
        action, tenant_id = "auth.request.deny", error.tenant_id
        reason: str | None = error.reason
        hint: dict[str, Any] = {"token_hint": error.hint} if error.hint else {}
    elif isinstance(error, OverLimitError):
        if error.refused is None:
            return  # one of many of the same minute
        action, reason, tenant_id, hint = "scim.request.deny", error.reason, call.tenant_id, {"refused": error.refused}
    elif call.tenant_id is None or (call.request.method == "GET" and error.status in (404, 405)):
        return
    elif call.route == "/Users" and error.status == 409:
        return  # the intake audits it in the transaction that decided it
    else:
        action, reason, tenant_id, hint = "scim.request.deny", error.scim_type, call.tenant_id, {}
    call.front.denials.add(
        Event(
            action=action,
            phase="denied",
            actor=error.actor if isinstance(error, OutOfScopeError) else _actor(call),
            correlation_id=call.correlation_id,
            tenant_id=tenant_id,
            reason=reason or f"http_{error.status}",
            context={**call.context(), "status": error.status, **hint},
        )
    )


def _actor(call: Call) -> Actor:
    return call.principal.actor if call.tenant_id else ANONYMOUS


async def _handle(call: Call, tail: str) -> web.Response:
    if call.refused is not None:
        raise call.refused
    endpoint, handler = _route(call, tail)
    if endpoint.lasting:
        found = await call.front.deadlines.keep(_begin(call, tail, endpoint))
        return found or await handler(call)
    return await call.front.deadlines.keep(_carry_out(call, tail, endpoint, handler))


async def _carry_out(call: Call, tail: str, endpoint: Endpoint, handler: Handler) -> web.Response:
    return await _begin(call, tail, endpoint) or await handler(call)


async def _begin(call: Call, tail: str, endpoint: Endpoint) -> web.Response | None:
    """Find out who asks; return an answer if the handler is not to be asked now, or has been before."""
    header = authorization(call.request)
    if call.tenant_id is None and (header is not None or not endpoint.open):
        call.principal = await call.front.tokens.authenticate(header, "scim")
        call.use = call.front.limits.enter(call.principal, call.request)
    if call.again and (found := await asynchronous.done_before(call)) is not None:
        return found
    if endpoint.later and (preferred := asynchronous.preference(call)) is not None:
        return await call.front.later.accept(call, tail, preferred)
    return None


async def answer_call(front: Front, request: web.Request, tail: str) -> web.Response:
    """Answer any request below /scim/v2; ``tail`` is the path after that."""
    began = time.perf_counter()
    call = Call(front, request, new_id(), route="(unknown)")
    try:
        response = await _answer(call, tail)
    finally:
        if call.use is not None:
            call.use.leave()
    route = f"/scim/v2{call.route}" if call.route[0] == "/" else call.route
    count_request(route, request.method, response.status, call.scim_type, time.perf_counter() - began)
    return response


async def _answer(call: Call, tail: str) -> web.Response:
    """Answer a call and log it; ``tail`` is the path."""
    started = time.perf_counter()
    request = call.request
    correlation = str(call.correlation_id)
    scim_type = None
    answerable: HttpError | None = None
    try:
        response = await _handle(call, tail)
    except Exception as error:  # noqa: BLE001  every failure is answered here, and only here
        answerable = _as_http_error(error)
        if answerable is None:
            _log.exception("A request failed", action="scim.fault", correlation_id=correlation, route=call.route)
            answerable = _FaultError()
        elif isinstance(answerable, ClientError):
            _deny(call, answerable)
        scim_type = call.scim_type = answerable.scim_type
        allow = {"Allow": answerable.allow} if isinstance(answerable, _NotAllowedError) else None
        response = error_answer(answerable, allow)
    response.headers[CORRELATION_HEADER] = correlation
    seconds = time.perf_counter() - started
    call.front.requests.add(call, response, seconds, answerable)
    # An error knows this frame; if the frame knew it too, all of the request would stay until the collector comes.
    del answerable
    line: dict[str, Any] = {
        "action": "scim.request",
        "method": request.method,
        "route": call.route,
        "status": response.status,
        "ms": round(seconds * 1000, 2),
        "correlation_id": correlation,
    }
    if call.tenant_id is not None:
        line["tenant_id"] = str(call.tenant_id)
    if call.part is not None:
        line["bulk"] = str(call.part[0])
    if scim_type:
        line["scim_type"] = scim_type
    if call.ignored:
        line["ignored"] = call.ignored
    tell("Answered", line)
    return response


async def _expect(request: web.Request) -> None:
    """Ask for the body that a client holds back; any other expectation is left unmet (RFC 9110 §10.1.1)."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def add_routes(app: web.Application, front: Front) -> None:
    """Have ``app`` answer SCIM, and every path that nothing else answers with a SCIM error."""
    front.later.start(front, _answer)

    async def anything(request: web.Request) -> web.Response:
        return await answer_call(front, request, request.match_info.get("tail", ""))

    app[STRAIGHT] = lambda otherwise: straight(front, answer_call, otherwise)
    # The patterns take line breaks too, or aiohttp itself would answer `/Users/%0A`.
    app.router.add_route("*", r"/scim/v2{tail:(?:/[\s\S]*)?}", anything, expect_handler=_expect)
    app.router.add_route("*", r"/{slashes:/*}scim/v2{tail:(?:/[\s\S]*)?}", anything, expect_handler=_expect)
    app.router.add_route("*", r"/{elsewhere:[\s\S]*}", anything, expect_handler=_expect)
