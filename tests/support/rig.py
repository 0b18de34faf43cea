"""The whole product as processes of its own, every connection of which goes through a proxy that can fail.

    client ──door──► api ─┬─► PostgreSQL
                          ├─► Valkey
                 worker ──┴─► mail catcher

The servers are real, belong to the run and outlive one rig; the database, the processes and the proxies do not.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from redis.asyncio import Redis

from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from models.audit.keys import write_key
from models.settings import Settings, load_settings
from tests.support.api import SECRET_KEY, Caller, altered, make_tenant, store
from tests.support.databases import Databases, drop_database, with_path
from tests.support.diary import Diary
from tests.support.driver import Driver
from tests.support.invariants import broken
from tests.support.processes import Fleet, Process, processes
from tests.support.proxy import Proxy
from tests.support.servers import MailboxReader, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import asyncpg

    from cli.embedded.server import EmbeddedServer
    from tests.support.api import Tenant

_TEMPLATE = "usher_faults_template"
_STANDING = """
SELECT count(*) FILTER (WHERE NOT over AND run_at <= now() + interval '1 hour') AS open,
       count(*) FILTER (WHERE over) AS ended
  FROM job CROSS JOIN LATERAL (SELECT state IN ('done', 'dead', 'cancelled') AS over) AS judged
"""


@dataclass(frozen=True)
class Grounds:
    """The servers of a run, which experiments may kill; with fsync, as the product has them."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    mail: EmbeddedMail
    databases: Databases

    @classmethod
    async def make(cls, folder: Path) -> Grounds:
        """Start them, with a migrated template database."""
        postgres = EmbeddedPostgres(folder)
        await asyncio.to_thread(postgres.launch)
        await asyncio.to_thread(postgres.ready)  # it has no address before
        databases = Databases(with_path(postgres.url, "postgres"), _TEMPLATE, again=False)
        grounds = cls(postgres, EmbeddedValkey(folder), EmbeddedMail(folder), databases)
        await grounds.revive()
        await drop_database(databases.admin_url, _TEMPLATE)
        async with store_at(databases.admin_url) as connection:
            await _have_fsync(connection, "off")  # of the template nothing is promised
            await databases.make_template()
            await _have_fsync(connection, "on")
        return grounds

    @property
    def all(self) -> tuple[EmbeddedServer, ...]:
        """PostgreSQL, Valkey and the mail catcher."""
        return (self.postgres, self.valkey, self.mail)

    @property
    def servers(self) -> Servers:
        """Their addresses."""
        addresses = (self.databases.admin_url, self.valkey.url, self.mail.smtp_url, self.mail.page_url)
        return Servers(*addresses, self.databases)

    async def revive(self) -> None:
        """Start what does not run."""
        ended = [server for server in self.all if server.poll() is not None]
        for server in ended:
            await asyncio.to_thread(server.launch)
        await asyncio.gather(*(asyncio.to_thread(server.ready) for server in ended))

    def stop(self) -> None:
        """Stop them."""
        for server in self.all:
            server.stop()


async def _have_fsync(connection: asyncpg.Connection, state: str) -> None:
    await connection.execute(f"ALTER SYSTEM SET fsync = {state}")
    await connection.execute("SELECT pg_reload_conf()")


def store_at(url: str) -> AbstractAsyncContextManager[asyncpg.Connection]:
    """Connect to a database with every right."""
    return store(load_settings(database_url=url, redis_url="redis://127.0.0.1", secret_key=SECRET_KEY))


def with_port(url: str, port: int) -> str:
    """Return a URL of another port of this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))


@dataclass(frozen=True)
class Rig:
    """What an experiment plays with."""

    grounds: Grounds
    settings: Settings
    """As the processes have them: every server behind its proxy."""
    direct: Settings
    """The same, past the proxies."""
    postgres: Proxy
    redis: Proxy
    smtp: Proxy
    doors: list[Proxy]
    """One before each api."""
    fleet: Fleet
    mailbox: MailboxReader
    folder: Path
    seed: int
    _session: aiohttp.ClientSession
    _drivers: list[Driver] = field(default_factory=list)

    @property
    def apis(self) -> list[Process]:
        """The front ends."""
        return self.fleet.apis

    @property
    def workers(self) -> list[Process]:
        """The workers."""
        return self.fleet.workers

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        """All of them."""
        return (self.postgres, self.redis, self.smtp, *self.doors)

    def store(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Connect to the database with every right, past the proxy."""
        return store(self.direct)

    def callers(self, tenant: Tenant) -> list[Caller]:
        """Return a caller of a tenant at each door."""
        return [
            Caller(self._session, f"http://127.0.0.1:{door.port}/scim/v2", tenant, tenant.token) for door in self.doors
        ]

    async def driver(self, *, tenants: int = 2, invitations: bool = False) -> Driver:
        """Return a driver for new tenants, whose plan is the seed's."""
        made = [await make_tenant(self.direct, invitations=invitations) for _ in range(tenants)]
        diary = Diary(self.folder / f"diary-{len(self._drivers)}.jsonl")
        driver = Driver([self.callers(tenant) for tenant in made], diary, self.seed)
        self._drivers.append(driver)
        return driver

    # Faults of processes and servers; those of the network are the proxies' own.

    async def crash_postgres(self) -> None:
        """Stop PostgreSQL as `pg_ctl stop -m immediate` does: no checkpoint, recovery at the next start."""
        pid = self.grounds.postgres.child.pid
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        assert await asyncio.to_thread(self.grounds.postgres.child.wait, 30) is not None

    async def crash_redis(self) -> None:
        """Kill Valkey with SIGKILL."""
        await asyncio.to_thread(self.grounds.valkey.child.kill)

    def forget_redis(self) -> None:
        """Throw away what a killed Valkey has on disk."""
        shutil.rmtree(self.grounds.valkey.home / "valkey" / "appendonlydir")

    async def start_servers(self) -> None:
        """Start the servers that do not run."""
        await self.grounds.revive()

    async def kill(self, *victims: Process) -> None:
        """Kill processes with SIGKILL; all of them if none is named."""
        await asyncio.gather(*(one.kill() for one in victims or (*self.apis, *self.workers)))

    async def start(self) -> None:
        """Start the processes that do not run."""
        await asyncio.gather(*(one.start() for one in (*self.apis, *self.workers) if not one.running))

    async def heal(self) -> float:
        """Undo every fault; return the moment of the monotonic clock from which all is well."""
        for proxy in self.proxies:
            proxy.heal()
        await self.grounds.revive()
        for one in (*self.apis, *self.workers):
            if one.running:
                one.send(signal.SIGCONT)
        await self.start()
        return time.monotonic()

    @asynccontextmanager
    async def valkey(self) -> AsyncIterator[Redis]:
        """Connect to Valkey, past the proxy."""
        async with Redis.from_url(self.direct.redis_url.get_secret_value()) as redis:
            yield redis

    # What must be so afterwards

    async def drain(self, seconds: float = 60) -> float:
        """Wait until no job is open, as long as another one ends within ``seconds``; return how long that took."""
        began = moved = time.monotonic()
        ended = -1
        async with self.store() as connection:
            while True:
                [standing] = await connection.fetch(_STANDING)
                now = time.monotonic()
                if not standing["open"]:
                    return now - began
                if standing["ended"] != ended:
                    ended, moved = standing["ended"], now
                assert now < moved + seconds, f"none of {standing['open']} open jobs has ended for {seconds:g} s"
                await asyncio.sleep(0.05)

    async def check(self, driver: Driver | None = None, *, mails: bool = False, copies: int | None = None) -> None:
        """Check every invariant; what was accepted must have been worked off."""
        if driver is not None:
            driver.check()
        messages = await self.mailbox.messages() if mails else None
        async with self.store() as connection:
            found = await broken(
                connection,
                diary=driver.diary if driver else None,
                mails=messages,
                copies=copies,
                audit_key=self.settings.audit_key_file,
            )
        assert found == {}, f"seed {self.seed}: {found}"

    async def ready(self, api: Process) -> bool:
        """Ask a front end, as a load balancer does, whether it is to be sent requests."""
        url = f"http://127.0.0.1:{api.settings.admin_port}/readyz"
        try:
            async with asyncio.timeout(5), self._session.get(url) as said:
                return said.status == 200
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False

    async def pages(self) -> dict[str, tuple[int, float]]:
        """Ask the first front end for pages that need the store; return the status of each, and how long it took."""
        api = self.apis[0]
        inner = f"http://127.0.0.1:{api.settings.admin_port}"
        form = {"email": "nobody@example.com", "password": "nothing"}
        same = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}
        asked = {
            "readyz": ("GET", f"{inner}/readyz", None),
            "sign-in": ("POST", f"{inner}/sign-in", form),
            "invitation": ("GET", f"http://127.0.0.1:{api.settings.port}/invitations/{'x' * 43}", None),
        }

        async def ask(method: str, url: str, data: dict[str, str] | None) -> tuple[int, float]:
            began = time.monotonic()
            async with self._session.request(method, url, data=data, headers=same, allow_redirects=False) as response:
                await response.read()
                return response.status, time.monotonic() - began

        answers = await asyncio.gather(*(ask(*each) for each in asked.values()))
        return dict(zip(asked, answers, strict=True))

    async def counter(self, name: str) -> float:
        """Return the sum of a metric over all its labels and all processes of the rig."""
        total = 0.0
        async with self._session.get(f"http://127.0.0.1:{self.apis[0].settings.admin_port}/metrics") as response:
            for line in (await response.text()).splitlines():
                if line.partition("{")[0].partition(" ")[0] == name:
                    total += float(line.rpartition(" ")[2])
        return total


@asynccontextmanager
async def rigged(
    grounds: Grounds,
    folder: Path,
    seed: int,
    *,
    apis: int = 2,
    workers: int = 2,
    drain_seconds: float = 0,
    **overrides: Any,
) -> AsyncIterator[Rig]:
    """Put up a rig with an empty database and an empty Redis, everything running and well.

    Args:
        grounds: the servers.
        folder: for logs, diaries, keys and metrics.
        seed: what chance is made of.
        apis: front ends.
        workers: workers.
        drain_seconds: how long a front end that is to stop still answers, no longer ready.
        overrides: settings; leases and sweeps are short unless told otherwise.
    """
    await grounds.revive()
    async with AsyncExitStack() as stack:
        database_url = await stack.enter_async_context(grounds.databases.copy())
        addresses = {"database_url": database_url, "redis_url": grounds.valkey.url, "smtp_url": grounds.mail.smtp_url}
        async with Redis.from_url(grounds.valkey.url) as redis:
            await redis.flushall()
        proxies = {}
        for name, url in addresses.items():
            proxy = Proxy("127.0.0.1", urlsplit(url).port or 0)
            proxies[name] = await stack.enter_async_context(proxy)
        write_key(folder / "audit.key")
        (folder / "metrics").mkdir()
        usual = {"lease_seconds": 3, "lease_beat_seconds": 1, "sweep_seconds": 0.5, "port": 0, "admin_port": 0}
        kept = {"audit_key_file": folder / "audit.key", "metrics_dir": folder / "metrics"}
        direct = load_settings(secret_key=SECRET_KEY, **{**addresses, **usual, **kept, **overrides})
        behind = {name: with_port(url, proxies[name].port) for name, url in addresses.items()}
        settings = altered(direct, **behind)
        fleet = await stack.enter_async_context(
            processes(settings, folder, apis=apis, workers=workers, drain_seconds=drain_seconds, working=True)
        )
        doors = [await stack.enter_async_context(Proxy("127.0.0.1", api.settings.port)) for api in fleet.apis]
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout())
        )
        mailbox = MailboxReader(grounds.mail.smtp_url, grounds.mail.page_url, session)
        await mailbox.behave()
        await mailbox.clear()
        rig = Rig(
            grounds,
            settings,
            direct,
            proxies["database_url"],
            proxies["redis_url"],
            proxies["smtp_url"],
            doors,
            fleet,
            mailbox,
            folder,
            seed,
            session,
        )
        try:
            yield rig
        finally:
            await asyncio.gather(*(driver.stop() for driver in rig._drivers))
            for one in (*fleet.apis, *fleet.workers):
                if one.running:
                    one.send(signal.SIGCONT)
