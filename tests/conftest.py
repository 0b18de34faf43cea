from __future__ import annotations

import os
from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog

from models.settings import Settings, load_settings

# A test knows only the settings that it makes itself.
for _name in [name for name in os.environ if name.startswith("USHER_") and not name.startswith("USHER_TEST_")]:
    del os.environ[_name]

# A run that decides whether a change lands tries the same examples each time; at the desk they are new ones. How long
# one takes says something of the machine only.
_UNTIMED = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("ci", _UNTIMED, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("desk", _UNTIMED)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import asyncpg

    from tests.support.servers import MailboxReader, Servers


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are processors: many a test waits for something most of its time."""
    return min(4, (os.cpu_count() or 1) + 1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that wait most, or want a machine that is not too busy, evenly among the others."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if path.parent.name in ("faults", "ui")]
    others = [path for path in files if path not in waiting]
    places = {path: (place + 0.5) / len(others) for place, path in enumerate(others)}
    places |= {path: place / len(waiting) for place, path in enumerate(waiting)}
    items[:] = [item for path in sorted(files, key=places.__getitem__) for item in files[path]]


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Have errors that Usher logs told without colours, which take a quarter of a second of each."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL, Valkey and the mail catcher, one of each for the whole session."""
    from tests.support.servers import running_servers

    with running_servers() as started:
        yield started


@pytest.fixture
async def database_url(servers: Servers) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with servers.databases.copy() as url:
        yield url


@pytest.fixture
async def redis_url(servers: Servers) -> AsyncIterator[str]:
    """An empty logical database of the Redis server."""
    from redis.asyncio import Redis

    url = servers.next_redis_url()
    async with Redis.from_url(url) as client:
        await client.flushdb()
        yield url
        await client.flushdb()


@pytest.fixture
async def mailbox(servers: Servers) -> AsyncIterator[MailboxReader]:
    """The mail catcher, empty and well-behaved."""
    import aiohttp

    from tests.support.servers import MailboxReader

    async with aiohttp.ClientSession() as client:
        reader = MailboxReader(servers.smtp_url, servers.page_url, client)
        await reader.behave()
        await reader.clear()
        yield reader
        await reader.behave()


@pytest.fixture
def settings(database_url: str, redis_url: str, servers: Servers) -> Settings:
    """Settings for the test's own database, Redis number and the mail catcher; ports are free ones."""
    return load_settings(
        database_url=database_url,
        redis_url=redis_url,
        smtp_url=servers.smtp_url,
        secret_key="a-secret-key-for-tests-of-enough-length",
        port=0,
        admin_port=0,
    )


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """Connections to the test's own database, under the role and with the codecs of the application."""
    from models.db import open_pool

    connections = await open_pool(settings, name="tests")
    try:
        yield connections
    finally:
        await connections.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A temporary data folder for servers that a test starts itself; root's PostgreSQL cannot reach `tmp_path`."""
    from tests.support.servers import reachable_folder

    with reachable_folder() as folder:
        yield folder
