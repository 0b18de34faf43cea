"""What a soak runs on: real servers, two api and two worker processes, and what it takes to end one of them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from redis.asyncio import Redis

from cli.embedded.folder import keep_audit_key
from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from models.migrations import run
from models.settings import load_settings
from tests.support.api import SECRET_KEY
from tests.support.processes import processes
from tests.support.servers import MailboxReader, reachable_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings
    from tests.support.processes import Fleet


@dataclass(frozen=True)
class Stage:
    """The servers and processes of a soak. The first api and the first worker are measured and never killed."""

    settings: Settings
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    mailbox: MailboxReader
    fleet: Fleet
    client: aiohttp.ClientSession
    """For pages; the traffic has connections of its own."""

    async def kill_api(self) -> None:
        """kill -9 of the second api, which is then started again."""
        await self.fleet.apis[1].kill()
        await self.fleet.apis[1].start()

    async def kill_worker(self) -> None:
        """kill -9 of the second worker, which is then started again."""
        await self.fleet.workers[1].kill()
        await self.fleet.workers[1].start()

    async def empty_redis(self) -> None:
        """FLUSHALL."""
        async with Redis.from_url(self.settings.redis_url.get_secret_value()) as redis:
            await redis.flushall()

    async def kill_redis(self) -> None:
        """kill -9 of Redis, which is then started again."""

        def again() -> None:
            self.valkey.child.kill()
            self.valkey.start()

        await asyncio.to_thread(again)

    async def restart_postgres(self) -> None:
        """An immediate shutdown of PostgreSQL, without a checkpoint, which is then started again."""

        def again() -> None:
            assert self.postgres.child.pid is not None
            os.kill(self.postgres.child.pid, signal.SIGQUIT)
            if self.postgres.child.wait(30) is None:
                self.postgres.child.kill()
            self.postgres.start()

        await asyncio.to_thread(again)

    async def refuse_mail(self) -> None:
        """The SMTP server refuses every message for the time being, then no longer."""
        await self.mailbox.behave(at="mail", reply="451 4.3.2 not now")
        await asyncio.sleep(_REFUSING_SECONDS)
        await self.mailbox.behave()


_REFUSING_SECONDS = 15.0


@asynccontextmanager
async def stage(keep_minutes: float) -> AsyncIterator[Stage]:
    """Set everything up in a temporary folder and take it down at the end.

    Args:
        keep_minutes: for how long the ledger keeps jobs that have ended, so that a soak sees them go.
    """
    with reachable_folder(on_disk=True) as folder:
        postgres, valkey, mail = EmbeddedPostgres(folder), EmbeddedValkey(folder), EmbeddedMail(folder)
        servers = (postgres, valkey, mail)
        try:
            for server in servers:
                server.launch()
            for server in servers:
                server.ready()
            await run.upgrade(postgres.url)
            keep_audit_key(folder / "audit.pem")
            settings = load_settings(
                database_url=postgres.url,
                redis_url=valkey.url,
                smtp_url=mail.smtp_url,
                secret_key=SECRET_KEY,
                port=0,
                admin_port=0,
                audit_key_file=folder / "audit.pem",
                job_days=keep_minutes / (24 * 60),
            )
            async with (
                aiohttp.ClientSession() as client,
                processes(settings, folder, apis=2, workers=2) as fleet,
            ):
                for worker in fleet.workers:
                    await worker.start()
                mailbox = MailboxReader(mail.smtp_url, mail.page_url, client)
                yield Stage(settings, postgres, valkey, mailbox, fleet, client)
        finally:
            for server in servers:
                server.stop()
