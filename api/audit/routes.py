"""The audit API, on both listeners: `/audit/…`, for tokens of scope `audit`, each of which sees its tenant's events."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from aiohttp import web
from uuid_utils.compat import uuid7

from api.audit import openapi
from api.audit.answers import NDJSON, as_json, facets_body, json_answer, page_body, problem_answer
from api.auth import OutOfScopeError, RefusedError, authorization
from api.headers import HEADERS
from api.keys import AUDIT_POOL, DENIALS, LIMITS, PEERS, SETTINGS, TOKENS
from api.limits import OverLimitError
from models.audit.proof import UnprovenError, prove
from models.audit.query import MOST_EVENTS, asking, count_facets, find_event, search_events
from models.audit.record import ANONYMOUS, Event
from models.audit.sealed import seal_of
from models.audit.zones import UTC_NAME, find_zone
from models.db import is_unavailable
from models.errors import (
    HttpError,
    InvalidQueryError,
    InvalidValueError,
    MethodNotAllowedError,
    NotFoundError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from api.auth import Principal
    from models.audit.query import Page
    from models.db import Connection

    Handler = Callable[["Asked"], Awaitable[web.StreamResponse]]
    Count = Callable[[str, str, int, str | None, float], None]
    """Takes the route, the method, the status, a scimType and seconds."""

_USUAL_EVENTS = 100
_log = structlog.get_logger("audit")


@dataclass(slots=True)
class Asked:
    """One request of the audit API, whose sender is known."""

    request: web.Request
    principal: Principal
    headers: dict[str, str]
    event_id: str = ""

    def parameters(self, *known: str) -> dict[str, str]:
        """Return the query's parameters, each given once.

        Raises:
            InvalidQueryError: another parameter; misspelt and left out, it would show more than was meant.
            InvalidValueError: a character that nothing stored can hold.
        """
        found: dict[str, str] = {}
        for name, value in self.request.query.items():
            if name not in known:
                raise InvalidQueryError(f"There is no parameter {name!r}; there are {', '.join(known) or 'none'}.")
            if name in found:
                raise InvalidQueryError(f"The parameter {name} is given twice.")
            if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                raise InvalidValueError(f"The parameter {name} holds a character that cannot be stored.")
            found[name] = value
        return found

    @property
    def pool(self) -> asyncpg.Pool:
        """Connections that searches have to themselves."""
        return self.request.config_dict[AUDIT_POOL]


def _limit(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 4 and 1 <= int(given) <= MOST_EVENTS):
        raise InvalidQueryError(f"limit must be a whole number from 1 to {MOST_EVENTS}.")
    return int(given)


async def _events(asked: Asked) -> web.StreamResponse:
    given = asked.parameters("q", "cursor", "limit", "zone")
    limit = _limit(given.get("limit"))
    search: dict[str, Any] = {
        "text": given.get("q", ""),
        "tenant_id": asked.principal.tenant_id,
        "secret": asked.request.config_dict[SETTINGS].secret_key.get_secret_value().encode(),
        "zone": find_zone(given.get("zone", UTC_NAME)),
    }
    if NDJSON in asked.request.headers.get("Accept", ""):
        return await _stream(asked, search, given.get("cursor"), limit)
    async with asked.pool.acquire() as connection:
        page = await search_events(connection, **search, cursor=given.get("cursor"), limit=limit or _USUAL_EVENTS)
    return json_answer(page_body(page))


async def _stream(asked: Asked, search: dict[str, Any], cursor: str | None, limit: int | None) -> web.StreamResponse:
    """Send event by event, page after page, to the end or to ``limit``; a connection is held for a page at a time."""
    page = await _next_page(asked, search, cursor, limit)
    # Until here a failure has an answer of its own; from now on it breaks the answer off, so that nobody takes its
    # beginning for the whole.
    response = web.StreamResponse(headers={"Content-Type": NDJSON, **asked.headers})
    await response.prepare(asked.request)
    try:
        while True:
            await response.write(b"".join(as_json(event) + b"\n" for event in page.events))
            if page.next is None or limit is not None:
                await response.write_eof()
                return response
            page = await _next_page(asked, search, page.next, limit)
    except Exception as error:
        correlation_id = asked.headers["X-Correlation-Id"]
        name = type(error).__name__
        _log.warning("A stream was broken off", action="audit.broken", error=name, correlation_id=correlation_id)
        if asked.request.transport is not None:
            asked.request.transport.abort()
        raise ConnectionResetError from error


async def _next_page(asked: Asked, search: dict[str, Any], cursor: str | None, limit: int | None) -> Page:
    async with asyncio.timeout(asked.request.config_dict[SETTINGS].request_seconds), asked.pool.acquire() as connection:
        return await search_events(connection, **search, cursor=cursor, limit=limit or MOST_EVENTS)


async def _event(asked: Asked) -> web.StreamResponse:
    wanted = asked.parameters("proof").get("proof", "false")
    if wanted not in ("true", "false"):
        raise InvalidQueryError("proof must be true or false.")
    try:
        event_id = UUID(asked.event_id)
    except ValueError:
        raise NotFoundError("There is no such event.") from None
    tenant_id = asked.principal.tenant_id
    async with asked.pool.acquire() as connection:
        event = await find_event(connection, event_id, tenant_id=tenant_id)
        if event is None:
            raise NotFoundError("There is no such event.")
        async with asking(connection, tenant_id):
            event["seal"] = await seal_of(connection, event)
            if wanted == "true":
                event["proof"] = await _proof(connection, event_id, tenant_id) if event["seal"] else None
    return json_answer(event)


async def _proof(connection: Connection, event_id: UUID, tenant_id: UUID) -> dict[str, Any] | None:
    """Return the way from an event's leaf to its seal; None if it does not lead there, which verification explains."""
    try:
        return await prove(connection, event_id, tenant_id=tenant_id)
    except UnprovenError:
        return None


async def _facets(asked: Asked) -> web.StreamResponse:
    given = asked.parameters("q", "zone")
    zone = find_zone(given.get("zone", UTC_NAME))
    async with asked.pool.acquire() as connection:
        facets = await count_facets(connection, given.get("q", ""), tenant_id=asked.principal.tenant_id, zone=zone)
    return json_answer(facets_body(facets))


ROUTES: dict[str, Handler] = {
    "/audit/events": _events,
    "/audit/events/{id}": _event,
    "/audit/facets": _facets,
}
"""What needs a token; the document that describes it does not."""


def _route(path: str) -> tuple[str, Handler | None, str]:
    """Return the template of a path, its handler and the id in it."""
    if path in ROUTES:
        return path, ROUTES[path], ""
    start, _, last = path.rpartition("/")
    if start == "/audit/events" and last:
        return "/audit/events/{id}", _event, last
    if path == openapi.PATH:
        return path, None, ""
    raise NotFoundError("There is no such address; /audit/openapi.json tells what there is.")


def _as_http_error(error: Exception) -> HttpError | None:
    if isinstance(error, HttpError):
        return error
    if isinstance(error, TimeoutError) or is_unavailable(error):
        return UnavailableError("The audit log does not answer in time; please try again.")
    return None


async def _handle(request: web.Request, said: dict[str, Any], headers: dict[str, str]) -> web.StreamResponse:
    template, handler, event_id = _route(request.path)
    said["route"] = template
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowedError("The audit log is only read; there is GET.")
    if handler is None:
        return json_answer(openapi.document())
    principal = await request.config_dict[TOKENS].authenticate(authorization(request), "audit")
    said["tenant_id"] = str(principal.tenant_id)
    use = request.config_dict[LIMITS].enter(principal, request)
    try:
        if NDJSON in request.headers.get("Accept", "") and request.method == "GET":
            return await handler(Asked(request, principal, headers, event_id))
        async with asyncio.timeout(request.config_dict[SETTINGS].request_seconds):
            return await handler(Asked(request, principal, headers, event_id))
    finally:
        use.leave()


async def _answer(request: web.Request, count: Count | None) -> web.StreamResponse:
    """Answer any request below /audit, log it and have it counted."""
    started = time.perf_counter()
    correlation_id = uuid7()
    headers = {**HEADERS, "X-Correlation-Id": str(correlation_id)}
    said: dict[str, Any] = {"method": request.method, "route": "(unknown)"}
    try:
        response = await _handle(request, said, headers)
    except ConnectionResetError:
        raise  # who asked is gone
    except Exception as error:  # noqa: BLE001  every failure is answered here, and only here
        failure = _as_http_error(error)
        if failure is None:
            _log.exception("A request failed", action="audit.fault", correlation_id=headers["X-Correlation-Id"], **said)
            failure = _FaultError()
        if isinstance(failure, RefusedError | OutOfScopeError) or (
            isinstance(failure, OverLimitError) and failure.refused is not None
        ):
            _deny(request, failure, correlation_id, said["route"])
        response = problem_answer(failure)
    if not response.prepared:
        response.headers.update(headers)
    seconds = time.perf_counter() - started
    if count is not None:
        count(said["route"], request.method, response.status, None, seconds)
    took = round(seconds * 1000, 2)
    _log.info(
        "Answered", action="audit.request", status=response.status, ms=took, correlation_id=str(correlation_id), **said
    )
    return response


class _FaultError(HttpError):
    """Something unexpected went wrong; the correlation id finds it in the log."""

    status = 500


def _deny(
    request: web.Request, error: RefusedError | OutOfScopeError | OverLimitError, correlation_id: UUID, route: str
) -> None:
    hint: dict[str, Any] = {"token_hint": error.hint} if error.hint else {}
    if isinstance(error, OverLimitError):
        hint = {"refused": error.refused}
    request.config_dict[DENIALS].add(
        Event(
            action="auth.request.deny",
            phase="denied",
            actor=ANONYMOUS if isinstance(error, RefusedError) else error.actor,
            correlation_id=correlation_id,
            tenant_id=error.tenant_id,
            reason=error.reason,
            context={
                "method": request.method,
                "route": route,
                "ip": request.config_dict[PEERS].of(request),
                "status": error.status,
                **hint,
            },
        )
    )


def add_routes(app: web.Application, *, count: Count | None = None) -> None:
    """Have ``app`` answer the audit API, every path below it included; ``count`` is told of each request."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(request, count)

    app.router.add_route("*", r"/audit{tail:(?:/[\s\S]*)?}", answer)
