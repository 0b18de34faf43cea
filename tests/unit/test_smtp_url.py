from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UsageError
from models.settings import load_settings
from worker.smtp import SmtpPool, SmtpServer, parse_smtp_url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", SmtpServer("mail.example.com", 25, "none")),
        ("smtp+starttls://mail.example.com", SmtpServer("mail.example.com", 587, "starttls")),
        ("smtps://mail.example.com", SmtpServer("mail.example.com", 465, "implicit")),
        ("smtp://mail.example.com:2525/", SmtpServer("mail.example.com", 2525, "none")),
        ("smtps://[2001:db8::1]", SmtpServer("2001:db8::1", 465, "implicit")),
        ("smtp://[::1]:1025", SmtpServer("::1", 1025, "none")),
        ("smtp+starttls://u:p@h", SmtpServer("h", 587, "starttls", "u", "p")),
        ("smtp://me%40x.org:a%2Fb%3F%23%3A%25@h", SmtpServer("h", 25, "none", "me@x.org", "a/b?#:%")),
        ("smtp://only-a-user@h", SmtpServer("h", 25, "none", "only-a-user", "")),
    ],
)
def test_a_url_says_where_and_how(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example.com:25",
        "http://mail.example.com",
        "smtp://",
        "smtp://:25",
        "smtp://h:0",
        "smtp://h:65536",
        "smtp://h:port",
        "smtp://h/path",
        "smtp://h?tls=no",
        "smtp://user:se/cret@h",
        "smtp://[::1",
    ],
)
def test_another_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_smtp_url(url)
    assert "cret" not in caught.value.detail


@given(st.text(min_size=1), st.text())
def test_any_login_survives_percent_encoding(username: str, password: str) -> None:
    server = parse_smtp_url(f"smtps://{quote(username, safe='')}:{quote(password, safe='')}@h")
    assert (server.username, server.password) == (username, password)


def test_the_password_hides_in_repr() -> None:
    assert "hidden" not in repr(parse_smtp_url("smtps://user:hidden@h"))


@pytest.mark.parametrize(
    ("public_url", "name"),
    [
        ("https://usher.example.com/", "usher.example.com"),
        ("http://127.0.0.1:8080", "[127.0.0.1]"),
        ("http://[::1]:8080", "[IPv6:::1]"),
    ],
)
def test_the_client_introduces_itself_as_its_public_host(public_url: str, name: str) -> None:
    settings = load_settings(
        database_url="postgresql://h/d", redis_url="redis://h", secret_key="k" * 32, public_url=public_url
    )
    assert SmtpPool(settings)._name == name
