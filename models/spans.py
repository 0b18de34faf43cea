"""Spans as OpenTelemetry's conventions for messaging have them; imported only where traces are wanted.

Attributes are those of the convention and two of SCIM: nothing tells of a tenant or a person.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, get_current_span
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from models.jobs import Job, Kind

_SEND_SECONDS = 5
_PROPAGATOR = TraceContextTextMapPropagator()
_SCIM = {"user.create": {"scim.resource_type": "User", "scim.operation": "create"}}


def _context(traceparent: str | None) -> Context:
    """Return what a `traceparent` says; one that is missing or malformed says nothing."""
    return _PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {})


def _traceparent(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span))
    return carrier.get("traceparent")


def _attributes(name: str, kind: str, queue: str, job_id: UUID, correlation_id: UUID) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "usher",
        "messaging.operation.name": name,
        "messaging.operation.type": "send" if name == "publish" else "process",
        "messaging.destination.name": queue,
        "messaging.message.id": str(job_id),
        "messaging.message.conversation_id": str(correlation_id),
        **_SCIM.get(kind, {}),
    }


def _fail(span: Span, error: BaseException) -> None:
    # An error's text may name a person; its code does not.
    code = getattr(error, "code", None) or getattr(error, "scim_type", None) or type(error).__name__
    span.set_attribute("error.type", str(code))
    span.set_status(Status(StatusCode.ERROR))


class Spans:
    """Makes the spans of one process and sends them to a collector from a thread."""

    def __init__(self, endpoint: str, role: str, revision: str) -> None:
        """Take the collector's address, without the path of OTLP, and who sends."""
        resource = Resource.create(
            {"service.name": f"usher-{role}", "service.version": version("usher"), "vcs.ref.head.revision": revision}
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_SECONDS)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("usher")

    @contextmanager
    def publishing(
        self, kind: Kind, *, job_id: UUID, correlation_id: UUID, traceparent: str | None
    ) -> Iterator[str | None]:
        """See `models.tracing.publishing`."""
        span = self._tracer.start_span(
            f"publish {kind.queue}",
            _context(traceparent),
            SpanKind.PRODUCER,
            _attributes("publish", kind.name, kind.queue, job_id, correlation_id),
        )
        try:
            yield _traceparent(span)
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    @contextmanager
    def processing(self, queue: str, jobs: Sequence[Job]) -> Iterator[None]:
        """See `models.tracing.processing`."""
        spans = [self._process(queue, job) for job in jobs]
        try:
            yield
        except BaseException as error:
            for span in spans:
                _fail(span, error)
            raise
        finally:
            for span in spans:
                span.end()

    def _process(self, queue: str, job: Job) -> Span:
        # Child of the span that staged it and linked to it: backends that show no links show one trace all the same.
        context = _context(job.trace_context)
        staged = get_current_span(context).get_span_context()
        return self._tracer.start_span(
            f"process {queue}",
            context,
            SpanKind.CONSUMER,
            _attributes("process", job.kind, queue, job.id, job.correlation_id),
            [Link(staged)] if staged.is_valid else None,
        )

    def close(self) -> None:
        """Send what waits and end the thread; blocks for seconds at most."""
        self._provider.shutdown()
