"""P20: the restore drill of docs/deploy.md, run as it stands there, brings back whoever was acknowledged in time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest

from models.audit.anchors import publish
from models.audit.keys import read_signer
from models.audit.seal import seal_waiting
from tests.support.diary import Diary
from tests.support.invariants import broken
from tests.support.processes import environment
from tests.support.promises import FULL
from tests.support.releases import ROOT
from tests.support.rig import Grounds, rigged
from tests.support.servers import reachable_folder
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Measure
    from tests.support.driver import Driver
    from tests.support.rig import Rig

USERS: Final = 50


def commands(name: str) -> str:
    """Return a block of commands of the page, by the mark above it."""
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- drill: {name} -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found, f"docs/deploy.md has no commands for {name}"
    return found[1]


@pytest.fixture
def own_grounds() -> Iterator[Grounds]:
    """Servers of the test's own: it takes their data away."""
    with reachable_folder(on_disk=FULL) as folder:
        made = asyncio.run(Grounds.make(folder))
        try:
            yield made
        finally:
            made.stop()


@dataclass
class Drill:
    """Carries out the page's commands."""

    rig: Rig
    backup: Path
    moment: str = ""

    async def carry_out(self, name: str) -> str:
        """Carry out a block and return what it printed."""
        server = self.rig.grounds.postgres
        tools = self.backup.parent / "bin"
        variables = {
            **environment(self.rig.direct),
            "PATH": f"{server._binaries}:{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": "usher",
            "PGPASSWORD": server._password,
            "PGDATABASE": "postgres",
            "PGDATA": str(server.cluster),
            "BACKUP": str(self.backup),
            "MOMENT": self.moment,
        }
        process = await asyncio.create_subprocess_exec(
            # The server's account, which is not root's, is to write there too.
            *("bash", "-euc", f"umask 000\n{commands(name)}"),
            cwd="/",
            env=variables,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, f"{name}: {said}"
        return said


def prepare(folder: Path) -> Path:
    """Make the folder for backups, and the `usher` that the commands call; return the first."""
    backup, tools = folder / "backup", folder / "bin"
    backup.mkdir()
    backup.chmod(0o777)
    tools.mkdir()
    command = tools / "usher"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return backup


@pytest.mark.promise("P20")
async def test_the_restore_drill_brings_back_whoever_was_acknowledged_before_the_moment(
    own_grounds: Grounds, seed: int, tmp_path: Path, measure: Measure
) -> None:
    anchors = tmp_path / "audit.anchors"
    async with rigged(own_grounds, tmp_path, seed, audit_anchor_file=anchors) as rig:
        drill = Drill(rig, prepare(own_grounds.postgres.home))
        await drill.carry_out("archive")
        await asyncio.to_thread(own_grounds.postgres.stop)
        await rig.heal()
        driver = await rig.driver(invitations=True)
        await asyncio.gather(driver.run(USERS), drill.carry_out("base"))
        # What is accepted now is applied, and its invitations go out, after the moment.
        await asyncio.gather(*(worker.stop() for worker in rig.workers))
        await driver.run(USERS)
        known, answered = set(driver.known), len(driver.diary.entries)
        async with rig.store() as connection:
            drill.moment = str(await connection.fetchval("SELECT clock_timestamp()"))
            open_then = await connection.fetchval("SELECT count(*) FROM job WHERE state NOT IN ('done', 'dead')")
        assert open_then >= USERS
        await rig.start()
        await driver.run(USERS)
        await rig.drain()
        async with rig.store() as connection:
            await seal_waiting(connection, read_signer(tmp_path / "audit.key"))
            await publish(connection, anchors)
            await archived(rig)
        before = Counter(mail["message_id"] for mail in await rig.mailbox.messages())

        await asyncio.gather(rig.kill(), rig.crash_postgres(), rig.crash_redis())
        await drill.carry_out("restore")
        await own_grounds.revive()
        async with rig.valkey() as redis:
            await redis.flushall()
        said = await drill.carry_out("after")
        assert "rolled_back" in said
        assert re.search(r"Tamper", said), said
        others = ("edited", "deleted", "inserted", "reordered", "seal_dropped", "re_signed")
        assert [word for word in others if re.search(rf"\b{word}\b", said)] == [], said

        await rig.heal()
        drained = await rig.drain()
        gone = await check_restored(rig, driver, known, answered, before)
        assert len(gone) == USERS
        for step in gone:
            driver.known.pop(step, None)
            await driver.push(driver.steps[step])
        await rig.drain()
        await rig.check()
        measure(users=3 * USERS, before_the_moment=len(known), gone=len(gone), jobs_open_then=open_then)
        measure(seconds_to_drain=drained)


async def archived(rig: Rig) -> None:
    """Have the log archived as far as it is written, as `archive_timeout` does within a minute."""
    async with rig.store() as connection:
        await connection.execute("CREATE TABLE the_end ()")  # something that happened after the moment
        last = await connection.fetchval("SELECT pg_walfile_name(pg_switch_wal())")

        async def there() -> bool:
            return bool(await connection.fetchval("SELECT last_archived_wal >= $1 FROM pg_stat_archiver", last))

        await wait_until(there, "the log is archived", 60)


async def check_restored(rig: Rig, driver: Driver, known: set[int], answered: int, before: Counter[str]) -> list[int]:
    """Check what the restored database holds; return the steps whose users are gone."""
    messages = await rig.mailbox.messages()
    async with rig.store() as connection:
        names = {row[0] for row in await connection.fetch("SELECT doc ->> 'userName' FROM directory_user")}
        # What was answered after the moment promises nothing any more.
        told = Diary(rig.folder / "diary-before.jsonl")
        told.entries = [
            entry if place < answered else replace(entry, status=None, returned_id=None)
            for place, entry in enumerate(driver.diary.entries)
        ]
        found = await broken(
            connection,
            diary=told,
            mails=[mail for mail in messages if mail["recipients"][0] in names],
            copies=2,
            audit_key=rig.settings.audit_key_file,
        )
        told.close()
    assert found == {}, json.dumps(found, indent=1)
    present = {step.seq for step in driver.steps.values() if step.user_name in names}
    assert known <= present
    again = Counter(mail["message_id"] for mail in messages) - before
    assert max(again.values(), default=0) <= 1
    kept = {mail["message_id"] for mail in messages if mail["recipients"][0] in names}
    assert len(kept) == len(names), "one message each, however many copies of it"
    return sorted(set(driver.steps) - present)
