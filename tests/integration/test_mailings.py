"""E-mails as operators handle them: found by state and reply, sent again, and not sent to who must not get them."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models.audit.record import Actor
from models.errors import UsageError
from models.invitations import Skipped, accept_invitation, begin_sending, find_invitation, link_token
from models.mailings import Mailings, count_replies, count_states, find_mailing, list_mailings, resend_matching
from models.resending import REFUSALS, Resent, resend
from models.suppression import list_suppressed, suppress, unsuppress
from tests.support.invitations import Mailer, Staged, claimed, mailer, read, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from models.settings import Settings
    from tests.support.servers import MailboxReader

PERSON = Actor("operator", "1", "ana")


@pytest.fixture
async def mail(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Mailer]:
    async with mailer(settings, pool) as running:
        yield running


async def again(pool: asyncpg.Pool, *ids: UUID) -> Resent:
    async with pool.acquire() as connection:
        return await resend(connection, ids, actor=PERSON, correlation_id=uuid7())


def renewed(staged: Staged, resent: Resent) -> Staged:
    """Return the invitation that took the place of one."""
    return Staged(resent.made[staged.id], resent.job_ids[0], staged.tenant_id, staged.user_id, staged.correlation_id)


async def shut(pool: asyncpg.Pool, staged: Staged, email: str = "ana@example.com") -> bool:
    async with pool.acquire() as connection:
        return await suppress(
            connection, staged.tenant_id, email, reason="asked for it", actor=PERSON, correlation_id=uuid7()
        )


async def listed(pool: asyncpg.Pool, **wanted: Any) -> list[dict[str, Any]]:
    async with pool.acquire() as connection:
        return await list_mailings(connection, Mailings(**wanted))


async def test_a_resend_is_another_message_and_the_old_link_ends(
    settings: Settings, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    staged = await stage(pool)
    await mail.until(staged, "sent", "done")
    resent = await again(pool, staged.id)
    assert (list(resent.made), resent.refused) == ([staged.id], {})
    fresh = renewed(staged, resent)
    found = await mail.until(fresh, "sent", "done")
    new, old = await mailbox.wait_for(2)
    assert new["message_id"] != old["message_id"]
    assert new["message_id"] == found["message_id"]
    assert found["generation"] == 2
    bodies = [(await mailbox.open(each["id"])).get_body(("plain",)) for each in (new, old)]
    links = [re.findall(r"/invitations/([\w-]{43})", body.get_content()) for body in bodies if body]
    assert links[0] != links[1]
    opened = await find_invitation(pool, links[0][0])
    assert opened is not None
    assert opened.standing == "open"
    assert await find_invitation(pool, links[1][0]) is None
    earlier = await read(pool, staged)
    assert (earlier["state"], earlier["error_code"]) == ("expired", "superseded")
    event = next(each for each in found["events"] if each["action"] == "invitation.email.resend")
    assert (event["actor_label"], event["job_id"], event["context"]["superseded"]) == (
        "ana",
        fresh.job_id,
        str(staged.id),
    )


async def test_whoever_asks_twice_sends_once(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    staged = await stage(pool)
    await mail.until(staged, "sent", "done")
    first, second = await asyncio.gather(again(pool, staged.id), again(pool, staged.id))
    assert sorted([len(first.made), len(second.made)]) == [0, 1]
    assert {**first.refused, **second.refused} == {staged.id: "superseded"}
    await mail.until(renewed(staged, first if first.made else second), "sent", "done")
    assert len(await mailbox.messages()) == 2


@pytest.mark.parametrize(
    ("reason", "statement"),
    [
        ("user_gone", "DELETE FROM users WHERE id = $1"),
        ("user_inactive", "UPDATE users SET active = false WHERE id = $1"),
        ("no_address", "UPDATE users SET doc = doc - 'emails' WHERE id = $1"),
        ("already_accepted", "UPDATE invitation SET state = 'accepted' WHERE user_id = $1"),
        ("being_sent", "UPDATE invitation SET state = 'sending' WHERE user_id = $1"),
        ("invitations_off", "UPDATE tenant SET invitations = ($1::uuid IS NULL)"),
    ],
)
async def test_a_resend_is_refused_with_its_reason(pool: asyncpg.Pool, reason: str, statement: str) -> None:
    staged = await stage(pool)
    async with pool.acquire() as connection:
        await connection.execute(statement, staged.user_id)
    resent = await again(pool, staged.id)
    assert (resent.made, resent.refused) == ({}, {staged.id: reason})
    assert reason in REFUSALS
    assert len(await listed(pool)) == 1


async def test_a_resend_goes_to_where_the_user_is_reached_now(pool: asyncpg.Pool) -> None:
    staged = await stage(pool, email="old@example.com")
    async with pool.acquire() as connection:
        await connection.execute(
            "UPDATE users SET doc = jsonb_set(doc, '{emails,0,value}', '\"new@example.com\"') WHERE id = $1",
            staged.user_id,
        )
    resent = await again(pool, staged.id, uuid7())
    assert list(resent.refused.values()) == ["invitation_gone"]
    assert [row["email"] for row in await listed(pool)] == ["new@example.com", "old@example.com"]


async def test_a_job_that_still_waits_finds_nothing_to_send(
    pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    staged = await stage(pool, invitation_delay_seconds=3600)
    resent = await again(pool, staged.id)
    await mail.until(renewed(staged, resent), "sent", "done")
    async with pool.acquire() as connection:
        await connection.execute("UPDATE job SET run_at = now() WHERE id = $1", staged.job_id)
    mail.runner.wake()
    await mail.until(staged, "expired", "done")
    assert len(await mailbox.messages()) == 1


async def test_a_dead_letter_is_settled_by_the_resend(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    await mailbox.behave(at="rcpt", reply="550 5.7.1 not from you")
    staged = await stage(pool)
    found = await mail.until(staged, "failed", "dead")
    assert found["error_code"] == "smtp_5xx"
    async with pool.acquire() as connection:
        assert await list_suppressed(connection) == []  # that was about us
    await mailbox.behave()
    resent = await again(pool, staged.id)
    await mail.until(renewed(staged, resent), "sent", "done")
    assert (await read(pool, staged))["job"]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("reply", "suppressed"),
    [
        ("550 5.1.1 no such user", True),
        ("550 no such user here", True),
        ("550 5.4.1 Recipient address rejected: Access denied", True),
        ("552 5.2.2 mailbox full", False),
        ("550 5.1.8 bad sender", False),
        ("554 5.7.1 blocked", False),
        ("550 blocked by a list", False),
        ("550 5.4.1 no answer from host", False),
    ],
)
async def test_a_mailbox_that_does_not_exist_gets_no_more_mail(
    pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader, reply: str, suppressed: bool
) -> None:
    await mailbox.behave(at="rcpt", reply=reply)
    staged = await stage(pool, email="Nobody@Example.com")
    found = await mail.until(staged, "failed", "dead")
    assert found["error_code"] == "smtp_5xx"
    async with pool.acquire() as connection:
        rows = await list_suppressed(connection)
    assert [(row["email_key"], row["reason"]) for row in rows] == (
        [("nobody@example.com", "rejected")] if suppressed else []
    )
    resent = await again(pool, staged.id)
    assert resent.refused == ({staged.id: "suppressed"} if suppressed else {})


async def test_a_suppressed_address_is_not_written_to_until_it_is_taken_off(
    pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    staged = await stage(pool, email="ana@example.com", invitation_delay_seconds=3600)
    assert await shut(pool, staged, " ANA@example.com ") is True
    assert await shut(pool, staged) is False
    async with pool.acquire() as connection:
        await connection.execute("UPDATE job SET run_at = now() WHERE id = $1", staged.job_id)
    mail.runner.wake()
    found = await mail.until(staged, "failed", "done")
    assert found["error_code"] == "suppressed"
    assert (found["events"][-1]["phase"], found["events"][-1]["reason"]) == ("failed", "suppressed")
    assert (await again(pool, staged.id)).refused == {staged.id: "suppressed"}
    async with pool.acquire() as connection:
        for expected in (True, False):
            assert expected is await unsuppress(
                connection, staged.tenant_id, "Ana@Example.com", actor=PERSON, correlation_id=uuid7()
            )
        actions = await connection.fetch(
            "SELECT action FROM audit_event WHERE action LIKE 'invitation.address.%' ORDER BY occurred_at, id"
        )
    assert [row["action"] for row in actions] == ["invitation.address.suppress", "invitation.address.unsuppress"]
    await mail.until(renewed(staged, await again(pool, staged.id)), "sent", "done")
    assert len(await mailbox.messages()) == 1


async def test_one_tenants_list_is_not_anothers(pool: asyncpg.Pool, mail: Mailer) -> None:
    mine, other = await stage(pool, invitation_delay_seconds=3600), await stage(pool)
    await shut(pool, mine)
    await mail.until(other, "sent", "done")


async def test_whatever_begins_after_a_suppression_is_not_sent(pool: asyncpg.Pool) -> None:
    """Attempts and a suppression in all orders: what began before may go out, nothing after."""
    for _ in range(10):
        staged = await stage(pool)
        order: list[str] = []
        lease = uuid7()
        job = await claimed(pool, lease)

        async def attempt(job: Any = job, lease: UUID = lease, order: list[str] = order) -> Any:
            async with pool.acquire() as connection:
                known = list(order)
                return known, await begin_sending(
                    connection, job, lease, secret_key="k" * 32, invitation_days=7, mail_domain="x.example"
                )

        async def stop(staged: Staged = staged, order: list[str] = order) -> None:
            await shut(pool, staged)
            order.append("suppressed")

        (known, outcome), _ = await asyncio.gather(attempt(), stop())
        if "suppressed" in known:
            assert isinstance(outcome, Skipped)
        later, outcome = await attempt()
        assert later == ["suppressed"]
        assert isinstance(outcome, Skipped)


@pytest.mark.parametrize(("email", "reason"), [("nonsense", "x"), ("a@b.example", " "), ("a@b.example", "x\ny")])
async def test_a_list_takes_addresses_with_a_reason(pool: asyncpg.Pool, email: str, reason: str) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(UsageError):
            await suppress(connection, uuid7(), email, reason=reason, actor=PERSON, correlation_id=uuid7())


async def scenery(pool: asyncpg.Pool) -> Staged:
    """Fill the store with invitations of two tenants in every state."""
    staged, other = await stage(pool), await stage(pool, email="bob@example.com")
    async with pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO invitation (id, tenant_id, user_id, email, state, error_code, error_detail)"
            " SELECT ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,"
            " CASE WHEN n % 2 = 0 THEN $1::uuid ELSE $2 END, gen_random_uuid(), n || '@example.com',"
            " (ARRAY['pending','sending','sent','accepted','expired','failed'])[n % 6 + 1],"
            " CASE WHEN n % 6 = 5 THEN CASE WHEN n % 5 = 0 THEN 'smtp_5xx' ELSE 'smtp_timeout' END END,"
            " CASE WHEN n % 6 = 5 AND n % 5 = 0 THEN 'The server answered 550 5.1.1 to RCPT TO.' END"
            " FROM generate_series(1, 600) AS n",
            staged.tenant_id,
            other.tenant_id,
        )
    return staged


async def test_mailings_are_found_by_state_tenant_code_and_reply(pool: asyncpg.Pool) -> None:
    staged = await scenery(pool)
    async with pool.acquire() as connection:
        expected = [dict(row) for row in await connection.fetch("SELECT * FROM invitation ORDER BY id DESC")]
        for state in ("sent", "failed", "pending", "accepted", None):
            for tenant_id in (None, staged.tenant_id):
                for code, reply in ((None, None), ("smtp_5xx", None), ("smtp_5xx", "550 5.1.1"), (None, "550")):
                    wanted = Mailings(tenant_id, state, code, reply)
                    found, page = [], await list_mailings(connection, wanted, limit=7)
                    while page:
                        found += page
                        wanted = Mailings(tenant_id, state, code, reply, before=page[-1]["id"])
                        page = await list_mailings(connection, wanted, limit=50)
                    assert [row["id"] for row in found] == [
                        row["id"]
                        for row in expected
                        if (state is None or row["state"] == state)
                        and (tenant_id is None or row["tenant_id"] == tenant_id)
                        and (code is None or row["error_code"] == code)
                        and (reply is None or f"answered {reply}" in (row["error_detail"] or ""))
                    ]
        assert await count_states(connection) == {
            "pending": 102, "sending": 100, "sent": 100, "accepted": 100, "expired": 100, "failed": 100,
        }  # fmt: skip
        assert (await count_states(connection, staged.tenant_id))["failed"] == 0
        replies = await count_replies(connection)
    assert [(row["error_code"], row["reply"], row["count"]) for row in replies] == [
        ("smtp_timeout", None, 80),
        ("smtp_5xx", "550 5.1.1", 20),
    ]


async def test_a_person_is_found_by_name(pool: asyncpg.Pool) -> None:
    staged = await stage(pool, email="ana@example.com")
    await stage(pool, email="bob@example.com")
    async with pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO identifier (tenant_id, kind, value_key, resource_id) VALUES ($1, 'userName', $2, $3)",
            staged.tenant_id,
            "ana@example.com",
            staged.user_id,
        )
    (row,) = await listed(pool, user_name="ANA@example.com")
    assert (row["id"], row["user_name"]) == (staged.id, "ana@example.com")


@pytest.mark.parametrize("wanted", [{"state": "lost"}, {"reply": "550'; DROP"}])
def test_what_cannot_be_asked_for_is_said(wanted: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Mailings(**wanted)


async def test_everything_that_matches_is_sent_again_once(pool: asyncpg.Pool) -> None:
    people = [await stage(pool, email=f"p{number}@example.com") for number in range(5)]
    async with pool.acquire() as connection:
        await connection.execute("UPDATE invitation SET state = 'failed', error_code = 'smtp_5xx', token_hash = NULL")
        await connection.execute("UPDATE users SET active = false WHERE id = $1", people[0].user_id)
        wanted = Mailings(state="failed")
        found = [
            each async for each in resend_matching(connection, wanted, actor=PERSON, correlation_id=uuid7(), most=4)
        ]
        assert sum(len(each.made) for each in found) == 4
        rest = [each async for each in resend_matching(connection, wanted, actor=PERSON, correlation_id=uuid7())]
    assert [each.refused for each in rest] == [{people[0].id: "user_inactive"}]
    assert len(await listed(pool, state="pending")) == 4


async def test_one_mailing_has_its_history(settings: Settings, pool: asyncpg.Pool, mail: Mailer) -> None:
    staged = await stage(pool)
    await mail.until(staged, "sent", "done")
    resent = await again(pool, staged.id)
    fresh = renewed(staged, resent)
    await mail.until(fresh, "sent", "done")
    token = link_token(settings.secret_key.get_secret_value(), fresh.id)
    _, accepted = await accept_invitation(pool, token, correlation_id=uuid7())
    assert accepted
    async with pool.acquire() as connection:
        found = await find_mailing(connection, fresh.id)
        assert await find_mailing(connection, uuid7()) is None
    assert found is not None
    assert [(each["generation"], each["state"]) for each in found["generations"]] == [(2, "accepted"), (1, "expired")]
    assert [each["action"].rpartition(".")[2] for each in found["events"]] == ["accept", "send", "resend", "send"]
    assert found["job"] is None
