from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.links import find_link, stage_link
from tests.support.invitations import claimed
from tests.support.pages import make_operator
from worker.context import Context
from worker.handlers import HANDLERS
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from models.settings import Settings
    from tests.support.servers import MailboxReader


@asynccontextmanager
async def _context(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Context]:
    smtp = SmtpPool(settings)
    try:
        yield Context(settings, pool, smtp, lambda _queue, _ids: None)
    finally:
        await smtp.close()


async def _stage(pool: asyncpg.Pool, settings: Settings, word: str) -> UUID:
    async with pool.acquire() as connection:
        job_id = await stage_link(
            connection, word, secret_key=settings.secret_key.get_secret_value(), correlation_id=uuid7()
        )
    assert job_id is not None
    return job_id


async def _do(context: Context, lease: UUID) -> None:
    job = await claimed(context.pool, lease)
    await HANDLERS[job.kind].run(context, [job], lease)
    assert await context.pool.fetchval("SELECT state FROM job WHERE id = $1", job.id) == "done"


async def test_the_link_in_the_mail_is_the_one_that_works(
    settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    operator = await make_operator(pool, "viewer", "ana")
    job_id = await _stage(pool, settings, "ana")
    async with _context(settings, pool) as context:
        await _do(context, uuid7())
    (caught,) = await mailbox.wait_for(1)
    message = await mailbox.open(caught["id"])
    assert caught["recipients"] == ["ana@example.com"]
    assert message["Subject"] == "Your link to sign in to Usher"
    assert str(job_id) in message["Message-ID"]
    for kind in ("plain", "html"):
        part = message.get_body((kind,))
        assert part is not None
        found = re.search(rf"{re.escape(settings.pages_url)}/sign-in/link/([A-Za-z0-9_-]{{43}})\b", part.get_content())
        assert found is not None
        assert await find_link(pool, found[1]) == (operator, "open")


async def test_a_link_that_is_of_no_use_any_more_is_not_sent(
    settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    await make_operator(pool, "viewer", "ana")
    await make_operator(pool, "viewer", "bo")
    await _stage(pool, settings, "ana")
    await pool.execute("UPDATE sign_in_link SET expires_at = now()")
    async with _context(settings, pool) as context:
        await _do(context, uuid7())
        await _stage(pool, settings, "bo")
        await _do(context, uuid7())
    (caught,) = await mailbox.wait_for(1)
    assert caught["recipients"] == ["bo@example.com"]
