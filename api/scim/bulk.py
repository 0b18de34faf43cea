"""POST /Bulk (RFC 7644 §3.7): many operations in one request, each carried out as a request of its own would be.

They are done in the order in which they stand, but for what the order must give way to: one that refers to a
`bulkId` waits for the operation that creates it, and neighbouring creates of users share one commit. In a circle of
references one resource is created without its own, which are added when the others are there; if they never come,
it is deleted again and answered 409.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid5

import orjson
from aiohttp import web

from api.requests import read_object
from api.scim.call import Call
from api.scim.inner import make_request
from api.scim.responses import MEDIA_TYPE, answer
from models.errors import ConflictError, TooLargeError, UnavailableError
from models.scim.bulk import BULK_RESPONSE, PATCH_OP, Operation, part, read_bulk, resolve
from models.scim.schema import compare_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from models.errors import HttpError

    Perform = Callable[[Call, str], Awaitable[web.Response]]
    """Answers a call, from its path on. Never raises."""

MAX_OPERATIONS = 1000
OUTCOMES = web.ResponseKey("outcomes", dict)
"""What became of the operations of a bulk request, by their place in it."""
_SILENT_SECONDS = 1.0
_SECONDS = 45.0
"""After them no further operation is begun: a client waits for the answer, and Entra's kind gives up at 60."""
_TOGETHER = 250
"""Most creates at once: no more than fit into one commit."""


async def bulk(call: Call, perform: Perform) -> web.Response:
    """POST /Bulk: 200 with the outcome of each operation, whatever it was.

    Raises:
        TooLargeError: the request is over a limit, which the detail names.
        ClientError: it is no bulk request.
    """
    settings = call.front.settings
    try:
        body = await read_object(call.request, settings)
    except TooLargeError:
        raise TooLargeError(
            f"The bulk request is larger than maxPayloadSize, {settings.max_body_bytes} bytes."
        ) from None
    limit, operations = read_bulk(body, max_operations=MAX_OPERATIONS)
    call.front.limits.charge(call.principal, len(operations) - 1)
    run = _Run(call, perform, limit, operations)
    await run.run()
    response = answer({"schemas": [BULK_RESPONSE], "Operations": list(run.outcomes().values())})
    response[OUTCOMES] = run.outcomes()
    return response


class _Run:
    """One bulk request while it is carried out."""

    def __init__(self, call: Call, perform: Perform, limit: int | None, operations: list[Operation]) -> None:
        self._call = call
        self._perform = perform
        self._left = limit
        self._pending = operations
        self._until = time.monotonic() + _SECONDS
        self._refers = {operation.index: operation.references() for operation in operations}
        self._ids: dict[str, str] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._owed: list[tuple[Operation, str, list[dict[str, Any]]]] = []

    def outcomes(self) -> dict[int, dict[str, Any]]:
        """Return what became of the operations that were begun, by their place and in its order."""
        return dict(sorted(self._outcomes.items()))

    async def run(self) -> None:
        """Carry the operations out, until all are done or there were too many errors."""
        while self._pending and self._left != 0:
            wave = self._next()
            if not wave:
                await self._break_circle()
                continue
            begun = {operation.index for operation in wave}
            self._pending = [operation for operation in self._pending if operation.index not in begun]
            await asyncio.gather(*map(self._do, wave))
        for operation, resource_id, additions in self._owed:
            await self._complete(operation, resource_id, additions)

    def _next(self) -> list[Operation]:
        """Return what can be done now: one operation, or neighbouring creates of users."""
        creators = {operation.creates for operation in self._pending}
        busy: set[tuple[str, ...]] = set()
        for place, operation in enumerate(self._pending):
            if self._waits(operation, creators) or operation.path in busy:
                if len(operation.path) == 2:
                    busy.add(operation.path)  # what comes later for this resource must not overtake
                continue
            return self._neighbours(place, creators)
        return []

    def _waits(self, operation: Operation, creators: set[str | None]) -> bool:
        return any(name in creators and name not in self._ids for name in self._refers[operation.index])

    def _neighbours(self, place: int, creators: set[str | None]) -> list[Operation]:
        wave: list[Operation] = []
        names: set[str] = set()
        most = _TOGETHER if self._left is None else min(self._left, _TOGETHER)
        for operation in self._pending[place:]:
            name = _user_name(operation)
            if wave and (name is None or name in names or len(wave) >= most or self._waits(operation, creators)):
                break
            wave.append(operation)
            if name is None:
                break
            names.add(name)
        return wave

    async def _break_circle(self) -> None:
        """Create one resource of a circle of references without what is not there yet."""
        by_name = {operation.creates: operation for operation in self._pending if operation.creates}
        seen: set[int] = set()
        operation = self._pending[0]
        while operation.index not in seen:
            seen.add(operation.index)
            waiting = [name for name in self._refers[operation.index] if name in by_name and name not in self._ids]
            operation = by_name[min(waiting)] if waiting else operation
        self._pending.remove(operation)
        missing = self._missing(operation)
        if operation.error is not None or any(name not in by_name for name in missing):
            await self._do(operation)
            return
        data, additions = part(operation.data, missing)
        resource_id = await self._do(operation, data)
        if resource_id is not None:
            self._owed.append((operation, resource_id, additions))

    def _missing(self, operation: Operation) -> set[str]:
        return {name for name in self._refers[operation.index] if name not in self._ids}

    async def _do(self, operation: Operation, data: Any = None) -> str | None:
        """Carry one operation out; return the id of what it created."""
        error: HttpError | None = operation.error
        if error is None and data is None and (missing := self._missing(operation)):
            error = ConflictError(f"It refers to bulkId:{min(missing)}, which was not created.")
        if error is None and time.monotonic() > self._until:
            error = UnavailableError("The time for one bulk request is over; send what is left in another one.")
        sent = resolve(operation.data if data is None else data, self._ids)
        path = tuple(resolve(list(operation.path), self._ids))
        began = time.monotonic()
        response = await self._send(operation, operation.method, path, sent, error)
        self._note(operation, path, response)
        if response.status == 503 and time.monotonic() - began > _SILENT_SECONDS:
            self._until = began  # the store is silent: each of the others would wait as long, one after the other
        if response.status >= 300 or operation.method != "POST":
            return None
        resource_id = response.headers["Location"].rpartition("/")[2]
        if operation.bulk_id is not None:
            self._ids[operation.bulk_id] = resource_id
        return resource_id

    async def _send(
        self,
        operation: Operation,
        method: str,
        path: Iterable[str],
        data: Any,
        error: HttpError | None = None,
        step: str = "",
    ) -> web.Response:
        outer = self._call
        headers = {"Content-Type": MEDIA_TYPE}
        if operation.version is not None and not step:
            headers["If-Match"] = operation.version
        body = b"" if method == "DELETE" else orjson.dumps(data)
        request = make_request(method, "/", headers=headers, body=body, remote=outer.front.peers.of(outer.request))
        # The same for the same operation of the same request, so that it is known when it was done already.
        correlation_id = uuid5(outer.correlation_id, f"{operation.index}{step}")
        inner = Call(outer.front, request, correlation_id, "(unknown)", part=(outer.correlation_id, operation.index))
        inner.again = outer.again
        inner.principal, inner.refused = outer.principal, error
        return await self._perform(inner, f"/{'/'.join(path)}")

    def _note(self, operation: Operation, path: tuple[str, ...], response: web.Response) -> None:
        """Keep what the answer says of an operation (RFC 7644 §3.7.3)."""
        failed = response.status >= 300
        outcome: dict[str, Any] = {"method": operation.method}
        if operation.bulk_id is not None:
            outcome["bulkId"] = operation.bulk_id
        if "ETag" in response.headers:
            outcome["version"] = response.headers["ETag"]
        location = response.headers.get("Location")
        if location is None and len(path) == 2 and not path[1].startswith("bulkId:"):
            location = f"{self._call.front.settings.scim_url}/{'/'.join(path)}"
        if location is not None:
            outcome["location"] = location
        outcome["status"] = str(response.status)
        if failed:
            assert isinstance(response.body, bytes)  # noqa: S101  every error has a body
            outcome["response"] = orjson.loads(response.body)
            if self._left:
                self._left -= 1
        self._outcomes[operation.index] = outcome

    async def _complete(self, operation: Operation, resource_id: str, additions: list[dict[str, Any]]) -> None:
        """Add the references that a resource was created without, or take it back."""
        path = (operation.path[0], resource_id)
        missing = self._missing(operation)
        if not missing:
            patch = {"schemas": [PATCH_OP], "Operations": resolve(additions, self._ids)}
            response = await self._send(operation, "PATCH", path, patch, step=" references")
            if response.status < 300:
                if "ETag" in response.headers:
                    self._outcomes[operation.index]["version"] = response.headers["ETag"]
                return
        await self._send(operation, "DELETE", path, None, step=" undone")
        named = f"bulkId:{min(missing)}, which was not created" if missing else "what cannot be referred to"
        refused = ConflictError(f"It is in a circle of references with {named}; it was deleted again.")
        self._note(operation, operation.path, await self._send(operation, "POST", operation.path, {}, refused))


def _user_name(operation: Operation) -> str | None:
    """Return what tells a create of a user from others, or None for any other operation."""
    if operation.method != "POST" or operation.path != ("Users",) or operation.error is not None:
        return None
    value = next((item for name, item in operation.data.items() if name.lower() == "username"), None)
    return compare_key(value) if isinstance(value, str) else f"operation {operation.index}"
