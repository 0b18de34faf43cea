from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import UsageError
from models.settings import Settings, load_settings

PASSWORD = "hunter2-hunter2"
NEEDED: dict[str, Any] = {
    "database_url": f"postgresql://usher:{PASSWORD}@127.0.0.1:5432/usher",
    "redis_url": f"redis://:{PASSWORD}@127.0.0.1:6379/0",
    "secret_key": f"{PASSWORD}-and-more-than-thirty-two",
}


def refusal(**overrides: Any) -> str:
    """Return what a person reads when these settings are refused."""
    with pytest.raises(UsageError) as caught:
        load_settings(**{**NEEDED, **overrides})
    return caught.value.detail


def test_the_least_that_is_needed() -> None:
    settings = load_settings(**NEEDED)
    assert settings.database_url.get_secret_value() == NEEDED["database_url"]
    assert settings.scim_url == "http://127.0.0.1:8080/scim/v2"


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(**{key: value for key, value in NEEDED.items() if key != name})
    assert f"USHER_{name.upper()}: Field required" in caught.value.detail


def test_all_that_is_wrong_is_named_at_once() -> None:
    text = refusal(port=70_000, log_level="loud", page_size=0)
    assert all(name in text for name in ("USHER_PORT:", "USHER_LOG_LEVEL:", "USHER_PAGE_SIZE:"))


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**NEEDED, "port": "9090", "token_cache_seconds": "1.5"}.items():
        monkeypatch.setenv(f"USHER_{name.upper()}", value)
    monkeypatch.setenv("USHER_UNKNOWN_TO_US", "is no mistake: later versions know more")
    monkeypatch.setenv("PORT", "1")
    settings = load_settings()
    assert (settings.port, settings.token_cache_seconds) == (9090, 1.5)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {key: value for key, value in NEEDED.items() if key != name}
    monkeypatch.setenv(f"USHER_{name.upper()}", "\x07")
    path = Settings.model_fields[name].annotation == Path | None
    if name in {"host", "admin_host"} or path:  # free text
        assert str(getattr(load_settings(**others), name)) == "\x07"
    else:
        with pytest.raises(UsageError, match=f"USHER_{name.upper()}: "):
            load_settings(**others)


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USHER_PORT", "9090")
    assert load_settings(**NEEDED, port=9191).port == 9191


def test_a_value_never_changes() -> None:
    settings = load_settings(**NEEDED)
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]  # that it is refused is the point
    assert settings.port == 8080


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda settings: settings.model_dump_json()])
def test_secrets_hide(show: Any) -> None:
    settings = load_settings(**NEEDED, smtp_url=f"smtps://usher:{PASSWORD}@mail.example.com")
    text = show(settings)
    assert PASSWORD not in text
    assert "127.0.0.1" in text, "what is no secret is still shown"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", f"mysql://usher:{PASSWORD}@127.0.0.1/usher"),
        ("redis_url", f"http://:{PASSWORD}@127.0.0.1"),
        ("smtp_url", f"ftp://usher:{PASSWORD}@127.0.0.1"),
        ("secret_key", PASSWORD),
    ],
)
def test_a_refused_secret_hides_too(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(**{**NEEDED, name: value})
    assert f"USHER_{name.upper()}: " in caught.value.detail
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValidationError) as bare:
        Settings(**{**NEEDED, name: value})
    assert PASSWORD not in str(bare.value)


@pytest.mark.parametrize("url", ["postgresql://u@h/d", "postgres://u@h/d"])
def test_database_urls(url: str) -> None:
    assert load_settings(**{**NEEDED, "database_url": url}).database_url.get_secret_value() == url


@pytest.mark.parametrize("url", ["redis://h", "rediss://h:6380/1", "unix:///run/valkey.sock"])
def test_redis_urls(url: str) -> None:
    assert load_settings(**{**NEEDED, "redis_url": url}).redis_url.get_secret_value() == url


@pytest.mark.parametrize("url", ["smtp://h", "smtp+starttls://u:p@h:587", "smtps://h"])
def test_smtp_urls(url: str) -> None:
    assert load_settings(**NEEDED, smtp_url=url).smtp_url.get_secret_value() == url


@pytest.mark.parametrize("address", ["invitations@example.com", "usher@mail.internal", "info@bücher.example"])
def test_sender_addresses(address: str) -> None:
    assert load_settings(**NEEDED, mail_from=address).mail_from == address


@pytest.mark.parametrize(
    "address", ["", "invitations", "a@b\r\nBcc: c@d.example", "Usher <usher@example.com>", "a b@c.example"]
)
def test_what_is_no_sender_address_is_refused(address: str) -> None:
    assert "USHER_MAIL_FROM: " in refusal(mail_from=address)


@pytest.mark.parametrize("name", ["database_url", "redis_url", "smtp_url"])
def test_other_schemes_are_refused_with_the_right_one(name: str) -> None:
    assert f"USHER_{name.upper()}: Value error, must start with" in refusal(**{name: "gopher://h"})


def test_a_short_secret_key_is_refused() -> None:
    assert "USHER_SECRET_KEY: Value error, must have at least 32 characters" in refusal(secret_key="x" * 31)
    assert load_settings(**{**NEEDED, "secret_key": "x" * 32})


def test_a_lease_outlives_a_missed_beat() -> None:
    assert "USHER_LEASE_BEAT_SECONDS must be less than half of USHER_LEASE_SECONDS" in refusal(
        lease_seconds=20, lease_beat_seconds=10
    )
    assert load_settings(**NEEDED, lease_seconds=20.5, lease_beat_seconds=10)


def test_a_page_is_not_larger_than_the_largest() -> None:
    assert "USHER_PAGE_SIZE must not be larger than USHER_MAX_PAGE_SIZE" in refusal(page_size=11, max_page_size=10)
    assert load_settings(**NEEDED, page_size=10, max_page_size=10)


@pytest.mark.parametrize("name", ["role; DROP TABLE users", 'usher"app', "Usher", ""])
def test_a_role_that_is_no_plain_name_is_refused(name: str) -> None:
    assert "USHER_DATABASE_ROLE: " in refusal(database_role=name)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("port", -1),
        ("port", 65_536),
        ("token_days", 0),
        ("token_cache_seconds", 5.1),  # a revoked token ends within 5 s on every process
        ("request_seconds", 60),  # Entra gives up then
        ("max_body_bytes", 1023),
        ("max_json_depth", 201),
        ("poll_seconds", 0),
        ("sweep_seconds", 0),
        ("lease_seconds", 0),
        ("invitation_days", 0),
        ("smtp_connections", 0),
        ("public_url", "usher.example.com"),
    ],
)
def test_limits(name: str, wrong: object) -> None:
    assert f"USHER_{name.upper()}: " in refusal(**{name: wrong})


@pytest.mark.parametrize("given", ["https://usher.example.com", "https://usher.example.com/"])
def test_the_tenant_url_has_one_slash_where_one_belongs(given: str) -> None:
    settings = load_settings(**NEEDED, public_url=given)
    assert settings.base_url == "https://usher.example.com"
    assert settings.scim_url == "https://usher.example.com/scim/v2"


def test_the_tenant_url_keeps_a_path() -> None:
    assert load_settings(**NEEDED, public_url="https://example.com/usher/").scim_url == (
        "https://example.com/usher/scim/v2"
    )
