"""The mail catcher's own process: SMTP in, a page out, nothing sent on."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from cli.embedded.mailbox import Mailbox
from cli.embedded.mailpage import make_app

if TYPE_CHECKING:
    from pathlib import Path

    from cli.embedded.behaviour import Conduct

HOSTNAME = "mail.usher.localhost"


class Catcher:
    """Handler of aiosmtpd: keeps each message and answers as its conduct says."""

    def __init__(self, mailbox: Mailbox, conduct: Conduct) -> None:
        self._mailbox = mailbox
        self._conduct = conduct

    async def handle_MAIL(  # noqa: N802 -- aiosmtpd finds its hooks by these names
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, mail_options: list[str]
    ) -> str:
        """Take the sender."""
        if reply := await self._instead("mail", server, [address]):
            return reply
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802 -- as above
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Take a recipient."""
        if reply := await self._instead("rcpt", server, [address]):
            return reply
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 -- as above
        """Keep the message."""
        if reply := await self._instead("data", server, envelope.rcpt_tos):
            return reply
        content = envelope.original_content or b""
        message = self._mailbox.add(content, envelope.mail_from or "", envelope.rcpt_tos)
        if reply := await self._instead("stored", server, envelope.rcpt_tos):
            return reply
        return f"250 2.0.0 OK: kept as {message.id}"

    async def _instead(self, stage: str, server: SMTP, addresses: list[str]) -> str | None:
        behaviour = self._conduct.take(stage, addresses)
        if behaviour is None:
            return None
        if behaviour.delay_seconds:
            await asyncio.sleep(behaviour.delay_seconds)
        if behaviour.drop:
            transport: Any = server.transport
            transport.abort()
            return "421 4.3.2 Service not available"  # never gets there
        return behaviour.reply


async def serve(folder: Path, host: str, smtp_port: int, page_port: int, conduct: Conduct) -> None:
    """Catch mail on one port and show it on the other until told to stop (SIGTERM or SIGINT)."""
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # at INFO it writes addresses
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    mailbox = Mailbox(folder)
    catcher = Catcher(mailbox, conduct)

    def protocol() -> SMTP:
        return SMTP(catcher, enable_SMTPUTF8=True, hostname=HOSTNAME, ident="Usher mail catcher", loop=loop)

    runner = web.AppRunner(make_app(mailbox, conduct), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, page_port).start()
        server = await loop.create_server(protocol, host, smtp_port)
        await stopped.wait()
        server.close()
    finally:
        await runner.cleanup()
