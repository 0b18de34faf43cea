"""P10: whatever the mail server does, users are provisioned, and each invitation is sent or given up for a reason."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.api import altered, document, make_tenant, until, work_email
from tests.support.processes import Process

if TYPE_CHECKING:
    import asyncpg

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Caller

# How the server behaves, the reason that each failed attempt has, and how many copies of the message it took.
TROUBLE: Final[dict[str, tuple[dict[str, Any], str, int]]] = {
    "closing": ({"at": "mail", "reply": "421 4.3.2 going down", "times": 2}, "smtp_4xx", 1),
    "greylisted": ({"at": "rcpt", "reply": "450 4.2.0 later", "times": 2}, "smtp_4xx", 1),
    "cut-before-250": ({"at": "stored", "drop": True, "times": 2}, "smtp_unreachable", 3),
    "tarpit": ({"at": "data", "delay_seconds": 60, "times": 2}, "smtp_timeout", 1),
}


@pytest.mark.promise("P10", quick=True)
async def test_a_mail_server_in_trouble_delays_mail_and_nothing_else(make_rig: MakeRig, measure: Measure) -> None:
    async with make_rig(apis=1, workers=1, smtp_seconds=2) as rig, rig.store() as connection:
        [caller] = rig.callers(await make_tenant(rig.direct, invitations=True))
        longest = 0.0
        for name, (behaviour, reason, copies) in TROUBLE.items():
            await rig.mailbox.behave(**behaviour)
            longest = max(longest, await provisioned(connection, caller, name))
            await until_invitation(connection, name, "sent")
            assert await reasons(connection, name) == [reason] * behaviour["times"], name
            assert await rig.mailbox.shown() == behaviour["times"]
            mails = await rig.mailbox.messages(f"{name}@example.com")
            assert len(mails) == copies, name
            assert len({mail["message_id"] for mail in mails}) == 1, name

        await rig.mailbox.behave(at="rcpt", reply="550 5.1.1 nobody here")
        longest = max(longest, await provisioned(connection, caller, "nobody"))
        await until_invitation(connection, "nobody", "failed")
        assert await reasons(connection, "nobody") == ["smtp_5xx"]
        assert await rig.mailbox.messages("nobody@example.com") == []
        await rig.mailbox.behave()

        # A server that cannot speak TLS, to a worker that insists on it: nothing is sent in the clear.
        rig.workers[0].send(signal.SIGSTOP)
        url = rig.settings.smtp_url.get_secret_value().replace("smtp://", "smtp+starttls://", 1)
        strict = Process(altered(rig.settings, smtp_url=url), ["worker"], rig.folder / "strict.log")
        try:
            await strict.start()
            longest = max(longest, await provisioned(connection, caller, "private"))

            async def tried_twice() -> bool:
                await hurry(connection)
                return len(await reasons(connection, "private")) >= 2

            await until(tried_twice, "two attempts failed over TLS", 90)
            assert await rig.mailbox.messages("private@example.com") == []
            assert await strict.stop() == 0
        finally:
            await strict.kill()
        rig.workers[0].send(signal.SIGCONT)
        await until_invitation(connection, "private", "sent")
        assert set(await reasons(connection, "private")) == {"smtp_tls"}
        await rig.drain()
        await rig.check(mails=True, copies=3)
        measure(invitations=len(TROUBLE) + 2, longest_seconds_to_apply=longest)


async def provisioned(connection: asyncpg.Connection, caller: Caller, name: str) -> float:
    """Create a user, wait until it is applied and active, and return how long that took."""
    began = time.monotonic()
    mail = f"{name}@example.com"
    user = await caller.create(document(mail, active=True, emails=[work_email(mail, primary=True)]))

    async def active() -> bool:
        return bool(await connection.fetchval("SELECT active FROM users WHERE id = $1", user["id"]))

    await until(active, f"{name} is active", 60)
    return time.monotonic() - began


async def hurry(connection: asyncpg.Connection) -> None:
    """Have the waiting of all retries be over, once each: whoever is due stays so, until a sweep finds it."""
    await connection.execute(
        # Long enough ago for the next sweep to ring for it.
        "UPDATE job SET run_at = now() - interval '2 seconds' WHERE state = 'retry' AND run_at > now()"
    )


async def until_invitation(connection: asyncpg.Connection, name: str, state: str) -> None:
    """Wait until an invitation is in a state; its further attempts come at once."""

    async def reached() -> bool:
        await hurry(connection)
        found = await connection.fetchval("SELECT state FROM invitation WHERE email = $1", f"{name}@example.com")
        return bool(found == state)

    await until(reached, f"the invitation of {name} is {state}", 120)


async def reasons(connection: asyncpg.Connection, name: str) -> list[str]:
    """Return why attempts at somebody's invitation failed, in their order."""
    rows = await connection.fetch(
        "SELECT reason FROM audit_event JOIN job ON job.id = job_id JOIN invitation ON invitation.id = resource_id"
        " WHERE action IN ('job.attempt.fail', 'job.attempt.rescue') AND email = $1 ORDER BY occurred_at",
        f"{name}@example.com",
    )
    return [row["reason"] for row in rows]
