"""`usher requests`, `usher mail` and `usher tenant capture`, as people and programs use them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.test_cli import USHER, Usher
from tests.support.api import document, serving
from tests.support.invitations import mailer, stage
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from models.settings import Settings
    from tests.support.api import Api, Caller
    from tests.support.servers import MailboxReader


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as served:
        yield served


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("USHER_")}
    return {
        **known,
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "COLUMNS": "60",
        "TZ": "UTC",
    }


@pytest.fixture
def usher(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Usher:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return Usher()


async def requests(usher: Usher, count: int, *arguments: str) -> list[dict[str, Any]]:
    """Return what `usher requests` lists once it lists so many."""

    async def found() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await usher("requests", *arguments, "--json")).json
        return rows if len(rows) >= count else []

    return await wait_until(found, f"{count} requests")


async def twice(caller: Caller) -> None:
    for _ in range(2):
        await caller.post("/Users", document("ana@contoso.example"))


async def test_requests_are_listed(api: Api, usher: Usher) -> None:
    caller = await api.caller()
    name = caller.tenant.name
    await twice(caller)
    rows = await requests(usher, 2, name)
    assert [(row["status"], row["scim_type"]) for row in rows] == [(409, "uniqueness"), (201, None)]
    assert len(await requests(usher, 1, name, "--failed")) == 1
    assert len(await requests(usher, 1, "--correlation", rows[0]["correlation_id"])) == 1
    assert (await usher("requests", name, "--route", "/Groups")).out.startswith("No such requests")
    text = (await usher("requests", name)).out
    assert "uniqueness" in text
    assert "ana@" not in text
    assert "There is no tenant nobody" in (await usher("requests", "nobody")).refusal()


async def test_requests_are_followed_until_interrupted(api: Api, environment: dict[str, str]) -> None:
    caller = await api.caller()
    process = await asyncio.create_subprocess_exec(
        *(str(USHER), "requests", caller.tenant.name, "--follow", "--json"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(40):
            for status in (201, 409):
                await caller.post("/Users", document("ana@contoso.example"))
                assert json.loads(await process.stdout.readline())["status"] == status
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()
        assert (process.returncode, said) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_bodies_are_captured_for_a_while(api: Api, usher: Usher) -> None:
    caller = await api.caller()
    name = caller.tenant.name
    assert (await usher("tenant", "capture", name, "--minutes", "5", "--json")).json["capture_until"]
    await twice(caller)
    await requests(usher, 2, name)
    said = await usher("requests", name, "--bodies")
    assert said.json[0]["captured"]["request"]["userName"] == "(address, 19 characters)"
    assert "ana@" not in said.out
    assert "No more bodies" in (await usher("tenant", "capture", name, "--minutes", "0")).out
    assert "There is no tenant nobody" in (await usher("tenant", "capture", "nobody")).refusal()
    assert "1440" in (await usher("tenant", "capture", name, "--minutes", "1441")).refusal()


async def test_mail_is_found_and_sent_again(
    usher: Usher, settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    await mailbox.behave(at="rcpt", reply="550 5.7.1 not from you")
    async with mailer(settings, pool) as mail:
        staged = await stage(pool)
        await mail.until(staged, "failed", "dead")
        await mailbox.behave()
        (row,) = (await usher("mail", "ls", "--state", "failed", "--reply", "550", "--json")).json
        assert (row["id"], row["error_code"]) == (str(staged.id), "smtp_5xx")
        assert "550 5.7.1" in (await usher("mail", "ls")).out
        assert "invitation.email.send" in (await usher("mail", "show", str(staged.id))).out
        done = (await usher("mail", "resend", "--state", "failed", "--yes", "--json")).json
        assert list(done["sent"]) == [str(staged.id)]
        mail.runner.wake()
        await mailbox.wait_for(1)
    said = await usher("mail", "resend", str(staged.id))
    assert (said.status, "A newer invitation was made" in said.out) == (1, True)
    assert (await usher("mail", "ls", "--state", "failed")).out.strip() == "No such invitations."


async def test_addresses_are_suppressed(usher: Usher, pool: asyncpg.Pool) -> None:
    staged = await stage(pool)
    async with pool.acquire() as connection:
        tenant = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", staged.tenant_id)
    assert (await usher("mail", "suppress", tenant, "ana@example.com", "--reason", "asked", "--json")).json["added"]
    assert "already" in (await usher("mail", "suppress", tenant, "ANA@example.com")).out
    (row,) = (await usher("mail", "suppressed", tenant, "--json")).json
    assert (row["email_key"], row["reason"]) == ("ana@example.com", "asked")
    assert "ana@example.com" in (await usher("mail", "suppressed")).out
    said = await usher("mail", "resend", str(staged.id))
    assert "suppression list" in said.out
    assert (await usher("mail", "unsuppress", tenant, "ana@example.com", "--json")).json["removed"]
    assert "not on the list" in (await usher("mail", "unsuppress", tenant, "ana@example.com")).out


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("mail", "ls", "--state", "lost"), 2, "there are pending"),
        (("mail", "ls", "--reply", "nonsense"), 2, "550"),
        (("mail", "resend"), 2, "Name invitations"),
        (("mail", "show", "01a20b57-b047-7246-83ab-d4d84441d838"), 1, "There is no invitation"),
        (("mail", "suppress", "nobody", "a@b.example"), 2, "There is no tenant"),
    ],
)
async def test_a_mistake_is_told(usher: Usher, words: tuple[str, ...], status: int, text: str) -> None:
    assert text in (await usher(*words)).refusal(status)
