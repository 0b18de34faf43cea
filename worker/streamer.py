"""Sending audit events to the places that streams name, one worker at a time for each, in order, at least once.

What a place has confirmed moves the stream's cursor; a worker that dies in between leaves a lease that runs out, and
another sends the same events again. A receiver tells them by their `id`.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from models.audit.stream_lines import leaving_events
from models.audit.streaming import (
    LEASE_SECONDS,
    LogBehindError,
    Window,
    claim_stream,
    confirm_batch,
    due_streams,
    fail_batch,
    read_active,
    read_batch,
    record_test,
    release_stream,
    skip,
)
from models.audit.streams import find_stream, read_secret
from models.crypt import UnreadableSecretError
from models.db import is_unavailable
from worker.destinations.parcel import DeliveryError, Parcel

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from models.audit.record import Actor
    from models.audit.streaming import Batch
    from models.audit.streams import Stream
    from models.db import Connection
    from models.settings import Settings
    from worker.context import Context
    from worker.destinations.parcel import Destination

LOOK_SECONDS: Final = 1.0
_AT_ONCE: Final = 8  # streams of one process; each waits for its place, not for the others
_TURN: Final = 20  # parcels after which a stream lets others have its place among those
_SEND_SECONDS: Final = LEASE_SECONDS - 5.0  # with all that a destination's own limits leave out, such as a full pool
_BROKEN_SECONDS: Final = 30.0  # that a stream rests after a fault of ours
# Most events and bytes of a parcel, and how long to wait for more before the next: objects are to be few. Many
# receivers refuse a body of more than 1 MB.
_SIZES: Final = {"https": (500, 1 << 19, 0.0), "syslog": (500, 1 << 19, 0.0), "s3": (10_000, 4 << 20, 60.0)}

_log = structlog.get_logger("streamer")


def parcel_of(stream: Stream, events: list[dict[str, Any]], settings: Settings) -> Parcel:
    """Return what is sent of events: as they may leave, in the stream's format."""
    return Parcel(events, leaving_events(stream, events, settings.secret_key.get_secret_value()))


class Sender:
    """Sends parcels of one stream; the connection to its place is kept from one to the next."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings."""
        self._settings = settings
        self._stack = AsyncExitStack()
        self._place: tuple[str, bytes | None] | None = None
        self._destination: Destination | None = None

    async def send(self, stream: Stream, events: list[dict[str, Any]]) -> str | None:
        """Send events to where the stream goes now; return None once they are confirmed, else why they are not."""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                destination = await self._open(stream)
                await destination.send(await asyncio.to_thread(parcel_of, stream, events, self._settings))
        except DeliveryError as error:
            return error.code
        except TimeoutError:
            return "timeout"
        except UnreadableSecretError:
            return "secret_unreadable"
        except Exception as error:  # noqa: BLE001  whatever it is, other streams go on and this one is tried again
            _log.error("A parcel could not be made", action="audit.stream_broken", error=type(error).__name__)
            return "internal"
        return None

    async def _open(self, stream: Stream) -> Destination:
        place = (stream.destination, stream.secret)
        if self._destination is not None and self._place == place:
            return self._destination
        await self.close()
        secret = read_secret(stream, self._settings.secret_key.get_secret_value())
        kinds = await asyncio.to_thread(import_module, "worker.destinations.kinds")  # slow, and seldom needed
        opened: AbstractAsyncContextManager[Destination] = kinds.open_destination(stream, secret, self._settings)
        destination = await self._stack.enter_async_context(opened)
        self._destination, self._place = destination, place
        return destination

    async def close(self) -> None:
        """Let go of the connection."""
        self._destination = None
        await self._stack.aclose()
        self._stack = AsyncExitStack()


async def try_stream(
    connection: Connection, stream_id: UUID, settings: Settings, *, actor: Actor
) -> tuple[UUID, str | None]:
    """Send one event, that of the test itself, at once; neither cursor nor state of the stream are touched.

    It is sent again in its turn, as any other: the receiver can see how it tells one from two.

    Returns:
        The event's id, and None once it is confirmed, else why it is not.

    Raises:
        UsageError: there is no such stream.
    """
    stream = await find_stream(connection, stream_id)
    event = await record_test(connection, stream, actor=actor)
    sender = Sender(settings)
    try:
        return UUID(event["id"]), await sender.send(stream, [event])
    finally:
        await sender.close()


async def send_stream(context: Context, stream_id: UUID, window: Window | None = None) -> int:
    """Send what a stream has to send now, unless another worker does; return how many events were confirmed.

    After `_TURN` parcels it ends, though there may be more: one with a long past to send keeps no other waiting.

    Args:
        context: of the worker.
        stream_id: which.
        window: how far to look ahead, kept from one call to the next.
    """
    window = window or Window()
    sender = Sender(context.settings)
    sent = 0
    try:
        for _ in range(_TURN):
            taken = await _take(context, stream_id, window)
            if taken is None:
                break
            stream, lease, batch = taken
            if batch is None:
                await _refused(context, stream, lease, "log_behind")
                break
            if not await _carry(context, sender, stream, lease, batch):
                break
            sent += len(batch.events)
            if not batch.more:
                break
    finally:
        await sender.close()
    return sent


async def _take(context: Context, stream_id: UUID, window: Window) -> tuple[Stream, UUID, Batch | None] | None:
    """Take what comes next, with the lease on it; None if there is nothing, or somebody else is at it.

    Without a batch there is the lease alone: the server's transactions are behind the cursor.
    """
    async with context.pool.acquire() as connection:
        while (stream := await read_active(connection, stream_id)) is not None:
            events, size, _ = _SIZES[stream.kind]
            try:
                batch = await read_batch(connection, stream, window, events=events, size=size)
            except LogBehindError:
                batch = None
            if batch is None or batch.events:
                lease = await claim_stream(connection, stream)
                return None if lease is None else (stream, lease, batch)
            if not await skip(connection, stream, batch) or not batch.more:
                return None
    return None


async def _carry(context: Context, sender: Sender, stream: Stream, lease: UUID, batch: Batch) -> bool:
    """Send a batch and write down how that went; return whether it was confirmed and the cursor moved."""
    try:
        code = await sender.send(stream, batch.events)
    except asyncio.CancelledError:  # stopping: whoever starts next need not wait for the lease to run out
        async with context.pool.acquire() as connection:
            await release_stream(connection, stream, lease)
        raise
    if code is not None:
        await _refused(context, stream, lease, code)
        return False
    async with context.pool.acquire() as connection:
        return await confirm_batch(connection, stream, lease, batch, pause_seconds=_SIZES[stream.kind][2])


async def _refused(context: Context, stream: Stream, lease: UUID, code: str) -> None:
    async with context.pool.acquire() as connection:
        delay = await fail_batch(connection, stream, lease, code)
    _log.warning(
        "A stream's destination did not confirm",
        action="audit.stream_failed",
        stream=str(stream.id),
        kind=stream.kind,
        error=code,
        failures=stream.failures + 1,
        again_in=None if delay is None else round(delay, 1),
    )


async def stream_forever(context: Context) -> None:
    """Look every second for streams that have something to send, until cancelled; an outage means another look."""
    tasks: dict[UUID, asyncio.Task[None]] = {}
    windows: dict[UUID, Window] = {}
    try:
        while True:
            for stream_id in [stream_id for stream_id, task in tasks.items() if task.done()]:
                del tasks[stream_id]
            for stream_id in await _due(context):
                if stream_id not in tasks and len(tasks) < _AT_ONCE:
                    window = windows.setdefault(stream_id, Window())
                    tasks[stream_id] = asyncio.create_task(_send(context, stream_id, window), name="stream")
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _due(context: Context) -> list[UUID]:
    try:
        async with context.pool.acquire() as connection:
            return await due_streams(connection)
    except Exception as error:
        if not is_unavailable(error):
            raise
        _log.warning("The streams cannot be read", action="audit.streams_unread", error=type(error).__name__)
        return []


async def _send(context: Context, stream_id: UUID, window: Window) -> None:
    try:
        await send_stream(context, stream_id, window)
    except Exception as error:  # noqa: BLE001  whatever it is, jobs and other streams go on
        if is_unavailable(error):
            _log.warning("A stream was cut short", action="audit.stream_cut", error=type(error).__name__)
            return
        _log.error(
            "A stream is broken", action="audit.stream_broken", stream=str(stream_id), error=type(error).__name__
        )
        await asyncio.sleep(_BROKEN_SECONDS)
