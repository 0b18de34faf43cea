from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models import job_actions
from models import jobs as ledger
from models.audit.record import OPERATOR
from models.errors import RetryableJobError
from models.invitations import Skipped, accept_invitation, begin_sending, failed, link_token, sent
from tests.support.invitations import Mailer, claimed, mailer, read, stage
from tests.support.waiting import wait_until
from worker.handlers import invitation as handler_module
from worker.handlers.invitation import HANDLER
from worker.smtp import SmtpPool, SmtpReply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from email.message import EmailMessage
    from uuid import UUID

    import asyncpg

    from models.jobs import Job
    from models.settings import Settings
    from tests.support.servers import MailboxReader


@pytest.fixture
async def mail(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Mailer]:
    async with mailer(settings, pool) as running:
        yield running


def _link(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    assert part is not None
    found = re.search(r"/invitations/([A-Za-z0-9_-]{43})\r\n", part.get_content())
    assert found is not None
    return found[1]


async def _begin(pool: asyncpg.Pool, job: Job, lease: UUID, mail_domain: str = "usher.example.com") -> Any:
    async with pool.acquire() as connection:
        return await begin_sending(
            connection, job, lease, secret_key="k" * 32, invitation_days=7, mail_domain=mail_domain
        )


async def test_an_invitation_is_sent_once(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    staged = await stage(pool, email="Ana.Mueller@example.com", name="Ana Müller")
    found = await mail.until(staged, "sent", "done")
    (caught,) = await mailbox.wait_for(1)
    message = await mailbox.open(caught["id"])
    assert caught["recipients"] == ["Ana.Mueller@example.com"]
    assert message["Message-ID"] == found["message_id"] == f"<{staged.id}.1@usher.localhost>"
    assert "Hello Ana Müller," in str(message.get_body(("plain",)).get_content())  # type: ignore[union-attr]
    # Only the hash of what stands in the link is kept.
    assert found["token_hash"] == hashlib.sha256(_link(message).encode()).digest()
    assert (found["expires_at"] - found["sent_at"]).days == 7
    assert found["error_code"] is None

    (event,) = found["events"]
    assert (event["action"], event["phase"], event["outcome"]) == ("invitation.email.send", "applied", "success")
    assert event["correlation_id"] == staged.correlation_id
    assert event["context"] == {"attempt": 1, "message_id": found["message_id"], "smtp_reply_class": "2xx"}
    assert event["targets"] == [
        {"type": "User", "id": str(staged.user_id), "label": "Ana.Mueller@example.com"},
        {"type": "Invitation", "id": str(staged.id), "label": "Ana.Mueller@example.com"},
    ]
    # Another user's message comes after: had the first been sent again, it would be there by then.
    await mail.until(await stage(pool, email="bo@example.com"), "sent", "done")
    assert len(await mailbox.messages("mueller")) == 1


async def test_a_refusal_for_now_is_tried_again_later(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    await mailbox.behave(reply="451 4.3.0 ana@example.com later", at="data", times=1)
    staged = await stage(pool)
    waiting = await mail.until(staged, "pending", "retry")
    assert waiting["error_code"] == waiting["job"]["error_code"] == "smtp_4xx"
    assert waiting["error_detail"] == "The server answered 451 4.3.0 to DATA."
    assert 2.5 < waiting["job"]["due_in"] <= 6.25  # five seconds, give or take a quarter, and the time since
    assert waiting["events"] == []
    assert await mailbox.messages() == []

    found = await mail.until(staged, "sent", "done")
    assert (found["error_code"], found["error_detail"], found["job"]["attempts"]) == (None, None, 2)
    (caught,) = await mailbox.messages()
    assert caught["message_id"] == found["message_id"] == waiting["message_id"]


async def test_a_refusal_for_good_ends_it(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    await mailbox.behave(reply="550 5.7.1 ana@example.com refused", at="rcpt")
    staged = await stage(pool)
    found = await mail.until(staged, "failed", "dead")
    assert (found["error_code"], found["job"]["attempts"]) == ("smtp_5xx", 1)
    (event,) = found["events"]
    assert (event["phase"], event["outcome"], event["reason"]) == ("failed", "failure", "smtp_5xx")
    assert event["target_id"] == str(staged.user_id)
    for text in (found["error_detail"], found["job"]["error_detail"], event["reason"]):
        assert "ana" not in text

    # Once the cause is mended, a person can have it sent after all.
    await mailbox.behave()
    async with pool.acquire() as connection:
        await job_actions.retry_now(connection, staged.job_id, actor=OPERATOR)
    found = await mail.until(staged, "sent", "done")
    assert [event["phase"] for event in found["events"]] == ["failed", "applied"]


async def test_attempts_run_out(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    await mailbox.behave(reply="450 4.2.1 later", at="mail")
    staged = await stage(pool)
    last = ledger.KINDS["invitation.send"].max_attempts - 1
    await pool.execute("UPDATE job SET attempts = $2 WHERE id = $1", staged.job_id, last)
    found = await mail.until(staged, "failed", "dead")
    assert [event["reason"] for event in found["events"]] == ["smtp_4xx"]


async def test_a_message_whose_answer_was_lost_is_repeated_as_the_same(
    pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    await mailbox.behave(drop=True, at="stored", times=1)
    staged = await stage(pool)
    waiting = await mail.until(staged, "pending", "retry")
    assert waiting["error_code"] == "smtp_unreachable"
    await mail.until(staged, "sent", "done")
    one, other = await mailbox.messages()
    assert one["message_id"] == other["message_id"]
    assert _link(await mailbox.open(one["id"])) == _link(await mailbox.open(other["id"]))


async def test_a_link_works_though_the_answer_to_its_message_was_lost(
    settings: Settings, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    await mailbox.behave(drop=True, at="stored", times=1)
    staged = await stage(pool)
    await mail.until(staged, "pending", "retry")
    (caught,) = await mailbox.messages()
    _, accepted = await accept_invitation(pool, _link(await mailbox.open(caught["id"])), correlation_id=uuid7())
    assert accepted
    # The attempt that was due finds it accepted, and sends nothing.
    found = await mail.until(staged, "accepted", "done")
    assert len(await mailbox.messages()) == 1
    assert [(e["action"], e["phase"], e["reason"]) for e in found["events"]] == [
        ("invitation.link.accept", "applied", None),
        ("invitation.email.send", "applied", "already_accepted"),
    ]


@pytest.mark.parametrize(
    "display_name", ["Acme\r\nBcc: x@evil.example", "Acme\nX-Spam: no", "=?utf-8?q?=0D=0ABcc:_x=40evil.example?="]
)
async def test_a_tenants_name_that_would_make_a_header_sends_nothing(
    display_name: str, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    staged = await stage(pool)
    await pool.execute("UPDATE tenant SET display_name = $2 WHERE id = $1", staged.tenant_id, display_name)
    found = await mail.until(staged, "failed", "dead")
    assert (found["error_code"], [event["reason"] for event in found["events"]]) == ("smtp_message", ["smtp_message"])
    assert await mailbox.messages() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM users WHERE id = $1", "user_gone"),
        ("UPDATE users SET active = false WHERE id = $1", "user_inactive"),
        ("UPDATE tenant SET invitations = false FROM users WHERE users.id = $1", "invitations_off"),
        ("DELETE FROM invitation WHERE user_id = $1", "invitation_gone"),
    ],
)
async def test_an_invitation_that_lost_its_purpose_is_not_sent(
    change: str, reason: str, settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    staged = await stage(pool)
    await pool.execute(change, staged.user_id)
    lease = uuid7()
    job = await claimed(pool, lease)
    assert await _begin(pool, job, lease) == Skipped(reason)
    states = await pool.fetchrow(
        "SELECT job.state AS job, invitation.state, invitation.error_code, token_hash"
        " FROM job LEFT JOIN invitation ON invitation.id = resource_id WHERE job.id = $1",
        staged.job_id,
    )
    gone = reason == "invitation_gone"
    assert states is not None
    assert tuple(states) == ("done", *((None, None, None) if gone else ("failed", reason, None)))
    events = await pool.fetch("SELECT phase, reason FROM audit_event WHERE action = 'invitation.email.send'")
    assert [tuple(event) for event in events] == [("failed", reason)]


async def test_what_is_skipped_sends_no_message(pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader) -> None:
    staged, lease = await stage(pool), uuid7()
    await pool.execute("UPDATE users SET active = false WHERE id = $1", staged.user_id)
    job = await claimed(pool, lease)
    assert await HANDLER.run(mail.context, [job], lease) == {job.id}
    assert (await read(pool, staged))["job"]["state"] == "done"
    await mail.until(await stage(pool, email="bo@example.com"), "sent", "done")
    assert [message["recipients"] for message in await mailbox.messages()] == [["bo@example.com"]]


async def test_a_message_keeps_its_id_when_the_senders_address_changes_between_attempts(pool: asyncpg.Pool) -> None:
    await stage(pool)
    lease = uuid7()
    job = await claimed(pool, lease)
    first, second = await _begin(pool, job, lease), await _begin(pool, job, lease, mail_domain="other.example.com")
    assert first.message_id == second.message_id
    assert first.message_id.endswith("@usher.example.com>")


async def test_without_the_lease_nothing_begins(pool: asyncpg.Pool, mail: Mailer) -> None:
    staged = await stage(pool)
    job = await claimed(pool, uuid7())
    assert await _begin(pool, job, uuid7()) == Skipped("lease_lost")
    assert await HANDLER.run(mail.context, [job], uuid7()) == set(), "somebody else does it"
    found = await read(pool, staged)
    assert (found["state"], found["token_hash"], found["job"]["state"]) == ("pending", None, "running")


async def test_sending_is_committed_before_the_message_goes_out(
    settings: Settings, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    await mailbox.behave(delay_seconds=0.5, at="mail")
    staged = await stage(pool)
    found = await mail.until(staged, "sending", "running")
    key = settings.secret_key.get_secret_value()
    assert found["token_hash"] == hashlib.sha256(link_token(key, staged.id).encode()).digest()
    assert found["message_id"] == f"<{staged.id}.1@usher.localhost>"
    await mail.until(staged, "sent", "done")


async def overtaken(pool: asyncpg.Pool, lease: UUID) -> Job:
    """Claim a job and begin to send it under a lease that is lost at once, and let the ledger have it back."""
    job = await claimed(pool, lease, lease_seconds=-1)
    assert not isinstance(await _begin(pool, job, lease), Skipped)
    async with pool.acquire() as connection:
        (rescued,) = await ledger.rescue(connection)
        await failed(connection, ledger.Ending(ledger.read_job(rescued), rescued["state"], "lease_expired"))
    return job


async def test_a_message_that_went_out_counts_even_if_the_lease_was_lost_meanwhile(pool: asyncpg.Pool) -> None:
    staged = await stage(pool)
    slow, other = uuid7(), uuid7()
    job = await overtaken(pool, slow)
    async with pool.acquire() as connection:
        assert (await read(pool, staged))["state"] == "pending"
        assert not await sent(connection, job, slow, invitation_days=7)
    assert (await read(pool, staged))["state"] == "sent"
    again = await claimed(pool, other)
    assert await _begin(pool, again, other) == Skipped("already_sent")
    found = await read(pool, staged)
    assert (found["state"], found["job"]["state"], len(found["events"])) == ("sent", "done", 1)


@pytest.mark.parametrize("slow_first", [True, False])
async def test_a_message_that_two_workers_sent_is_told_once(pool: asyncpg.Pool, slow_first: bool) -> None:
    staged = await stage(pool)
    slow, other = uuid7(), uuid7()
    job = await overtaken(pool, slow)
    async with pool.acquire() as connection:
        again = await claimed(pool, other)
        assert not isinstance(await _begin(pool, again, other), Skipped)
        ends = [(job, slow), (again, other)]
        for each, lease in ends if slow_first else reversed(ends):
            assert await sent(connection, each, lease, invitation_days=7) is (lease == other)
    found = await read(pool, staged)
    assert (found["state"], found["job"]["state"], len(found["events"])) == ("sent", "done", 1)


async def test_a_sent_invitation_that_was_accepted_at_once_stays_accepted(pool: asyncpg.Pool) -> None:
    staged = await stage(pool)
    lease = uuid7()
    job = await claimed(pool, lease)
    letter = await _begin(pool, job, lease)
    await accept_invitation(pool, letter.token, correlation_id=uuid7())
    async with pool.acquire() as connection:
        assert await sent(connection, job, lease, invitation_days=7)
    found = await read(pool, staged)
    assert (found["state"], found["job"]["state"]) == ("accepted", "done")
    assert found["sent_at"] is not None


class _Interrupted(SmtpPool):
    """Sends, and has the sender cancelled the moment the message is out."""

    async def send(self, message: EmailMessage, *, template: str = "invitation") -> SmtpReply:
        reply = await super().send(message, template=template)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return reply


async def test_a_worker_that_stops_still_records_what_it_sent(
    settings: Settings, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader
) -> None:
    smtp = _Interrupted(settings)
    lease = uuid7()
    mail.runner.stop()
    staged = await stage(pool)
    job = await claimed(pool, lease)
    with pytest.raises(asyncio.CancelledError):
        await HANDLER.run(replace(mail.context, smtp=smtp), [job], lease)
    await smtp.close()
    found = await read(pool, staged)
    assert (found["state"], found["job"]["state"]) == ("sent", "done")


async def test_a_message_that_cannot_be_recorded_costs_an_attempt(
    settings: Settings, pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def unavailable(*_: object, **__: object) -> bool:
        nonlocal tries
        tries += 1
        raise ConnectionResetError

    monkeypatch.setattr(handler_module, "sent", unavailable)
    monkeypatch.setattr(handler_module, "_RECORD_PAUSES", (0.0, 0.0, 0.0))
    lease = uuid7()
    mail.runner.stop()
    await stage(pool)
    with pytest.raises(RetryableJobError) as caught:
        await HANDLER.run(mail.context, [await claimed(pool, lease)], lease)
    assert (caught.value.code, tries) == ("not_recorded", 3)


async def test_a_message_whose_record_was_committed_unheard_is_told_once(
    pool: asyncpg.Pool, mail: Mailer, mailbox: MailboxReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[bool] = []

    async def unheard(*given: Any, **options: Any) -> bool:
        recorded.append(await sent(*given, **options))
        if len(recorded) == 1:
            raise ConnectionResetError
        return recorded[-1]

    monkeypatch.setattr(handler_module, "sent", unheard)
    staged = await stage(pool)
    await mail.until(staged, "sent", "done")
    await wait_until(lambda: len(recorded) == 2, "it was recorded again")
    assert recorded == [True, True]
    assert [event["phase"] for event in (await read(pool, staged))["events"]] == ["applied"]
    assert len(await mailbox.messages()) == 1


async def test_many_invitations_share_few_connections(
    settings: Settings, pool: asyncpg.Pool, mailbox: MailboxReader
) -> None:
    many = [await stage(pool, email=f"user{number}@example.com") for number in range(20)]
    async with mailer(settings, pool) as mail:
        for staged in many:
            await mail.until(staged, "sent", "done")
    messages = await mailbox.messages()
    assert len(messages) == len({message["message_id"] for message in messages}) == 20
