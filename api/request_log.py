"""Gathering what clients sent, for operators to look at; written once a second, beside the requests.

Every refusal is kept, of the successes so many a second; the rest is counted. What is said about a request is worked
out when it is written, so that a request pays for no more than a few assignments.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from api.auth import RefusedError
from api.limits import OverLimitError
from models.db import is_unavailable
from models.directory.read import as_uuid
from models.errors import ClientError
from models.request_log import Count, LoggedRequest, kept_until, write_requests
from models.scim import json
from models.scim.deviations import deviations
from models.scim.redact import redact, sent_texts, shown_path, without_sent

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg
    from aiohttp import web

    from api.scim.call import Call
    from models.errors import HttpError

MOST_SUCCESSES = 50
"""Successes a second of which a process keeps a row."""
MOST_CAPTURED = 200
"""As many as that of a tenant whose capture is on: hiding what is in a body takes a quarter of a millisecond."""
MOST_WAITING = 1000
"""Most rows of any kind that wait to be written; beyond it even refusals are only counted."""
LARGEST_BODY = 65_536
"""Bytes of a body beyond which it is neither looked at nor kept."""
_PAUSE_SECONDS = 1.0
_TURN = 20  # rows that are worked out before requests have their turn again
_LONGEST_NOTE = 500
_DEPTH = 40

_log = structlog.get_logger("requests")


@dataclass(slots=True)
class _Seen:
    """One request that a row is written of."""

    call: Call
    tenant_id: UUID | None
    occurred_at: datetime
    status: int
    seconds: float
    error: HttpError | None
    answer: bytes
    capture_until: datetime | None


class RequestLog:
    """The requests of one api process that wait to be written."""

    def __init__(self, pool: asyncpg.Pool, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        """Take the pool to write on and how long requests are gathered."""
        self._pool = pool
        self._pause_seconds = pause_seconds
        self._seen: list[_Seen] = []
        self._rows: list[LoggedRequest] = []
        self._late: dict[UUID | None, Count] = {}
        """With `_rows`, what the store was not there for the last time."""
        self._successes = 0
        self._counts: dict[UUID | None, Count] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, call: Call, response: web.Response, seconds: float, error: HttpError | None) -> None:
        """Take note of an answered request; returns at once.

        Args:
            call: the request, after it was answered.
            response: the answer.
            seconds: how long it took.
            error: what was answered, unless it was a success.
        """
        principal = call.sender
        if principal is not None:
            tenant_id: UUID | None = principal.tenant_id
        else:
            tenant_id = error.tenant_id if isinstance(error, RefusedError) else None
        count = self._counts.get(tenant_id)
        if count is None:
            count = self._counts[tenant_id] = Count()
            self._begin()
        capture_until = None if principal is None else principal.capture_until
        if error is None and response.status < 400:
            count.succeeded += 1
            if self._successes >= (MOST_SUCCESSES if capture_until is None else MOST_CAPTURED):
                count.omitted += 1
                return
            self._successes += 1
        else:
            count.refused += 1
            if isinstance(error, OverLimitError) and error.refused is None:
                count.omitted += 1  # one of many of the same minute
                return
        if len(self._seen) + len(self._rows) >= MOST_WAITING:
            count.omitted += 1
            return
        now = datetime.now(UTC)
        if capture_until is not None and capture_until <= now:
            capture_until = None
        answer = None if capture_until is None else response.body
        self._seen.append(
            _Seen(
                call,
                tenant_id,
                now,
                response.status,
                seconds,
                error,
                answer if isinstance(answer, bytes) else b"",
                capture_until,
            )
        )

    def _begin(self) -> None:
        if self._task is None and not self._closing.is_set():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Write once a second until a second brought nothing."""
        while self._counts or self._late:
            started = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds):
                    await self._closing.wait()
            await self._write(time.monotonic() - started)
        self._task = None

    async def _write(self, seconds: float) -> None:
        seen, self._seen = self._seen, []
        counts, self._counts = self._counts, {}
        self._successes = 0
        now = datetime.now(UTC)
        for count in counts.values():
            count.succeeded_at = now if count.succeeded else None
        rows, self._rows = self._rows, []
        for tenant_id, late in self._late.items():
            counts.setdefault(tenant_id, Count()).add(late)
        self._late = {}
        try:
            for place, each in enumerate(seen, 1):
                rows.append(await _row(each))
                if place % _TURN == 0:
                    await asyncio.sleep(0)
            async with self._pool.acquire() as connection:
                await write_requests(connection, rows, counts)
        except Exception as error:  # noqa: BLE001  operators see less for a while; no request may suffer from that
            if is_unavailable(error) and not self._closing.is_set():
                # Should only the commit's answer have been lost, they are told twice rather than never.
                self._rows, self._late = rows, counts
            else:
                _log.exception("Requests were not noted", action="requests.lost", lost=len(rows), seconds=seconds)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be written."""
        return self._task is None

    async def close(self) -> None:
        """Write what waits."""
        self._closing.set()
        if self._task is not None:
            await self._task  # cancelled in the middle of writing, it would lose what it has in hand
        if self._counts or self._late:
            await self._write(0.0)


async def _row(seen: _Seen) -> LoggedRequest:
    call = seen.call
    body = await _body(call.request)
    return LoggedRequest(
        tenant_id=seen.tenant_id,
        occurred_at=seen.occurred_at,
        method=call.request.method[:20],
        route=call.route,
        path=_path(call),
        status=seen.status,
        scim_type=seen.error.scim_type if seen.error else None,
        duration_seconds=seen.seconds,
        correlation_id=call.correlation_id,
        note=_note(seen, body),
        captured=_captured(seen, body) if seen.capture_until else None,
        captured_until=kept_until(seen.capture_until) if seen.capture_until else None,
    )


def _path(call: Call) -> str:
    """Return the path with an id only where the route has one and it is one of ours."""
    if not call.resource_id:
        return call.route
    found = as_uuid(call.resource_id)
    return call.route.replace("{id}", str(found) if found else "(no id)")


async def _body(request: web.Request) -> bytes | None:
    """Return the body if it has been read whole already and is not large."""
    if (request.content_length or 0) > LARGEST_BODY or request.can_read_body:
        return None
    try:
        body = await request.read()
    except Exception:  # noqa: BLE001  the client went away over it
        return None
    return body if len(body) <= LARGEST_BODY else None


def _parsed(body: bytes | None) -> Any:
    try:
        return json.parse(body, max_depth=_DEPTH) if body else None
    except ClientError:
        return None


def _note(seen: _Seen, body: bytes | None) -> str | None:
    """Return the refusal or the tolerated deviation, in words and without anybody's data."""
    call = seen.call
    query = call.request.query_string
    if seen.error is not None:
        return without_sent(seen.error.detail, sent_texts(body, query, call.request.path))[:_LONGEST_NOTE]
    parsed = _parsed(body)
    clauses = deviations(call.request.method, parsed if isinstance(parsed, dict) else {}, query)
    if call.ignored:
        clauses.append(f"attributes without a schema were left out: {', '.join(map(shown_path, call.ignored))}")
    return f"Tolerated: {'; '.join(clauses)}."[:_LONGEST_NOTE] if clauses else None


def _captured(seen: _Seen, body: bytes | None) -> dict[str, Any]:
    request = seen.call.request
    sent = sent_texts(body, request.query_string, request.path) if seen.error is not None else []
    return {"request": _shown(body, sent), "response": _shown(seen.answer, sent)}


def _shown(content: bytes | None, sent: list[str]) -> Any:
    if content is None or len(content) > LARGEST_BODY:
        return f"(not kept: it never arrived, or is larger than {LARGEST_BODY} bytes)"
    if not content:
        return None
    try:
        return redact(orjson.loads(content), sent)
    except orjson.JSONDecodeError:
        return f"(not JSON, {len(content)} bytes)"
