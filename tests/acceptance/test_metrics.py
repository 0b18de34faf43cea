"""`/metrics` of real processes: two apis and two workers, whose sums are what was done."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Caller, altered, document, make_tenant, store, work_email
from tests.support.processes import Process, free_ports, processes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        """Return what may never go back."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            if family.type in ("counter", "histogram")
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
