"""Every page in a real browser, light and dark, wide and narrow: what axe-core, the console and a ruler say of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support.waiting import wait_until
from tests.ui.visitor import visiting

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.support.api import Caller
    from tests.ui.visitor import Visitor
    from tests.ui.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")
# Dark differs from light by its colours only.
JUDGE = """async (scheme) => {
  const rules = scheme === "dark" ? { runOnly: ["color-contrast"] } : {};
  const found = await axe.run(document, { resultTypes: ["violations"], ...rules });
  return found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.map((node) => node.html + " " + node.failureSummary).join(" | ")}`);
}"""
# What a value looks like that was printed without a thought of who reads it.
RAW = re.compile(r"\bNone\b(?!\.| yet)|\bnull\b|\[\]|\{[\"'}]|datetime|UUID\(|\bnan\b|<[A-Za-z]+ object")


async def fill(world: World, chromium: Browser) -> Caller:
    """Let some days of a customer happen in a second: one of everything that a page can show."""
    acme = await world.tenant("acme", display_name="Acme Ltd")
    await world.simulate(acme, 12, "--seed", "9")
    await world.until_jobs("done", 12, "user.create")
    await wait_until(lambda: settled(world), "the invitations are out")
    await world.mailbox.behave(at="rcpt", reply="550 5.1.1 No such mailbox")
    await world.create(acme, "rita@acme.example")
    await world.until_jobs("dead", 1)
    await world.mailbox.behave(at="data", reply="451 4.3.0 Try again later")
    await world.create(acme, "tom@acme.example")
    await world.until_jobs("retry", 1)
    assert (await acme.post("/Users", {"userName": "rita@acme.example"})).status == 409
    assert (await acme.get("/Users", filter="nothing")).status == 400

    async with visiting(chromium, world) as admin:
        await admin.sign_in()
        await admin.open("/ops/tenants/acme")
        await admin.press("Capture bodies")
        ute = await world.create(acme, "ute@acme.example")
        await wait_until(lambda: captured(world, acme, ute["id"]), "bodies are captured, once the api knows", 20)
        await admin.open("/ops/queues")
        await admin.fill("Tenant", "acme")
        await admin.fill("Why", "Their directory is being moved")
        await admin.press("Pause")
        await world.create(acme, "waits@acme.example")
        await admin.audit("action:scim.user.*")
        await admin.fill("Save this search as", "Users")
        await admin.press("Save view")
        await admin.open("/admin/audit/streams")
        await admin.fill("Destination", "https://127.0.0.1:9/collect")
        await admin.page.get_by_label("Send also what is in the log already").check()
        await admin.press("Add")
        await admin.open("/admin/audit/streams")
        await admin.fill("Destination", "s3+https://s3.example.com/audit/usher?region=eu-west-1")
        await admin.fill("Credentials", "key:planted")
        await admin.page.get_by_label("Events of").select_option("acme")
        await admin.press("Add")
        await admin.press("Pause")
        await wait_until(lambda: troubled(world), "a stream is refused its destination")
        await admin.search("state:dead")
        await admin.follow("Retry all that match")
        await admin.press("Retry")
        assert admin.page.url.startswith(f"{world.pages_url}/ops/bulk/")
    return acme


async def settled(world: World) -> bool:
    return await world.count("SELECT count(*) FROM job WHERE state NOT IN ('done', 'cancelled')") == 0


async def troubled(world: World) -> bool:
    return await world.count("SELECT count(*) FROM audit_stream WHERE failures > 0") > 0


async def captured(world: World, acme: Caller, identifier: str) -> bool:
    """Read a user once more, and tell whether any request has been logged with its bodies."""
    await acme.get(f"/Users/{identifier}")
    await asyncio.sleep(0.5)
    return await world.count("SELECT count(*) FROM request_log WHERE captured IS NOT NULL") > 0


async def addresses(world: World, acme: Caller) -> dict[str, tuple[str, int]]:
    """Return every page's address and status, by a name for its picture."""
    async with world.store() as connection:

        async def one(query: str) -> Any:
            found = await connection.fetchval(query)
            assert found is not None, query
            return found

        dead = await one(
            "SELECT id FROM job WHERE kind = 'invitation.send' AND attempts > 0 AND state <> 'done' LIMIT 1"
        )
        waits = await one("SELECT id FROM job WHERE kind = 'user.create' AND state = 'staged' LIMIT 1")
        bulk = await one("SELECT id FROM bulk_operation LIMIT 1")
        email = await one("SELECT id FROM invitation WHERE state = 'failed' OR error_code IS NOT NULL LIMIT 1")
        request = await one("SELECT id FROM request_log WHERE captured IS NOT NULL LIMIT 1")
        update = await one("SELECT id FROM audit_event WHERE action = 'scim.user.create' AND phase = 'applied' LIMIT 1")
        correlation = await one(
            "SELECT correlation_id FROM audit_event"
            " WHERE action = 'invitation.email.send' AND phase = 'applied' LIMIT 1"
        )
        operator = await one("SELECT name FROM operator LIMIT 1")
        stream = await one("SELECT id FROM audit_stream WHERE failures > 0 LIMIT 1")
        paused = await one("SELECT id FROM audit_stream WHERE state = 'paused' LIMIT 1")
    pages = {
        "overview": "/ops",
        "jobs": "/ops/jobs",
        "jobs-none": "/ops/jobs?q=user:nobody",
        "job": f"/ops/jobs/{dead}",
        "job-waiting": f"/ops/jobs/{waits}",
        "job-cancel": f"/ops/jobs/{waits}/cancel",
        "dead": "/ops/dead",
        "bulk": "/ops/bulk",
        "bulk-new": "/ops/bulk/new?action=cancel&q=state:staged",
        "bulk-show": f"/ops/bulk/{bulk}",
        "queues": "/ops/queues",
        "workers": "/ops/workers",
        "schedules": "/ops/schedules",
        "cycles": "/ops/cycle",
        "cycle": "/ops/cycle/acme",
        "emails": "/ops/emails",
        "email": f"/ops/emails/{email}",
        "emails-resend": "/ops/emails/resend?tenant=acme",
        "suppressed": "/ops/emails/suppressed?tenant=acme",
        "requests": "/ops/requests",
        "request": f"/ops/requests/{request}",
        "tenants": "/ops/tenants",
        "tenant": "/ops/tenants/acme",
        "audit": "/admin/audit?q=action:scim.*",
        "audit-none": "/admin/audit?q=outcome:denied+target:nobody",
        "audit-event": f"/admin/audit/events/{update}",
        "audit-timeline": f"/admin/audit/timeline/{correlation}",
        "audit-export": "/admin/audit/export?q=action:scim.*",
        "streams": "/admin/audit/streams",
        "stream": f"/admin/audit/streams/{stream}",
        "stream-paused": f"/admin/audit/streams/{paused}",
        "tokens": "/admin/tokens",
        "token": f"/admin/tokens/{acme.tenant.token_id}",
        "operators": "/admin/operators",
        "operator": f"/admin/operators/{operator}",
        "account": "/account",
    }
    refused = {
        "jobs-refused": ("/ops/jobs?q=colour:red", 400),
        "audit-refused": ("/admin/audit?q=colour:red", 400),
        "not-there": ("/ops/jobs/01900000-0000-7000-8000-000000000000", 404),
    }
    return {name: (path, 200) for name, path in pages.items()} | refused


async def complaints(visitor: Visitor, path: str, status: int) -> list[str]:
    """Open a page and return everything that is wrong with it."""
    await visitor.open(path, status)
    return [f"{path}: {one}" for one in await seen(visitor)]


async def seen(visitor: Visitor) -> list[str]:
    """Return everything that is wrong with the page at hand."""
    wrong = [f"spills over {width}" for width in await visitor.spilled()]
    if found := RAW.search(re.sub(r"\s+", " ", await visitor.prose())):
        wrong.append(f"raw value {found[0]!r}")
    empty = await visitor.page.evaluate(
        "[...document.querySelectorAll('tbody')].filter((one) => !one.rows.length).length"
    )
    if empty:
        wrong.append("a table without a row")
    await visitor.page.evaluate(AXE)
    for scheme in ("light", "dark"):
        await visitor.page.emulate_media(color_scheme=scheme)
        wrong += [f"{scheme}: {violation}" for violation in await visitor.page.evaluate(JUDGE, scheme)]
    return wrong


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def acme(world: World, chromium: Browser) -> Caller:
    return await fill(world, chromium)


async def test_every_page_for_those_who_are_signed_in(
    world: World, visitor: Visitor, acme: Caller, screenshots: Path | None
) -> None:
    await visitor.sign_in()
    wrong = []
    for name, (path, status) in (await addresses(world, acme)).items():
        wrong += await complaints(visitor, path, status)
        await visitor.paint(screenshots, name)
    await visitor.open("/admin/audit/streams")
    await visitor.follow("https://127.0.0.1:9/collect")
    await visitor.press("Make a new secret")
    assert await visitor.heading() == "Secret of the signatures"
    wrong += await seen(visitor)
    await visitor.paint(screenshots, "stream-secret")
    assert wrong == [], "\n".join(wrong)


async def test_the_pages_for_those_who_are_not(world: World, visitor: Visitor, screenshots: Path | None) -> None:
    link = (await world.sign_in_link("viewer")).removeprefix(world.pages_url)
    wrong = []
    for name, path, status in (("sign-in", "/sign-in", 200), ("sign-in-link", link, 200), ("lost", "/nowhere", 404)):
        wrong += await complaints(visitor, path, status)
        await visitor.paint(screenshots, name)
    await visitor.open("/ops")
    assert await visitor.heading() == "Sign in to Usher"
    assert wrong == [], "\n".join(wrong)


async def test_a_viewer_is_told_what_is_not_theirs(world: World, visitor: Visitor, acme: Caller) -> None:
    await visitor.sign_in("viewer")
    assert await complaints(visitor, "/admin/operators", 403) == []
    assert "viewer" in await visitor.text()
    await visitor.open("/ops/queues")
    assert await visitor.page.get_by_role("button", name="Resume", exact=True).count() == 0


async def test_faults_are_seen(visitor: Visitor) -> None:
    await visitor.open("/sign-in")
    await visitor.page.evaluate(AXE)
    assert await visitor.page.evaluate(JUDGE, "dark") == []
    await visitor.page.evaluate(
        """() => {
          const broken = '<p id="pale">Pale</p><input><table><tbody></tbody></table><p>{"a": None}</p>';
          document.querySelector("main").insertAdjacentHTML("beforeend", broken);
          document.getElementById("pale").style.color = "#777";
        }"""
    )
    found = [await visitor.page.evaluate(JUDGE, scheme) for scheme in ("light", "dark")]
    assert [one.partition(":")[0] for one in found[0]] == ["color-contrast", "label"]
    assert [one.partition(":")[0] for one in found[1]] == ["color-contrast"]
    assert RAW.search(await visitor.prose())
    await visitor.page.evaluate("document.querySelector('main').style.width = '3000px'")
    assert len(await visitor.spilled()) == 2
    await visitor.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    await wait_until(lambda: visitor.faults, "the console complains of the request to another origin")
    visitor.faults.clear()
