"""What all destinations share: what they are made of, and how they connect."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from models.egress import Gate, RefusedAddressError
from worker.destinations.parcel import DeliveryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from models.audit.stream_place import Place
    from models.settings import Settings

CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 10.0
"""That one parcel may take, with everything that belongs to it."""
_MOST_ANSWERED: Final = 64 * 1024  # bytes that are read of an answer, so that its connection can be used again


@dataclass(frozen=True)
class Means:
    """What a destination is made of."""

    place: Place
    stream_id: str
    secret: dict[str, str]
    settings: Settings

    @cached_property
    def gate(self) -> Gate:
        """What keeps it from places that are none of the world's."""
        return Gate(self.settings.audit_stream_allow)

    @cached_property
    def trust(self) -> ssl.SSLContext:
        """What certificates are held to: always verified, with the host's name.

        Raises:
            DeliveryError: USHER_AUDIT_STREAM_CA_FILE cannot be read.
        """
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.settings.audit_stream_ca_file is not None:
            try:
                context.load_verify_locations(self.settings.audit_stream_ca_file)
            except OSError as error:  # as is ssl.SSLError
                raise DeliveryError("ca_file") from error
        return context

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Make what speaks HTTPS to the place: through the gate, within the time, without cookies and proxies."""
        connector = aiohttp.TCPConnector(ssl=self.trust, socket_factory=self.gate.socket, limit=1)
        timeout = aiohttp.ClientTimeout(total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # a few bytes of an answer may be made to unpack to very many
        ) as session:
            yield session

    async def request(
        self, session: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Send a request and return once it is answered with 2xx.

        Redirects are not followed, and nothing of the answer but its status is used.

        Raises:
            DeliveryError: any other answer, or none in time.
        """
        with self.telling():
            async with session.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                await response.content.read(_MOST_ANSWERED)
        if not 200 <= status < 300:
            raise DeliveryError(f"http_{status}" if 100 <= status <= 599 else "http")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what goes wrong on the way into a DeliveryError."""
        self.gate.refused = False
        try:
            yield
        except DeliveryError:
            raise
        except (OSError, aiohttp.ClientError) as error:
            raise DeliveryError(self._code(error)) from error

    def _code(self, error: BaseException) -> str:
        causes = list(_causes(error))
        if self.gate.refused or any(isinstance(one, RefusedAddressError) for one in causes):
            return "address_refused"
        for kinds, code in (
            (ssl.SSLCertVerificationError, "certificate"),
            (socket.gaierror, "name_unknown"),
            (ssl.SSLError, "tls"),
            (TimeoutError, "timeout"),
            (ConnectionRefusedError, "connection_refused"),
        ):
            if any(isinstance(one, kinds) for one in causes):
                return code
        return "connection"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and what it came from, also as clients keep that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
        error = inner or error.__cause__ or error.__context__
