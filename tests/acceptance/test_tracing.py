"""Traces, received by a collector of the test's own: from the request through the job to the e-mail."""

from __future__ import annotations

import gzip
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.api import Caller, altered, document, make_tenant, store, work_email
from tests.support.processes import processes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings
    from tests.support.servers import MailboxReader

ROOT = Path(__file__).parents[2]
ALLOWED = {
    *("messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name"),
    *("messaging.message.id", "messaging.message.conversation_id", "scim.resource_type", "scim.operation"),
    "error.type",
}


@dataclass
class Collector:
    """An OpenTelemetry collector that keeps what it gets."""

    endpoint: str = ""
    spans: list[tuple[str, Span]] = field(default_factory=list)
    """Name of the service, and what it sent."""
    bodies: list[bytes] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()  # aiohttp inflates it
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, service: str, name: str) -> list[Span]:
        return [span for sender, span in self.spans if (sender, span.name) == (service, name)]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: one.value.string_value for one in span.attributes}


async def test_a_trace_goes_from_the_request_to_the_e_mail(
    settings: Settings, tmp_path: Path, mailbox: MailboxReader
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    async with collecting() as collector, aiohttp.ClientSession() as session:
        traced = altered(settings, otlp_endpoint=collector.endpoint)
        async with processes(traced, tmp_path, workers=1) as fleet:
            [api], [worker] = fleet.apis, fleet.workers
            await worker.start()
            tenant = await make_tenant(traced, invitations=True)
            caller = Caller(session, api.scim_url, tenant, tenant.token)
            mail = {"active": True, "emails": [work_email("anna@example.com", primary=True)]}
            answer = await caller.post(
                "/Users", document("anna@example.com", **mail), traceparent=f"00-{trace}-{parent}-01"
            )
            assert answer.status == 201
            taken = await caller.post("/Users", document("Anna@example.com"))
            assert taken.status == 409
            assert (await caller.post("/Users", document("not@traced.example"), traceparent="nonsense")).status == 201
            await mailbox.wait_for(1)
            assert await worker.stop() == 0
            assert await api.stop() == 0
        async with store(settings) as connection:
            jobs = {row["kind"]: row for row in await connection.fetch("SELECT * FROM job ORDER BY id DESC")}

    published, refused, other = collector.named("usher-api", "publish provision")
    assert (published.trace_id.hex(), published.parent_span_id.hex()) == (trace, parent)
    assert published.kind == Span.SPAN_KIND_PRODUCER
    assert attributes(published) == {
        "messaging.system": "usher",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "provision",
        "messaging.message.id": str(jobs["user.create"]["id"]),
        "messaging.message.conversation_id": answer.headers["X-Correlation-Id"],
        "scim.resource_type": "User",
        "scim.operation": "create",
    }
    assert jobs["user.create"]["trace_context"] == f"00-{trace}-{published.span_id.hex()}-01"

    assert attributes(refused)["error.type"] == "uniqueness"
    assert refused.status.code == Status.STATUS_CODE_ERROR
    assert {refused.trace_id, other.trace_id}.isdisjoint({published.trace_id})
    assert refused.parent_span_id == other.parent_span_id == b""

    worked = {attributes(span)["messaging.message.id"]: span for _, span in collector.spans if span.kind == 5}
    applied, sent = worked[str(jobs["user.create"]["id"])], worked[str(jobs["invitation.send"]["id"])]
    assert (applied.name, sent.name) == ("process provision", "process email")
    for span in (applied, sent):
        assert span.trace_id.hex() == trace
        [link] = span.links
        assert (link.trace_id.hex(), link.span_id) == (trace, published.span_id)
        assert span.status.code == Status.STATUS_CODE_UNSET
        assert published.start_time_unix_nano < span.start_time_unix_nano < span.end_time_unix_nano

    assert len(collector.spans) == 6
    for _, span in collector.spans:
        assert set(attributes(span)) <= ALLOWED
    for personal in (
        b"anna",
        b"Anna",
        b"example",
        tenant.name.encode(),
        str(tenant.id).encode(),
        tenant.token.encode(),
    ):
        assert all(personal not in body for body in collector.bodies), personal


async def test_a_collector_that_is_away_holds_nobody_up(settings: Settings, tmp_path: Path) -> None:
    away = altered(settings, otlp_endpoint="http://127.0.0.1:1")
    async with aiohttp.ClientSession() as session, processes(away, tmp_path, workers=1) as fleet:
        await fleet.workers[0].start()
        tenant = await make_tenant(away)
        caller = Caller(session, fleet.apis[0].scim_url, tenant, tenant.token)
        created = await caller.create(document("anna@example.com"))

        async def applied() -> bool:
            async with store(settings) as connection:
                return bool(await connection.fetchval("SELECT count(*) FROM users"))

        await wait_until(applied, f"{created['id']} is in the user store")
        assert await fleet.workers[0].stop() == 0
        assert await fleet.apis[0].stop() == 0


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, api.main, worker.main; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
