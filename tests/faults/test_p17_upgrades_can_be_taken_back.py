"""P17: old code works on the new schema, new code does the jobs of the old, and the way back is open.

The old code is an earlier commit of this repository (`tests.support.releases.old_commit`), run as it stood.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from alembic import command
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from models.audit.keys import write_key
from models.migrations import run
from models.settings import Settings, load_settings
from tests.support.api import SECRET_KEY, Caller, Tenant, document, store, until, work_email
from tests.support.databases import drop_database, with_path
from tests.support.invariants import broken
from tests.support.processes import Process, free_ports
from tests.support.releases import ROOT, newest_migration, old_commit, unpack, usher
from tests.support.servers import MailboxReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import sqlalchemy

    from tests.faults.conftest import Measure
    from tests.support.rig import Grounds

USERS: Final = 40
# What Entra, administrators and operators meet with; each runs in seconds.
ACCEPTANCE: Final = (
    "tests/acceptance/test_scim_create.py",
    "tests/acceptance/test_scim_lists.py",
    "tests/acceptance/test_scim_async.py",
    "tests/acceptance/test_scim_bulk.py",
    "tests/acceptance/test_entra_cases.py",
    "tests/acceptance/test_entra_patch.py",
    "tests/acceptance/test_entra_groups.py",
    "tests/acceptance/test_cli_queue.py",
    "tests/integration/test_audit_query.py",
    "tests/integration/test_invitation_page.py",
    "tests/integration/test_invitation_sending.py",
    "tests/integration/test_provision.py",
)


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(old_commit(), tmp_path_factory.mktemp("old") / "tree")


@pytest.mark.promise("P17")
@pytest.mark.parametrize("code", ["old", "new"])
async def test_the_codes_own_acceptance_tests_pass_on_the_new_schema(
    code: str, old_tree: Path, tmp_path: Path, measure: Measure
) -> None:
    tree = ROOT
    if code == "old":
        tree = unpack(old_commit(), tmp_path / "tree")
        # Its tests migrate their databases themselves: to the new schema, if that is what they find.
        for file in (ROOT / "models/migrations/versions").glob("[0-9]*.py"):
            (tree / "models/migrations/versions" / file.name).write_bytes(file.read_bytes())
    cache = f"cache_dir={tmp_path / 'cache'}"
    status, said = await accepted(tree, "-o", cache)
    outcome = said.splitlines()[-1]
    if status == 1:
        # Old tests keep the deadlines that they had. What fails on a busy machine alone does not fail twice.
        status, again = await accepted(tree, "-o", cache, "--last-failed")
        said, outcome = said + again, f"{outcome}; those again: {again.splitlines()[-1]}"
    assert status == 0, said
    measure(outcome=outcome, code=newest_migration(old_tree if code == "old" else ROOT), schema=run.head())


async def accepted(tree: Path, *options: str) -> tuple[int | None, str]:
    """Run the acceptance tests of some code; return pytest's exit status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--numprocesses", "0", *options, *ACCEPTANCE),
        cwd=tree,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "USHER_"))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    return process.returncode, said


@dataclass
class World:
    """A database with a tenant, and processes of both codes that may work on it."""

    settings: Settings
    tenant: Tenant
    old: tuple[Process, Process]
    new: tuple[Process, Process]
    """Each a front end and a worker."""
    session: aiohttp.ClientSession
    mailbox: MailboxReader
    users: int = 0

    async def push(self, api: Process, name: str) -> None:
        """Have users accepted, with an invitation each."""
        caller = Caller(self.session, api.scim_url, self.tenant, self.tenant.token)
        for number in range(USERS):
            user_name = f"{name}{number}@example.com"
            await caller.create(document(user_name, externalId=user_name, emails=[work_email(user_name, primary=True)]))
        self.users += USERS

    async def simulate(self, api: Process) -> None:
        """Have Entra's whole life of a tenant played against a front end; it must find nothing."""
        words = ("--url", api.scim_url, "--token", self.tenant.token, "--users", "25", "--groups", "3")
        await usher(ROOT, self.settings, "simulate", *words, "--json")

    async def worked_off(self) -> None:
        """Wait until nothing is open, and check that everybody was applied at the first attempt and invited."""
        async with store(self.settings) as connection:
            open_jobs = "SELECT count(*) FROM job WHERE state NOT IN ('done', 'cancelled')"

            async def none_open() -> bool:
                return not await connection.fetchval(open_jobs)

            await until(none_open, "nothing is open and nothing dead", 60)
            assert await connection.fetchval("SELECT max(attempts) FROM job") == 1
            pushed = "SELECT count(*) FROM users WHERE external_id LIKE '%@example.com'"
            assert await connection.fetchval(pushed) == self.users
        await self.mailbox.wait_for(self.users, "@example.com")

    async def check(self) -> None:
        """Check every invariant."""
        async with store(self.settings) as connection:
            mails = await self.mailbox.messages()
            found = await broken(connection, mails=mails, copies=1, audit_key=self.settings.audit_key_file)
        assert found == {}


@asynccontextmanager
async def world(grounds: Grounds, old_tree: Path, folder: Path) -> AsyncIterator[World]:
    """Make a database on the old schema, by the old code, with a tenant; no process runs yet."""
    await grounds.revive()
    admin = with_path(grounds.postgres.url, "postgres")
    async with Redis.from_url(grounds.valkey.url) as redis:
        await redis.flushall()
    write_key(folder / "audit.key")
    ports = free_ports(4)
    made: list[Process] = []
    settings = load_settings(
        database_url=with_path(admin, "usher_upgraded"),
        redis_url=grounds.valkey.url,
        smtp_url=grounds.mail.smtp_url,
        secret_key=SECRET_KEY,
        audit_key_file=folder / "audit.key",
        public_url=f"http://127.0.0.1:{ports[0]}",
        sweep_seconds=0.5,
    )

    def pair(name: str, tree: Path, port: int, admin_port: int) -> tuple[Process, Process]:
        given = {each: getattr(settings, each) for each in settings.model_fields_set}
        own = load_settings(**{**given, "port": port, "admin_port": admin_port})
        made.append(Process(own, ["api"], folder / f"api-{name}.log", tree))
        made.append(Process(settings, ["worker"], folder / f"worker-{name}.log", tree))
        return made[-2], made[-1]

    await drop_database(admin, "usher_upgraded")
    async with store(load_settings(database_url=admin, redis_url="redis://h", secret_key=SECRET_KEY)) as connection:
        await connection.execute("CREATE DATABASE usher_upgraded")
    try:
        await usher(old_tree, settings, "migrate")
        async with store(settings) as connection:
            assert await run.current(connection) == newest_migration(old_tree)
        await usher(old_tree, settings, "tenant", "add", "acme")
        issued = (await usher(old_tree, settings, "token", "issue", "acme")).split()
        token = next(word for word in issued if word.startswith("ush_"))
        async with store(settings) as connection:
            tenant_id = await connection.fetchval("SELECT id FROM tenant WHERE name = 'acme'")
        async with aiohttp.ClientSession() as session:
            mailbox = MailboxReader(grounds.mail.smtp_url, grounds.mail.page_url, session)
            await mailbox.behave()
            await mailbox.clear()
            tenant = Tenant(tenant_id, "acme", token.split("_")[1], token)
            old, new = pair("old", old_tree, *ports[:2]), pair("new", ROOT, *ports[2:])
            yield World(settings, tenant, old, new, session, mailbox)
    finally:
        await asyncio.gather(*(one.kill() for one in made))
        await drop_database(admin, "usher_upgraded")


@pytest.mark.promise("P17")
async def test_an_upgrade_and_its_way_back_lose_nothing_and_cost_no_attempt(
    grounds: Grounds, old_tree: Path, tmp_path: Path, measure: Measure
) -> None:
    async with world(grounds, old_tree, tmp_path) as here:
        [old_api, old_worker], [new_api, new_worker] = here.old, here.new
        # docs/deploy.md: migrate, then the workers, then the front ends. The jobs of the old code wait meanwhile.
        await old_api.start()
        await here.push(old_api, "waiting")
        await usher(ROOT, here.settings, "migrate")
        await here.push(old_api, "on-the-new-schema")
        await here.simulate(old_api)
        await new_worker.start()
        await here.worked_off()
        await new_api.start()
        await asyncio.gather(here.push(old_api, "old-beside-new"), here.push(new_api, "new-beside-old"))
        await old_api.stop()
        await here.simulate(new_api)
        await here.worked_off()
        # And back: the old code does what the new one accepted.
        await new_worker.stop()
        await here.push(new_api, "back")
        await new_api.stop()
        await asyncio.gather(old_api.start(), old_worker.start())
        await here.worked_off()
        await here.simulate(old_api)
        await here.worked_off()
        await here.check()
        await usher(old_tree, here.settings, "audit", "seal")
        await usher(ROOT, here.settings, "audit", "seal")
        # Even the schema can go back once; then the upgrade is made again.
        await asyncio.gather(old_api.stop(), old_worker.stop())
        await downgrade(here.settings, newest_migration(old_tree))
        await asyncio.gather(old_api.start(), old_worker.start())
        await here.push(old_api, "on-the-old-schema")
        await here.simulate(old_api)
        await here.worked_off()
        await asyncio.gather(old_api.stop(), old_worker.stop())
        await usher(ROOT, here.settings, "migrate")
        await asyncio.gather(new_api.start(), new_worker.start())
        await here.push(new_api, "again")
        await here.simulate(new_api)
        await here.worked_off()
        await here.check()
        measure(users=here.users, schemas=f"{newest_migration(old_tree)} and {run.head()}")


async def downgrade(settings: Settings, revision: str) -> None:
    """Take the schema back, by the new code's migrations."""

    def back(connection: sqlalchemy.Connection) -> None:
        config: Any = run._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    url = settings.database_url.get_secret_value().replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(back)
    finally:
        await engine.dispose()
