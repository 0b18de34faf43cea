"""`/metrics` of real processes: two apis and two workers, whose sums are what was done."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from models import metrics
from models.audit.record import OPERATOR
from models.job_actions import cancel
from models.jobs import KINDS
from tests.support.api import Caller, altered, apply_all, document, make_tenant, serving, store, work_email
from tests.support.groups import create_group
from tests.support.processes import Process, free_ports, processes
from tests.support.waiting import wait_until
from tests.support.writing import delete, patch, put, setting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from models.counts import Metric
    from models.settings import Settings
    from tests.support.servers import MailboxReader


class Scrape:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over every series that has these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and all(sample.labels[label] == value for label, value in labels.items())
        )

    def counters(self) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return what may never go back: all that is counted, but for the processor time of a process that lives."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            if family.type in ("counter", "histogram") and not family.name.startswith("usher_process_")
            for sample in family.samples
        }


async def scrape(session: aiohttp.ClientSession, port: int) -> Scrape:
    async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/plain"
        return Scrape(await response.text())


async def create(callers: list[Caller], names: list[str]) -> None:
    async def one(caller: Caller, name: str) -> None:
        await caller.create(document(name, active=True, emails=[work_email(name, primary=True)]))

    await asyncio.gather(*(one(callers[number % len(callers)], name) for number, name in enumerate(names)))


async def test_the_sums_are_what_was_done_also_after_a_worker_was_killed(
    settings: Settings, tmp_path: Path, mailbox: MailboxReader
) -> None:
    shared = altered(
        settings, metrics_dir=tmp_path / "metrics", lease_seconds=3, lease_beat_seconds=1, sweep_seconds=0.5
    )
    async with aiohttp.ClientSession() as session, processes(shared, tmp_path, apis=2, workers=2) as fleet:
        await asyncio.gather(*(worker.start() for worker in fleet.workers))
        tenant = await make_tenant(shared, invitations=True)
        callers = [Caller(session, api.scim_url, tenant, tenant.token) for api in fleet.apis]
        ports = [api.settings.admin_port for api in fleet.apis]

        async def until_done(jobs: int) -> None:
            async def done() -> bool:
                async with store(shared) as connection:
                    return bool(await connection.fetchval("SELECT count(*) FROM job WHERE state = 'done'") == jobs)

            await wait_until(done, f"{jobs} jobs are done", 60)

        await create(callers, [f"first{number}@example.com" for number in range(40)])
        refused = await callers[0].bearing("nonsense").get("/Users")
        assert refused.status == 401
        taken = await callers[1].post("/Users", document("first0@example.com"))
        assert taken.status == 409
        await until_done(80)
        before = await scrape(session, ports[0])
        await fleet.workers[0].kill()
        await create(callers, [f"second{number}@example.com" for number in range(20)])
        await fleet.workers[0].start()
        await fleet.workers[1].stop()
        await create(callers, [f"third{number}@example.com" for number in range(20)])
        await until_done(160)

        async with store(shared) as connection:
            events = Counter(
                {
                    (row["action"], row["outcome"]): row["count"]
                    for row in await connection.fetch("SELECT action, outcome, count(*) FROM audit_event GROUP BY 1, 2")
                }
            )
            attempts = await connection.fetchval("SELECT sum(attempts) FROM job")

        async def settled() -> Scrape | None:
            # What a worker did is counted a moment after its commit.
            found = await scrape(session, ports[1])
            return found if found.total("usher_jobs_finished_total", outcome="ok") >= 160 else None

        after = await wait_until(settled, "everything that was done is counted")
        assert after is not None
        assert [path.name for path in sorted((tmp_path / "metrics").iterdir())] == [f"{n}.counts" for n in range(4)]
        for queue, kind in (("provision", "user.create"), ("email", "invitation.send")):
            labels = {"queue": queue, "kind": kind}
            assert after.total("usher_jobs_staged_total", **labels) == 80
            assert after.total("usher_jobs_finished_total", **labels, outcome="ok") == 80
            assert after.total("usher_job_end_to_end_seconds_count", **labels) == 80
            assert after.total("usher_job_queue_seconds_count", **labels) == 80
            assert after.total("usher_queue_jobs", queue=queue) == 0
        assert after.total("usher_jobs_started_total") == attempts == 160
        assert after.total("usher_emails_total", outcome="sent") == 80 == len(await mailbox.messages())
        users = {"route": "/scim/v2/Users", "method": "POST"}
        assert after.total("usher_http_requests_total", **users, status_class="2xx") == 80
        assert after.total("usher_http_requests_total", **users, status_class="4xx", scim_type="uniqueness") == 1
        assert after.total("usher_http_request_duration_seconds_count", **users) == 81
        assert (
            after.total("usher_auth_failures_total")
            == after.total("usher_auth_failures_total", reason="malformed")
            == 1
        )
        for action in ("scim.user.create", "invitation.email.send"):
            for outcome in ("pending", "success", "denied"):
                counted = after.total("usher_audit_events_total", action=action, outcome=outcome)
                assert counted == events[action, outcome], (action, outcome)
        assert after.total("usher_worker_slots", queue="provision") == 2  # of the one that lives
        again = (await scrape(session, ports[0])).counters()
        for key, value in before.counters().items():
            assert again[key] >= value, key


async def test_processes_that_share_a_port_answer_for_each_other(settings: Settings, tmp_path: Path) -> None:
    port, admin_port = free_ports(2)
    own = altered(settings, port=port, admin_port=admin_port)
    apis = Process(own, ["api", "--processes", "3"], tmp_path / "api.log")
    await apis.start()
    try:
        await wait_until(lambda: apis.said.count('"action":"api.start"') == 3, "three processes listen")
        # Which of them gets a connection is the kernel's to say.
        asked: list[float] = []
        for _ in range(12):
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/scim/v2/ServiceProviderConfig") as response:
                    assert response.status == 200
                found = await scrape(session, admin_port)
                asked.append(found.total("usher_http_requests_total", route="/scim/v2/ServiceProviderConfig"))
        assert asked == [float(number) for number in range(1, 13)]

        async def numbers() -> int:
            async with aiohttp.ClientSession() as session:
                found = await scrape(session, admin_port)
            return sum(
                sample.name == "usher_process_resident_memory_bytes"
                for family in found.families
                for sample in family.samples
            )

        async def all_three() -> bool:
            return await numbers() == 3

        await wait_until(all_three, "each of the three tells of its memory")
    finally:
        assert await apis.stop() == 0


async def test_a_worker_answers_on_a_port_of_its_own(settings: Settings, tmp_path: Path) -> None:
    [port] = free_ports(1)
    worker = Process(altered(settings, worker_admin_port=port), ["worker"], tmp_path / "worker.log")
    await worker.start()
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/livez") as response:
                assert (response.status, await response.json()) == (200, {"status": "alive"})
            async with session.get(f"http://127.0.0.1:{port}/elsewhere") as response:
                assert response.status == 404
            async with session.post(f"http://127.0.0.1:{port}/metrics") as response:
                assert response.status == 405

            async def slots() -> float:
                return (await scrape(session, port)).total("usher_worker_slots", queue="email")

            assert await wait_until(slots, "the worker tells of its slots") == 2 * settings.smtp_connections
            assert (await scrape(session, port)).total("usher_queue_jobs") == 0
    finally:
        assert await worker.stop() == 0


async def test_metrics_are_told_without_the_servers(settings: Settings, tmp_path: Path) -> None:
    away = altered(settings, database_url="postgresql://usher@127.0.0.1:1/none", redis_url="redis://127.0.0.1:1/0")
    async with aiohttp.ClientSession() as session, processes(away, tmp_path) as fleet:
        caller = Caller(session, fleet.apis[0].scim_url, None, "ush_x")  # type: ignore[arg-type]  # asks as nobody
        assert (await caller.get("/ServiceProviderConfig")).status in (200, 401, 503)
        assert (await caller.send("PROPFIND", "/Users")).status in (401, 405, 503)
        async with asyncio.timeout(10):
            found = await scrape(session, fleet.apis[0].settings.admin_port)
        assert found.total("usher_http_requests_total", route="/scim/v2/ServiceProviderConfig") == 1
        assert found.total("usher_http_requests_total", route="/scim/v2/Users", method="other") == 1
        assert found.total("usher_database_up") == found.total("usher_redis_up") == 0
        assert not any(sample.name == "usher_queue_jobs" for family in found.families for sample in family.samples)


async def test_every_event_and_every_job_is_counted_whoever_writes_it(settings: Settings) -> None:
    before = metrics.COUNTS.read()
    async with serving(settings) as api:
        caller = await api.caller()
        async with store(settings) as connection:
            await connection.execute("UPDATE tenant SET invitations = true")
        anna, bert, carl, dora = [
            await caller.create(
                document(f"{name}@example.com", active=True, emails=[work_email(f"{name}@example.com")])
            )
            for name in ("anna", "bert", "carl", "dora")
        ]
        assert (await delete(caller, carl["id"])).status == 204  # while it waits
        assert (await patch(caller, anna["id"], setting("compliant", {"active": False}))).status == 200  # settles it
        assert (await patch(caller, anna["id"], setting("legacy", {"active": False}))).status == 200  # changes nothing
        async with store(settings) as connection:
            waiting = await connection.fetchval("SELECT id FROM job WHERE resource_id = $1", dora["id"])
            await cancel(connection, waiting, actor=OPERATOR)
        await apply_all(settings)
        assert (await put(caller, bert["id"], document("bert@example.com", title="Chief"))).status == 200
        group = await create_group(caller, "Everybody", anna["id"])
        for operation in ("add", "add", "remove"):
            value = {"op": operation, "path": "members", "value": [{"value": bert["id"]}]}
            body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": [value]}
            assert (await caller.send("PATCH", f"/Groups/{group['id']}", body=json.dumps(body).encode())).status < 300
        assert (await delete(caller, bert["id"])).status == 204
        assert (await caller.post("/Users", {"userName": 7})).status == 400
    after = metrics.COUNTS.read()

    def grown(metric: Metric) -> Counter[tuple[str, ...]]:
        found = {
            labels: values[0] - before.get((name, labels), [0.0])[0]
            for (name, labels), values in after.items()
            if name == metric.name
        }
        return Counter({labels: int(count) for labels, count in found.items() if count})

    async with store(settings) as connection:
        events = await connection.fetch(
            "SELECT action, outcome, count(*) FROM audit_event"
            " WHERE action <> 'system.schema.migrate' GROUP BY 1, 2"  # which the test's own set-up did
        )
        jobs = await connection.fetch("SELECT queue, kind, state, count(*) FROM job GROUP BY 1, 2, 3")
    assert grown(metrics.AUDIT_EVENTS) == Counter({(row["action"], row["outcome"]): row["count"] for row in events})
    staged: Counter[tuple[str, ...]] = Counter()
    for row in jobs:
        staged[row["queue"], row["kind"]] += row["count"]
    assert grown(metrics.JOBS_STAGED) == staged
    kind = KINDS["user.create"]
    ended = grown(metrics.JOBS_FINISHED)
    assert ended[kind.queue, kind.name, "cancelled"] == 2
    assert ended[kind.queue, kind.name, "ok"] == 1  # that was settled; `apply_all` is no worker
