"""`operator.link`: the e-mail with the link that signs an operator in once.

The job holds no token: it derives from the job's resource, as the store's hash of it did.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from models.jobs import finish
from models.links import LINK_MINUTES, find_link, link_token
from worker.context import Context, Handler
from worker.handlers.invitation import mailbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Ending, Job
    from models.operators import Operator
    from models.settings import Settings

_log = structlog.get_logger("operator_link")
_TEMPLATES = Environment(
    loader=PackageLoader("worker"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def compose(operator: Operator, job_id: UUID, token: str, settings: Settings) -> EmailMessage:
    """Write the e-mail; the Message-ID derives from the job, so that a repeated one is the same message.

    Raises:
        PermanentJobError: `smtp_message`, the operator's address is none.
    """
    sender = mailbox("The sender's address", settings.mail_from, "Usher")
    message = EmailMessage(policy=SMTP)
    message["Message-ID"] = f"<{job_id}@{sender.domain}>"
    message["Date"] = datetime.now(UTC)
    message["From"] = sender
    message["To"] = mailbox("The operator's address", operator.email)
    message["Subject"] = "Your link to sign in to Usher"
    message["Auto-Submitted"] = "auto-generated"
    values = {
        "name": operator.name,
        "minutes": LINK_MINUTES,
        "url": f"{settings.pages_url}/sign-in/link/{token}",
    }
    text, html = (_TEMPLATES.get_template(f"operator_link/body.{kind}").render(values) for kind in ("txt", "html"))
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message


async def _run(context: Context, jobs: Sequence[Job], lease_token: UUID) -> set[UUID]:
    (job,) = jobs
    assert job.resource_id is not None  # noqa: S101  staged so by models.links
    token = link_token(context.settings.secret_key.get_secret_value(), job.resource_id)
    operator, standing = await find_link(context.pool, token)
    if operator is not None and standing == "open":
        await context.smtp.send(compose(operator, job.id, token, context.settings), template="operator_link")
    else:
        _log.info("A link was not sent", action="operator_link.skip", job_id=str(job.id), reason=standing)
    async with context.pool.acquire() as connection:
        return await finish(connection, [job.id], lease_token)


async def _failed(_: Connection, __: Ending) -> None:
    """Leave it at the job's own state: the link ends by itself."""


HANDLER = Handler(kind="operator.link", run=_run, failed=_failed, together=False)
