"""Asynchronous requests (RFC 9967): a write that is answered 202 at once and carried out after that.

Only a client that asks for it (`Prefer: respond-async`, RFC 7240 §4.1) gets it. What was accepted is in the store
before the 202 goes out; it is carried out by the process that accepted it or, if that dies, by another one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import orjson
import structlog

from api.auth import Principal
from api.requests import read_object
from api.scim.bulk import OUTCOMES
from api.scim.call import Call
from api.scim.inner import make_request
from api.scim.responses import MEDIA_TYPE, answer, etag, nothing
from models import deferred as ledger
from models.audit.record import Actor
from models.directory.read import as_uuid
from models.directory.schemas import compile_schemas
from models.errors import NotFoundError, UnavailableError
from models.scim.discovery import ASYNC_EVENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg
    from aiohttp import web

    from api.scim.front import Front
    from models.deferred import Deferred
    from models.settings import Settings

    Perform = Callable[[Call, str], Awaitable[web.Response]]

_WRITES = ("POST", "PUT", "PATCH", "DELETE")
_HEADERS = ("If-Match", "If-None-Match")
_LOOK_SECONDS = 5.0
_MOST = 500
"""Most requests in the hands of one process."""
_AT_ONCE = 8
_LONGEST_WAIT_SECONDS = 15.0

_log = structlog.get_logger("deferred")


@dataclass(frozen=True, slots=True)
class Preference:
    """What a client asks for."""

    wait_seconds: float | None
    """How long it would rather wait for the real answer."""


def preference(call: Call) -> Preference | None:
    """Return how a request prefers to be answered later, or None if it does not or cannot be."""
    request = call.request
    lines = request.headers.getall("Prefer", None)
    if lines is None or request.method not in _WRITES or call.route.endswith(".search"):
        return None
    given: dict[str, str] = {}
    for item in ",".join(lines).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        given.setdefault(name.strip().lower(), value.strip(' \t"'))
    if "respond-async" not in given:
        return None
    seconds = given.get("wait", "")
    digits = seconds.isascii() and seconds.isdigit() and len(seconds) < 9
    return Preference(min(float(seconds), _LONGEST_WAIT_SECONDS) if digits else None)


class Deferrals:
    """Accepts requests and carries them out, for one process."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._running: dict[UUID, asyncio.Task[web.Response]] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._looking: asyncio.Task[None] | None = None
        self._front: Front | None = None
        self._perform: Perform | None = None

    def start(self, front: Front, perform: Perform) -> None:
        """Begin to look for what others left behind; ``perform`` answers a call and never raises."""
        self._front, self._perform = front, perform
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def accept(self, call: Call, tail: str, preferred: Preference) -> web.Response:
        """Take a request in and answer 202, or as it would be otherwise if that is known in time.

        Args:
            call: who asks for what; authenticated, its route found.
            tail: the path below the base URL.
            preferred: how it wants to be answered.

        Raises:
            ClientError: the body cannot be read.
            UnavailableError: too much waits already.
        """
        if len(self._running) >= _MOST:
            raise UnavailableError("Too many asynchronous requests wait; please try again.")
        request, actor = call.request, call.principal.actor
        body = None if request.method == "DELETE" else await read_object(request, self._settings)
        kept = {
            "method": request.method,
            "tail": tail,
            "query": request.query_string,
            "headers": {name: request.headers[name] for name in _HEADERS if name in request.headers},
            "body": None if body is None else orjson.dumps(ledger.without_passwords(body)).decode(),
            "actor": [actor.type, actor.id, actor.label],
            "ip": call.front.peers.of(request),
        }
        await ledger.accept(self._pool, call.correlation_id, call.principal.tenant_id, kept)
        task = self._begin(call.correlation_id, call.principal, kept, again=False)
        if preferred.wait_seconds:
            with suppress(TimeoutError):
                async with asyncio.timeout(preferred.wait_seconds):
                    response = await asyncio.shield(task)
                    if response.status != 503:  # it is tried again then
                        return response
        return nothing(
            202,
            {
                "Set-Txn": str(call.correlation_id),
                "Preference-Applied": "respond-async",
                "Location": f"{self._settings.scim_url}/AsyncRequests/{call.correlation_id}",
            },
        )

    def _begin(
        self, request_id: UUID, principal: Principal, kept: dict[str, Any], *, again: bool
    ) -> asyncio.Task[web.Response]:
        task = asyncio.get_running_loop().create_task(self._run(request_id, principal, kept, again=again))
        self._running[request_id] = task
        task.add_done_callback(lambda ended: self._ended(request_id, ended))
        return task

    def _ended(self, request_id: UUID, task: asyncio.Task[web.Response]) -> None:
        self._running.pop(request_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("Left to its lease", action="deferred.left", txn=str(request_id), error=type(error).__name__)

    async def _run(self, request_id: UUID, principal: Principal, kept: dict[str, Any], *, again: bool) -> web.Response:
        assert self._front is not None  # noqa: S101  `start` comes before any request
        assert self._perform is not None  # noqa: S101  as above
        headers = {**kept["headers"], "Content-Type": MEDIA_TYPE}
        target = f"/?{kept['query']}" if kept["query"] else "/"
        body = (kept["body"] or "").encode()
        async with self._turn:
            request = make_request(kept["method"], target, headers=headers, body=body, remote=kept["ip"])
            call = Call(self._front, request, request_id, "(unknown)", again=again)
            call.principal = principal
            response = await self._perform(call, kept["tail"])
        outcomes = outcomes_of(call, response)
        if any(each["status"] == "503" for each in outcomes.values()):
            await ledger.put_off(self._pool, [request_id])
        else:
            await ledger.finish(self._pool, request_id, outcomes)
        return response

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  whatever it is, the next look may get through
                _log.warning("No look for requests", action="deferred.missed", error=type(error).__name__)

    async def look(self) -> None:
        """Give a sign of life for what is in hand, and take over what nobody has in hand."""
        if self._running:
            await ledger.extend(self._pool, list(self._running))
        for found in await ledger.take_over(self._pool, _AT_ONCE):
            if found.id not in self._running:
                await self._resume(found)

    async def _resume(self, found: Deferred) -> None:
        if found.attempts > ledger.MOST_ATTEMPTS:
            method = found.request["method"]
            error = UnavailableError("It was tried many times in vain.").body()
            await ledger.finish(self._pool, found.id, {"": {"method": method, "status": "503", "response": error}})
            return
        principal = Principal(found.tenant_id, Actor(*found.request["actor"]), compile_schemas(found.schemas))
        self._begin(found.id, principal, found.request, again=True)

    async def close(self) -> None:
        """Finish what is in hand while there is time, and leave the rest to others at once."""
        if self._looking is not None:
            self._looking.cancel()
        if not self._running:
            return
        await asyncio.wait(self._running.values(), timeout=self._settings.shutdown_seconds)
        left = dict(self._running)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        if left:
            with suppress(Exception):  # without the store they are found when the lease ends
                await ledger.put_off(self._pool, list(left), now=True)


def outcomes_of(call: Call, response: web.Response) -> dict[str, Any]:
    """Return what became of a bulk request's operations, by place; or of a single request, as if it were one."""
    if OUTCOMES in response:
        return {str(index): outcome for index, outcome in response[OUTCOMES].items()}
    outcome: dict[str, Any] = {"method": call.request.method}
    if "ETag" in response.headers:
        outcome["version"] = response.headers["ETag"]
    location = response.headers.get("Location")
    if location is None and call.resource_id:
        location = f"{call.front.settings.scim_url}{call.route.replace('{id}', call.resource_id)}"
    if location is not None:
        outcome["location"] = location
    outcome["status"] = str(response.status)
    if response.status >= 300 and response.body:
        assert isinstance(response.body, bytes)  # noqa: S101  written by `answer`
        outcome["response"] = orjson.loads(response.body)
    return {"": outcome}


async def done_before(call: Call) -> web.Response | None:
    """Return the answer to a call whose effect an earlier attempt had already, or None."""
    target = await ledger.effect(call.front.pool, call.principal.tenant_id, call.correlation_id)
    if target is None:
        return None
    created = call.request.method == "POST"
    headers = {"Location": f"{call.front.settings.scim_url}/{target['type']}s/{target['id']}"}
    if created:
        headers["ETag"] = etag(1)
    return nothing(201 if created else 204, headers)


async def status(call: Call) -> web.Response:
    """GET /AsyncRequests/{txn}: 202 while it is carried out, then the claims of its completion event (RFC 9967).

    Raises:
        NotFoundError: the tenant has no such request, or it was done long ago.
    """
    request_id = as_uuid(call.resource_id)
    tenant_id = call.principal.tenant_id
    found = None if request_id is None else await ledger.status(call.front.pool, tenant_id, request_id)
    if request_id is None or found is None:
        raise NotFoundError("There is no such asynchronous request; outcomes are kept for a week.")
    if found.result is None or found.finished_at is None:
        return nothing(202, {"Retry-After": "1", "Set-Txn": str(request_id)})
    issued = int(found.finished_at.timestamp())
    many = "" not in found.result
    scim_url = call.front.settings.scim_url
    events = [
        {
            "jti": str(uuid5(request_id, index)),
            "iat": issued,
            "iss": call.front.settings.base_url,
            "aud": f"urn:uuid:{tenant_id}",
            "txn": f"{request_id}:{index}" if many else str(request_id),
            "sub_id": _subject(outcome, scim_url),
            "events": {ASYNC_EVENT: outcome},
        }
        for index, outcome in sorted(found.result.items(), key=lambda item: int(item[0] or 0))
    ]
    return answer({"sets": {event["jti"]: event for event in events}} if many else events[0])


def _subject(outcome: dict[str, Any], scim_url: str) -> dict[str, str]:
    location = outcome.get("location", "").removeprefix(scim_url)
    known = {"format": "scim", "uri": location or "/"}
    resource_id = location.rpartition("/")[2]
    return {**known, "id": resource_id} if resource_id else known
