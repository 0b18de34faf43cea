from __future__ import annotations

import asyncio
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import aiohttp
import aiosmtplib
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import MailboxReader

EVIL = "<script>alert(1)</script>"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def message(
    to: str = "ana@x.test", subject: str = "Welcome", text: str = "Hello", html: str | None = None
) -> EmailMessage:
    content = EmailMessage()
    content["From"] = "invitations@usher.test"
    content["To"] = to
    content["Subject"] = subject
    content.set_content(text)
    if html is not None:
        content.add_alternative(html, subtype="html")
    return content


def connection(mailbox: MailboxReader) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(hostname="127.0.0.1", port=int(mailbox.smtp_url.rpartition(":")[2]), timeout=10)


async def send(mailbox: MailboxReader, *messages: EmailMessage) -> None:
    async with connection(mailbox) as smtp:
        for content in messages:
            await smtp.send_message(content)


async def fetch(client: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, str, Any]:
    async with client.get(url, **options) as response:
        return response.status, await response.text(), response.headers


async def test_a_message_is_kept_as_sent_and_listed_with_its_envelope(mailbox: MailboxReader) -> None:
    await send(mailbox, message("Änne <ana@x.test>", "Grüße 😀", "Grüß dich"))

    [found] = await mailbox.messages()

    assert found["recipients"] == ["ana@x.test"]
    assert found["sender"] == "invitations@usher.test"
    assert found["subject"] == "Grüße 😀"
    opened = await mailbox.open(found["id"])
    body = opened.get_body()
    assert body is not None
    assert body.get_content() == "Grüß dich\r\n"


async def test_addresses_beyond_ascii_are_taken(mailbox: MailboxReader) -> None:
    async with connection(mailbox) as smtp:
        await smtp.sendmail("a@x.test", ["änne@x.test"], b"Subject: x\r\n\r\nx", mail_options=["SMTPUTF8"])

    assert (await mailbox.messages())[0]["recipients"] == ["änne@x.test"]


async def test_the_list_is_in_pages_newest_first_and_can_be_searched(
    mailbox: MailboxReader, client: aiohttp.ClientSession
) -> None:
    await send(mailbox, *(message(f"user{number}@x.test", f"Invitation {number}") for number in range(120)))

    _, first, _ = await fetch(client, mailbox.page_url)
    assert "1 to 50 of 120" in first
    assert first.index("user119@x.test") < first.index("user118@x.test")
    assert "user69@x.test" not in first
    assert 'href="/?page=2"' in first
    assert "Newer" not in first

    _, last, _ = await fetch(client, f"{mailbox.page_url}/?page=3")
    assert "101 to 120 of 120" in last
    assert "user0@x.test" in last
    assert "Older" not in last

    _, found, _ = await fetch(client, f"{mailbox.page_url}/?q=user11")
    assert "1 to 11 of 11" in found  # 11 and 110 to 119
    assert (await fetch(client, f"{mailbox.page_url}/?page=99"))[0] == 200
    assert (await fetch(client, f"{mailbox.page_url}/?page=x"))[0] == 400
    assert len(await mailbox.messages("user11")) == 11


async def test_a_message_is_shown_with_headers_links_and_its_html_in_a_frame(
    mailbox: MailboxReader, client: aiohttp.ClientSession
) -> None:
    await send(mailbox, message(text="Accept: https://x.test/invitations/abc?d=e&f", html="<p>Accept <b>here</b></p>"))
    [found] = await mailbox.messages()
    url = f"{mailbox.page_url}/messages/{found['id']}"

    _, page, headers = await fetch(client, url)
    assert "invitations@usher.test" in page
    assert 'href="https://x.test/invitations/abc?d=e&amp;f"' in page
    assert f'src="/messages/{found["id"]}/html"' in page
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]

    _, html, headers = await fetch(client, f"{url}/html")
    assert "<p>Accept <b>here</b></p>" in html
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("sandbox")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy

    status, raw, headers = await fetch(client, f"{url}.eml")
    assert status == 200
    assert raw.startswith("From: ")
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["X-Content-Type-Options"] == "nosniff"

    for missing in ("99999999", "99999999/html", "99999999.eml", "..%2Findex"):
        assert (await fetch(client, f"{mailbox.page_url}/messages/{missing}"))[0] == 404


async def test_what_is_in_a_message_cannot_act_on_the_page(
    mailbox: MailboxReader, client: aiohttp.ClientSession
) -> None:
    evil = message("ana@x.test", f"{EVIL}", f"{EVIL} javascript:alert(1)", f"{EVIL}<form action=/messages>")
    evil["X-Evil"] = EVIL
    await send(mailbox, evil)
    [found] = await mailbox.messages()

    for path in ("/", f"/?q={EVIL}", f"/messages/{found['id']}"):
        _, page, _ = await fetch(client, mailbox.page_url + path)
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert 'href="javascript' not in page


async def test_other_sites_in_the_browser_can_neither_read_nor_change(
    mailbox: MailboxReader, client: aiohttp.ClientSession
) -> None:
    await send(mailbox, message())

    rebound = {"Host": f"evil.test:{mailbox.page_url.rpartition(':')[2]}"}
    assert (await fetch(client, f"{mailbox.page_url}/messages.json", headers=rebound))[0] == 421
    for origin in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": origin}
        async with client.delete(f"{mailbox.page_url}/messages", headers=headers) as response:
            assert response.status == 403
        async with client.post(f"{mailbox.page_url}/behaviour", json={"reply": "550"}, headers=headers) as response:
            assert response.status == 403
    assert len(await mailbox.messages()) == 1
    assert (await fetch(client, mailbox.page_url.replace("127.0.0.1", "localhost")))[0] == 200


@pytest.mark.parametrize(
    ("at", "error", "kept"),
    [
        ("mail", aiosmtplib.SMTPSenderRefused, 0),
        ("rcpt", aiosmtplib.SMTPRecipientsRefused, 0),
        ("data", aiosmtplib.SMTPDataError, 0),
        ("stored", aiosmtplib.SMTPDataError, 1),
    ],
)
async def test_an_error_is_answered_at_the_stage_asked_for(
    mailbox: MailboxReader, at: str, error: type[Exception], kept: int
) -> None:
    await mailbox.behave(reply="451 4.3.0 try later", at=at, times=1)

    with pytest.raises(error) as caught:
        await send(mailbox, message())

    assert "451" in repr(caught.value)
    assert await mailbox.shown() == 1
    assert len(await mailbox.messages()) == kept
    await send(mailbox, message())
    assert len(await mailbox.messages()) == kept + 1


async def test_an_error_may_concern_one_recipient(mailbox: MailboxReader) -> None:
    await mailbox.behave(reply="550 no such user", at="rcpt", to="bob@")

    await send(mailbox, message("ana@x.test"))
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
        await send(mailbox, message("bob@x.test"))

    assert [found["recipients"] for found in await mailbox.messages()] == [["ana@x.test"]]


@pytest.mark.parametrize(("at", "kept"), [("data", 0), ("stored", 1)])
async def test_a_connection_may_be_cut_instead_of_answered(mailbox: MailboxReader, at: str, kept: int) -> None:
    await mailbox.behave(drop=True, at=at, times=1)

    with pytest.raises(aiosmtplib.SMTPServerDisconnected):
        await send(mailbox, message())

    assert len(await mailbox.messages()) == kept
    await send(mailbox, message())


async def test_an_answer_may_be_late(mailbox: MailboxReader) -> None:
    await mailbox.behave(delay_seconds=0.3, times=1)
    loop = asyncio.get_running_loop()
    began = loop.time()

    await send(mailbox, message())

    assert loop.time() - began >= 0.3
    assert len(await mailbox.messages()) == 1


async def test_a_behaviour_that_makes_no_sense_is_refused(
    mailbox: MailboxReader, client: aiohttp.ClientSession
) -> None:
    for body in ('{"reply": "nonsense"}', '{"strange": 1}', "[]", "{"):
        async with client.post(f"{mailbox.page_url}/behaviour", data=body) as response:
            assert response.status == 400


async def test_many_senders_at_once_lose_nothing(mailbox: MailboxReader) -> None:
    async def sender(number: int) -> None:
        await send(mailbox, *(message(f"user{number}-{each}@x.test") for each in range(25)))

    await asyncio.gather(*(sender(number) for number in range(16)))

    found = await mailbox.messages()
    assert len({recipient for each in found for recipient in each["recipients"]}) == 400
    assert [each["id"] for each in found] == sorted((each["id"] for each in found), reverse=True)
