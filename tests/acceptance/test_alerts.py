"""Every expression of the alert rules and the dashboard finds its numbers in a real `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api import Caller, altered, document, make_tenant, work_email
from tests.support.processes import processes
from tests.support.promql import expressions
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from models.settings import Settings
    from tests.support.servers import MailboxReader


async def test_every_number_that_is_asked_for_is_there_with_its_labels(
    settings: Settings, tmp_path: Path, mailbox: MailboxReader
) -> None:
    shared = altered(settings, metrics_dir=tmp_path / "metrics")
    asked: dict[str, set[str]] = {}
    for expression in expressions():
        for name, labels in expression.uses().items():
            asked.setdefault(name, set()).update(labels)
    async with aiohttp.ClientSession() as session, processes(shared, tmp_path, workers=1) as fleet:
        [api] = fleet.apis
        await fleet.workers[0].start()
        tenant = await make_tenant(shared, invitations=True)
        caller = Caller(session, api.scim_url, tenant, tenant.token)
        await mailbox.behave(at="rcpt", reply="451 later", to="later")
        for name in ("anna", "later"):
            mail = f"{name}@example.com"
            await caller.create(document(mail, active=True, emails=[work_email(mail, primary=True)]))
        assert (await caller.bearing(None).get("/Users")).status == 401

        async def missing() -> dict[str, set[str]]:
            async with session.get(f"http://127.0.0.1:{api.settings.admin_port}/metrics") as response:
                families = text_string_to_metric_families(await response.text())
                there: dict[str, set[str]] = {}
                for family in families:
                    for sample in family.samples:
                        there.setdefault(sample.name, set()).update(sample.labels)
            return {
                name: labels - there.get(name, set())
                for name, labels in asked.items()
                if name not in there or not labels <= there[name]
            }

        lacking: dict[str, set[str]] = {}

        async def complete() -> bool:
            nonlocal lacking
            lacking = await missing()
            return not lacking

        try:
            await wait_until(complete, "every number is there", 20)
        except AssertionError as late:
            raise AssertionError(f"{late}: {lacking}") from late
