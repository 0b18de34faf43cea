"""Traces from the request through the job to the e-mail, where an OpenTelemetry collector is set.

Where none is set, `active` is None and nothing of OpenTelemetry is imported: whoever could begin a span asks that.
The producer's span is stored with the job as its `traceparent` (W3C Trace Context); whoever does the job links to it.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from models.jobs import Job, Kind
    from models.settings import Settings
    from models.spans import Spans

_spans: Spans | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


def start(settings: Settings, role: str) -> None:
    """Have this process, an `api` or a `worker`, send traces, if `otlp_endpoint` says where to."""
    global _spans  # noqa: PLW0603  one for the process, as the collector is
    if settings.otlp_endpoint is not None:
        from models.spans import Spans  # noqa: PLC0415  imports OpenTelemetry

        _spans = Spans(str(settings.otlp_endpoint), role, settings.revision)


async def stop() -> None:
    """Send what waits, but not for ever, and send nothing from now on."""
    global _spans
    spans, _spans = _spans, None
    if spans is not None:
        await asyncio.to_thread(spans.close)


def active() -> bool:
    """Return whether this process sends traces."""
    return _spans is not None


def publishing(
    kind: Kind, *, job_id: UUID, correlation_id: UUID, traceparent: str | None
) -> AbstractContextManager[str | None]:
    """Return a span around the staging of a job; entering it gives the `traceparent` to store with the job.

    Args:
        kind: of the job.
        job_id: what the message is called.
        correlation_id: what the conversation is called.
        traceparent: of the request, if it has one.
    """
    if _spans is None:
        return _NOTHING
    return _spans.publishing(kind, job_id=job_id, correlation_id=correlation_id, traceparent=traceparent)


def processing(queue: str, jobs: Sequence[Job]) -> AbstractContextManager[None]:
    """Return the spans around the doing of jobs, one for each."""
    return _NOTHING if _spans is None else _spans.processing(queue, jobs)
