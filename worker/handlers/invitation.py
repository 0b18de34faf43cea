"""`invitation.send`: the e-mail that invites one user."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from models.audit.record import Actor
from models.db import is_unavailable
from models.errors import PermanentJobError, RetryableJobError
from models.invitations import LEASE_LOST, Letter, Skipped, begin_sending, failed, sent
from models.suppression import REJECTED, suppress
from worker.context import Context, Handler
from worker.smtp import MailboxRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.jobs import Job
    from models.settings import Settings
    from worker.smtp import SmtpReply

_log = structlog.get_logger("invitation")
_TEMPLATES = Environment(
    loader=PackageLoader("worker"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Control characters, surrogates, and what Python or a mail reader may take for the end of a line.
_BREAKING = frozenset(("Cc", "Cs", "Zl", "Zp"))
# A dot-atom (RFC 5322 §3.2.3, with RFC 6532's letters), but with dots anywhere, as some providers have given out.
# Quoted local parts, comments and address literals are no addresses of people.
_LOCAL = re.compile(r"[^\s\x00-\x20\x7f\"(),:;<>@\[\]\\]{1,64}")
_DOMAIN = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 100  # characters of a name in the text
_RECORD_PAUSES = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before each try to record that a message is out


def _header(what: str, text: str) -> str:
    """Return ``text`` if it can stand in a header as it is.

    Raises:
        PermanentJobError: it could end the header, or be decoded into something that does (RFC 2047).
    """
    if "=?" in text or any(unicodedata.category(letter) in _BREAKING for letter in text):
        raise PermanentJobError("smtp_message", f"{what} holds a control character or an encoded word.")
    return text


def mailbox(what: str, text: str, display_name: str = "") -> Address:
    """Return an address for a header and the envelope, its domain in ASCII (RFC 5891).

    Args:
        what: names the value in an error.
        text: an e-mail address without a name.
        display_name: shown before it.

    Raises:
        PermanentJobError: `smtp_message`, it is no e-mail address.
    """
    local, _, domain = _header(what, text.strip()).rpartition("@")
    try:
        domain = domain.encode("idna").decode().lower()
    except UnicodeError:
        domain = ""
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise PermanentJobError("smtp_message", f"{what} is not an e-mail address.")
    return Address(_header(f"The name with {what}", display_name), local, domain)


def _one_line(text: str) -> str:
    """Return a person's text as part of a sentence: without controls, runs of space, or undue length."""
    plain = "".join(" " if unicodedata.category(letter) in _BREAKING else letter for letter in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= _LONGEST_NAME else plain[: _LONGEST_NAME - 1] + "…"


def compose(letter: Letter, settings: Settings) -> EmailMessage:
    """Write the e-mail of an invitation, as text and as HTML.

    Args:
        letter: from `models.invitations.begin_sending`.
        settings: gives the sender, the address that the link starts with and the days it works.

    Raises:
        PermanentJobError: `smtp_message`, a value would break a header or an address is none.
    """
    # The tenant's name is the only text of anybody's that comes into the subject, and it comes as it is or not at all.
    subject = _TEMPLATES.get_template("invitation/subject.txt").render(tenant_name=letter.tenant_name)

    message = EmailMessage(policy=SMTP)
    message["Message-ID"] = _header("The Message-ID", letter.message_id)
    message["Date"] = datetime.now(UTC)
    message["From"] = mailbox("The sender's address", settings.mail_from, letter.branding.sender_name)
    message["To"] = mailbox("The user's address", letter.email)
    if letter.branding.support_email:
        message["Reply-To"] = mailbox("branding.support_email", letter.branding.support_email)
    message["Subject"] = _header("The tenant's name", subject).strip()
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"  # Exchange's word for the line above

    values = {
        "accept_url": f"{settings.base_url}/invitations/{letter.token}",
        "branding": letter.branding,
        "days": settings.invitation_days,
        "person": _one_line(letter.person),
        "sign_in_url": letter.sign_in_url,
        "tenant_name": _one_line(letter.tenant_name),
    }
    text, html = (_TEMPLATES.get_template(f"invitation/body.{kind}").render(values) for kind in ("txt", "html"))
    # Quoted-printable passes every server, also one without 8BITMIME, and keeps long links from being cut.
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message


async def _record(context: Context, job: Job, lease_token: UUID, reply: SmtpReply) -> bool:
    """Write down that the message is out, through a short outage of the store too; return whether the lease held."""
    for pause in _RECORD_PAUSES:
        await asyncio.sleep(pause)
        try:
            async with context.pool.acquire() as connection:
                return await sent(
                    connection,
                    job,
                    lease_token,
                    invitation_days=context.settings.invitation_days,
                    smtp_reply_class=reply.reply_class,
                )
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("A sent invitation could not be recorded", action="invitation.unrecorded", job_id=str(job.id))
    # It will be sent again, so this must cost an attempt: an outage must not become a stream of equal messages.
    raise RetryableJobError("not_recorded", "The server took the message, but that could not be recorded.")


async def _run(context: Context, jobs: Sequence[Job], lease_token: UUID) -> set[UUID]:
    (job,) = jobs
    settings = context.settings
    sender = mailbox("The sender's address", settings.mail_from)
    async with context.pool.acquire() as connection:
        letter = await begin_sending(
            connection,
            job,
            lease_token,
            secret_key=settings.secret_key.get_secret_value(),
            invitation_days=settings.invitation_days,
            mail_domain=sender.domain,
        )
    if isinstance(letter, Skipped):
        if letter.reason == LEASE_LOST:
            return set()
        _log.info("An invitation was not sent", action="invitation.skip", job_id=str(job.id), reason=letter.reason)
        return {job.id}
    try:
        reply = await context.smtp.send(compose(letter, settings))
    except MailboxRefusedError:
        async with context.pool.acquire() as connection:
            await suppress(
                connection,
                job.tenant_id,
                letter.email,
                reason=REJECTED,
                actor=Actor("job"),
                correlation_id=job.correlation_id,
            )
        raise
    # The message is out: a worker that is told to stop now still writes that down.
    recording = asyncio.ensure_future(_record(context, job, lease_token, reply))
    try:
        held = await asyncio.shield(recording)
    except asyncio.CancelledError:
        await recording
        raise
    return {job.id} if held else set()


HANDLER = Handler(kind="invitation.send", run=_run, failed=failed, together=False)
