"""The proxy through which the fault experiments put the servers: each of its faults, seen from both ends."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import free_ports
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Echo:
    """A server that answers every line with itself, and keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(b"answer to " + line)
                await writer.drain()
        writer.close()


class Client:
    """A connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        self.writer.write(line + b"\n")
        await self.writer.drain()
        return (await self.reader.readline()).rstrip()

    async def ask_in_vain(self) -> None:
        with suppress(ConnectionError):
            assert await self.ask(b"lost") == b"", "closed at the latest after the write"


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0, limit=1_000_000)
    port = server.sockets[0].getsockname()[1]
    try:
        async with Proxy("127.0.0.1", port) as proxy:
            yield echo, proxy
    finally:
        server.close()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_it_passes_what_both_sides_say_and_the_end_of_it() -> None:
    async with echoing() as (_, proxy):
        async with connected(proxy) as client:
            assert await client.ask(b"hello") == b"answer to hello"
            assert proxy.connected == 1
            big = b"x" * 300_000
            client.writer.write(big)
            client.writer.write_eof()  # the end of the line is the end of what the client says
            assert await client.reader.read() == b"answer to " + big
        await wait_until(lambda: proxy.connected == 0, "the connection is let go")


async def test_refuse_resets_what_is_connected_and_lets_nobody_in_until_it_is_over() -> None:
    async with echoing() as (_, proxy):
        port = proxy.port
        async with connected(proxy) as client:
            await client.ask(b"hello")
            proxy.refuse()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        proxy.heal()
        assert proxy.port == port
        async with connected(proxy) as client:
            assert await client.ask(b"again") == b"answer to again"


async def test_reset_takes_connections_and_throws_them_out() -> None:
    async with echoing() as (echo, proxy):
        async with connected(proxy) as old:
            await old.ask(b"hello")
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                await old.reader.read()
        async with connected(proxy) as new:
            await new.ask_in_vain()
        assert echo.lines == [b"hello\n"]


async def test_a_blackhole_takes_everything_and_gives_it_out_when_it_is_over() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as old:
        await old.ask(b"hello")
        proxy.blackhole()
        async with connected(proxy) as new:
            asking = [asyncio.create_task(client.ask(b"late")) for client in (old, new)]
            done, _ = await asyncio.wait(asking, timeout=0.3)
            assert not done
            assert echo.lines == [b"hello\n"]
            proxy.heal()
            assert await asyncio.gather(*asking) == [b"answer to late"] * 2


async def test_what_is_stranded_stays_open_and_silent_while_others_are_served() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as old:
        await old.ask(b"hello")
        proxy.blackhole()
        asking = asyncio.create_task(old.ask(b"lost"))
        proxy.strand()
        async with connected(proxy) as new:
            assert await new.ask(b"served") == b"answer to served"
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        asking.cancel()
        assert echo.lines == [b"hello\n", b"served\n"]


async def test_latency_delays_each_direction() -> None:
    async with echoing() as (_, proxy), connected(proxy) as client:
        loop = asyncio.get_running_loop()
        proxy.delay(0.2)
        began = loop.time()
        assert await client.ask(b"hello") == b"answer to hello"
        assert loop.time() - began >= 0.4


async def test_a_throttle_lets_only_so_much_through_and_lets_go_when_it_is_over() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        loop = asyncio.get_running_loop()
        proxy.throttle(10_000)
        began = loop.time()
        await client.ask(b"x" * 2000)
        assert loop.time() - began >= 0.3  # a fifth of a second each way, less the last slice
        asking = asyncio.create_task(client.ask(b"y" * 50_000))
        done, _ = await asyncio.wait([asking], timeout=0.1)
        assert not done
        proxy.heal()
        async with asyncio.timeout(2):
            assert len(await asking) == len(b"answer to ") + 50_000
        assert len(echo.lines) == 2


async def test_cut_after_counts_the_bytes_of_a_connection_from_then_on() -> None:
    async with echoing() as (echo, proxy), connected(proxy) as client:
        await client.ask(b"hello")
        proxy.cut_after(5)
        with pytest.raises(ConnectionResetError):
            await client.ask(b"1234567890")
        await asyncio.sleep(0)
        assert echo.lines == [b"hello\n"]  # half a line is none


async def test_a_swallowed_reply_is_that_of_a_request_that_was_carried_out() -> None:
    async with echoing() as (echo, proxy):
        proxy.swallow_reply_after(b"COMMIT")
        async with connected(proxy) as client:
            assert await client.ask(b"BEGIN") == b"answer to BEGIN"
            with pytest.raises(ConnectionResetError):
                await client.ask(b"COMMIT")
        assert echo.lines == [b"BEGIN\n", b"COMMIT\n"]
        assert proxy.swallowed == 1
        proxy.heal()
        async with connected(proxy) as client:
            assert await client.ask(b"COMMIT") == b"answer to COMMIT"


async def test_a_pattern_is_found_where_it_straddles_two_pieces() -> None:
    async with echoing() as (_, proxy), connected(proxy) as client:
        proxy.swallow_reply_after(b"COMMIT", answered=re.compile(rb"\n\Z"))
        client.writer.write(b"COM")
        await client.writer.drain()
        await wait_until(lambda: any(link.before for link in proxy._links), "the first half has come")
        with pytest.raises(ConnectionResetError):
            await client.ask(b"MIT")


async def test_some_replies_are_swallowed_by_the_dice() -> None:
    async with echoing() as (echo, proxy):
        proxy.swallow_reply_after(b"COMMIT", chance=0.3, dice=Random(7))  # noqa: S311  a plan that comes back
        for _ in range(40):
            async with connected(proxy) as client:
                with suppress(ConnectionResetError):
                    await client.ask(b"COMMIT")
        assert len(echo.lines) == 40
        assert 3 < proxy.swallowed < 25


async def test_without_a_server_behind_it_whoever_connects_is_reset() -> None:
    [port] = free_ports(1)
    async with Proxy("127.0.0.1", port) as proxy, connected(proxy) as client:
        await client.ask_in_vain()
