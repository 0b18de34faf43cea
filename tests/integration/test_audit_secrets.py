"""Planted secrets are searched for in everything that Usher keeps or says: tables, log, Redis, sent mail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from models.audit.record import OPERATOR
from models.jobs import EMAIL, PROVISION
from models.tokens import issue_token, rotate_token
from tests.support.api import document, make_tenant, serving, work_email
from tests.support.groups import PATCH_URN
from tests.support.ledger import counts
from tests.support.waiting import wait_until
from worker.context import Context
from worker.handlers import create, invitation
from worker.runner import Runner
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings
    from tests.support.api import Api, Caller
    from tests.support.servers import MailboxReader

ACME = "urn:example:params:scim:schemas:extension:acme:2.0:User"
# Long and odd enough to be nothing else, and letters that every encoding leaves as they are.
SECRETS = st.text("abcdefghijkmnpqrstuvwxyz23456789", min_size=14, max_size=24).map(lambda text: f"Zq{text}")
PLACES = st.sampled_from(["password", "PassWord", "name.password", "nobodyKnows", f"{ACME}:password", "emails"])
VERBS = st.sampled_from(["POST", "PUT", "PATCH", "PATCH with path", "PATCH in parts", "bad POST", "Bulk"])


@contextlib.asynccontextmanager
async def working(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Apply creates and send invitations, without arq."""
    smtp = SmtpPool(settings)
    runners: dict[str, Runner] = {}
    context = Context(settings, pool, smtp, lambda queue, _: runners[queue].wake())
    runners[PROVISION] = Runner(context, PROVISION, {"user.create": create.HANDLER}, lanes=1, batch=100)
    runners[EMAIL] = Runner(context, EMAIL, {"invitation.send": invitation.HANDLER}, lanes=1, batch=1)
    tasks = [asyncio.create_task(runner.serve()) for runner in runners.values()]
    try:
        yield
    finally:
        for runner in runners.values():
            runner.stop()
        await asyncio.gather(*tasks)
        await smtp.close()


def planted(place: str, secret: str) -> dict[str, Any]:
    """Return attributes of a user with a secret at a place where none belongs, or none is kept."""
    if place == "name.password":
        return {"name": {"givenName": "Ana", "password": secret}}
    if place == f"{ACME}:password":
        return {ACME: {"password": secret}}
    if place == "emails":
        return {"emails": [work_email(f"{uuid7()}@example.com", password=secret)]}
    return {place: secret}


async def write(caller: Caller, verb: str, place: str, secret: str, name: str) -> None:
    """Send a secret to Usher in one of the ways of SCIM, whatever is answered."""
    attributes = planted(place, secret)
    if verb == "POST":
        await caller.post("/Users", document(name, **attributes))
        return
    if verb == "bad POST":
        await caller.post("/Users", document(name, **attributes, active={"no": "boolean"}))
        return
    if verb == "Bulk":
        operation = {"method": "POST", "path": "/Users", "bulkId": "q", "data": document(name, **attributes)}
        body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"], "Operations": [operation]}
        await caller.post("/Bulk", body)
        return
    user = await caller.create(document(name))
    path = f"/Users/{user['id']}"
    if verb == "PUT":
        body = document(name, **attributes)
    else:
        operations: list[dict[str, Any]] = [{"op": "add", "value": attributes}]
        if verb == "PATCH with path":
            operations = [{"op": "Replace", "path": key, "value": value} for key, value in attributes.items()]
        elif verb == "PATCH in parts":
            operations = [{"op": "add", "path": "title", "value": "x"}, *operations]
        body = {"schemas": [PATCH_URN], "Operations": operations}
    await caller.send("PUT" if verb == "PUT" else "PATCH", path, body=json.dumps(body).encode())


async def everything(settings: Settings) -> str:
    """Return every row of every table as text."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        names = await connection.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'")
        parts = []
        for name in names:
            parts += [row["row"] for row in await connection.fetch(f'SELECT t::text AS row FROM "{name["name"]}" AS t')]  # noqa: S608  our own names
        return "\n".join(parts)
    finally:
        await connection.close()


async def redis_text(settings: Settings) -> str:
    """Return whatever is in Redis, as text."""
    async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        parts = []
        async for key in redis.scan_iter():
            dumped = await redis.dump(key)
            parts.append(f"{key!r} {dumped!r}")
        return "\n".join(parts)


async def kept(settings: Settings, capfd: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {
        "a table": await everything(settings),
        "the log": "".join(capfd.readouterr()),
        "Redis": await redis_text(settings),
    }


def found(secret: str, texts: dict[str, str]) -> list[str]:
    """Return where a secret stands, in its own letters or as PostgreSQL writes bytes."""
    forms = (secret, secret.lower(), secret.encode().hex())
    return [where for where, text in texts.items() if any(form in text for form in forms)]


async def ended(settings: Settings, pool: asyncpg.Pool) -> None:
    async def done() -> bool:
        return set(await counts(pool)) <= {"done"}

    await wait_until(done, "all that was accepted is applied, and every invitation sent", 20)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as served:
        yield served


@examples(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(secret=SECRETS, place=PLACES, verb=VERBS)
async def test_a_password_sent_over_scim_is_kept_nowhere(
    secret: str,
    place: str,
    verb: str,
    settings: Settings,
    api: Api,
    pool: asyncpg.Pool,
    capfd: pytest.CaptureFixture[str],
    mailbox: MailboxReader,
) -> None:
    caller = await api.caller()
    name = f"{uuid7()}@example.com"
    await write(caller, verb, place, secret, name)
    async with working(settings, pool):
        await ended(settings, pool)
    texts = await kept(settings, capfd)
    assert found(secret, texts) == []
    assert caller.tenant.name in texts["a table"], "it was looked for in the right place"
    for message in await mailbox.messages():
        assert secret not in (await mailbox.open(message["id"])).as_string()


async def test_tokens_and_links_are_kept_nowhere_but_where_they_were_handed_out(
    settings: Settings, api: Api, pool: asyncpg.Pool, capfd: pytest.CaptureFixture[str], mailbox: MailboxReader
) -> None:
    tenant = await make_tenant(settings, invitations=True)
    async with pool.acquire() as connection:
        issued = await issue_token(connection, tenant_id=tenant.id, actor=OPERATOR, correlation_id=uuid7())
        rotated = await rotate_token(
            connection, issued.id, days=1, grace_seconds=0, actor=OPERATOR, correlation_id=uuid7()
        )
    stranger = (await api.caller()).bearing(issued.text[:-1] + "!")
    (await stranger.get("/Users")).error(401)
    (await stranger.bearing(issued.text).get("/Users")).error(401)
    caller = stranger.bearing(rotated.text)
    await caller.create(document("ana@example.com", emails=[work_email("ana@example.com")], active=True))
    async with working(settings, pool):
        await ended(settings, pool)
        (message,) = await mailbox.wait_for(1)
    mail = (await mailbox.open(message["id"])).as_string()
    (link,) = set(re.findall(r"/invitations/([\w-]{20,})", mail.replace("=\n", "")))
    page = await api.session.get(f"{settings_url(api)}/invitations/{link}")
    assert page.status == 200, "it is the link's own token"
    texts = await kept(settings, capfd)
    for text in (issued.text, rotated.text, tenant.token):
        secret = text.split("_")[2]
        assert found(secret, {**texts, "the mail": mail}) == []
    assert found(link, texts) == []
    assert issued.id in texts["a table"]


def settings_url(api: Api) -> str:
    return api.scim_url.removesuffix("/scim/v2")
