from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from redis.asyncio import Redis

from tests.support.leftovers import processes_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


ROOT = Path(__file__).parents[2]
START_SECONDS = 120  # a deadline for a busy machine, not a promise

PERSON = {
    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
    "userName": "ana@x.test",
    "active": True,
    "emails": [{"type": "work", "value": "ana@x.test", "primary": True}],
}


@dataclass
class Run:
    """One `usher up`."""

    process: subprocess.Popen[str]
    folder: Path
    addresses: dict[str, Any]

    def pid_of(self, name: str) -> int:
        return int(json.loads((self.folder / "run" / f"{name}.json").read_text())["pid"])

    def output(self) -> str:
        return (self.folder / "output").read_text()


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(folder)]
    with (folder / "output").open("a") as output:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Run]:
    """Start `usher up`, wait until it says that it is ready, and kill what the test leaves."""
    ready_file = folder / "ready.json"
    ready_file.unlink(missing_ok=True)  # of a run that was killed
    process = launch(
        folder, "--port", "0", "--admin-port", "0", "--ready-file", str(ready_file), *arguments, **environment
    )
    try:
        await wait_until(
            lambda: ready_file.exists() or process.poll() is not None, "usher up to be ready", START_SECONDS
        )
        assert process.poll() is None, (folder / "output").read_text()
        yield Run(process, folder, json.loads(ready_file.read_text()))
    finally:
        process.kill()
        process.wait()


def stop(run: Run, number: signal.Signals = signal.SIGTERM) -> None:
    run.process.send_signal(number)
    assert run.process.wait(60) == 0, run.output()
    assert processes_of(run.folder) == []
    assert not (run.folder / "ready.json").exists()


@contextlib.asynccontextmanager
async def client(run: Run) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {run.addresses['token']}", "Content-Type": "application/scim+json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield session


async def status(session: aiohttp.ClientSession, url: str) -> int:
    try:
        async with session.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return 0


async def test_a_first_start_a_stop_a_kill_and_the_starts_after_them(data_dir: Path) -> None:
    async with running(data_dir) as run, client(run) as session:
        first = run.addresses
        assert first["pid"] == run.process.pid
        assert first["data_dir"] == str(data_dir)
        assert (data_dir / "ready.json").stat().st_mode & 0o077 == 0
        assert (data_dir / "env").stat().st_mode & 0o077 == 0
        listed = subprocess.run(
            ["sh", "-c", f'set -a; . "{data_dir}/env"; exec "{sys.executable}" -m cli.main tenant list --json'],
            capture_output=True,
            check=True,
        )
        assert [tenant["name"] for tenant in json.loads(listed.stdout)] == ["default"]
        for url in (f"{first['scim_url']}/ServiceProviderConfig", f"{first['admin_url']}/readyz", first["mailbox_url"]):
            assert await status(session, url) == 200, url
        connection = await asyncpg.connect(first["database_url"])
        await connection.close()
        async with Redis.from_url(first["redis_url"]) as redis:
            assert await redis.ping()

        async with session.post(f"{first['scim_url']}/Users", json=PERSON) as response:
            assert response.status == 201, await response.text()
            created = await response.json()
            assert created["meta"]["location"] == f"{first['scim_url']}/Users/{created['id']}"

        async def caught() -> int:
            async with session.get(f"{first['mailbox_url']}/messages.json") as response:
                return int((await response.json())["total"])

        await wait_until(caught, "the invitation in the mailbox", 30)
        told = ("scim_url", "token", "mailbox_url", "dashboard_url", "sign_in_url")
        for text in (*(first[name] for name in told), "usher simulate"):
            assert text in run.output()
        # The link that was printed signs the first admin in, once.
        assert first["sign_in_url"].startswith(first["admin_url"])
        for expected in (303, 410):
            headers = {"Origin": first["admin_url"]}
            async with session.post(first["sign_in_url"], headers=headers, allow_redirects=False) as response:
                assert response.status == expected
        assert first["database_url"] not in run.output()
        stop(run)

    async with running(data_dir) as run, client(run) as session:
        assert {**run.addresses, "pid": first["pid"], "sign_in_url": first["sign_in_url"]} == first
        assert run.addresses["sign_in_url"] != first["sign_in_url"]
        assert await status(session, f"{first['scim_url']}/Users/{created['id']}") == 200
        before = {process.pid for process in processes_of(data_dir)}
        assert len(before) >= 5
        run.process.kill()
        run.process.wait()

    async with running(data_dir) as run, client(run) as session:
        assert {**run.addresses, "pid": first["pid"], "sign_in_url": first["sign_in_url"]} == first
        assert run.addresses["sign_in_url"] != first["sign_in_url"]
        assert not before & {process.pid for process in processes_of(data_dir)}
        assert await status(session, f"{first['scim_url']}/Users/{created['id']}") == 200

        # The token it kept is revoked: the next start makes another.
        connection = await asyncpg.connect(first["database_url"])
        await connection.execute("UPDATE token SET revoked_at = now()")
        await connection.close()
        stop(run, signal.SIGINT)

    async with running(data_dir) as run, client(run) as session:
        assert run.addresses["token"] != first["token"]
        assert await status(session, f"{first['scim_url']}/Users/{created['id']}") == 200
        stop(run)


async def kill_and_await(run: Run, name: str) -> None:
    pid = run.pid_of(name)
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: run.pid_of(name) != pid, f"another {name}", 30)
    await wait_until(lambda: f"{name} ended (killed by SIGKILL)" in run.output(), f"a word on the death of {name}")


async def test_what_dies_is_started_again(data_dir: Path) -> None:
    async with running(data_dir, "--workers", "2", "--processes", "2") as run, client(run) as session:
        users = f"{run.addresses['scim_url']}/Users"
        for name in ("worker-2", "valkey", "api", "postgres"):
            await kill_and_await(run, name)

        async def answers() -> bool:
            return await status(session, users) == 200

        await wait_until(answers, "users to be listed again", 60)
        stop(run)


async def test_servers_of_ones_own_are_used_and_none_is_started(
    data_dir: Path, database_url: str, redis_url: str, servers: Any
) -> None:
    own = {"USHER_DATABASE_URL": database_url, "USHER_REDIS_URL": redis_url, "USHER_SMTP_URL": servers.smtp_url}
    public = {"USHER_PUBLIC_URL": "https://usher.example"}
    async with running(data_dir, "--workers", "0", **own, **public) as run:
        assert run.addresses["database_url"] == database_url
        assert run.addresses["redis_url"] == redis_url
        assert run.addresses["smtp_url"] == servers.smtp_url
        assert run.addresses["mailbox_url"] is None
        assert run.addresses["scim_url"] == "https://usher.example/scim/v2"
        assert sorted(path.stem for path in (data_dir / "run").iterdir()) == ["api"]
        stop(run)


async def test_a_second_start_in_the_folder_and_wrong_options_are_refused(data_dir: Path) -> None:
    def refusal(folder: Path, *arguments: str, **environment: str) -> str:
        process = launch(folder, *arguments, **environment)
        assert process.wait(60) == 2
        text = (folder / "output").read_text()
        (folder / "output").unlink()
        return text

    with held_port() as port:
        assert f"Port {port} is taken" in (text := refusal(data_dir, "--port", str(port)))
        assert "--port" in text
        text = refusal(data_dir, "--port", "0", "--admin-port", str(port))
        assert f"Port {port} is taken" in text
        assert "--admin-port" in text
    assert "two ports" in refusal(data_dir, "--port", str(port), "--admin-port", str(port))
    assert "USHER_LOG_LEVEL" in refusal(data_dir, USHER_LOG_LEVEL="loud")
    assert processes_of(data_dir) == []

    async with running(data_dir, "--workers", "0") as run:
        text = refusal_beside(run)
        assert str(run.process.pid) in text
        assert "--data-dir" in text
        stop(run)


def refusal_beside(run: Run) -> str:
    beside = subprocess.run(
        [sys.executable, "-m", "cli.main", "up", "--data-dir", str(run.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert beside.returncode == 2, beside.stderr
    return beside.stderr


async def test_a_stop_in_the_middle_of_the_start_leaves_nothing(data_dir: Path) -> None:
    for awaited in ("initdb", "postgres", "migrate", "api"):
        await stop_when_started(data_dir, awaited)


async def stop_when_started(folder: Path, awaited: str) -> None:
    log = folder / "log" / f"{awaited}.log"
    log.unlink(missing_ok=True)
    process = launch(folder, "--port", "0", "--admin-port", "0")
    try:
        await wait_until(lambda: log.exists() or process.poll() is not None, f"{awaited} to be started", START_SECONDS)
        assert process.poll() is None, (folder / "output").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (folder / "output").read_text()
    finally:
        process.kill()
        process.wait()
    assert processes_of(folder) == []


async def test_a_second_signal_hurries(data_dir: Path) -> None:
    async with running(data_dir, "--workers", "1") as run:
        os.kill(run.pid_of("worker-1"), signal.SIGSTOP)  # it cannot stop in order
        began = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        await wait_until(lambda: "Stopping" in run.output(), "the stop to begin")
        stop(run, signal.SIGINT)
        assert time.monotonic() - began < 20  # and not the 30 s that a child may take


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield int(taken.getsockname()[1])
