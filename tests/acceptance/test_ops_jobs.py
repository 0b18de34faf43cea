"""What operators do to jobs on the pages, as a browser without scripts does it."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models import bulk as operations
from models import jobs as ledger
from models.errors import PermanentJobError
from tests.support.api import make_tenant, store
from tests.support.ledger import row, stage, take
from tests.support.pages import browser, operators_pool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from models.settings import Settings
    from tests.support.api import Api, Tenant
    from tests.support.ledger import Staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODYS = "01890a5d-ac96-774b-bcce-b302099a8057"  # the id of nothing that there is; the same in every process


def words(text: str) -> str:
    """Return what a page says: without tags, on one line."""
    text = re.sub(r"<(script|style|datalist|svg|head)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())


def form(text: str, action: str) -> dict[str, str]:
    """Return the hidden fields of the form that is sent to ``action``."""
    match = re.search(rf'<form[^>]*action="{re.escape(action)}[^"]*".*?</form>', text, re.DOTALL)
    assert match, f"no form for {action}"
    return {
        unescape(name): unescape(value)
        for name, value in re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', match[0])
    }


async def die(settings: Settings, staged: list[Staged], code: str = "hopeless", detail: str = "Never.") -> None:
    """Have jobs end in `dead`."""
    async with store(settings) as connection:
        lease = uuid7()
        held = {job.id: job for job in await take(connection, lease)}
        for one in staged:
            await ledger.fail(connection, held[one.id], lease, PermanentJobError(code, detail), trace="a:1 > b:2")
        await ledger.release(connection, lease)


async def staged_in(api: Api, tenant: Tenant, count: int = 1, **more: Any) -> list[Staged]:
    async with store(api.settings) as connection:
        return await stage(connection, tenant.id, count, **more)


async def state_of(api: Api, job_id: UUID) -> str:
    async with store(api.settings) as connection:
        return str((await row(connection, job_id))["state"])


async def events(api: Api, action: str, tenant: Tenant) -> list[dict[str, Any]]:
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT * FROM audit_event WHERE action = $1 AND tenant_id = $2 ORDER BY occurred_at, id", action, tenant.id
        )
    return [dict(one) for one in rows]


async def carry_on(api: Api, **more: Any) -> list[operations.Batch]:
    """Do what a worker does about bulk operations, until there is nothing left to do."""
    done = []
    async with operators_pool(api.settings) as pool, pool.acquire() as connection:
        while (batch := await operations.carry_on(connection, **more)) is not None:
            done.append(batch)
    return done


@pytest.fixture
async def tenant(api: Api) -> Tenant:
    return await make_tenant(api.settings)


# Jobs


async def test_one_persons_failed_job_is_found_by_name_read_and_sent_round_again(api: Api, tenant: Tenant) -> None:
    someone, *_ = await staged_in(api, tenant, 3)
    await die(api.settings, [someone], "smtp_refused", "550 no such mailbox")
    visitor = await browser(api, "operator")
    found = words(await visitor.read(f"/ops/jobs?q={someone.user_name}"))
    assert "1 job matches" in found
    assert f"{someone.id} ✕ dead user.create {tenant.name} {someone.user_name}" in found
    assert "smtp_refused 550 no such mailbox" in found

    text = await visitor.read(f"/ops/jobs/{someone.id}")
    shown = words(text)
    assert "attempt 1 failed: smtp_refused" in shown
    assert "a:1 b:2" in shown
    assert str(someone.correlation_id) in shown
    assert '"userName": "(text)"' in shown

    sent = await visitor.post(f"/ops/jobs/{someone.id}/retry", {**form(text, f"/ops/jobs/{someone.id}/retry")})
    assert f"Job {someone.id} was sent round again." in words(await visitor.follow(sent))
    assert await state_of(api, someone.id) == "staged"
    (event,) = await events(api, "ops.job.retry", tenant)
    assert (event["actor_label"], event["targets"][0]["id"]) == (
        visitor.operator and visitor.operator.name,
        str(someone.id),
    )
    assert event["diff"][0] == {"op": "replace", "path": "state", "before": "dead", "after": "staged"}


async def test_a_double_click_has_one_effect_and_the_page_says_so(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    await die(api.settings, [one])
    visitor, other = await browser(api, "operator"), await browser(api, "admin")
    fields = form(await visitor.read(f"/ops/jobs/{one.id}"), f"/ops/jobs/{one.id}/retry")
    for delay in ("now", "in 1 hour"):
        answers = await asyncio.gather(
            *(each.post(f"/ops/jobs/{one.id}/retry", {**fields, "delay": delay}) for each in (visitor, other) * 3)
        )
        assert {answer.status for answer in answers} == {303}
    assert "has moved on since you looked; nothing was changed" in words(
        await visitor.follow(await visitor.post(f"/ops/jobs/{one.id}/retry", fields))
    )
    assert len(await events(api, "ops.job.retry", tenant)) == 1


async def test_a_job_that_finished_meanwhile_is_left_alone(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    visitor = await browser(api, "operator")
    fields = form(await visitor.read(f"/ops/jobs/{one.id}/cancel"), f"/ops/jobs/{one.id}/cancel")
    async with store(api.settings) as connection:
        lease = uuid7()
        await take(connection, lease)
        await ledger.finish(connection, [one.id], lease)
    answer = await visitor.post(f"/ops/jobs/{one.id}/cancel", fields)
    assert f"Job {one.id} is done; only a staged, retry or dead job can be cancelled." in words(
        await visitor.follow(answer)
    )
    assert await events(api, "ops.job.cancel", tenant) == []


async def test_a_retry_can_be_put_off(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    await die(api.settings, [one])
    visitor = await browser(api, "operator")
    fields = form(await visitor.read(f"/ops/jobs/{one.id}"), f"/ops/jobs/{one.id}/retry")
    await visitor.post(f"/ops/jobs/{one.id}/retry", {**fields, "delay": "in 1 hour"})
    async with store(api.settings) as connection:
        assert 3500 < (await row(connection, one.id))["due_in"] <= 3600
    wrong = await visitor.post(f"/ops/jobs/{one.id}/retry", {**fields, "delay": "in 1 century"})
    assert wrong.status == 400


async def test_discarding_a_create_says_that_the_user_vanishes_and_wants_a_reason(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    visitor = await browser(api, "operator")
    early = await visitor.get(f"/ops/jobs/{one.id}/discard")
    assert "is staged; only a dead job can be discarded" in words(await visitor.follow(early))
    await die(api.settings, [one])
    text = await visitor.read(f"/ops/jobs/{one.id}/discard")
    assert "The user vanishes." in words(text)
    fields = form(text, f"/ops/jobs/{one.id}/discard")
    assert (await visitor.post(f"/ops/jobs/{one.id}/discard", fields)).status == 400
    assert await state_of(api, one.id) == "dead"
    answer = await visitor.post(f"/ops/jobs/{one.id}/discard", {**fields, "reason": "A test\nuser"})
    assert "was discarded" in words(await visitor.follow(answer))
    assert await state_of(api, one.id) == "cancelled"
    (event,) = await events(api, "ops.job.discard", tenant)
    assert event["context"]["note"] == "A test user"
    async with store(api.settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM identifier WHERE tenant_id = $1", tenant.id) == 0


async def test_what_a_job_carries_is_shown_to_who_asks_and_that_is_audited(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    visitor = await browser(api, "operator")
    before = words(await visitor.read(f"/ops/jobs/{one.id}"))
    assert f'"userName": "{one.user_name}"' not in before
    answer = await visitor.post(f"/ops/jobs/{one.id}/reveal")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert f'"userName": "{one.user_name}"' in words(answer.content.decode())
    (event,) = await events(api, "ops.job.reveal", tenant)
    assert event["job_id"] == one.id


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("colour:red", "There is no qualifier colour: (at character 1); there are state, kind, queue, tenant, user"),
        ("state%3Aded", "There is no state ded"),
        ("tenant:nobody-here", "There is no tenant nobody-here"),
        ("%00", "NUL"),
        ("a%2C%2Cb", "cannot be read"),
    ],
)
async def test_a_search_that_cannot_be_is_answered_with_what_there_is(api: Api, query: str, says: str) -> None:
    visitor = await browser(api, "viewer")
    answer = await visitor.get(f"/ops/jobs?q={query}")
    assert answer.status == 400
    assert says in words(answer.content.decode())


async def test_pages_of_jobs_follow_each_other(api: Api, tenant: Tenant) -> None:
    staged = await staged_in(api, tenant, 230)
    visitor = await browser(api, "viewer")
    seen: list[str] = []
    path: str | None = f"/ops/jobs?q=tenant:{tenant.name}"
    totals = []
    while path is not None:
        text = await visitor.read(path)
        totals.append("230 jobs match" in words(text))
        seen += re.findall(r'<th scope="row"><a class="mono" href="/ops/jobs/([0-9a-f-]{36})"', text)
        older = re.search(r'rel="next" href="([^"]*)"', text)
        path = unescape(older[1]) if older else None
    assert seen == [str(one.id) for one in sorted(staged, key=lambda one: one.id, reverse=True)]
    assert totals == [True, False, False]
    assert (await visitor.get("/ops/jobs?after=nonsense")).status == 400


async def test_suggestions_go_on_from_what_stands_there(api: Api, tenant: Tenant) -> None:
    visitor = await browser(api, "viewer")
    text = await visitor.read("/ops/jobs?q=state:dead")
    assert '<option value="state:dead kind:invitation.send">' in text
    assert f'<option value="state:dead tenant:{tenant.name}">' in text


async def test_a_viewer_looks_and_does_nothing(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    await die(api.settings, [one])
    visitor = await browser(api, "viewer")
    for path in (f"/ops/jobs/{one.id}", "/ops/jobs?q=state:dead", "/ops/dead", "/ops/bulk", "/ops/queues"):
        main = (await visitor.read(path)).partition("<main")[2].partition("</main>")[0]
        assert 'method="post"' not in main, path
        assert "/ops/bulk/new" not in main, path
    tries: list[tuple[str, Mapping[str, str]]] = [
        (f"/ops/jobs/{one.id}/retry", {}),
        (f"/ops/jobs/{one.id}/cancel", {}),
        (f"/ops/jobs/{one.id}/discard", {"reason": "x"}),
        (f"/ops/jobs/{one.id}/reveal", {}),
        ("/ops/bulk", {"action": "retry", "q": "state:dead", "operation_id": str(uuid7()), "count": "1"}),
        (f"/ops/bulk/{uuid7()}/stop", {}),
        ("/ops/queues/pause", {"kind": "user.create", "reason": "x"}),
        ("/ops/queues/resume", {"id": str(uuid7())}),
    ]
    for path, fields in tries:
        assert (await visitor.post(path, fields)).status == 403, path
    assert (await visitor.get("/ops/bulk/new?action=retry&q=state:dead")).status == 403
    assert await state_of(api, one.id) == "dead"


@pytest.mark.parametrize("path", ["/ops/jobs", "/ops/dead", "/ops/bulk", "/ops/queues", f"/ops/jobs/{NOBODYS}"])
async def test_nobody_sees_anything_without_signing_in(api: Api, path: str) -> None:
    answer = await (await browser(api, None)).get(path)
    assert (answer.status, answer.headers["Location"].partition("?")[0]) == (303, "/sign-in")


@pytest.mark.parametrize("path", [f"/ops/jobs/{NOBODYS}", "/ops/jobs/nonsense"])
async def test_a_job_that_is_not_there_is_a_page_that_says_so(api: Api, path: str) -> None:
    assert (await (await browser(api, "viewer")).get(path)).status == 404


# Dead letters and bulk operations


async def test_dead_jobs_are_grouped_by_fault_and_a_group_is_retried_as_a_whole(api: Api, tenant: Tenant) -> None:
    refused, odd = await staged_in(api, tenant, 12), await staged_in(api, tenant, 2)
    for place, one in enumerate(refused):
        await die(api.settings, [one], "refused", f"550 <{one.user_name}> is unknown here, ticket {place}")
    await die(api.settings, odd, "refused", "The document is odd.")
    visitor = await browser(api, "operator")
    text = await visitor.read("/ops/dead?kind=user.create")
    groups = re.findall(r'<a href="(/ops/jobs\?q=[^"]*)">(\d+)</a>', text)
    assert {"12", "2"} <= {count for _, count in groups}
    (link,) = [unescape(url) for url, count in groups if count == "12"]
    assert "12 jobs match" in words(await visitor.read(link))

    query = link.partition("?q=")[2]
    preview = await visitor.read(f"/ops/bulk/new?action=retry&q={query}")
    assert "12 jobs would be sent round again" in words(preview)
    fields = form(preview, "/ops/bulk")
    answers = await asyncio.gather(*(visitor.post("/ops/bulk", {**fields, "delay": "now"}) for _ in range(4)))
    assert {answer.headers["Location"] for answer in answers} == {f"/ops/bulk/{fields['operation_id']}"}
    await carry_on(api)
    shown = words(await visitor.follow(answers[-1]))
    assert "Sent round again 12" in shown
    assert "✓ done" in shown
    assert {await state_of(api, one.id) for one in refused} == {"staged"}
    assert {await state_of(api, one.id) for one in odd} == {"dead"}
    assert len(await events(api, "ops.job.retry", tenant)) == 12
    assert len(await events(api, "ops.bulk.start", tenant)) == 0  # it named no tenant
    assert fields["operation_id"] in await visitor.read("/ops/bulk")


async def test_beyond_a_hundred_the_number_is_typed(api: Api, tenant: Tenant) -> None:
    staged = await staged_in(api, tenant, 101)
    visitor = await browser(api, "operator")
    preview = await visitor.read(f"/ops/bulk/new?action=cancel&q=tenant:{tenant.name}")
    assert "Creates are among them: their users vanish." in words(preview)
    assert "Type 101 to confirm" in words(preview)
    fields = form(preview, "/ops/bulk")
    for typed in ("", "100"):
        refused = await visitor.post("/ops/bulk", {**fields, "typed": typed})
        assert refused.status == 400
        assert "type the number of jobs: 101" in words(refused.content.decode())
    sly = await visitor.post("/ops/bulk", {**fields, "count": "100"})
    assert sly.status == 400
    assert "There are 101 jobs by now" in words(sly.content.decode())
    started = await visitor.post("/ops/bulk", {**fields, "typed": " 101 "})
    (late,) = await staged_in(api, tenant)
    batches = await carry_on(api, limit=40)
    assert [batch.applied for batch in batches] == [40, 40, 21]
    assert {await state_of(api, one.id) for one in staged} == {"cancelled"}
    assert await state_of(api, late.id) == "staged", "it came in after the operation was asked for"
    assert "Cancelled 101" in words(await visitor.follow(started))
    (start,) = await events(api, "ops.bulk.start", tenant)
    (finish,) = await events(api, "ops.bulk.finish", tenant)
    assert (start["context"]["expected"], finish["context"]["applied"]) == (101, 101)


async def test_an_operation_is_stopped_between_batches(api: Api, tenant: Tenant) -> None:
    staged = await staged_in(api, tenant, 30)
    await die(api.settings, staged)
    visitor = await browser(api, "operator")
    fields = form(await visitor.read(f"/ops/bulk/new?action=retry&q=tenant:{tenant.name}"), "/ops/bulk")
    await visitor.post("/ops/bulk", fields)
    path = f"/ops/bulk/{fields['operation_id']}"
    async with operators_pool(api.settings) as pool, pool.acquire() as connection:
        await operations.carry_on(connection, limit=10)
    assert "Stopped. What was done stays done." in words(await visitor.follow(await visitor.post(f"{path}/stop")))
    assert await carry_on(api) == []
    assert "had come to its end already" in words(await visitor.follow(await visitor.post(f"{path}/stop")))
    states = [await state_of(api, one.id) for one in staged]
    assert (states.count("staged"), states.count("dead")) == (10, 20)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/ops/bulk/new?action=retry&q=", "Name at least one condition"),
        ("/ops/bulk/new?action=fold&q=state:dead", "There is no action fold"),
        ("/ops/bulk/new?action=retry&q=foo:bar", "There is no qualifier foo:"),
        (f"/ops/bulk/{NOBODYS}", "There is no bulk operation"),
    ],
)
async def test_an_operation_that_cannot_be_says_why(api: Api, path: str, says: str) -> None:
    answer = await (await browser(api, "operator")).get(path)
    assert answer.status == 400
    assert says in words(answer.content.decode())


async def test_an_operation_on_nothing_is_none(api: Api, tenant: Tenant) -> None:
    visitor = await browser(api, "operator")
    path = f"/ops/bulk/new?action=discard&q=tenant:{tenant.name}"
    assert "only jobs that are dead can be discarded" in words(await visitor.read(path))
    form_of_old = {"action": "discard", "q": f"tenant:{tenant.name}", "operation_id": str(uuid7()), "count": "3"}
    answer = await visitor.post("/ops/bulk", {**form_of_old, "reason": "x"})
    assert "No job that this could be done to matches any more" in words(answer.content.decode())


# Queues


async def test_a_tenant_is_paused_and_resumed(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    visitor = await browser(api, "operator")
    fields = {"kind": "", "tenant": tenant.name, "reason": "Mail is down", "length": "1 hour"}
    shown = words(await visitor.follow(await visitor.post("/ops/queues/pause", fields)))
    assert f"All jobs of {tenant.name}: paused. What is running goes on" in shown
    assert f"‖ All jobs of {tenant.name} Mail is down" in shown
    assert f"user.create ‖ paused provision {tenant.name} 1 0 0 0" in shown
    again = words(await visitor.follow(await visitor.post("/ops/queues/pause", fields)))
    assert "paused already" in again

    async def taken() -> bool:
        async with store(api.settings) as connection:
            lease = uuid7()
            held = one.id in {job.id for job in await take(connection, lease)}
            await ledger.release(connection, lease)
            return held

    assert not await taken()
    text = await visitor.read("/ops/queues")
    ids = re.findall(r'name="id" value="([^"]*)"', text)
    answers = await asyncio.gather(*(visitor.post("/ops/queues/resume", {"id": ids[-1]}) for _ in range(3)))
    said = [words(await visitor.follow(answer)) for answer in answers]
    assert all("Nothing is paused." in each for each in said)
    assert await taken()
    assert len(await events(api, "ops.queue.pause", tenant)) == 1
    assert len(await events(api, "ops.queue.resume", tenant)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reason": "x", "length": "1 hour"}, "Say what to pause"),
        ({"kind": "user.fold", "reason": "x", "length": "1 hour"}, "There is no kind user.fold"),
        ({"tenant": "nobody-here", "reason": "x", "length": "1 hour"}, "There is no tenant nobody-here"),
        ({"kind": "user.create", "reason": "  ", "length": "1 hour"}, "a reason is needed"),
        ({"kind": "user.create", "reason": "x" * 501, "length": "1 hour"}, "at most 500"),
        ({"kind": "user.create", "reason": "x", "length": "a while"}, "Choose one of"),
    ],
)
async def test_a_pause_that_cannot_be_says_why(api: Api, fields: dict[str, str], says: str) -> None:
    answer = await (await browser(api, "operator")).post("/ops/queues/pause", fields)
    assert answer.status == 400
    assert says in words(answer.content.decode())


async def test_a_live_page_sends_what_changed(api: Api, tenant: Tenant) -> None:
    (one,) = await staged_in(api, tenant)
    visitor = await browser(api, "viewer")
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())}
    async with asyncio.timeout(15), api.session.get(f"{api.internal_url}/ops/dead?live=1", headers=headers) as response:
        assert response.content_type == "text/event-stream"
        await response.content.readuntil(b"\n\n")
        await die(api.settings, [one], f"fault_{one.id.hex[-6:]}")
        while f"fault_{one.id.hex[-6:]}".encode() not in await response.content.readuntil(b"\n\n"):
            pass
