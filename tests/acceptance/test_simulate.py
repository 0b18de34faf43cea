"""The main job as a person sees it: `usher up`, then `usher simulate`, and everything that was counted is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import pytest

from tests.support.servers import reachable_folder
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

USHER = [sys.executable, "-m", "cli.main"]


@pytest.fixture(scope="module")
def ready() -> Iterator[dict[str, Any]]:
    """A running Usher, as its ready file describes it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("USHER_")}
    with reachable_folder() as folder:
        ready_file, log = folder / "ready.json", folder / "up.log"
        arguments = ["up", "--data-dir", str(folder / "data"), "--port", "0", "--admin-port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*USHER, *arguments, "--ready-file", str(ready_file)], stdout=output, stderr=output, env=environment
            )
        try:
            deadline = time.monotonic() + 60
            while not ready_file.exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"not within 60 s: usher up is ready\n{log.read_text()}"
                time.sleep(0.05)
            yield json.loads(ready_file.read_text())
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def usher(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*USHER, *arguments], capture_output=True, text=True, timeout=120, check=False)


def simulated(ready: dict[str, Any], *arguments: str, flag: str = "") -> dict[str, Any]:
    done = usher("simulate", "--url", ready["scim_url"] + flag, "--token", ready["token"], "--json", *arguments)
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, report["deviations"]) == (0, []), done.stderr
    return report


async def test_everyone_whom_entra_pushes_arrives_once_and_is_invited_once(ready: dict[str, Any]) -> None:
    first = simulated(ready, "--users", "100", "--dialect", "mixed", "--seed", "1")
    assert (first["created"], first["found"]) == (100, 0)
    flagged = simulated(ready, "--users", "40", "--dialect", "compliant", "--seed", "2", flag="?aadOptscim062020")
    assert (flagged["created"], flagged["found"]) == (40, 0)
    again = simulated(ready, "--users", "110", "--dialect", "legacy", "--seed", "1")
    assert (again["created"], again["found"]) == (10, 100)
    invitable: int = first["invitable"] + flagged["invitable"] + again["invitable"]

    database = await asyncpg.connect(ready["database_url"])
    try:

        async def applied() -> bool:
            return bool(await database.fetchval("SELECT count(*) = 150 FROM users"))

        _: bool = await wait_until(applied, "150 users are applied", 30)
        requested = await database.fetch(
            "SELECT correlation_id FROM audit_event WHERE action = 'scim.user.create' AND phase = 'requested'"
        )
        joined = await database.fetchval(
            "SELECT count(*) FROM audit_event AS requested"
            " JOIN audit_event AS applied USING (correlation_id, target_id)"
            " WHERE requested.action = 'scim.user.create' AND requested.phase = 'requested'"
            " AND applied.action = 'scim.user.create' AND applied.phase = 'applied'"
        )
        assert (len(requested), joined) == (150, 150)
        assert await database.fetchval("SELECT count(*) FROM invitation") == invitable
    finally:
        await database.close()

    async with aiohttp.ClientSession() as client:

        async def sent() -> int:
            async with client.get(f"{ready['mailbox_url'].rstrip('/')}/messages.json") as answer:
                return int((await answer.json())["total"])

        async def all_sent() -> bool:
            return await sent() >= invitable

        _ = await wait_until(all_sent, f"{invitable} invitations are in the mailbox", 60)
        assert await sent() == invitable


async def test_a_whole_tenant_lives_in_both_dialects_and_ends_as_it_should(ready: dict[str, Any]) -> None:
    database = await asyncpg.connect(ready["database_url"])
    try:
        for seed, dialect in ("11", "mixed"), ("12", "legacy"), ("13", "compliant"):
            before = await database.fetchval("SELECT count(*) FROM groups")
            report = simulated(ready, "--users", "40", "--groups", "8", "--dialect", dialect, "--seed", seed)
            happened = report["happened"]
            assert happened.keys() >= {"updated", "renamed", "disabled", "deleted", "created anew", "on-demand runs"}
            assert happened["memberships added"] > happened["memberships removed"] > 40
            assert report["requests"]["add one member"]["count"] == 40
            kept = happened["groups created"] - happened["groups deleted"]
            assert await database.fetchval("SELECT count(*) FROM groups") - before == kept == 8
    finally:
        await database.close()
    done = usher("simulate", "--url", ready["scim_url"], "--token", ready["token"], "--groups", "1", "--seed", "11")
    assert done.returncode == 2
    assert "leave --seed away" in done.stderr


def test_a_token_that_is_not_good_and_a_port_where_nobody_listens_are_exit_status_2(ready: dict[str, Any]) -> None:
    for url, token, says in [
        (ready["scim_url"], f"{ready['token'][:-1]}!", "token is refused"),
        ("http://127.0.0.1:9/scim/v2", ready["token"], "cannot be reached"),
    ]:
        done = usher("simulate", "--url", url, "--token", token)
        assert done.returncode == 2
        assert says in done.stderr
        assert done.stdout == ""
