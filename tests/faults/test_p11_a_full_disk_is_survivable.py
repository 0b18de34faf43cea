"""P11: while the disk is full creates are 503; once there is room again all goes on, and nothing is half there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

from models.errors import UsageError
from tests.support.promises import scale
from tests.support.rig import Grounds, rigged
from tests.support.servers import reachable_folder
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Measure
    from tests.support.driver import Driver

_SIZE_MB: Final = 320
_LEAVE: Final = 256 * 1024  # bytes that are left to whoever is quick


@contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a small file system for servers to live on, which only root may do."""
    with reachable_folder() as folder:
        disk = folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m,mode=755", "tmpfs", str(disk)],
            capture_output=True,
            check=False,
            text=True,
        )
        if mounted.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is; return the file that does."""
    ballast = disk / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with suppress(OSError):  # no room is what it is to come to
        while (room := free(disk)) > _LEAVE:
            os.posix_fallocate(file, os.fstat(file).st_size, room - _LEAVE // 2)
        while True:
            os.write(file, b"x" * 4096)
    os.close(file)
    return ballast


def free(disk: Path) -> int:
    """Return the bytes that are free."""
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize


async def look_after(grounds: Grounds) -> int:
    """Start PostgreSQL again whenever it ends, as a container that restarts unless stopped; until cancelled."""
    restarts = 0
    try:
        while True:
            if grounds.postgres.poll() is not None:
                restarts += 1
                with suppress(UsageError):
                    await asyncio.to_thread(grounds.postgres.start)
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return restarts


async def refused(driver: Driver, since: float, count: int) -> None:
    """Wait until so many requests that were sent after a moment have been refused."""
    await wait_until(lambda: driver.since(since, 503) >= count or driver.wrong, "creates are refused", 120)


@pytest.mark.promise("P11")
async def test_a_full_disk_is_503_and_all_goes_on_when_there_is_room(
    tmp_path: Path, seed: int, measure: Measure
) -> None:
    with small_disk() as disk:
        grounds = await Grounds.make(disk)
        try:
            async with rigged(grounds, tmp_path, seed) as rig:
                driver = await rig.driver()
                pushing = asyncio.create_task(driver.run(clients=8))
                await driver.until_known(50)
                keeping = asyncio.create_task(look_after(grounds))
                full = time.monotonic()
                ballast = fill(disk)
                await refused(driver, full, scale(20, 200))
                known = len(driver.known)
                ballast.unlink()
                roomy = time.monotonic()
                # Nobody lends a hand: what had ended is started by whoever looks after it.
                await wait_until(lambda: driver.recovery(roomy) < 120 or driver.wrong, "creates are accepted", 120)
                await driver.until_known(known + 50)
                driver.enough = True
                await pushing
                keeping.cancel()
                restarts = await keeping
                drained = await rig.drain()
                async with rig.valkey() as redis:
                    assert await redis.set("after", "1")
                    await redis.delete("after")
                assert all(one.running for one in (*rig.apis, *rig.workers)), "no process of ours ended"
                measure(refused=driver.answers[503], server_restarts=restarts, recovery=driver.recovery(roomy))
                measure(seconds_to_drain=drained)
                await rig.check(driver)
        finally:
            grounds.stop()
