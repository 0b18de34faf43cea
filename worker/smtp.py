"""Handing messages to the SMTP server (RFC 5321) over a few kept connections.

Every failure becomes a job's error, by what it is about:

    the server (no connection, TLS, greeting, EHLO, AUTH, silence, a cut)   RetryableJobError
    the message, for now (4xx)                                              RetryableJobError
    the message, for good (5xx, or it cannot be put on the wire)            PermanentJobError

Error texts name the step, the reply code and the enhanced status code, never the reply's text or an address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import MessageError
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectResponseError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPStatus,
    SMTPTimeoutError,
)

from models import metrics
from models.errors import JobError, PermanentJobError, RetryableJobError, UsageError

if TYPE_CHECKING:
    from email.message import EmailMessage

    from models.settings import Settings

IDLE_SECONDS = 30.0
"""How long a connection is kept without a message."""
_PROBE_SECONDS = 5.0
_QUIT_SECONDS = 2.0

Tls = Literal["none", "starttls", "implicit"]
_SCHEMES: dict[str, tuple[Tls, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("implicit", 465),
}
_CLOSING = 421
_OUTCOMES = {"smtp_4xx": "deferred_4xx", "smtp_5xx": "rejected_5xx"}
# Replies to MAIL, RCPT or DATA that are about our login or the missing TLS, not about the message (RFC 4954 §6).
_LOGIN_CODES = frozenset((530, 534, 535, 538))
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.])")
_STEPS: dict[type[SMTPResponseException], str] = {
    SMTPConnectResponseError: "the greeting",
    SMTPHeloError: "EHLO",
    SMTPAuthenticationError: "AUTH",
    SMTPSenderRefused: "MAIL FROM",
    SMTPRecipientRefused: "RCPT TO",
    SMTPDataError: "DATA",
}
_ABOUT_MESSAGE = ("MAIL FROM", "RCPT TO", "DATA")
# Enhanced codes that are about the recipient's mailbox and nothing else (RFC 3463 §3.2, §3.3; RFC 7505 §4.2). What
# is about us (5.7, 5.1.7, 5.1.8), a full mailbox (5.2.2) or the way there is not among them.
_MAILBOX = frozenset(("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"))
# Servers without enhanced codes, and Exchange Online, which says 5.4.1 for somebody who is not in its directory.
_NO_MAILBOX = re.compile(
    r"(?:no such|unknown|invalid) (?:user|mailbox|recipient|address)|(?:user|mailbox|recipient|account)"
    r" (?:is )?(?:unknown|not found|does(?: not|n't) exist|disabled)|^5\.4\.1 .*recipient address rejected",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where an SMTP URL points."""

    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SmtpReply:
    """The server's answer to a message that it took."""

    code: int

    @property
    def reply_class(self) -> str:
        """The first digit's class, such as `2xx`: what may be counted and audited."""
        return f"{self.code // 100}xx"


class MailboxRefusedError(PermanentJobError):
    """The server knows no such mailbox, or has closed it for good: writing to it again only harms the sender."""


def parse_smtp_url(url: str) -> SmtpServer:
    """Read `smtp://`, `smtp+starttls://` or `smtps://`, with `user:password@` (percent-encoded) and port if given.

    Raises:
        UsageError: it is not such a URL; the text never repeats it, because it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("The SMTP URL has a malformed host or port.") from None
    if parts.scheme not in _SCHEMES:
        raise UsageError("The SMTP URL must start with smtp://, smtp+starttls:// or smtps://.")
    if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(
            "The SMTP URL must be like smtps://user:password@host:port;"
            " in user and password, write /, ?, #, @ and : percent-encoded."
        )
    if port == 0:
        raise UsageError("The SMTP URL has port 0.")
    tls, default_port = _SCHEMES[parts.scheme]
    return SmtpServer(
        host=unquote(parts.hostname),
        port=port or default_port,
        tls=tls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or ""),
    )


def _client_name(host: str | None) -> str:
    """Return what to say in EHLO: the public host's name, or its address as a literal (RFC 5321 §4.1.1.1)."""
    try:
        address = ipaddress.ip_address((host or "127.0.0.1").strip("[]"))
    except ValueError:
        assert host is not None  # noqa: S101  an absent host is an address above
        return host
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


class SmtpPool:
    """At most `smtp_connections` connections, opened when needed, reused, and closed after `IDLE_SECONDS` unused.

    Certificates are checked against the system's authorities (and what `SSL_CERT_FILE` adds to them).
    """

    def __init__(self, settings: Settings) -> None:
        """Take `smtp_url`, `smtp_connections`, `smtp_seconds` and the name of `public_url`; connects to nothing.

        Raises:
            UsageError: the URL is not usable.
        """
        self._server = parse_smtp_url(settings.smtp_url.get_secret_value())
        self._name = _client_name(settings.public_url.host)
        self._seconds = settings.smtp_seconds
        self._slots = asyncio.Semaphore(settings.smtp_connections)
        self._tls = ssl.create_default_context() if self._server.tls != "none" else None
        self._idle: list[tuple[float, SMTP]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._farewells: set[asyncio.Task[None]] = set()
        self._closed = False

    async def send(self, message: EmailMessage, *, template: str = "invitation") -> SmtpReply:
        """Hand ``message`` to the server and return its answer.

        Args:
            message: with one address in `From` and one in `To`, which also make the envelope.
            template: what kind of message it is, for `/metrics`.

        Raises:
            RetryableJobError: `smtp_4xx`, `smtp_auth`, `smtp_timeout`, `smtp_tls` or `smtp_unreachable`. After a cut
                or silence the server may have taken the message all the same.
            PermanentJobError: `smtp_5xx` or `smtp_message`.
            MailboxRefusedError: `smtp_5xx`, because there is no such mailbox.
        """
        try:
            reply = await self._send(message)
        except JobError as error:
            metrics.EMAILS.add(1, template, _OUTCOMES.get(error.code, error.code.removeprefix("smtp_")))
            raise
        metrics.EMAILS.add(1, template, "sent")
        return reply

    async def _send(self, message: EmailMessage) -> SmtpReply:
        async with self._slots:
            kept = await self._take()
            if kept is not None:
                try:
                    return await self._transact(kept, message)
                except _ClosingError:
                    pass  # the server ends a connection that we kept; it has not taken the message
            return await self._transact(await self._connect(), message)

    async def close(self) -> None:
        """Say goodbye on every idle connection; one that is in use closes when its message is through."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._part(self._idle.pop()[1])
        await asyncio.gather(*self._farewells)

    async def _transact(self, smtp: SMTP, message: EmailMessage) -> SmtpReply:
        sender, recipient = (message[name].addresses[0].addr_spec for name in ("From", "To"))
        try:
            await smtp.send_message(message, sender=sender, recipients=[recipient])
        except SMTPRecipientsRefused as error:
            self._keep(smtp)
            raise _refused(error.recipients[0]) from None
        except (SMTPSenderRefused, SMTPDataError) as error:
            self._keep(smtp)
            raise _refused(error) from None
        except SMTPNotSupported:
            self._keep(smtp)
            raise PermanentJobError(
                "smtp_message", "The address needs SMTPUTF8, which the server does not have."
            ) from None
        except (SMTPException, OSError) as error:
            smtp.close()
            # aiosmtplib resets the dialogue after a refusal; when that goes wrong, the refusal stands behind it.
            refusal = _refusal_behind(error)
            raise (_refused(refusal) if refusal else _trouble(error, "the message")) from None
        except (ValueError, MessageError) as error:
            smtp.close()
            raise PermanentJobError(
                "smtp_message", f"The message cannot be put on the wire: {type(error).__name__}."
            ) from None
        except BaseException:
            smtp.close()  # cancelled half-way: nobody knows where the dialogue stands
            raise
        self._keep(smtp)
        return SmtpReply(250)  # the only one that aiosmtplib lets pass

    async def _connect(self) -> SMTP:
        server = self._server
        smtp = SMTP(
            hostname=server.host,
            port=server.port,
            use_tls=server.tls == "implicit",
            start_tls=False,  # never by chance: below, where it was asked for, and then it must succeed
            local_hostname=self._name,
            timeout=self._seconds,
            tls_context=self._tls,
        )
        step = "connecting"
        try:
            await smtp.connect()
            if server.tls == "starttls":
                step = "STARTTLS"
                await smtp.starttls()
            if server.username is not None:
                step = "AUTH"
                await smtp.login(server.username, server.password)
        except SMTPResponseException as error:
            smtp.close()
            raise _refused(error, step) from None
        except (SMTPException, OSError) as error:
            smtp.close()
            raise _trouble(error, step) from None
        except BaseException:
            smtp.close()
            raise
        return smtp

    async def _take(self) -> SMTP | None:
        """Return a kept connection on which the server still answers, the last used first."""
        while self._idle:
            _, smtp = self._idle.pop()
            if not smtp.is_connected:
                continue
            try:
                await smtp.rset(timeout=min(_PROBE_SECONDS, self._seconds))
            except (SMTPException, OSError):
                smtp.close()
            except BaseException:
                smtp.close()
                raise
            else:
                return smtp
        return None

    def _keep(self, smtp: SMTP) -> None:
        if not smtp.is_connected:
            smtp.close()
        elif self._closed:
            self._part(smtp)
        else:
            loop = asyncio.get_running_loop()
            self._idle.append((loop.time(), smtp))
            if self._timer is None:
                self._timer = loop.call_later(IDLE_SECONDS, self._tidy)

    def _tidy(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_SECONDS
        # Appended in order of time, so those at the front have been idle longest.
        while self._idle and self._idle[0][0] <= oldest:
            self._part(self._idle.pop(0)[1])
        self._timer = loop.call_at(self._idle[0][0] + IDLE_SECONDS, self._tidy) if self._idle else None

    def _part(self, smtp: SMTP) -> None:
        task = asyncio.get_running_loop().create_task(_say_goodbye(smtp))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


class _ClosingError(RetryableJobError):
    """The server answered 421: it ends the connection, whatever was asked."""


async def _say_goodbye(smtp: SMTP) -> None:
    transport: Any = smtp.transport
    with suppress(SMTPException, OSError):
        await smtp.quit(timeout=_QUIT_SECONDS)
    smtp.close()
    if transport is not None:
        transport.abort()  # all has been said: TLS need not take leave too, for which a closing loop has no time
        await asyncio.sleep(0)


def _refusal_behind(error: BaseException) -> SMTPResponseException | None:
    """Return the refusal that was being handled when ``error`` came, if any."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, SMTPRecipientsRefused):
            return behind.recipients[0]
        if isinstance(behind, SMTPResponseException):
            return behind
        behind = behind.__context__
    return None


def _refused(error: SMTPResponseException, step: str | None = None) -> JobError:
    """Return what an unwanted reply means for the job.

    Args:
        error: with the reply's code and text.
        step: of setting up the connection; None while a message is under way.
    """
    at = _STEPS.get(type(error), step or "the message")
    if error.code == SMTPStatus.invalid_response:
        return RetryableJobError("smtp_unreachable", f"The answer at {at} is not SMTP.")
    enhanced = _ENHANCED.match(error.message)
    detail = f"The server answered {error.code}{' ' + enhanced[0] if enhanced else ''} to {at}."
    if error.code == _CLOSING:
        return _ClosingError("smtp_4xx", detail)
    if 400 <= error.code < 500:
        code = "smtp_4xx"
    elif at == "AUTH" or error.code in _LOGIN_CODES:
        code = "smtp_auth"
    elif at == "STARTTLS":
        code = "smtp_tls"
    elif step is None and at in _ABOUT_MESSAGE and error.code >= 500:
        refused = MailboxRefusedError if at == "RCPT TO" and _is_about_mailbox(error.message) else PermanentJobError
        return refused("smtp_5xx", detail)
    else:
        code = "smtp_unreachable"
    return RetryableJobError(code, detail)


def _is_about_mailbox(message: str) -> bool:
    enhanced = _ENHANCED.match(message)
    if enhanced and enhanced[0] in _MAILBOX:
        return True
    return (enhanced is None or enhanced[0] == "5.4.1") and _NO_MAILBOX.search(message) is not None


def _trouble(error: SMTPException | OSError, at: str) -> JobError:
    """Return what a failure without a reply means for the job."""
    cause = error.__cause__ if isinstance(error, SMTPException) and error.__cause__ else error
    if isinstance(cause, ssl.SSLError):
        why = cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else cause.reason
        return RetryableJobError("smtp_tls", f"TLS failed at {at}: {why}.")
    if isinstance(error, (SMTPTimeoutError, TimeoutError)):
        return RetryableJobError("smtp_timeout", f"The server gave no answer in time at {at}.")
    if type(error) is SMTPException and at == "STARTTLS":
        return RetryableJobError("smtp_tls", "The server does not offer STARTTLS.")
    if type(error) is SMTPException and at == "AUTH":
        return RetryableJobError("smtp_auth", "The server offers no way to log in that we know.")
    return RetryableJobError("smtp_unreachable", f"The connection failed at {at}: {type(cause).__name__}.")
