from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING, Any

import pytest

from models.errors import JobError, PermanentJobError, RetryableJobError
from tests.support.smtp_servers import CERTIFICATE, reciting, smtp_double, smtp_settings
from tests.support.waiting import wait_until
from worker import smtp as smtp_module
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

HELLO = "250-mail.test\r\n250 SIZE 1000000"


def _message(to: str = "ana@example.com", text: str = "Hello\n.\n..dots\n") -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"] = "no-reply@usher.example.com"
    message["To"] = to
    message["Subject"] = "Your invitation"
    message.set_content(text)
    return message


@asynccontextmanager
async def _pool(url: str, **values: Any) -> AsyncIterator[SmtpPool]:
    pool = SmtpPool(smtp_settings(url, **values))
    try:
        yield pool
    finally:
        await pool.close()


async def _error(url: str, message: EmailMessage | None = None, **values: Any) -> JobError:
    async with _pool(url, **values) as pool:
        with pytest.raises(JobError) as caught:
            await pool.send(message or _message())
    return caught.value


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test certificate counts as one of the system's authorities."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))


async def test_a_message_arrives_as_it_was_written() -> None:
    async with smtp_double() as server, _pool(server.url()) as pool:
        reply = await pool.send(_message())
    assert (reply.code, reply.reply_class) == (250, "2xx")
    (envelope,) = server.messages
    assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@usher.example.com", ["ana@example.com"])
    assert b"\r\n.\r\n..dots\r\n" in (envelope.original_content or b"")


async def test_one_connection_carries_many_messages_and_ends_with_a_goodbye() -> None:
    async with smtp_double() as server:
        async with _pool(server.url()) as pool:
            for _ in range(5):
                await pool.send(_message())
        assert (server.connections, len(server.messages), server.quits) == (1, 5, 1)


async def test_never_more_connections_than_allowed() -> None:
    async with smtp_double() as server:
        async with _pool(server.url(), smtp_connections=3) as pool:
            await asyncio.gather(*(pool.send(_message()) for _ in range(20)))
        assert len(server.messages) == 20
        assert (server.connections, server.most_open) == (3, 3)


async def test_an_idle_connection_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_module, "IDLE_SECONDS", 0.05)
    async with smtp_double() as server, _pool(server.url()) as pool:
        await pool.send(_message())
        await wait_until(lambda: server.quits == 1, "the idle connection's QUIT")
        await pool.send(_message())
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async with smtp_double() as server, _pool(server.url()) as pool:
        await pool.send(_message())
        server.hang_up()
        await pool.send(_message())
        assert (server.connections, len(server.messages)) == (2, 2)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_kept_connection_that_answers_421_is_replaced_at_no_cost(verb: str) -> None:
    async with smtp_double() as server, _pool(server.url()) as pool:
        await pool.send(_message())
        server.replies[verb] = ["421 4.7.0 enough messages on this connection"]
        await pool.send(_message())
        assert (server.connections, len(server.messages)) == (2, 2)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    ("reply", "kind", "code", "said"),
    [
        ("450 4.2.1 ana@example.com is busy", RetryableJobError, "smtp_4xx", "450 4.2.1"),
        ("421 4.3.2 going down", RetryableJobError, "smtp_4xx", "421 4.3.2"),
        ("550 5.1.1 ana@example.com unknown", PermanentJobError, "smtp_5xx", "550 5.1.1"),
        ("554 spam from ana@example.com", PermanentJobError, "smtp_5xx", "554"),
        ("530 5.7.0 Must issue a STARTTLS command first", RetryableJobError, "smtp_auth", "530 5.7.0"),
    ],
)
async def test_a_refusal_is_told_by_its_code_and_never_by_its_text(
    verb: str, reply: str, kind: type[JobError], code: str, said: str
) -> None:
    async with smtp_double() as server, _pool(server.url()) as pool:
        server.replies[verb] = [reply]
        with pytest.raises(kind) as caught:
            await pool.send(_message())
        assert caught.value.code == code
        assert f"{said} to {verb}" in caught.value.detail
        assert "ana" not in caught.value.detail
        # The dialogue is in order again: the next message goes through.
        await pool.send(_message())
        assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        (["554 no service here"], "smtp_unreachable", "554 to the greeting"),
        (["421 too many connections"], "smtp_4xx", "421 to the greeting"),
        (["HTTP/1.1 400 Bad Request"], "smtp_unreachable", "not SMTP"),
        ([None], "smtp_unreachable", "connecting"),
        (["220 hi", "550 go away", "550 go away"], "smtp_unreachable", "550 to EHLO"),
        (["220 hi", "450 not now", "450 not now"], "smtp_4xx", "450 to EHLO"),
        (["220 hi", None], "smtp_unreachable", "failed"),
        (["220 hi", HELLO, "nonsense", "250 ok"], "smtp_unreachable", "not SMTP"),
        (["220 hi", HELLO, "250 ok", "250 ok", "354 go on", None], "smtp_unreachable", "the message"),
    ],
)
async def test_trouble_with_the_server_can_pass(lines: Sequence[str | None], code: str, said: str) -> None:
    async with reciting(lines) as url:
        error = await _error(url)
    assert isinstance(error, RetryableJobError)
    assert error.code == code
    assert said in error.detail


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = await _error(f"smtp://127.0.0.1:{port}")
    assert isinstance(error, RetryableJobError)
    assert error.code == "smtp_unreachable"
    assert "ConnectionRefusedError" in error.detail


@pytest.mark.parametrize(
    "lines", [[], ["220 hi"], ["220 hi", HELLO], ["220 hi", HELLO, "250 ok", "250 ok", "354 go on"]]
)
async def test_a_silent_server_is_not_waited_for_for_ever(lines: Sequence[str]) -> None:
    async with reciting(lines) as url, asyncio.timeout(10):
        error = await _error(url, smtp_seconds=0.2)
    assert isinstance(error, RetryableJobError)
    assert error.code == "smtp_timeout"


async def test_a_refusal_stands_even_if_the_server_falls_silent_after_it() -> None:
    async with reciting(["220 hi", HELLO, "250 ok", "550 5.1.1 unknown"]) as url:
        error = await _error(url, smtp_seconds=0.2)
    assert isinstance(error, PermanentJobError)
    assert error.code == "smtp_5xx"


async def test_a_message_that_is_cancelled_half_way_leaves_nothing_behind() -> None:
    async with reciting(["220 hi", HELLO, "250 ok"]) as url, _pool(url, smtp_connections=1) as pool:
        for _ in range(2):  # the second would wait for ever if the first had kept its slot
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await pool.send(_message())
            assert pool._idle == []


async def test_an_address_outside_ascii_needs_a_server_that_can() -> None:
    async with smtp_double() as server, _pool(server.url()) as pool:
        await pool.send(_message("jörg@xn--bcher-kva.example"))
        assert server.messages[0].rcpt_tos == ["jörg@xn--bcher-kva.example"]
    async with smtp_double(enable_SMTPUTF8=False) as server, _pool(server.url()) as pool:
        with pytest.raises(PermanentJobError) as caught:
            await pool.send(_message("jörg@xn--bcher-kva.example"))
        assert caught.value.code == "smtp_message"
        await pool.send(_message())
        assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("scheme", "options"), [("smtps", {"implicit_tls": True}), ("smtp+starttls", {"starttls": True})]
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_messages_go_over_tls(scheme: str, options: dict[str, Any], host: str, trusted: None) -> None:
    async with smtp_double(**options) as server, _pool(server.url(scheme, host=host)) as pool:
        await pool.send(_message())
        await pool.send(_message())
        assert server.secure == [True, True]
        assert server.connections == 1


@pytest.mark.parametrize(
    ("scheme", "options"), [("smtps", {"implicit_tls": True}), ("smtp+starttls", {"starttls": True})]
)
async def test_a_certificate_of_nobody_known_ends_the_connection(scheme: str, options: dict[str, Any]) -> None:
    async with smtp_double(**options) as server:
        error = await _error(server.url(scheme))
        assert isinstance(error, RetryableJobError)
        assert error.code == "smtp_tls"
        assert "self-signed certificate" in error.detail
        assert server.messages == []


@pytest.mark.parametrize(
    ("scheme", "options"), [("smtps", {"implicit_tls": True}), ("smtp+starttls", {"starttls": True})]
)
async def test_a_certificate_for_another_host_ends_the_connection(
    scheme: str, options: dict[str, Any], trusted: None
) -> None:
    async with smtp_double(**options) as server:
        error = await _error(server.url(scheme, host="127.1"))  # the same address under a name that is not certified
        assert error.code == "smtp_tls"
        assert server.messages == []


async def test_starttls_is_never_done_without() -> None:
    async with smtp_double() as server:
        error = await _error(server.url("smtp+starttls"))
        assert isinstance(error, RetryableJobError)
        assert (error.code, server.messages) == ("smtp_tls", [])


async def test_tls_spoken_to_a_plain_server() -> None:
    async with reciting(["220 hi"]) as url:
        error = await _error(url.replace("smtp://", "smtps://"))
    assert isinstance(error, RetryableJobError)
    assert error.code == "smtp_tls"


@pytest.mark.parametrize(
    ("scheme", "options"), [("smtps", {"implicit_tls": True}), ("smtp+starttls", {"starttls": True})]
)
async def test_the_login_is_percent_decoded(scheme: str, options: dict[str, Any], trusted: None) -> None:
    async with smtp_double(login=True, **options) as server:
        async with _pool(server.url(scheme, "me%40x.org:a%2Fb%3F%23@")) as pool:
            await pool.send(_message())
        assert server.logins == [(b"me@x.org", b"a/b?#")]


async def test_a_refused_login_can_pass_and_is_not_repeated_to_anybody(trusted: None) -> None:
    async with smtp_double(login=True, starttls=True) as server:
        error = await _error(server.url("smtp+starttls", "me%40x.org:wrong@"))
        assert isinstance(error, RetryableJobError)
        assert error.code == "smtp_auth"
        assert "wrong" not in error.detail
        assert server.messages == []


async def test_a_server_without_login_is_told_apart() -> None:
    async with smtp_double() as server:
        error = await _error(server.url("smtp", "me:secret@"))
    assert isinstance(error, RetryableJobError)
    assert error.code == "smtp_auth"
