"""What a process says of itself, and the listener of a worker that says it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from models import metrics
from models.doorbell import Doorbell
from models.errors import UsageError
from models.settings import Settings, load_settings
from models.vitals import Vitals
from tests.support.waiting import wait_until
from worker.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from models.counts import Gauge


class Redis:
    """A Redis that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    async def press(self, queue: str, job_ids: list[UUID]) -> None:
        if self.away:
            raise ConnectionError

    async def ping(self) -> bool:
        self.asked += 1
        return not self.away


def make_settings(**values: object) -> Settings:
    urls = {"database_url": "postgresql://127.0.0.1:1/x", "redis_url": "redis://127.0.0.1:1/0"}
    return load_settings(**urls, secret_key="a-secret-key-for-tests-of-enough-length", **values)


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def doorbell(redis: Redis) -> Doorbell:
    return Doorbell(redis.press)


@pytest.fixture
def vitals(redis: Redis, doorbell: Doorbell, tmp_path: Path) -> Iterator[Vitals]:
    made = Vitals(
        make_settings(metrics_dir=tmp_path / "metrics", revision="abc123"),
        "worker",
        pools={},
        doorbell=doorbell,
        ping=redis.ping,
        slots=lambda: [("email", 8, 3)],
    )
    yield made
    made.close()


def now(metric: Gauge, *labels: str) -> float:
    return metrics.COUNTS.read()[metric.name, labels][0]


async def test_gauges_are_kept_true(vitals: Vitals) -> None:
    running = asyncio.create_task(vitals.run())
    try:
        await wait_until(lambda: (metrics.RSS.name, ("worker", "0")) in metrics.COUNTS.read(), "the first look")
    finally:
        running.cancel()
    assert now(metrics.RSS, "worker", "0") > 10_000_000
    assert now(metrics.OPEN_FILES, "worker", "0") > 3
    assert (now(metrics.WORKER_SLOTS, "email"), now(metrics.WORKER_SLOTS_BUSY, "email")) == (8, 3)
    assert next(labels for name, labels in metrics.COUNTS.read() if name == metrics.BUILD.name)[1] == "abc123"
    assert vitals.turning


async def test_lateness_of_the_loop_is_counted(vitals: Vitals) -> None:
    import time

    def late() -> float:
        values = metrics.COUNTS.read().get((metrics.LOOP_LAG.name, ("worker",)), [0.0])
        return sum(values[-3:-1])  # above one second

    running = asyncio.create_task(vitals.run())
    await wait_until(lambda: (metrics.LOOP_LAG.name, ("worker",)) in metrics.COUNTS.read(), "the first look")
    before = late()
    time.sleep(1.3)  # noqa: ASYNC251  what is to be noticed
    await wait_until(lambda: late() == before + 1, "the delay is counted")
    running.cancel()


async def test_a_doorbell_that_fell_silent_is_heard_again_without_a_ring(
    vitals: Vitals, redis: Redis, doorbell: Doorbell
) -> None:
    redis.away = True
    doorbell.ring("email", [uuid4()])
    await wait_until(lambda: doorbell.silent_seconds > 0, "the ring fails")
    running = asyncio.create_task(vitals.run())
    try:
        await wait_until(lambda: redis.asked, "Redis is asked")
        await wait_until(lambda: now(metrics.RELAY_LAG) > 0, "the lag shows")
        redis.away = False
        vitals._ask_at = 0.0
        await wait_until(lambda: now(metrics.RELAY_LAG) == 0, "the lag is over")
    finally:
        running.cancel()
        await doorbell.close()


def ask(port: int | None, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_listener_tells_of_a_loop_that_is_stuck(vitals: Vitals) -> None:
    listener = Listener(make_settings(worker_admin_port=0), vitals)
    try:
        assert ask(listener.port, "/livez") == (200, json.dumps({"status": "alive"}))
        vitals._turned -= 60
        status, text = ask(listener.port, "/livez")
        assert (status, "stuck" in text) == (503, True)
        status, text = ask(listener.port, "/metrics")
        assert status == 200
        assert 'usher_build_info{revision="abc123"' in text
    finally:
        listener.close()


def test_a_port_that_is_taken_is_told(vitals: Vitals) -> None:
    listener = Listener(make_settings(worker_admin_port=0), vitals)
    try:
        with pytest.raises(UsageError, match="USHER_WORKER_ADMIN_PORT"):
            Listener(make_settings(worker_admin_port=listener.port), vitals)
    finally:
        listener.close()


def test_without_a_port_there_is_no_listener(vitals: Vitals) -> None:
    listener = Listener(make_settings(), vitals)
    assert listener.port is None
    listener.close()


def test_a_folder_that_cannot_be_written_stops_nobody(redis: Redis, doorbell: Doorbell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = make_settings(metrics_dir=tmp_path / "file" / "metrics")
    Vitals(settings, "api", pools={}, doorbell=doorbell, ping=redis.ping).close()
