from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from uuid_utils.compat import uuid7

from api import invitations
from api.keys import POOL, SETTINGS
from models.db import open_pool
from models.invitations import Letter, accept_invitation, begin_sending, expire_invitations, find_invitation, sent
from tests.support.invitations import Staged, claimed, read, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg
    from aiohttp import ClientResponse

    from models.settings import Settings

Client = TestClient[web.Request, web.Application]


async def _client(pool: asyncpg.Pool, settings: Settings) -> Client:
    app = web.Application()
    app[POOL], app[SETTINGS] = pool, settings
    app.add_routes(invitations.routes())
    client = TestClient(TestServer(app, host="127.0.0.1"))
    await client.start_server()
    return client


@pytest.fixture
async def client(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Client]:
    started = await _client(pool, settings)
    yield started
    await started.close()


async def _sent(pool: asyncpg.Pool, **tenant: Any) -> tuple[Staged, str]:
    """Have an invitation sent, as far as the store knows; return it and the path of its link."""
    staged, lease = await stage(pool, **tenant), uuid7()
    job = await claimed(pool, lease)
    async with pool.acquire() as connection:
        letter = await begin_sending(
            connection, job, lease, secret_key="k" * 32, invitation_days=7, mail_domain="usher.example.com"
        )
        await sent(connection, job, lease, invitation_days=7)
    assert isinstance(letter, Letter)
    return staged, f"/invitations/{letter.token}"


async def _let_time_pass(pool: asyncpg.Pool, staged: Staged) -> None:
    await pool.execute("UPDATE invitation SET expires_at = now() - interval '1 second' WHERE id = $1", staged.id)


async def _accepts(pool: asyncpg.Pool) -> list[asyncpg.Record]:
    return await pool.fetch("SELECT * FROM audit_event WHERE action = 'invitation.link.accept'")


def _policy(response: ClientResponse) -> dict[str, str]:
    directives = response.headers["Content-Security-Policy"].split(";")
    return {name: value for name, _, value in (directive.strip().partition(" ") for directive in directives)}


async def test_looking_changes_nothing(client: Client, pool: asyncpg.Pool) -> None:
    staged, link = await _sent(pool)
    before = await read(pool, staged)
    for method in ("GET", "HEAD", "GET"):
        response = await client.request(method, link)
        assert response.status == 200
    text = await response.text()
    assert "You are invited to Acme" in text
    assert '<form method="post">' in text
    assert await read(pool, staged) == {**before, "job": {**before["job"], "due_in": pytest.approx(0, abs=60)}}


async def test_accepting_leads_to_the_sign_in_page(client: Client, pool: asyncpg.Pool) -> None:
    staged, link = await _sent(pool)
    response = await client.post(link, allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "https://app.example.com/login")
    found = await read(pool, staged)
    assert found["state"] == "accepted"
    assert found["accepted_at"] is not None
    (event,) = await _accepts(pool)
    assert (event["phase"], event["outcome"], event["actor_type"]) == ("applied", "success", "person")
    assert event["actor_id"] == event["target_id"] == str(staged.user_id)
    assert event["tenant_id"] == staged.tenant_id


async def test_a_tenant_without_a_sign_in_page_says_welcome(client: Client, pool: asyncpg.Pool) -> None:
    _, link = await _sent(pool, sign_in_url="")
    response = await client.post(link, allow_redirects=False)
    assert response.status == 200
    assert "Welcome to Acme" in await response.text()


async def test_a_link_works_once(client: Client, pool: asyncpg.Pool) -> None:
    _, link = await _sent(pool)
    await client.post(link, allow_redirects=False)
    for method in ("GET", "POST"):
        response = await client.request(method, link, allow_redirects=False)
        assert response.status == 410
        text = await response.text()
        assert "accepted already" in text
        assert "<form" not in text
        assert 'href="https://app.example.com/login"' in text
    assert len(await _accepts(pool)) == 1


async def test_of_simultaneous_clicks_one_accepts(client: Client, pool: asyncpg.Pool) -> None:
    _, link = await _sent(pool)
    responses = await asyncio.gather(*(client.post(link, allow_redirects=False) for _ in range(8)))
    assert sorted(response.status for response in responses) == [303] + [410] * 7
    assert len(await _accepts(pool)) == 1


async def test_a_second_click_that_waits_for_the_first_sees_it(pool: asyncpg.Pool) -> None:
    staged, link = await _sent(pool)
    token = link.rpartition("/")[2]
    async with pool.acquire() as connection:
        # While this holds the row, both clicks have begun and wait for it.
        async with connection.transaction():
            await connection.execute("SELECT FROM invitation WHERE id = $1 FOR UPDATE", staged.id)
            clicks = [asyncio.create_task(accept_invitation(pool, token, correlation_id=uuid7())) for _ in range(2)]
            async with asyncio.timeout(10):
                while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
                    await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*clicks)
    assert sorted(accepted for _, accepted in outcomes) == [False, True]
    assert {invitation.standing for invitation, _ in outcomes if invitation} == {"accepted"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_link_stops_working_when_its_time_is_over(method: str, client: Client, pool: asyncpg.Pool) -> None:
    staged, link = await _sent(pool)
    await _let_time_pass(pool, staged)
    response = await client.request(method, link, allow_redirects=False)
    assert response.status == 410
    assert "has expired" in await response.text()
    assert (await read(pool, staged))["state"] == "expired"
    assert await _accepts(pool) == []


async def test_the_schedule_expires_what_nobody_opened(pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.invitations._CHUNK", 2)
    overdue = [(await _sent(pool))[0] for _ in range(5)]
    for staged in overdue:
        await _let_time_pass(pool, staged)
    accepted, link = await _sent(pool)
    await accept_invitation(pool, link.rpartition("/")[2], correlation_id=uuid7())
    await _let_time_pass(pool, accepted)
    current, _ = await _sent(pool)
    async with pool.acquire() as connection:
        assert await expire_invitations(connection) == 5
        assert await expire_invitations(connection) == 0
    states = [(await read(pool, staged))["state"] for staged in (*overdue, accepted, current)]
    assert states == ["expired"] * 5 + ["accepted", "sent"]


@pytest.mark.parametrize("change", ["UPDATE users SET active = false", "DELETE FROM users"])
async def test_an_invitation_of_somebody_who_left_cannot_be_accepted(
    change: str, client: Client, pool: asyncpg.Pool
) -> None:
    staged, link = await _sent(pool)
    await pool.execute(change)
    for method in ("GET", "POST"):
        response = await client.request(method, link, allow_redirects=False)
        assert response.status == 410
        assert "no longer stands" in await response.text()
    assert (await read(pool, staged))["state"] == "sent"


@pytest.mark.parametrize(
    "path",
    ["/invitations/" + "A" * 43, "/invitations/short", "/invitations/" + "A" * 4000, "/invitations/%00%ff%0d%0aX"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_address_that_no_mail_holds(method: str, path: str, client: Client) -> None:
    response = await client.request(method, path)
    assert (response.status, response.content_type) == (404, "text/html")
    assert "There is no such invitation" in await response.text()


async def test_a_token_that_was_never_mailed_is_unknown(pool: asyncpg.Pool) -> None:
    await stage(pool)
    assert await find_invitation(pool, "") is None
    assert await accept_invitation(pool, "A" * 43, correlation_id=uuid7()) == (None, False)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_every_answer_is_sealed_off(method: str, client: Client, pool: asyncpg.Pool) -> None:
    _, link = await _sent(pool)
    for path in (link, link, "/invitations/unknown"):
        response = await client.request(method, path, allow_redirects=False)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        if response.status == 303:
            continue
        policy = _policy(response)
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["img-src"] == "https: data:"
        text = await response.text()
        (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert policy["style-src"] == f"'sha256-{digest}'"
        assert " style=" not in text
        assert "<script" not in text


@pytest.mark.parametrize(
    ("sign_in_url", "forms", "location"),
    [
        ("https://app.example.com/login?a=b", "'self' https://app.example.com https:", "https://app.example.com/login?a=b"),
        ("http://127.0.0.1:3000/", "'self' http://127.0.0.1:3000 https:", "http://127.0.0.1:3000/"),
        ("https://bücher.example/ü", "'self' https://xn--bcher-kva.example https:", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://u:p@app.example.com/", "'self' https://app.example.com https:", "https://u:p@app.example.com/"),
        ("https://app.example.com/\r\nX-Evil: 1", "'self' https://app.example.com https:", None),
        ("https://a; script-src *", "'self'", None),
        ("https://[2001:db8::1]:8443/", "'self' https://[2001:db8::1]:8443 https:", "https://[2001:db8::1]:8443/"),
        ("", "'self'", None),
    ],
)  # fmt: skip
async def test_the_form_may_lead_to_the_sign_in_page(
    sign_in_url: str, forms: str, location: str | None, client: Client, pool: asyncpg.Pool
) -> None:
    staged, link = await _sent(pool)
    await pool.execute("UPDATE tenant SET sign_in_url = $2 WHERE id = $1", staged.tenant_id, sign_in_url)
    response = await client.get(link)
    assert _policy(response)["form-action"] == forms
    response = await client.post(link, allow_redirects=False)
    assert "X-Evil" not in response.headers
    assert response.status in (200, 303)
    if location is not None:
        assert response.headers["Location"] == location


async def test_branding_shows_on_the_page_and_markup_does_not(client: Client, pool: asyncpg.Pool) -> None:
    branding = {
        "accent_color": "#ffee00",
        "logo_url": "https://a.example/l.png?a=1&b=2",
        "support_email": "help@a.example",
    }
    _, link = await _sent(pool, display_name='A&B <script>"', branding=branding)
    text = await (await client.get(link)).text()
    assert "background: #ffee00;" in text
    assert "color: #000000;" in text
    assert 'src="https://a.example/l.png?a=1&amp;b=2"' in text
    assert 'alt="A&amp;B &lt;script&gt;&#34;"' in text
    assert 'href="mailto:help@a.example"' in text
    assert "<script" not in text


async def test_a_page_while_the_store_is_away(settings: Settings) -> None:
    away = await open_pool(
        settings.model_copy(update={"database_url": type(settings.database_url)("postgresql://u@127.0.0.1:1/d")}),
        name="tests",
    )
    client = await _client(away, settings)
    for method in ("GET", "POST"):
        response = await client.request(method, "/invitations/" + "A" * 43)
        assert (response.status, response.headers["Retry-After"]) == (503, "30")
        assert "try again" in await response.text()
    await client.close()
    await away.close()
