"""Syslog over TLS (RFC 5425): each event a message of RFC 5424, with the event as JSON in its text.

Syslog knows no confirmation. Each parcel has a connection of its own; we end it in order (close_notify) and wait for
the other side to end it too. One that has not read everything resets the connection instead, and it is sent again.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from models.egress import RefusedAddressError
from worker.destinations.delivery import CONNECT_SECONDS, TOTAL_SECONDS
from worker.destinations.parcel import DeliveryError, Parcel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.destinations.delivery import Means

_LOG_AUDIT: Final = 13  # the facility (RFC 5424 §6.2.1)
# Severities of OCSF (1 informational to 5 critical) as those of syslog (6 informational to 2 critical).
_SEVERITIES: Final = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2}


def message(whole: dict[str, Any], left: dict[str, Any], host: str) -> bytes:
    """Return an event as a message (RFC 5424 §6), counted as RFC 5425 §4.3 has it.

    Args:
        whole: the event, for the header.
        left: the event as it may leave, for the text.
        host: of Usher, as the world calls it.
    """
    priority = _LOG_AUDIT * 8 + _SEVERITIES.get(whole["severity"], 6)
    header = f"<{priority}>1 {whole['occurred_at']} {host[:255] or '-'} usher - {whole['action'][:32]} - "
    text = header.encode() + orjson.dumps(left)
    return f"{len(text)} ".encode() + text


@asynccontextmanager
async def open_destination(means: Means) -> AsyncIterator[SyslogDestination]:
    """Make what writes to the place."""
    yield SyslogDestination(means)


class SyslogDestination:
    """Writes to one place."""

    def __init__(self, means: Means) -> None:
        """Take what it is made of."""
        self._means = means

    async def send(self, parcel: Parcel) -> None:
        """Write a parcel on a connection of its own, and wait until the place has ended it.

        Raises:
            DeliveryError: it could not be reached, or ended the connection before it had read everything.
        """
        host = urlsplit(self._means.settings.base_url).hostname or ""
        body = b"".join(message(*pair, host) for pair in zip(parcel.whole, parcel.left, strict=True))
        trust = self._means.trust
        place = self._means.place
        with self._means.telling():
            async with asyncio.timeout(CONNECT_SECONDS):
                infos = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            await asyncio.to_thread(self._write, body, trust, infos)

    def _write(self, body: bytes, trust: ssl.SSLContext, infos: list[Any]) -> None:
        ends = time.monotonic() + TOTAL_SECONDS
        host = self._means.place.host
        with self._connect(infos, ends) as plain, trust.wrap_socket(plain, server_hostname=host) as connection:
            connection.settimeout(_left(ends))
            connection.sendall(body)
            connection.settimeout(_left(ends))
            try:
                connection.unwrap()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return  # it ended the connection without a word of TLS; had it left anything unread, it were a reset
            except OSError as error:
                raise DeliveryError("unconfirmed") from error

    def _connect(self, infos: list[Any], ends: float) -> socket.socket:
        """Connect to the first of the name's addresses that is admitted and answers."""
        failed: OSError | None = None
        for info in infos:
            try:
                made = self._means.gate.socket(info)
            except RefusedAddressError as error:
                failed = failed or error
                continue
            try:
                made.settimeout(min(CONNECT_SECONDS, _left(ends)))
                made.connect(info[4])
            except OSError as error:
                made.close()
                failed = error
            else:
                self._means.gate.refused = False
                return made
        raise failed or DeliveryError("name_unknown")


def _left(ends: float) -> float:
    """Return the seconds that are left.

    Raises:
        TimeoutError: none are.
    """
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
