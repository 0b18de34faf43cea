"""Streams of audit events to real places: in order, at least once, redacted, and never to where they must not go."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import boto3  # type: ignore[import-untyped]  # ships no types
import pytest
from uuid_utils.compat import uuid7

from models.audit import streams
from models.audit.query import search_events
from models.audit.record import OPERATOR, Actor, Event, record
from models.audit.streaming import (
    LEASE_SECONDS,
    Window,
    ask_test,
    claim_stream,
    confirm_batch,
    due_streams,
    last_test,
    read_active,
    read_batch,
)
from models.audit.streams import add_stream, change_stream, find_stream, list_streams, pause_stream, resume_stream
from models.errors import UsageError
from tests.support.api import altered
from tests.support.audit import everything_of, write_events
from tests.support.ledger import new_tenant
from tests.support.stream_places import Authority, collecting, listening, make_authority, storing
from tests.support.waiting import wait_until
from worker import streamer
from worker.context import Context
from worker.smtp import SmtpPool
from worker.streamer import send_stream, stream_forever

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

    from models.audit.streams import Stream
    from models.db import Connection
    from models.settings import Settings
    from tests.support.stream_places import Collector, Listener


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path)


@pytest.fixture
def context(settings: Settings, pool: asyncpg.Pool, authority: Authority) -> Context:
    """What a worker has; streams may go to this machine, and trust the test's authority."""
    own = altered(settings, audit_stream_allow="127.0.0.0/8,::1/128", audit_stream_ca_file=authority.file)
    return Context(own, pool, SmtpPool(own), lambda _queue, _ids: None)


@pytest.fixture
async def collector(authority: Authority) -> AsyncIterator[Collector]:
    async with collecting(authority) as served:
        yield served


@pytest.fixture
async def listener(authority: Authority) -> AsyncIterator[Listener]:
    async with listening(authority) as served:
        yield served


@pytest.fixture
async def connection(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as one:
        yield one


@pytest.fixture
async def tenant_id(connection: Connection) -> UUID:
    return await new_tenant(connection)


async def add(
    context: Context, tenant_id: UUID | None, destination: str, form: str = "jsonl", **more: Any
) -> tuple[Stream, str | None]:
    async with context.pool.acquire() as connection:
        options: dict[str, Any] = {"credentials": None, "history": True, **more}
        return await add_stream(
            connection,
            tenant_id=tenant_id,
            destination=destination,
            form=form,
            secret_key=context.settings.secret_key.get_secret_value(),
            actor=OPERATOR,
            **options,
        )


async def ids_of(connection: Connection, tenant_id: UUID | None) -> list[str]:
    """Return the ids of a tenant's events, or of the installation's, in the order of the log."""
    rows = await connection.fetch(
        "SELECT id FROM audit_event WHERE tenant_id IS NOT DISTINCT FROM $1 ORDER BY xid, id", tenant_id
    )
    return [str(row["id"]) for row in rows]


async def said(connection: Connection, text: str, tenant_id: UUID | None) -> list[dict[str, Any]]:
    return (await search_events(connection, text, tenant_id=tenant_id, secret=b"")).events[::-1]


async def again(connection: Connection, stream: Stream) -> None:
    """Let the time pass until the stream is tried again."""
    await connection.execute("UPDATE audit_stream SET next_at = now() WHERE id = $1", stream.id)


# --- each kind of place ----------------------------------------------------------------------------------------------


async def test_https_gets_signed_lines_in_the_order_of_the_log(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 30, together=7)
    await write_events(connection, await new_tenant(connection), 3)  # somebody else's
    stream, secret = await add(context, tenant_id, collector.url, credentials="Splunk 12345")
    assert secret
    sent = await send_stream(context, stream.id)
    assert sent == 32, "and of the tenant itself: that it was added, and that the stream was"
    assert [event["id"] for event in collector.events] == await ids_of(connection, tenant_id)
    (posted,) = collector.posted
    assert posted.path == "/collect"
    assert posted.is_signed_with(secret)
    assert not posted.is_signed_with("another")
    assert posted.headers["Host"].startswith("localhost:"), "by its name, though the address was looked up before"
    assert posted.headers["Authorization"] == "Splunk 12345"
    assert posted.headers["Usher-Stream"] == str(stream.id)
    assert await send_stream(context, stream.id) == 0
    await write_events(connection, tenant_id, 1)
    assert await send_stream(context, stream.id) == 1
    (now,) = await list_streams(connection)
    assert (now.sent, now.failures, now.condition, now.lag) == (33, 0, "ok", 0.0)


async def test_only_what_comes_from_now_on_is_sent_unless_history_is_asked_for(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 3)
    stream, _ = await add(context, tenant_id, collector.url, history=False)
    users = await write_events(connection, tenant_id, 2)
    await send_stream(context, stream.id)
    assert [event["action"] for event in collector.events] == ["audit.stream.add", *["scim.user.create"] * 2]
    assert [event["target_id"] for event in collector.events[1:]] == [str(user) for user in users]


async def test_the_installation_has_a_stream_of_its_own_events(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, None, collector.url)
    await send_stream(context, stream.id)
    found = collector.events
    assert {event["tenant_id"] for event in found} == {None}
    assert [event["id"] for event in found] == await ids_of(connection, None)
    assert found[-1]["action"] == "audit.stream.add"


async def test_syslog_gets_counted_messages_over_tls(
    context: Context, listener: Listener, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 5)
    stream, secret = await add(context, tenant_id, listener.url)
    assert secret is None
    await send_stream(context, stream.id)
    assert [event["id"] for event in listener.events] == await ids_of(connection, tenant_id)
    header = re.compile(rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) 127\.0\.0\.1 usher - ([a-z._]+) - \{")
    found = [header.match(message) for message in listener.messages]
    assert all(found)
    assert {match[3].decode(): int(match[1]) for match in found if match} == {
        "tenant.settings.create": 13 * 8 + 5,
        "scim.user.create": 13 * 8 + 6,
        "audit.stream.add": 13 * 8 + 4,
    }


async def test_syslog_is_confirmed_by_the_end_of_its_connection(
    context: Context, listener: Listener, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 2000)
    stream, _ = await add(context, tenant_id, listener.url)
    listener.resets = 1
    assert await send_stream(context, stream.id) == 0
    assert (await find_stream(connection, stream.id)).failures == 1
    await again(connection, stream)
    listener.silent = True
    await send_stream(context, stream.id)
    assert [event["id"] for event in listener.events] == await ids_of(connection, tenant_id)


async def test_s3_gets_objects_whose_names_sort_as_the_events_do(
    context: Context, authority: Authority, connection: Connection, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(streamer._SIZES, "s3", (4, 1 << 20, 0.0))
    with storing(authority) as url:
        address = url.removeprefix("https://")
        stream, _ = await add(
            context,
            tenant_id,
            f"s3+https://{address}/logs/usher?region=eu-west-1",
            form="ocsf",
            credentials="key:very/secret",
        )
        await write_events(connection, tenant_id, 9)
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="eu-west-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            verify=str(authority.file),
        )
        assert await send_stream(context, stream.id) == 0
        assert (await find_stream(connection, stream.id)).error_code == "http_404", "there is no such bucket"
        client.create_bucket(Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        await again(connection, stream)
        assert await send_stream(context, stream.id) > 9

        def stored() -> list[list[str]]:
            listed = client.list_objects_v2(Bucket="logs", Prefix=f"usher/{stream.id}/")["Contents"]
            found = []
            for name in sorted(one["Key"] for one in listed):
                text = gzip.decompress(client.get_object(Bucket="logs", Key=name)["Body"].read()).decode()
                found.append(re.findall(r'"uid":"([0-9a-f-]{36})","correlation_uid"', text))
            return found

        objects = stored()
        assert [len(one) for one in objects] == [4, 4, 4, 1]
        assert [event_id for one in objects for event_id in one] == await ids_of(connection, tenant_id)
        # As after a crash between the object and the cursor: the same objects again, and no other.
        await connection.execute("UPDATE audit_stream SET cursor_xid = 0")
        await send_stream(context, stream.id)
        assert stored() == objects
        # One that was cut elsewhere takes no other's place: nobody knows which of the two arrives last.
        monkeypatch.setitem(streamer._SIZES, "s3", (3, 1 << 20, 0.0))
        await connection.execute("UPDATE audit_stream SET cursor_xid = 0")
        await send_stream(context, stream.id)
        assert [one for one in objects if one not in stored()] == []
        client.close()


# --- at least once ---------------------------------------------------------------------------------------------------


async def test_nothing_is_left_out_whatever_the_place_answers(
    context: Context,
    collector: Collector,
    connection: Connection,
    tenant_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(streamer._SIZES, "https", (3, 1 << 20, 0.0))
    stream, _ = await add(context, tenant_id, collector.url)
    await write_events(connection, tenant_id, 8, together=4)
    codes = []
    for answer in (500, 403, 429, "https://localhost/elsewhere", None, 200):
        collector.answers.append(answer)
        await send_stream(context, stream.id)
        now = await find_stream(connection, stream.id)
        codes.append((now.failures, now.error_code))
        await again(connection, stream)
    assert codes == [(1, "http_500"), (2, "http_403"), (3, "http_429"), (4, "http_302"), (5, "connection"), (0, None)]
    wanted = await ids_of(connection, tenant_id)
    got = [event["id"] for event in collector.events]
    assert list(dict.fromkeys(got)) == wanted[: len(set(got))], "in order, each perhaps more than once"
    await send_stream(context, stream.id)
    got = [event["id"] for event in collector.events]
    assert list(dict.fromkeys(got)) == await ids_of(connection, tenant_id)
    trouble = await said(connection, "action:audit.stream.fail,audit.stream.recover", tenant_id)
    assert [(one["action"], one["reason"], one["context"]["failures"]) for one in trouble] == [
        ("audit.stream.fail", "http_500", 1),
        ("audit.stream.recover", None, 5),
    ], "the first failure and the end of it, not each"


async def test_a_failure_is_tried_again_later_and_later(context: Context, collector: Collector, pool: Any) -> None:
    stream, _ = await add(context, None, collector.url)
    collector.answers += [500] * 12
    waits = []
    async with pool.acquire() as connection:
        for _ in range(12):
            await send_stream(context, stream.id)
            waits.append(
                await connection.fetchval("SELECT extract(epoch FROM next_at - now())::float FROM audit_stream")
            )
    assert all(wait <= min(2**number, 300) for number, wait in enumerate(waits))
    assert waits[-1] > 100


async def test_two_workers_send_nothing_twice(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 20)
    stream, _ = await add(context, tenant_id, collector.url)
    await asyncio.gather(*(send_stream(context, stream.id) for _ in range(4)))
    assert [event["id"] for event in collector.events] == await ids_of(connection, tenant_id)


async def test_what_a_dead_worker_had_in_hand_is_sent_again_by_another(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    await write_events(connection, tenant_id, 6)
    stream, _ = await add(context, tenant_id, collector.url)
    found = await read_active(connection, stream.id)
    assert found
    batch = await read_batch(connection, found, Window(1 << 26), events=4, size=1 << 20)
    lease = await claim_stream(connection, found)
    assert lease
    assert await send_stream(context, stream.id) == 0, "somebody else has it"
    await connection.execute(
        "UPDATE audit_stream SET lease_until = now() - make_interval(secs => 1) WHERE lease_until <= now() +"
        " make_interval(secs => $1)",
        LEASE_SECONDS,
    )
    await send_stream(context, stream.id)
    assert [event["id"] for event in collector.events] == await ids_of(connection, tenant_id)
    assert not await confirm_batch(connection, found, lease, batch), "it comes back to life, and moves nothing"
    assert (await find_stream(connection, stream.id)).sent == 8


@pytest.mark.parametrize("change", [{"destination": "/new"}, {"form": "ocsf"}, {"levels": {"userName": "hash"}}])
async def test_what_was_read_before_a_change_is_not_sent_after_it(
    change: dict[str, Any], context: Context, collector: Collector, connection: Connection
) -> None:
    stream, _ = await add(context, None, collector.url)
    read = await read_active(connection, stream.id)
    assert read
    if "destination" in change:
        change = {"destination": collector.url + change["destination"]}
    await change_stream(
        connection,
        stream.id,
        **change,
        secret_key=context.settings.secret_key.get_secret_value(),
        actor=OPERATOR,
    )
    assert await claim_stream(connection, read) is None
    again_read = await read_active(connection, stream.id)
    assert again_read
    assert await claim_stream(connection, again_read)


async def test_a_stream_with_much_to_send_lets_others_have_their_turn(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(streamer._SIZES, "https", (1, 1 << 20, 0.0))
    monkeypatch.setattr(streamer, "_AT_ONCE", 1)
    monkeypatch.setattr(streamer, "LOOK_SECONDS", 0.01)
    await write_events(connection, tenant_id, 3 * streamer._TURN, together=10)
    await add(context, tenant_id, collector.url + "/long")
    await add(context, await new_tenant(connection), collector.url + "/short")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stream_forever(context))
        await wait_until(lambda: [one for one in collector.posted if one.path.endswith("/short")], "it has its turn")
        assert len(collector.posted) <= 2 * streamer._TURN, "long before the other one was at its end"
        task.cancel()


async def test_a_look_that_takes_too_long_is_made_shorter(
    context: Context, collector: Collector, pool: asyncpg.Pool, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    window = Window(1 << 20)
    async with pool.acquire() as other, other.transaction():
        await other.execute("SET LOCAL ROLE NONE")
        await other.execute("LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE")  # nobody reads it
        await connection.execute("SET statement_timeout = '100ms'")
        with pytest.raises(asyncpg.QueryCanceledError):
            await read_batch(connection, stream, window, events=500, size=1 << 20)
        await connection.execute("RESET statement_timeout")
    assert window.width == 1 << 16
    assert (await read_batch(connection, stream, window, events=500, size=1 << 20)).events


async def test_a_fault_of_one_stream_leaves_the_worker_and_the_others_alone(
    context: Context, collector: Collector, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, _ = await add(context, None, collector.url + "/broken")
    await add(context, tenant_id, collector.url + "/whole")

    async def faulty(connection: Connection, stream: Stream, *values: Any, **more: Any) -> Any:
        if stream.id == broken.id:
            raise ZeroDivisionError
        return await read_batch(connection, stream, *values, **more)

    monkeypatch.setattr(streamer, "read_batch", faulty)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(stream_forever(context))
        await wait_until(lambda: collector.posted, "the other one is sent")
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
    assert {one.path for one in collector.posted} == {"/collect/whole"}


async def test_a_place_that_takes_too_long_is_left_before_its_lease_runs_out(
    context: Context, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streamer._SEND_SECONDS < LEASE_SECONDS
    monkeypatch.setattr(streamer, "_SEND_SECONDS", 0.05)
    stream, _ = await add(context, None, collector.url)
    collector.held = asyncio.Event()
    await send_stream(context, stream.id)
    async with context.pool.acquire() as connection:
        assert (await find_stream(connection, stream.id)).error_code == "timeout"


async def test_nothing_is_read_above_the_safe_horizon(
    context: Context, collector: Collector, pool: asyncpg.Pool, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url, history=False)
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        (early,) = await write_events(slow, tenant_id, 1)
        (late,) = await write_events(connection, tenant_id, 1)  # committed, above the one that is still open
        await send_stream(context, stream.id)
        assert str(late) not in {event["target_id"] for event in collector.events}
        await transaction.commit()
    await send_stream(context, stream.id)
    assert [event["target_id"] for event in collector.events][-2:] == [str(early), str(late)]


async def test_the_loop_sends_what_comes_and_what_is_stopped_is_free_at_once(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    task = asyncio.create_task(stream_forever(context))
    await wait_until(lambda: len(collector.events) == 2, "what was there is sent")
    collector.held = asyncio.Event()
    await write_events(connection, tenant_id, 1)
    await wait_until(lambda: len(collector.events) == 3, "what came is on its way")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await connection.fetchval("SELECT lease_until FROM audit_stream") is None
    collector.held.set()
    collector.held = None
    assert await send_stream(context, stream.id) == 1
    got = [event["id"] for event in collector.events]
    assert list(dict.fromkeys(got)) == await ids_of(connection, tenant_id)


async def test_a_log_from_a_dump_says_so(context: Context, collector: Collector, connection: Connection) -> None:
    stream, _ = await add(context, None, collector.url)
    await connection.execute("UPDATE audit_stream SET cursor_xid = cursor_xid + 1000000000")
    await send_stream(context, stream.id)
    assert (await find_stream(connection, stream.id)).error_code == "log_behind"
    assert collector.posted == []


async def test_many_transactions_without_an_event_are_passed_over(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.audit.streaming._DRIFT", 5)
    monkeypatch.setattr("models.audit.streaming._NARROWEST_WINDOW", 1)
    await write_events(connection, await new_tenant(connection), 40)
    await write_events(connection, tenant_id, 2)
    stream, _ = await add(context, tenant_id, collector.url)
    await send_stream(context, stream.id, Window(1))
    assert [event["id"] for event in collector.events] == await ids_of(connection, tenant_id)
    before = (await find_stream(connection, stream.id)).cursor_xid
    await write_events(connection, await new_tenant(connection), 20)
    await send_stream(context, stream.id)
    assert (await find_stream(connection, stream.id)).cursor_xid > before
    assert len(collector.posted) < 6


# --- what is sent and to whom ----------------------------------------------------------------------------------------


async def test_nothing_personal_leaves_unless_it_was_chosen(
    context: Context, collector: Collector, listener: Listener, connection: Connection, tenant_id: UUID
) -> None:
    secrets = ["hunter2-hunter2", "ana.planted@example.com", "Planted", "+43-PLANTED", "empl-planted", "boss-planted"]
    event = Event(
        action="scim.user.update",
        phase="applied",
        actor=Actor("person", label=secrets[1]),
        correlation_id=uuid7(),
        tenant_id=tenant_id,
        targets=[
            {"type": "User", "id": str(uuid7()), "label": secrets[1], "external_id": secrets[4]},
            {"type": "Address", "label": secrets[1]},
            {"type": "Export", "id": "1", "label": f"target:{secrets[1]}"},
        ],
        context={"query": f"user:{secrets[1]}", "note": f"{secrets[2]} asked", "method": "POST"},
        diff=[
            {"op": "replace", "path": "password", "before": secrets[0], "after": secrets[0]},
            {"op": "replace", "path": "name.familyName", "before": secrets[2], "after": "X"},
            {
                "op": "add",
                "path": f'emails[type eq "work" and value eq "{secrets[1]}"]',
                "after": {"value": secrets[1]},
            },
            {"op": "remove", "path": f'phoneNumbers[value eq "{secrets[3]}"]', "before": {"value": secrets[3]}},
            {
                "op": "add",
                "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:employeeNumber",
                "after": secrets[4],
            },
            {
                "op": "add",
                "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager.displayName",
                "after": secrets[5],
            },
            {"op": "add", "path": "title", "after": "Engineer"},
        ],
    )
    await record(connection, [event])
    first, key = await add(context, tenant_id, collector.url, credentials="Bearer abc-of-the-place")
    second, _ = await add(context, tenant_id, collector.url + "/ocsf", form="ocsf")
    third, _ = await add(context, tenant_id, listener.url)
    for stream in (first, second, third):
        await send_stream(context, stream.id)
    left = b"".join(one.body for one in collector.posted) + listener.read
    assert b"scim.user.update" in left
    assert b"Engineer" in left
    assert b"a***@example.com" in left
    assert key
    for secret in [*secrets, key, "abc-of-the-place", context.settings.secret_key.get_secret_value(), '"salt"']:
        assert secret.encode() not in left, secret

    whole, _ = await add(context, tenant_id, collector.url + "/whole", levels={"userName": "full", "name": "hash"})
    collector.posted.clear()
    await send_stream(context, whole.id)
    (update,) = [event for event in collector.events if event["action"] == "scim.user.update"]
    assert update["targets"][0]["label"] == secrets[1]
    assert update["diff"][1]["before"].startswith("hash:")


async def test_the_store_and_the_audit_log_have_no_secret_in_plain(
    context: Context, settings: Settings, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stream, secret = await add(context, None, collector.url, credentials="Bearer planted-credential")
    collector.answers.append(403)
    await send_stream(context, stream.id)
    async with context.pool.acquire() as connection:
        _, renewed = await change_stream(
            connection,
            stream.id,
            credentials="Bearer planted-anew",
            renew_secret=True,
            secret_key=settings.secret_key.get_secret_value(),
            actor=OPERATOR,
        )
    assert secret
    assert renewed
    assert renewed != secret
    url = settings.database_url.get_secret_value()
    kept = await everything_of(url, "audit_stream", "true") + await everything_of(url, "audit_event", "true")
    kept = bytes.fromhex("".join(re.findall(r"\\x([0-9a-f]+)", kept))).decode("latin-1") + kept + caplog.text
    for planted in ("planted-credential", "planted-anew", secret, renewed):
        assert planted not in kept
    await send_stream(context, stream.id)
    assert collector.posted[-1].headers["Authorization"] == "Bearer planted-anew"
    assert collector.posted[-1].is_signed_with(renewed)


async def test_credentials_are_not_sent_to_a_host_that_they_were_not_given_for(
    context: Context, collector: Collector, connection: Connection
) -> None:
    stream, _ = await add(context, None, collector.url, credentials="Bearer planted-credential")
    key = context.settings.secret_key.get_secret_value()
    for renew in (False, True):
        with pytest.raises(UsageError, match="another host"):
            await change_stream(
                connection,
                stream.id,
                destination="https://elsewhere.example.com/collect",
                renew_secret=renew,
                secret_key=key,
                actor=OPERATOR,
            )
    same = collector.url + "/other-path"
    after, _ = await change_stream(connection, stream.id, destination=same, secret_key=key, actor=OPERATOR)
    assert after.destination == same
    moved, _ = await change_stream(
        connection,
        stream.id,
        destination="https://elsewhere.example.com/collect",
        credentials="Bearer another",
        secret_key=key,
        actor=OPERATOR,
    )
    assert moved.destination == "https://elsewhere.example.com/collect"


async def test_a_test_goes_out_in_its_turn_and_at_once(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    collector.answers.append(500)
    await send_stream(context, stream.id)
    assert await due_streams(connection) == []
    assert await last_test(connection, await find_stream(connection, stream.id)) is None
    await ask_test(connection, stream.id, actor=OPERATOR)
    assert await due_streams(connection) == [stream.id]
    asked = await last_test(connection, await find_stream(connection, stream.id))
    assert asked
    assert not asked[1]
    await send_stream(context, stream.id)
    assert "audit.stream.test" in {event["action"] for event in collector.events}
    done = await last_test(connection, await find_stream(connection, stream.id))
    assert done == (asked[0], True)
    await pause_stream(connection, stream.id, actor=OPERATOR)
    with pytest.raises(UsageError, match="paused"):
        await ask_test(connection, stream.id, actor=OPERATOR)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", "address_refused"),
        ("localhost", "address_refused"),
        ("[::ffff:127.0.0.1]", "address_refused"),
        ("169.254.169.254", "address_refused"),
        ("name.invalid", "name_unknown"),
    ],
)
@pytest.mark.parametrize("kind", ["https://{}:{}/x", "syslog+tls://{}:{}", "s3+https://{}:{}/bucket/x"])
async def test_no_kind_of_stream_reaches_what_is_not_public(
    host: str, code: str, kind: str, context: Context, authority: Authority, settings: Settings
) -> None:
    strict = Context(
        altered(settings, audit_stream_ca_file=authority.file), context.pool, context.smtp, lambda _queue, _ids: None
    )
    reached: list[object] = []
    server = await asyncio.start_server(lambda _reader, writer: reached.append(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        stream, _ = await add(
            strict, None, kind.format(host, port), credentials="a:b" if kind.startswith("s3") else None
        )
        await send_stream(strict, stream.id)
        async with context.pool.acquire() as connection:
            assert (await find_stream(connection, stream.id)).error_code == code
    assert reached == []


@pytest.mark.parametrize("kind", ["https", "syslog"])
async def test_a_certificate_of_nobody_is_refused(
    kind: str, context: Context, settings: Settings, collector: Collector, listener: Listener
) -> None:
    trusting = Context(altered(settings, audit_stream_allow="127.0.0.0/8"), context.pool, context.smtp, context.ring)
    stream, _ = await add(trusting, None, collector.url if kind == "https" else listener.url)
    await send_stream(trusting, stream.id)
    async with context.pool.acquire() as connection:
        assert (await find_stream(connection, stream.id)).error_code == "certificate"
    assert (collector.posted, listener.read) == ([], b"")


async def test_with_another_secret_key_nothing_is_sent_until_the_secret_is_given_anew(
    context: Context, settings: Settings, collector: Collector
) -> None:
    stream, _ = await add(context, None, collector.url)
    other = Context(
        altered(context.settings, secret_key="another-secret-key-of-enough-length!!"),
        context.pool,
        context.smtp,
        context.ring,
    )
    await send_stream(other, stream.id)
    async with context.pool.acquire() as connection:
        assert (await find_stream(connection, stream.id)).error_code == "secret_unreadable"
        _, renewed = await change_stream(
            connection,
            stream.id,
            credentials="",
            renew_secret=True,
            secret_key=other.settings.secret_key.get_secret_value(),
            actor=OPERATOR,
        )
    await send_stream(other, stream.id)
    assert renewed
    assert collector.posted[-1].is_signed_with(renewed)


# --- keeping them ----------------------------------------------------------------------------------------------------


async def test_a_paused_stream_goes_on_where_it_stopped(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    assert await pause_stream(connection, stream.id, actor=OPERATOR)
    assert not await pause_stream(connection, stream.id, actor=OPERATOR)
    await write_events(connection, tenant_id, 3)
    assert await send_stream(context, stream.id) == 0
    (paused,) = await list_streams(connection)
    assert (paused.condition, paused.lag > 0) == ("paused", True)
    assert await resume_stream(connection, stream.id, actor=OPERATOR)
    await send_stream(context, stream.id)
    assert [event["id"] for event in collector.events] == await ids_of(connection, tenant_id)
    actions = [event["action"] for event in collector.events]
    assert [one for one in actions if one.startswith("audit.")] == [
        "audit.stream.add",
        "audit.stream.pause",
        "audit.stream.resume",
    ]


async def test_what_was_on_its_way_when_the_place_changed_goes_to_the_new_one(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    collector.held = asyncio.Event()
    sending = asyncio.create_task(send_stream(context, stream.id))
    await wait_until(lambda: collector.posted, "the events are on their way")
    await change_stream(
        connection,
        stream.id,
        destination=collector.url + "/new",
        secret_key=context.settings.secret_key.get_secret_value(),
        actor=OPERATOR,
    )
    collector.held.set()
    assert await sending == 0
    await send_stream(context, stream.id)
    new = [event["id"] for one in collector.posted if one.path == "/collect/new" for event in one.events]
    assert new == await ids_of(connection, tenant_id)


async def test_lag_is_the_age_of_the_oldest_event_that_is_lacking(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    await send_stream(context, stream.id)
    assert await streams.read_lags(connection) == []
    collector.answers.append(500)
    await write_events(connection, tenant_id, 2)
    await send_stream(context, stream.id)
    (row,) = await streams.read_lags(connection)
    oldest = await connection.fetchval(
        "SELECT extract(epoch FROM now() - min(occurred_at))::float FROM audit_event"
        " WHERE tenant_id = $1 AND action = 'scim.user.create'",
        tenant_id,
    )
    assert row["lag"] == pytest.approx(oldest, abs=1)
    for _ in range(2):  # the second has the event that it recovered
        await send_stream(context, stream.id)
    assert await streams.read_lags(connection) == []


async def test_what_is_removed_is_forgotten_but_not_by_the_log(
    context: Context, collector: Collector, connection: Connection, tenant_id: UUID
) -> None:
    stream, _ = await add(context, tenant_id, collector.url)
    await streams.remove_stream(connection, stream.id, actor=OPERATOR)
    assert await list_streams(connection) == []
    with pytest.raises(UsageError, match="There is no stream"):
        await find_stream(connection, stream.id)
    (event,) = await said(connection, "action:audit.stream.remove", tenant_id)
    assert event["diff"][0]["before"] == collector.url
