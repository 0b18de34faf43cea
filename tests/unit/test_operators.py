from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UsageError
from models.operators import PERMISSIONS, ROLES, Operator
from models.passwords import check_password, hash_password, verify_password
from models.sign_in import FREE_BY_NAME, LONGEST_WAIT_SECONDS, failure_key, peer_key, wait_seconds

EVERYTHING = {
    *("view_jobs", "reveal_args", "retry_job", "cancel_job", "discard_job", "bulk", "pause_queue", "quiet_worker"),
    *("resend_email", "capture_requests", "manage_tokens", "view_audit", "export_audit", "manage_operators"),
    "manage_streams",
}
OPERATORS_OWN = EVERYTHING - {"capture_requests", "manage_tokens", "manage_streams", "manage_operators"}
MAY = {"viewer": {"view_jobs", "view_audit"}, "operator": OPERATORS_OWN, "admin": EVERYTHING}


def make(role: str) -> Operator:
    return Operator(UUID(int=1), "ana", "Ana@example.com", role, False, datetime.now(UTC))


@pytest.mark.parametrize("permission", sorted(EVERYTHING))
@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_it_may(role: str, permission: str) -> None:
    assert make(role).may(permission) is (permission in MAY[role])


def test_roles_are_these() -> None:
    assert {role: set(granted) for role, granted in PERMISSIONS.items()} == MAY


@given(st.text(), st.text())
def test_whatever_is_not_named_nobody_may(role: str, permission: str) -> None:
    if role not in MAY or permission not in EVERYTHING:
        assert not make(role).may(permission)


def test_the_audit_log_names_the_person() -> None:
    actor = make("viewer").actor
    assert (actor.type, actor.id, actor.label) == ("operator", str(UUID(int=1)), "ana")


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_waiting_grows_and_never_locks_anybody_out(failures: int, free: int) -> None:
    wait, next_wait = wait_seconds(failures, free), wait_seconds(failures + 1, free)
    assert 0 <= wait <= next_wait <= LONGEST_WAIT_SECONDS
    assert (wait == 0) is (failures < free)


def test_waiting_doubles() -> None:
    assert [wait_seconds(FREE_BY_NAME + more, FREE_BY_NAME) for more in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.text(), st.text(), st.text())
def test_what_stands_for_a_name_tells_nothing_of_it(secret: str, what: str, name: str) -> None:
    key = failure_key(secret, what, name)
    assert len(key) == 32
    assert key != failure_key(secret + "x", what, name)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        (None, "unknown"),
        ("somewhere", "unknown"),
    ],
)
def test_a_house_counts_as_one_address(address: str | None, key: str) -> None:
    assert peer_key(address) == key


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaaaa", "ana@example.com", "x" * 201, ""])
def test_a_password_that_would_be_guessed_is_refused(password: str) -> None:
    with pytest.raises(UsageError):
        check_password(password, make("admin"))


def test_a_few_words_are_a_password() -> None:
    check_password("correct horse battery", make("admin"))


async def test_a_hash_is_of_one_password_only_and_of_nobody_none() -> None:
    # e with an acute accent: one letter or two, depending on the keyboard.
    stored = await hash_password("caf\u00e9 au lait, s'il te plait")
    assert stored.startswith("$argon2id$")
    assert await verify_password(stored, "cafe\u0301 au lait, s'il te plait") == (True, False)
    assert await verify_password(stored, "cafe au lait, s'il te plait") == (False, False)
    assert await verify_password(None, "-") == (False, False)
    assert await verify_password("not a hash", "-") == (False, False)


async def test_a_hash_of_weaker_parameters_is_to_be_made_anew() -> None:
    from argon2 import PasswordHasher

    stored = PasswordHasher(time_cost=1, memory_cost=1024).hash("correct horse battery")
    assert await verify_password(stored, "correct horse battery") == (True, True)
