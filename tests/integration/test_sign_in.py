from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from argon2 import PasswordHasher
from uuid_utils.compat import uuid7

from models import passwords
from models.audit.record import OPERATOR
from models.errors import UsageError
from models.jobs import EMAIL
from models.links import INSTALLATION, find_link, link_token, make_link, stage_link, use_link
from models.operators import Operator, add_operator, change_operator, find_operator, list_operators
from models.passwords import set_password
from models.sessions import begin_session, end_session, end_sessions, find_session, hash_value, list_sessions
from models.sign_in import FREE_BY_ADDRESS, FREE_BY_NAME, Refused, prove, reserve_try, sign_in
from tests.support.pages import make_operator

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

SECRET = "a-secret-key-for-tests-of-enough-length"
PASSWORD = "correct horse battery"
WHO: dict[str, Any] = {"actor": OPERATOR, "correlation_id": uuid7()}


@pytest.fixture
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hashes that cost nothing, where it is about how often somebody tries."""
    passwords._nobody.cache_clear()
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    yield
    passwords._nobody.cache_clear()


async def ana(pool: asyncpg.Pool, role: str = "admin", password: str | None = PASSWORD) -> Operator:
    operator = await make_operator(pool, role, "ana")
    if password:
        async with pool.acquire() as connection:
            await set_password(connection, operator, password, **WHO)
    return await find_operator(pool, "ana")


async def attempt(pool: asyncpg.Pool, word: str, password: str, address: str = "192.0.2.1") -> Any:
    return await sign_in(pool, word=word, password=password, address=address, secret_key=SECRET, correlation_id=uuid7())


async def events(pool: asyncpg.Pool, action: str) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await pool.fetch("SELECT * FROM audit_event WHERE action = $1 ORDER BY id", action)
    return rows


async def let_hours_pass(pool: asyncpg.Pool, hours: float) -> None:
    await pool.execute(
        "UPDATE operator_session SET created_at = created_at - make_interval(secs => $1),"
        " seen_at = seen_at - make_interval(secs => $1), expires_at = expires_at - make_interval(secs => $1)",
        hours * 3600,
    )


async def pile_up(pool: asyncpg.Pool) -> None:
    """Have ten times as many failures as there are, so that the wait is the longest however slow this machine is."""
    await pool.execute(
        "INSERT INTO sign_in_failure (id, key, failed_at)"
        " SELECT gen_random_uuid(), key, failed_at FROM sign_in_failure, generate_series(1, 9)"
    )


async def session_of(pool: asyncpg.Pool, operator: Operator) -> str:
    async with pool.acquire() as connection, connection.transaction():
        return await begin_session(connection, operator.id)


async def test_a_person_is_added_once_and_audited(pool: asyncpg.Pool) -> None:
    operator = await ana(pool, password=None)
    async with pool.acquire() as connection:
        for name, email in (("ana", "other@example.com"), ("other", "ANA@example.com"), ("ANA", "o@example.com")):
            with pytest.raises(UsageError, match="already"):
                await add_operator(connection, name=name, email=email, role="viewer", **WHO)
        for name, email, role in (
            ("an a", "a@example.com", "viewer"),
            ("b", "no address", "viewer"),
            ("b", "b@example.com", "root"),
        ):
            with pytest.raises(UsageError):
                await add_operator(connection, name=name, email=email, role=role, **WHO)
    assert [one.name for one in await list_operators(pool)] == ["ana"]
    (event,) = await events(pool, "auth.operator.add")
    assert event["targets"] == [{"type": "Operator", "id": str(operator.id), "label": "ana"}]
    assert {item["path"]: item["after"] for item in event["diff"]} == {
        "email": "ana@example.com",
        "role": "admin",
        "disabled": False,
    }


async def test_a_change_is_audited_with_before_and_after(pool: asyncpg.Pool) -> None:
    await ana(pool)
    await make_operator(pool, "admin", "bo")
    async with pool.acquire() as connection:
        changed = await change_operator(connection, "ana", role="viewer", email="an@example.com", **WHO)
        with pytest.raises(UsageError, match="Another"):
            await change_operator(connection, "bo", email="AN@example.com", **WHO)
        with pytest.raises(UsageError, match="no operator"):
            await change_operator(connection, "nobody", role="viewer", **WHO)
    assert (changed.role, changed.email) == ("viewer", "an@example.com")
    (event,) = await events(pool, "auth.operator.change")
    assert [(item["path"], item["before"], item["after"]) for item in event["diff"]] == [
        ("email", "ana@example.com", "an@example.com"),
        ("role", "admin", "viewer"),
    ]


async def test_the_last_admin_stays_one_even_when_two_disable_each_other_at_once(pool: asyncpg.Pool) -> None:
    await ana(pool)
    await make_operator(pool, "admin", "bo")

    async def disable(name: str) -> str:
        async with pool.acquire() as connection:
            try:
                await change_operator(connection, name, disabled=True, **WHO)
            except UsageError as error:
                return error.detail
            return "disabled"

    outcomes = sorted(await asyncio.gather(disable("ana"), disable("bo")))
    assert outcomes[1] == "disabled"
    assert "last admin" in outcomes[0]
    left = next(one for one in await list_operators(pool) if not one.disabled_at)
    async with pool.acquire() as connection:
        with pytest.raises(UsageError, match="last admin"):
            await change_operator(connection, left.name, role="operator", **WHO)


async def test_who_is_disabled_is_signed_out_and_stays_out(pool: asyncpg.Pool) -> None:
    operator = await ana(pool, "viewer")
    value = await session_of(pool, operator)
    assert await find_session(pool, value) is not None
    async with pool.acquire() as connection:
        token = await make_link(connection, operator, secret_key=SECRET, **WHO)
        await change_operator(connection, "ana", disabled=True, **WHO)
        assert await find_session(connection, value) is None
        assert await use_link(connection, token, address=None, correlation_id=uuid7()) == "unknown"
        assert await stage_link(connection, "ana", secret_key=SECRET, correlation_id=uuid7()) is None
    assert await attempt(pool, "ana", PASSWORD) == Refused()
    assert (await events(pool, "auth.session.deny"))[-1]["reason"] == "disabled"
    async with pool.acquire() as connection:
        await change_operator(connection, "ana", disabled=False, **WHO)
    assert not isinstance(await attempt(pool, "ana", PASSWORD), Refused)
    # Letting somebody in again does not bring their old sessions back.
    assert await find_session(pool, value) is None


async def test_a_session_rolls_on_while_it_is_used_and_ends_after_a_week(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    value = await session_of(pool, operator)
    for _ in range(16):
        assert await find_session(pool, value) is not None
        await let_hours_pass(pool, 10)  # 160 hours in the end
    assert await find_session(pool, value) is not None
    await let_hours_pass(pool, 9)
    assert await find_session(pool, value) is None


async def test_a_session_that_nobody_uses_ends_after_half_a_day(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    value = await session_of(pool, operator)
    await let_hours_pass(pool, 11.9)
    # A page that updates itself does not count as use.
    assert await find_session(pool, value, keep_alive=False) is not None
    await let_hours_pass(pool, 0.2)
    assert await find_session(pool, value) is None
    assert await list_sessions(pool, operator.id) == []


async def test_only_the_value_itself_is_a_session(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    value = await session_of(pool, operator)
    stored = await pool.fetchval("SELECT id_hash FROM operator_session")
    assert stored == hash_value(value)
    for forged in (stored.hex(), value[:-1], value + "x", "", "\udc80", value.lower()):
        assert await find_session(pool, forged) is None


async def test_sessions_end_one_by_one_or_all_but_this(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    values = [await session_of(pool, operator) for _ in range(4)]
    assert await end_session(pool, hash_value(values[0]))
    assert not await end_session(pool, hash_value(values[0]))
    assert await end_sessions(pool, operator.id, but=hash_value(values[3])) == 2
    assert [one.id_hash for one in await list_sessions(pool, operator.id)] == [hash_value(values[3])]


async def test_a_new_password_ends_every_other_session_and_link(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    kept, other = await session_of(pool, operator), await session_of(pool, operator)
    async with pool.acquire() as connection:
        token = await make_link(connection, operator, secret_key=SECRET, **WHO)
        await set_password(connection, operator, "another horse battery", keep_session=hash_value(kept), **WHO)
        assert (await find_link(connection, token))[1] == "unknown"
    assert await find_session(pool, kept) is not None
    assert await find_session(pool, other) is None
    assert await attempt(pool, "ana", PASSWORD) == Refused()
    assert not isinstance(await attempt(pool, "ana", "another horse battery"), Refused)


async def test_name_or_address_and_password_sign_in(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    for word in ("ana", " ANA ", "Ana@Example.com"):
        signed_in = await attempt(pool, word, PASSWORD)
        assert not isinstance(signed_in, Refused)
        found = await find_session(pool, signed_in[1])
        assert found is not None
        assert found.operator.id == operator.id
        assert found.operator.last_sign_in_at is not None
    event = (await events(pool, "auth.session.sign_in"))[0]
    assert (event["actor_type"], event["actor_label"]) == ("operator", "ana")
    assert event["context"] == {"peer": "192.0.2.1", "method": "password"}


async def test_a_hash_of_weaker_parameters_is_made_anew_by_signing_in(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    weak = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
    await pool.execute("UPDATE operator SET password_hash = $2 WHERE id = $1", operator.id, weak)
    assert not isinstance(await attempt(pool, "ana", PASSWORD), Refused)
    strong = await pool.fetchval("SELECT password_hash FROM operator WHERE id = $1", operator.id)
    assert "m=65536" in strong
    assert not isinstance(await attempt(pool, "ana", PASSWORD), Refused)


async def test_whether_there_is_such_a_person_cannot_be_told(pool: asyncpg.Pool) -> None:
    await ana(pool)
    await make_operator(pool, "viewer", "without-password")
    answers = {repr(await attempt(pool, word, "wrong")) for word in ("ana", "nobody", "without-password")}
    assert answers == {repr(Refused())}
    denials = await events(pool, "auth.session.deny")
    assert [event["reason"] for event in denials] == ["wrong_password", "unknown_name", "wrong_password"]
    assert denials[1]["targets"] == []  # people type passwords into the wrong field
    # The same waiting too.
    await pile_up(pool)
    for word in ("ana", "nobody", "without-password"):
        assert 20 < (await attempt(pool, word, "wrong", address="192.0.2.9")).wait_seconds <= 60


@pytest.mark.usefixtures("quick_hashes")
async def test_while_one_waits_the_right_password_does_not_help_but_a_link_does(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    for _ in range(FREE_BY_NAME):
        assert await attempt(pool, "ana", "wrong", address="192.0.2.66") == Refused()
    await pile_up(pool)
    refused = await attempt(pool, "ana", PASSWORD)
    assert isinstance(refused, Refused)
    assert 20 < refused.wait_seconds <= 60
    async with pool.acquire() as connection:
        token = await make_link(connection, operator, secret_key=SECRET, **WHO)
        assert not isinstance(await use_link(connection, token, address=None, correlation_id=uuid7()), str)
    await pool.execute("UPDATE sign_in_failure SET failed_at = failed_at - interval '61 seconds'")
    assert not isinstance(await attempt(pool, "ana", PASSWORD), Refused)
    # Who has signed in begins anew.
    assert await attempt(pool, "ana", "wrong") == Refused()


async def test_tries_at_once_are_counted_one_by_one(pool: asyncpg.Pool) -> None:
    async def reserve() -> float:
        async with pool.acquire() as connection:
            await everybody.wait()
            return (await reserve_try(connection, {b"name": FREE_BY_NAME, b"address": FREE_BY_ADDRESS}))[1]

    size = pool.get_max_size()
    assert size > FREE_BY_NAME
    everybody = asyncio.Barrier(size)
    waits = await asyncio.gather(*(reserve() for _ in range(size)))
    # A second later one more counts, should this machine be as slow as that.
    assert FREE_BY_NAME <= waits.count(0.0) <= FREE_BY_NAME + 1
    assert await pool.fetchval("SELECT count(*) FROM sign_in_failure") == 2 * waits.count(0.0)


@pytest.mark.usefixtures("quick_hashes")
async def test_one_address_that_tries_many_names_waits_too_and_others_do_not(pool: asyncpg.Pool) -> None:
    await ana(pool)
    for number in range(FREE_BY_ADDRESS):
        assert await attempt(pool, f"guess-{number}", "wrong", address="2001:db8::1") == Refused()
    await pile_up(pool)
    assert (await attempt(pool, "ana", PASSWORD, address="2001:db8::2")).wait_seconds > 0
    assert not isinstance(await attempt(pool, "ana", PASSWORD, address="192.0.2.1"), Refused)


@pytest.mark.usefixtures("quick_hashes")
async def test_failures_are_forgotten_after_an_hour(pool: asyncpg.Pool) -> None:
    await ana(pool)
    for _ in range(FREE_BY_NAME):
        await attempt(pool, "ana", "wrong")
    await pile_up(pool)
    await pool.execute("UPDATE sign_in_failure SET failed_at = failed_at - interval '61 minutes'")
    assert not isinstance(await attempt(pool, "ana", PASSWORD), Refused)
    assert await pool.fetchval("SELECT count(*) FROM sign_in_failure") == 0


async def test_what_is_kept_of_failures_names_nobody(pool: asyncpg.Pool) -> None:
    await attempt(pool, "nobody@example.com", "wrong")
    rows = await pool.fetch("SELECT * FROM sign_in_failure")
    assert len(rows) == 2
    assert all(b"nobody" not in row["key"] and b"192" not in row["key"] for row in rows)


async def test_a_signed_in_person_proves_who_they_are_and_cannot_guess_either(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    assert await prove(pool, operator, PASSWORD, secret_key=SECRET) is None
    for _ in range(FREE_BY_NAME):
        assert await prove(pool, operator, "wrong", secret_key=SECRET) == Refused()
    await pile_up(pool)
    refused = await prove(pool, operator, PASSWORD, secret_key=SECRET)
    assert refused is not None
    assert refused.wait_seconds > 0


async def test_a_link_signs_in_once_however_many_use_it(pool: asyncpg.Pool) -> None:
    operator = await ana(pool, password=None)
    async with pool.acquire() as connection:
        token = await make_link(connection, operator, secret_key=SECRET, **WHO)
        assert await find_link(connection, token) == (operator, "open")

    async def use() -> Any:
        async with pool.acquire() as connection:
            return await use_link(connection, token, address="192.0.2.1", correlation_id=uuid7())

    outcomes = await asyncio.gather(*(use() for _ in range(20)))
    assert Counter(outcome if isinstance(outcome, str) else "in" for outcome in outcomes) == {"in": 1, "used": 19}
    assert len(await list_sessions(pool, operator.id)) == 1
    assert len(await events(pool, "auth.session.sign_in")) == 1
    assert {event["reason"] for event in await events(pool, "auth.session.deny")} == {"link_used"}


async def test_a_link_ends_after_a_quarter_of_an_hour(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    async with pool.acquire() as connection:
        token = await make_link(connection, operator, secret_key=SECRET, **WHO)
        await connection.execute("UPDATE sign_in_link SET expires_at = expires_at - interval '15 minutes'")
        assert (await find_link(connection, token))[1] == "expired"
        assert await use_link(connection, token, address=None, correlation_id=uuid7()) == "expired"
        assert await use_link(connection, token + "x", address=None, correlation_id=uuid7()) == "unknown"
    assert await list_sessions(pool, operator.id) == []


async def test_a_link_for_the_post_is_in_no_row(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    async with pool.acquire() as connection:
        job_id = await stage_link(connection, "ANA@example.com", secret_key=SECRET, correlation_id=uuid7())
        job = await connection.fetchrow("SELECT * FROM job WHERE id = $1", job_id)
        assert job is not None
        assert (job["kind"], job["queue"], job["tenant_id"]) == ("operator.link", EMAIL, INSTALLATION)
        assert job["payload"] is None
        token = link_token(SECRET, job["resource_id"])
        assert await find_link(connection, token) == (operator, "open")
        row = await connection.fetchrow("SELECT * FROM sign_in_link")
        assert row is not None
        assert token.encode() not in row["token_hash"]
        assert token not in str(job)
        # Asking again and again fills nobody's mailbox.
        more = [await stage_link(connection, "ana", secret_key=SECRET, correlation_id=uuid7()) for _ in range(4)]
        assert [one is not None for one in more] == [True, True, False, False]
        assert await stage_link(connection, "nobody", secret_key=SECRET, correlation_id=uuid7()) is None


async def test_a_name_leads_to_its_person(pool: asyncpg.Pool) -> None:
    operator = await ana(pool)
    assert (await find_operator(pool, " Ana ")).id == operator.id
    with pytest.raises(UsageError, match="no operator bo"):
        await find_operator(pool, "bo")
