"""`usher audit stream` from the first command to the last, with a worker that sends and a place that receives."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.acceptance.test_cli import USHER, Said, Usher
from tests.support.api import fresh_settings, make_tenant, store
from tests.support.audit import write_events
from tests.support.processes import Process, environment
from tests.support.stream_places import collecting, make_authority
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from models.settings import Settings
    from tests.support.servers import Servers
    from tests.support.stream_places import Authority, Collector

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 60.0
STREAM = ("audit", "stream")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(servers: Servers, authority: Authority) -> AsyncIterator[Settings]:
    networks = {"audit_stream_allow": "127.0.0.0/8", "audit_stream_ca_file": authority.file}
    async with fresh_settings(servers, **networks) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def collector(authority: Authority) -> AsyncIterator[Collector]:
    async with collecting(authority) as served:
        yield served


@pytest.fixture
def usher(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Usher:
    for name, value in {**environment(settings), "COLUMNS": "300"}.items():
        monkeypatch.setenv(name, value)
    return Usher()


async def script(*arguments: str, given: str = "") -> Said:
    """Run the installed script with a line on its standard input, in the environment of `usher`."""
    process = await asyncio.create_subprocess_exec(
        *(str(USHER), "audit", "stream", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate(given.encode())
    return Said(process.returncode or 0, out.decode(), err.decode())


async def listed(usher: Usher) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await usher(*STREAM, "ls", "--json")).json
    return found


async def test_a_stream_is_added_sends_is_changed_paused_and_removed(
    settings: Settings, usher: Usher, collector: Collector, tmp_path: Path
) -> None:
    tenant = await make_tenant(settings)
    assert "No streams." in (await usher(*STREAM, "ls")).out
    added = await script(
        *("add", collector.url, "--tenant", tenant.name, "--level", "userName=full", "--credentials-stdin"),
        given="Bearer planted-credential\n",
    )
    stream_id = added.out.strip()
    secret = added.err.rpartition(" ")[2].strip()
    assert (added.status, len(secret)) == (0, 43), added

    tested = await script("test", stream_id)
    assert (tested.status, "was confirmed" in tested.out) == (0, True), tested
    (posted,) = collector.posted
    assert posted.is_signed_with(secret)
    assert posted.headers["Authorization"] == "Bearer planted-credential"
    assert [event["action"] for event in posted.events] == ["audit.stream.test"]
    collector.answers.append(403)
    failed = await usher(*STREAM, "test", stream_id)
    assert (failed.status, "The credentials were refused (HTTP 403 Forbidden)." in failed.out) == (1, True), failed

    worker = Process(settings, ["worker"], tmp_path / "worker.log")
    await worker.start()
    try:
        async with store(settings) as connection:
            (user,) = await write_events(connection, tenant.id, 1)
        await wait_until(lambda: str(user) in {one["target_id"] for one in collector.events}, "the event arrives", 30)
        (label,) = {one["targets"][0]["label"] for one in collector.events if one["target_id"] == str(user)}
        assert label == f"u{user}@example.com", "in full, as was asked for"

        async def told() -> bool:
            (stream,) = await listed(usher)
            return bool(stream["sent"] >= 4 and stream["lag"] == 0)

        await wait_until(told, "the list shows that all is sent", 30)
        assert "It was not paused" in (await usher(*STREAM, "resume", stream_id)).out
        assert (await usher(*STREAM, "pause", stream_id)).lines == ["Paused."]
        assert (await usher(*STREAM, "pause", stream_id)).lines == ["It was paused already."]
        changed = await usher(*STREAM, "change", stream_id, "--format", "ocsf", "--new-secret")
        renewed = changed.err.rpartition(" ")[2].strip()
        assert (changed.status, renewed != secret) == (0, True), changed
        (stream,) = await listed(usher)
        assert (stream["condition"], stream["format"]) == ("paused", "ocsf")
        before = len(collector.posted)
        assert (await usher(*STREAM, "resume", stream_id)).lines == ["It goes on."]
        await wait_until(lambda: len(collector.posted) > before, "it goes on", 30)
        assert collector.posted[-1].is_signed_with(renewed)
        assert collector.posted[-1].events[0]["class_uid"]
    finally:
        said = worker.said
        assert await worker.stop() == 0
    table = (await usher(*STREAM, "ls")).out
    assert (await usher(*STREAM, "rm", stream_id)).lines == ["Removed."]
    assert await listed(usher) == []
    for text in (table, said, json.dumps(stream), worker.said):
        for planted in ("planted-credential", secret, renewed):
            assert planted not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "http://siem.example.com"), "A destination looks like"),
        (("add", "https://u:planted@siem.example.com/"), "holds no login"),
        (("add", "https://siem.example.com/", "--format", "xml"), "There is no format xml"),
        (("add", "https://siem.example.com/", "--level", "password=full"), "password never leaves"),
        (("add", "https://siem.example.com/", "--level", "name"), "is no level"),
        (("add", "https://siem.example.com/", "--tenant", "nobody"), "nobody"),
        (("add", "s3+https://s3.example.com/logs"), "ACCESS_KEY_ID"),
        (("change", "01900000-0000-7000-8000-000000000000"), "Nothing to change"),
        (("pause", "01900000-0000-7000-8000-000000000000"), "There is no stream"),
        (("rm", "nonsense"), "valid UUID"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_cannot_be_is_refused_with_a_sentence(arguments: tuple[str, ...], words: str, usher: Usher) -> None:
    refused = await usher(*STREAM, *arguments)
    assert words in refused.refusal(1)
    assert "planted" not in refused.err
    assert await listed(usher) == []
