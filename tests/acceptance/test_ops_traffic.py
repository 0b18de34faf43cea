"""The pages of requests, e-mails, tenants and tokens, over HTTP as a browser asks for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tests.support.api import document, serving, work_email
from tests.support.invitations import mailer, stage
from tests.support.pages import Browser, browser
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from models.settings import Settings
    from tests.support.api import Api, Caller
    from tests.support.invitations import Staged
    from tests.support.servers import MailboxReader


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as served:
        yield served


async def shown(page: Browser, path: str, *texts: str) -> str:
    """Return a page once it holds these texts."""

    async def found() -> str:
        text = await page.read(path)
        return text if all(each in text for each in texts) else ""

    return await wait_until(found, f"{texts} on {path}")


async def refused_and_tolerated(caller: Caller) -> dict[str, Any]:
    user = await caller.create(document("ana@contoso.example", emails=[work_email("ana@contoso.example")]))
    await caller.post("/Users", document("ana@contoso.example"))
    body = b'{"Operations": [{"op": "Replace", "path": "active", "value": "False"}]}'
    await caller.send("PATCH", f"/Users/{user['id']}", body=body)
    return user


async def test_requests_are_listed_filtered_and_shown(api: Api) -> None:
    page, caller = await browser(api, "viewer"), await api.caller()
    user = await refused_and_tolerated(caller)
    here = f"/ops/requests?tenant={caller.tenant.name}"
    text = await shown(page, here, "409 uniqueness", f"PATCH /Users/{user['id']}")
    assert "Tolerated: op is written Replace" in text
    assert "ana@" not in text
    text = await page.read(here + "&failed=1")
    assert "409 uniqueness" in text
    assert "PATCH" not in text
    assert "No such requests" in await page.read(here + "&route=/Groups")
    (link,) = set(re.findall(r"/ops/requests/([0-9a-f-]{36})", await page.read(here + "&failed=1")))
    text = await page.read(f"/ops/requests/{link}")
    correlation = re.search(r"correlation=([0-9a-f-]{36})", text)
    assert correlation is not None
    assert "409 uniqueness" in await page.read(f"/ops/requests?correlation={correlation[1]}")
    assert "Not kept." in text


@pytest.mark.parametrize("query", ["tenant=nobody", "correlation=x", "before=x"])
async def test_a_wrong_filter_is_told(api: Api, query: str) -> None:
    page = await browser(api, "viewer")
    assert (await page.get(f"/ops/requests?{query}")).status == 400
    assert (await page.get("/ops/requests/nothing")).status == 404
    assert (await page.get(f"/ops/requests/{UUID(int=1)}")).status == 404


async def test_the_list_updates_by_itself(api: Api) -> None:
    page, caller = await browser(api, "viewer"), await api.caller()
    cookie = "; ".join(f"{name}={value}" for name, value in page.cookies.items())
    async with page.session.get(f"{page.url}/ops/requests?live=1", headers={"Cookie": cookie}) as stream:
        assert stream.content_type == "text/event-stream"
        await caller.get("/Users/nobody")

        async def line() -> bool:
            return b"/Users/(no id)" in await stream.content.readline()

        await wait_until(line, "the request in the stream")


async def test_a_capture_is_the_admins_and_shows_bodies_without_people(api: Api) -> None:
    admin, viewer, caller = await browser(api), await browser(api, "viewer"), await api.caller()
    tenant = f"/ops/tenants/{caller.tenant.name}"
    assert (await viewer.post(tenant + "/capture", {"minutes": "5"})).status == 403
    assert (await admin.post(tenant + "/capture", {"minutes": "many"})).status == 400
    assert "Bodies are kept" in await admin.follow(await admin.post(tenant + "/capture", {"minutes": "5"}))
    await refused_and_tolerated(caller)
    here = f"/ops/requests?tenant={caller.tenant.name}&failed=1"
    text = await shown(viewer, here, "with bodies")
    (link,) = set(re.findall(r"/ops/requests/([0-9a-f-]{36})", text))
    text = await admin.read(f"/ops/requests/{link}")
    assert "(address, 19 characters)" in text
    assert "&#34;scimType&#34;: &#34;uniqueness&#34;" in text
    assert "ana@" not in text
    assert "An admin may read them" in await viewer.read(f"/ops/requests/{link}")
    assert "No more bodies" in await admin.follow(await admin.post(tenant + "/capture", {"minutes": "0"}))


async def made(pool: asyncpg.Pool, settings: Settings, mailbox: MailboxReader, reply: str) -> Staged:
    """Return an invitation that the mail server refused for good."""
    await mailbox.behave(at="rcpt", reply=reply)
    async with mailer(settings, pool) as mail:
        staged = await stage(pool)
        await mail.until(staged, "failed", "dead")
    await mailbox.behave()
    return staged


async def test_a_refused_invitation_is_found_read_and_sent_again(
    api: Api, settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    staged = await made(pool, settings, mailbox, "554 5.7.1 not from you")
    page, viewer = await browser(api, "operator"), await browser(api, "viewer")
    text = await page.read("/ops/emails?state=failed")
    assert "554 5.7.1" in text
    assert f"/ops/emails/{staged.id}" in text
    assert f"/ops/emails/{staged.id}" in await page.read("/ops/emails?state=failed&code=smtp_5xx&reply=554+5.7.1")
    assert "No such invitations" in await page.read("/ops/emails?state=failed&code=smtp_4xx")
    text = await page.read(f"/ops/emails/{staged.id}")
    assert "invitation.email.send" in text
    assert "The server answered 554 5.7.1 to RCPT TO." in text
    assert (await viewer.post(f"/ops/emails/{staged.id}/resend")).status == 403
    first = await page.post(f"/ops/emails/{staged.id}/resend")
    assert "the old link has ended" in await page.follow(first)
    again = await page.post(f"/ops/emails/{staged.id}/resend")
    assert again.status == 409
    assert b"A newer invitation was made" in again.content
    async with mailer(settings, pool):
        await mailbox.wait_for(1)


async def test_all_that_match_are_sent_again_after_a_question(
    api: Api, settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    await made(pool, settings, mailbox, "554 5.7.1 not from you")
    await made(pool, settings, mailbox, "550 5.1.1 no such user")
    page = await browser(api, "operator")
    assert "Send 2 invitations again?" in await page.read("/ops/emails/resend?state=failed")
    assert (await page.post("/ops/emails/resend", {})).status == 400
    text = await page.follow(await page.post("/ops/emails/resend", {"state": "failed"}))
    assert "1 invitation is on its way again." in text
    assert "1 because: The address is on the suppression list" in text
    async with mailer(settings, pool):
        await mailbox.wait_for(1)


async def test_addresses_are_suppressed_and_taken_off(api: Api, pool: asyncpg.Pool) -> None:
    staged = await stage(pool)
    async with pool.acquire() as connection:
        tenant = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", staged.tenant_id)
    page, viewer = await browser(api, "operator"), await browser(api, "viewer")
    form = {"tenant": tenant, "email": "Ana@Example.com", "reason": "asked for it"}
    assert (await viewer.post("/ops/emails/suppressed", form)).status == 403
    assert "gets no more mail" in await page.follow(await page.post("/ops/emails/suppressed", form))
    assert "on the list already" in await page.follow(await page.post("/ops/emails/suppressed", form))
    text = await viewer.read(f"/ops/emails/suppressed?tenant={tenant}")
    assert "ana@example.com" in text
    assert "asked for it" in text
    assert "suppressed" in await viewer.read(f"/ops/emails/{staged.id}")
    off = {"tenant": tenant, "email": "ana@example.com"}
    assert "gets mail again" in await page.follow(await page.post("/ops/emails/suppressed/remove", off))
    assert "not on the list" in await page.follow(await page.post("/ops/emails/suppressed/remove", off))
    assert (await page.post("/ops/emails/suppressed", {**form, "email": "nonsense"})).status == 400


async def test_tenants_are_seen_with_their_traffic_tokens_and_backlog(api: Api) -> None:
    page, caller = await browser(api, "viewer"), await api.caller(days=10)
    await refused_and_tolerated(caller)
    name = caller.tenant.name
    text = await shown(page, "/ops/tenants", f"/ops/requests?tenant={name}&amp;failed=1")
    assert "in 9 days" in text
    text = await page.read(f"/ops/tenants/{name}")
    for part in ("Succeeded, last hour", caller.tenant.token_id, f"/ops/jobs?q=tenant:{name}", "Off: of requests"):
        assert part in text
    assert "Save" not in text
    assert (await page.get("/ops/tenants/nobody")).status == 404


async def test_settings_are_changed_with_a_diff_in_the_audit_log(api: Api, pool: asyncpg.Pool) -> None:
    page, caller = await browser(api), await api.caller()
    here = f"/ops/tenants/{caller.tenant.name}"
    form = {"display_name": "Contoso", "sign_in_url": "", "invitations": "on", "invitation_delay_seconds": "60"}
    assert "Contoso" in await page.follow(await page.post(here, form))
    assert (await page.post(here, {**form, "sign_in_url": "javascript:alert(1)"})).status == 400
    assert (await page.post(here, {**form, "invitation_delay_seconds": "-1"})).status == 400
    async with pool.acquire() as connection:
        event = await connection.fetchrow("SELECT * FROM audit_event WHERE action = 'tenant.settings.change'")
    assert event is not None
    assert page.operator is not None
    assert event["actor_label"] == page.operator.name
    assert {item["path"]: (item["before"], item["after"]) for item in event["diff"]} == {
        "display_name": (caller.tenant.name, "Contoso"),
        "invitations": (False, True),
        "invitation_delay_seconds": (0, 60),
    }


async def test_a_token_is_issued_shown_once_rotated_and_revoked(api: Api) -> None:
    page, operator, caller = await browser(api), await browser(api, "operator"), await api.caller()
    form = {"tenant": caller.tenant.name, "label": "Entra", "days": "30", "scope": "scim"}
    assert (await operator.post("/admin/tokens", form)).status == 403
    answer = await page.post("/admin/tokens", form)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    found = re.search(r"ush_(\w{12})_\w+", answer.content.decode())
    assert found is not None
    text, token_id = found[0], found[1]
    assert (await caller.bearing(text).get("/Users")).status == 200
    for path in ("/admin/tokens", f"/admin/tokens/{token_id}", f"/ops/tenants/{caller.tenant.name}"):
        shown_again = await page.read(path)
        assert token_id in shown_again
        assert text not in shown_again
    answer = await page.post(f"/admin/tokens/{token_id}/rotate", {"days": "30", "grace": "0"})
    found = re.search(r"ush_\w{12}_\w+", answer.content.decode())
    assert found is not None
    assert found[0] != text
    new = caller.bearing(found[0])
    assert (await new.get("/Users")).status == 200

    async def ended() -> bool:
        return (await caller.bearing(text).get("/Users")).status == 401

    await wait_until(ended, "the rotated token's end")
    new_id = found[0].split("_")[1]
    assert "is revoked" in await page.follow(await page.post(f"/admin/tokens/{new_id}/revoke"))

    async def revoked() -> bool:
        return (await new.get("/Users")).status == 401

    await wait_until(revoked, "the revoked token's end")
    assert (await page.get("/admin/tokens/nothing")).status == 404
    for wrong in ({"days": "0"}, {"days": "x"}, {"scope": "everything"}, {"tenant": "nobody"}):
        assert (await page.post("/admin/tokens", {**form, **wrong})).status == 400


async def test_nobody_sees_any_of_it_without_signing_in(api: Api) -> None:
    page = await browser(api, None)
    for path in ("/ops/requests", "/ops/emails", "/ops/emails/suppressed", "/ops/tenants", "/admin/tokens"):
        answer = await page.get(path)
        assert (answer.status, answer.headers["Location"].startswith("/sign-in")) == (303, True)
