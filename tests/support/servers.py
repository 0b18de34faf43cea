"""The servers that tests run against: one set a session, the same code that `usher up` runs.

``USHER_TEST_DATABASE_URL`` and ``USHER_TEST_REDIS_URL`` put servers of one's own in their place. The database login
must be able to create databases and roles; databases 1 to 15 of the Redis are emptied.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.process import end_all_strays
from cli.embedded.valkey import EmbeddedValkey
from tests.support.databases import Databases, execute, with_path
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

    import aiohttp

TEST_DATABASE_URL = os.environ.get("USHER_TEST_DATABASE_URL")
TEST_REDIS_URL = os.environ.get("USHER_TEST_REDIS_URL")
_MEMORY_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Servers:
    """Addresses of the session's servers."""

    admin_url: str  # a database of the server that is not Usher's own: databases are made and dropped from here
    redis_url: str  # of logical database 0, which no test uses
    smtp_url: str
    page_url: str
    databases: Databases
    redis_numbers: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(1, 16)))

    def next_redis_url(self) -> str:
        """Return the URL of another logical database than the last one."""
        return with_path(self.redis_url, str(next(self.redis_numbers)))


def memory_folder() -> Path | None:
    """Return where files are kept in memory, if there is such a place with room for servers and their programs.

    Whatever a server has written is there also after its end, however that came, as it is on a disk; only a loss of
    power would take it along. Processes that test at once do not wait for one disk then.
    """
    folder = Path("/dev/shm")  # noqa: S108  folders of random names are made in it
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    free = found.f_bavail * found.f_frsize
    fit = free >= _MEMORY_BYTES and not found.f_flag & (os.ST_NOEXEC | os.ST_RDONLY) and os.access(folder, os.W_OK)
    return folder if fit else None


@contextmanager
def reachable_folder(*, on_disk: bool = False) -> Iterator[Path]:
    """Make a temporary folder that PostgreSQL's account reaches also when root runs the tests; pytest's is closed.

    Args:
        on_disk: not in memory, where tests have it unless `TMPDIR` is set: what is measured waits for a disk.
    """
    usual = Path(tempfile.gettempdir())
    place = usual if on_disk or "TMPDIR" in os.environ else memory_folder() or usual
    for left in (*place.glob("usher-tests-*-*"), *usual.glob("usher-tests-*-*")):  # by a run that was killed
        pid = left.name.split("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            end_all_strays(left)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"usher-tests-{os.getpid()}-", dir=place))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        end_all_strays(folder)  # of a test that failed half-way
        shutil.rmtree(folder)


@contextmanager
def running_servers(*, on_disk: bool = False) -> Iterator[Servers]:
    """Start the servers that are not given from outside, with a migrated template database; stop them at the end.

    Args:
        on_disk: see `reachable_folder`.
    """
    with reachable_folder(on_disk=on_disk) as folder:
        postgres = None if TEST_DATABASE_URL else EmbeddedPostgres(folder)
        valkey = None if TEST_REDIS_URL else EmbeddedValkey(folder)
        mail = EmbeddedMail(folder)
        started = [server for server in (postgres, valkey, mail) if server]
        try:
            for server in started:
                server.launch()
            for server in started:
                server.ready()
            admin_url = TEST_DATABASE_URL or (with_path(postgres.url, "postgres") if postgres else "")
            redis_url = TEST_REDIS_URL or (valkey.url if valkey else "")
            if postgres:
                asyncio.run(_spare_the_disk(admin_url))
            databases = Databases(admin_url, f"usher_template_{uuid.uuid4().hex[:12]}")
            asyncio.run(databases.make_template())
            try:
                yield Servers(admin_url, redis_url, mail.smtp_url, mail.page_url, databases)
            finally:
                asyncio.run(databases.drop())
        finally:
            for server in started:
                server.stop()


async def _spare_the_disk(admin_url: str) -> None:
    """Do without fsync: only the end of the machine, not that of a process, could then lose what was committed."""
    await execute(admin_url, "ALTER SYSTEM SET fsync = off")
    await execute(admin_url, "SELECT pg_reload_conf()")


class MailboxReader:
    """The mail catcher as tests see it."""

    def __init__(self, smtp_url: str, page_url: str, client: aiohttp.ClientSession) -> None:
        self.smtp_url = smtp_url
        self.page_url = page_url
        self._client = client

    async def messages(self, text: str = "") -> list[dict[str, Any]]:
        """Return what was sent (id, time, sender, recipients, subject, message_id, size), newest first."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"q": text, "offset": str(len(found)), "limit": "1000"}
            async with self._client.get(f"{self.page_url}/messages.json", params=query) as response:
                response.raise_for_status()
                answer = await response.json()
            found += answer["messages"]
            if len(found) >= answer["total"]:
                return found

    async def open(self, identifier: str) -> EmailMessage:
        """Return a whole message."""
        async with self._client.get(f"{self.page_url}/messages/{identifier}.eml") as response:
            response.raise_for_status()
            return message_from_bytes(await response.read(), policy=policy.default)

    async def wait_for(self, count: int, text: str = "", seconds: float = 10) -> list[dict[str, Any]]:
        """Wait until at least ``count`` messages have come and return them, newest first."""

        async def enough() -> list[dict[str, Any]]:
            found = await self.messages(text)
            return found if len(found) >= count else []

        return await wait_until(enough, f"{count} messages in the mailbox", seconds)

    async def clear(self) -> None:
        """Throw every message away."""
        async with self._client.delete(f"{self.page_url}/messages") as response:
            response.raise_for_status()

    async def behave(self, **behaviour: Any) -> None:
        """Answer SMTP as `cli.embedded.behaviour.Behaviour` says; without arguments as usual."""
        async with self._client.post(f"{self.page_url}/behaviour", json=behaviour) as response:
            assert response.status == 200, await response.text()

    async def shown(self) -> int:
        """Return how often the behaviour was shown since it was set."""
        async with self._client.get(f"{self.page_url}/behaviour") as response:
            response.raise_for_status()
            return int((await response.json())["shown"])
