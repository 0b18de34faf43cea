"""SMTP servers that tests look into: a real one in the test's own loop, and one that only recites."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from models.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CERTIFICATE = Path(__file__).parents[1] / "samples" / "smtp-localhost.pem"


@dataclass
class SmtpDouble:
    """What a server saw, and what it answers: both as aiosmtpd's handler."""

    port: int = 0
    connections: int = 0
    open: int = 0
    most_open: int = 0
    quits: int = 0
    messages: list[Envelope] = field(default_factory=list)
    secure: list[bool] = field(default_factory=list)
    """For each message, whether it came over TLS."""
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    replies: dict[str, list[str]] = field(default_factory=dict)
    """Answers to give instead, one after another: by `MAIL`, `RCPT` or `DATA`."""
    servers: list[SMTP] = field(default_factory=list)

    def url(self, scheme: str = "smtp", login: str = "", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{login}{host}:{self.port}"

    def hang_up(self) -> None:
        """Close every connection, as a server does that grew tired of waiting."""
        for server in self.servers:
            if server.transport is not None:
                server.transport.close()

    def _reply(self, verb: str, usual: str) -> str:
        waiting = self.replies.get(verb)
        return waiting.pop(0) if waiting else usual

    async def handle_MAIL(  # noqa: N802  aiosmtpd finds its hooks by these names
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self._reply("MAIL", "250 2.1.0 OK")
        if reply.startswith("2"):
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return reply

    async def handle_RCPT(  # noqa: N802  as above
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self._reply("RCPT", "250 2.1.5 OK")
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  as above
        reply = self._reply("DATA", "250 2.0.0 OK")
        if reply.startswith("2"):
            self.messages.append(envelope)
            transport: Any = server.transport
            self.secure.append(transport.get_extra_info("sslcontext") is not None)
        return reply

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  as above
        self.quits += 1
        return "221 2.0.0 Bye"

    def login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: LoginPassword
    ) -> AuthResult:
        """Take the login `me@x.org` with the password `a/b?#`."""
        self.logins.append((data.login, data.password))
        return AuthResult(success=(data.login, data.password) == (b"me@x.org", b"a/b?#"), handled=False)


class _Counted(SMTP):
    def __init__(self, double: SmtpDouble, **options: Any) -> None:
        super().__init__(double, hostname="mail.test", **options)
        self._double = double

    def connection_made(self, transport: Any) -> None:
        # STARTTLS makes the connection a second time, on the same object.
        if self not in self._double.servers:
            self._double.servers.append(self)
            self._double.connections += 1
            self._double.open += 1
            self._double.most_open = max(self._double.most_open, self._double.open)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._double.open -= 1
        super().connection_lost(error)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@asynccontextmanager
async def smtp_double(
    *, implicit_tls: bool = False, starttls: bool = False, **options: Any
) -> AsyncIterator[SmtpDouble]:
    """Serve SMTP on a free port of the loopback address.

    Args:
        implicit_tls: speak TLS from the first byte.
        starttls: offer STARTTLS and refuse everything before it.
        options: further ones of `aiosmtpd.smtp.SMTP`.
    """
    double = SmtpDouble()
    loop = asyncio.get_running_loop()
    if starttls:
        options |= {"tls_context": server_context(), "require_starttls": True}
    if options.pop("login", False):
        # aiosmtpd takes only STARTTLS for TLS, so with implicit TLS it must not ask for it.
        options |= {"authenticator": double.login, "auth_required": starttls, "auth_require_tls": starttls}
    options.setdefault("enable_SMTPUTF8", True)
    server = await loop.create_server(
        lambda: _Counted(double, loop=loop, **options),
        "127.0.0.1",
        0,
        ssl=server_context() if implicit_tls else None,
    )
    double.port = server.sockets[0].getsockname()[1]
    try:
        yield double
    finally:
        double.hang_up()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def reciting(lines: Sequence[str | None]) -> AsyncIterator[str]:
    """Serve on a free port: say the first line, then one more after each line that comes in; None hangs up.

    Gives the server's `smtp://` URL. After the last line it is silent.
    """

    async def recite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for number, line in enumerate(lines):
                if number and not await reader.readline():
                    return
                if line is None:
                    return
                writer.write(line.encode() + b"\r\n")
                await writer.drain()
            while await reader.readline():
                pass
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(recite, "127.0.0.1", 0)
    try:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


def smtp_settings(url: str, **values: Any) -> Settings:
    """Return settings of which only the SMTP part points anywhere."""
    return load_settings(
        database_url="postgresql://h/d", redis_url="redis://h", secret_key="k" * 32, smtp_url=url, **values
    )
