"""What must hold of the store when a soak is over and nothing waits any more, beside what holds after any fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.api import store
from tests.support.invariants import broken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.soak.stage import Stage
    from tests.soak.traffic import Traffic

OPEN: Final = """
SELECT (SELECT count(*) FROM job WHERE state IN ('staged', 'running', 'retry'))
     + (SELECT count(*) FROM deferred_request WHERE finished_at IS NULL)
"""
_FURTHER: Final = {
    "a job that died": "SELECT id FROM job WHERE state = 'dead'",
    # Who was disabled at the very moment is not invited again when enabled: an operator sends it again.
    "an invitation of an active user that was not sent": """
        SELECT invitation.id FROM invitation JOIN users ON users.id = invitation.user_id AND users.active
         WHERE state IN ('pending', 'sending', 'failed') AND error_code IS DISTINCT FROM 'user_inactive'
    """,
    "an attempt without its job": """
        SELECT id FROM job_attempt WHERE NOT EXISTS (SELECT FROM job WHERE job.id = job_id)
    """,
}


async def violations(stage: Stage, traffics: Iterable[Traffic]) -> dict[str, list[str]]:
    """Return what is wrong, by what it is called, each with some ids or words; nothing is nothing."""
    async with store(stage.settings) as connection:
        mails = await stage.mailbox.messages()
        found = await broken(connection, mails=mails, audit_key=stage.settings.audit_key_file)
        for what, statement in _FURTHER.items():
            found[what] = [str(row[0]) for row in await connection.fetch(statement, timeout=600)]
        for traffic in traffics:
            users = await connection.fetch("SELECT id::text FROM users WHERE tenant_id = $1", traffic.tenant.id)
            there = {member.account.id for member in traffic.members}
            lost = there ^ {row["id"] for row in users}
            found.setdefault("a user lost, or one that nobody asked for", []).extend(sorted(lost))
    return {what: rows for what, rows in found.items() if rows}
