from __future__ import annotations

import pytest

from models.errors import UsageError
from models.settings import load_settings
from models.tenants import _check


@pytest.mark.parametrize(
    "changes",
    [
        {"display_name": "Acme\nBcc: a@x.example"},
        {"display_name": "=?utf-8?q?Acme?="},
        {"display_name": " "},
        {"sign_in_url": "javascript:alert(1)"},
        {"sign_in_url": "https://"},
        {"sign_in_url": "https://exa mple.com/"},
        {"sign_in_url": "https://a;b.example/"},
        {"sign_in_url": "https://a.example:port/"},
        {"sign_in_url": "https://a.example/\x00"},
        {"invitation_delay_seconds": -1},
        {"branding": {"accent_color": "red"}},
        {"branding": {"sender_name": "A\r\nB"}},
        {"branding": {"support_email": "nobody"}},
        {"branding": {"logo_url": "data:image/png;base64,AA"}},
        {"branding": {"logo": "x"}},
    ],
)
def test_a_value_that_would_break_mails_or_pages_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        _check(changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"display_name": "Žofie & Søn"},
        {"sign_in_url": "https://app.example.com:8443/login?next=%2F"},
        {"sign_in_url": "http://localhost:3000"},
        {"sign_in_url": "http://[::1]:3000/"},
        {"branding": {"accent_color": "#1f6FEB", "support_email": "help@example.com", "sender_name": "Acme"}},
    ],
)
def test_ordinary_values_are_taken(changes: dict[str, object]) -> None:
    _check(changes)


def test_the_sender_must_be_an_address() -> None:
    with pytest.raises(UsageError, match=r"USHER_MAIL_FROM: .*e-mail address"):
        load_settings(
            database_url="postgresql://h/d", redis_url="redis://h", secret_key="k" * 32, mail_from="invitations"
        )


@pytest.mark.parametrize("address", ["invitations@usher.localhost", "it@corp.local", "info@příklad.example", "a@b"])
def test_a_sender_inside_the_house_is_taken(address: str) -> None:
    settings = load_settings(
        database_url="postgresql://h/d", redis_url="redis://h", secret_key="k" * 32, mail_from=address
    )
    assert settings.mail_from == address
