from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import tokens
from models.tokens import TokenRecord, hash_secret, refusal, split_token

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _text() -> str:
    body = f"ush_{'a1B2c3D4e5F6'}_{'s' * 43}"
    return body + tokens._check(body)


def _record(**changes: object) -> TokenRecord:
    fields: dict[str, object] = {
        "id": "a1B2c3D4e5F6",
        "tenant_id": uuid4(),
        "label": "",
        "secret_hash": hash_secret(_text().split("_")[2]),
        "scopes": frozenset({"scim"}),
        "expires_at": NOW + timedelta(days=1),
        "revoked_at": None,
    }
    return TokenRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_token_is_short_enough_for_entra_and_carries_its_id() -> None:
    text = _text()
    assert len(text) < 100
    assert split_token(text) == ("a1B2c3D4e5F6", text.split("_")[2])


@given(st.integers(0, 65), st.characters(codec="ascii", categories=("L", "N")))
def test_a_changed_letter_is_told_without_asking_the_store(place: int, letter: str) -> None:
    text = _text()
    changed = text[:place] + letter + text[place + 1 :]
    assert (split_token(changed) is None) == (changed != text)


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    assert split_token(text) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"secret_hash": hash_secret("another")}, "unknown"),
        ({"expires_at": NOW}, "expired"),
        ({"revoked_at": NOW}, "revoked"),
        ({"revoked_at": NOW + timedelta(hours=1)}, None),
        ({"scopes": frozenset({"audit"})}, "scope"),
    ],
)
def test_refusal(changes: dict[str, object], reason: str | None) -> None:
    assert refusal(_record(**changes), _text().split("_")[2], "scim", NOW) == reason


def test_an_unknown_token_is_unknown() -> None:
    assert refusal(None, "whatever", "scim", NOW) == "unknown"


def test_an_issued_token_hides_its_text() -> None:
    issued = tokens.IssuedToken("id", _text(), NOW)
    assert _text() not in repr(issued)
    assert _text() not in str(issued)
