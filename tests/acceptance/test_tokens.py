"""Bearer tokens on the wire: who gets in, who no longer does, and what it says to those who do not.

Entra's cases 11, 19, 46 and 144 are here.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from uuid_utils.compat import uuid7

from api import auth
from api.keys import TENANT_POOL, TOKENS
from models.audit.record import OPERATOR
from models.tokens import SCOPES, find_token, issue_token, revoke_token, rotate_token
from tests.support.api import (
    Api,
    Caller,
    altered,
    apply_all,
    document,
    serving,
    store,
    until,
    work_email,
)
from tests.support.processes import free_ports, processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from models.tokens import IssuedToken, TokenRecord

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "ana.nov@contoso.example"
CHALLENGE = 'Bearer realm="usher", error="invalid_token"'
BY_HAND: Any = {"actor": OPERATOR}


async def issue(api: Api, caller: Caller, **values: Any) -> IssuedToken:
    async with store(api.settings) as connection:
        return await issue_token(
            connection, tenant_id=caller.tenant.id, correlation_id=uuid7(), **{**BY_HAND, **values}
        )


async def status(caller: Caller, token: str | None) -> int:
    return (await caller.bearing(token).get("/Users", count=0)).status


@pytest.mark.parametrize("hours", [2, -2])
async def test_when_a_token_ends_is_for_the_databases_clock_to_say(
    api: Api, caller: Caller, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr(auth, "datetime", Off)
    last, over = await issue(api, caller), await issue(api, caller)
    async with store(api.settings) as connection:
        for token, ends in ((last, timedelta(hours=1)), (over, timedelta(minutes=-1))):
            await connection.execute("UPDATE token SET expires_at = now() + $2 WHERE id = $1", token.id, ends)
    assert (await status(caller, last.text), await status(caller, over.text)) == (200, 401)


async def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(api: Api, caller: Caller) -> None:
    expired = await issue(api, caller, days=-1)
    revoked = await issue(api, caller)
    async with store(api.settings) as connection:
        await revoke_token(connection, revoked.id, correlation_id=uuid7(), **BY_HAND)
    good = str(caller.token)
    other_secret = await issue(api, caller)
    headers = {
        "missing": None,
        "empty": "",
        "scheme only": "Bearer",
        "scheme and spaces": "Bearer    ",
        "another scheme": f"Basic {good}",
        "no scheme": good,
        "garbage": "Bearer garbage",
        "cut off": f"Bearer {good[:-1]}",
        "one letter wrong": f"Bearer {good[:-1]}{'a' if good[-1] != 'a' else 'b'}",
        "two tokens": f"Bearer {good} {good}",
        "not ASCII": f"Bearer {good[:-1]}é",
        "well-formed but unknown": "Bearer ush_AAAAAAAAAAAA_" + _with_checksum("ush_AAAAAAAAAAAA_" + "B" * 43),
        "known id, other secret": "Bearer " + _mixed(good, other_secret.text),
        "expired": f"Bearer {expired.text}",
        "revoked": f"Bearer {revoked.text}",
        "megabyte": "Bearer " + "A" * 7000,
    }
    answers = {
        name: await caller.bearing(None).send(
            "GET", "/Users", headers={"Authorization": value} if value is not None else {}
        )
        for name, value in headers.items()
    }
    assert {name: one.status for name, one in answers.items()} == dict.fromkeys(headers, 401)
    assert {one.headers["WWW-Authenticate"] for one in answers.values()} == {CHALLENGE}  # case 11
    assert len({one.content for one in answers.values()}) == 1


def _with_checksum(body: str) -> str:
    from models.tokens import _check

    return body.removeprefix("ush_AAAAAAAAAAAA_") + _check(body)


def _mixed(one: str, other: str) -> str:
    from models.tokens import _check

    body = "_".join([*one.split("_")[:2], other.split("_")[2][:43]])
    return body + _check(body)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
async def test_the_scheme_has_no_letter_case(caller: Caller, scheme: str) -> None:
    answer = await caller.bearing(None).send("GET", "/Users", headers={"Authorization": f"{scheme}{caller.token} "})
    assert answer.status == 200


async def test_a_token_without_the_scope_is_forbidden(api: Api, caller: Caller) -> None:
    other = await issue(api, caller, scopes=[scope for scope in SCOPES if scope != "scim"])
    for path in ("/Users", "/Groups", "/Users/x"):
        detail = (await caller.bearing(other.text).get(path)).error(403)
        assert "scim" in detail
    (await caller.bearing(other.text).post("/Users", document(ANA))).error(403)
    both = await issue(api, caller, scopes=["ops", "scim"])
    assert await status(caller, both.text) == 200


async def test_discovery_is_open_but_not_for_a_wrong_token(caller: Caller) -> None:
    for path in ("/ServiceProviderConfig", "/ResourceTypes", "/Schemas"):
        assert (await caller.bearing(None).get(path)).status == 200
        assert (await caller.get(path)).status == 200
        (await caller.bearing("wrong").get(path)).error(401)


async def test_case_11_and_19_two_tokens_live_at_once_and_the_old_one_in_its_grace(api: Api, caller: Caller) -> None:
    old = await issue(api, caller, label="Entra", days=30)
    async with store(api.settings) as connection:
        new = await rotate_token(connection, old.id, days=365, grace_seconds=3600, correlation_id=uuid7(), **BY_HAND)
    assert [await status(caller, token) for token in (caller.token, old.text, new.text)] == [200, 200, 200]
    await caller.bearing(old.text).create(document(ANA))
    assert len(await caller.bearing(new.text).match(f'userName eq "{ANA}"')) == 1


async def test_a_grace_that_is_over_ends_the_old_token(api: Api, caller: Caller) -> None:
    async with serving(altered(api.settings, token_cache_seconds=0)) as served, store(api.settings) as connection:
        at = caller.at(served.scim_url)
        old = await issue(api, caller)
        new = await rotate_token(connection, old.id, days=1, grace_seconds=1, correlation_id=uuid7(), **BY_HAND)
        assert await status(at, old.text) == 200

        async def ended() -> bool:
            return await status(at, old.text) == 401

        await until(ended, "the end of the old token", 5)
        assert await status(at, new.text) == 200


async def test_an_expiry_ends_a_token_that_is_in_every_cache(api: Api, caller: Caller) -> None:
    token = await issue(api, caller)
    looks: list[str] = []

    async def look(pool: asyncpg.Pool, token_id: str) -> TokenRecord | None:
        looks.append(token_id)
        return await find_token(pool, token_id)

    async with serving(altered(api.settings, token_cache_seconds=5)) as served, store(api.settings) as connection:
        await connection.execute("UPDATE token SET expires_at = now() + interval '2 seconds' WHERE id = $1", token.id)
        at = caller.at(served.scim_url)
        with patch("api.auth.find_token", look):
            assert await status(at, token.text) == 200

            async def ended() -> bool:
                return await status(at, token.text) == 401

            await until(ended, "the end of an expired token")
        assert looks == [token.id], "by its date and not because the cache ran out"


async def test_a_revoked_token_stops_within_five_seconds_on_every_process(
    api: Api, caller: Caller, tmp_path: Path
) -> None:
    token = await issue(api, caller)
    async with processes(api.settings, tmp_path, apis=2) as fleet, store(api.settings) as connection:
        at = [caller.at(one.scim_url).bearing(token.text) for one in fleet.apis]
        assert [(await one.get("/Users", count=0)).status for one in at] == [200, 200]
        await revoke_token(connection, token.id, correlation_id=uuid7(), **BY_HAND)

        async def stopped() -> bool:
            return [(await one.get("/Users", count=0)).status for one in at] == [401, 401]

        # What a process knows of a token is as old as the setting allows, at most five seconds.
        await until(stopped, "a revoked token is refused by both processes", 10)


async def test_use_is_noted(api: Api) -> None:
    async with serving(api.settings) as served, store(api.settings) as connection:
        caller = await served.caller()
        query = "SELECT last_used_at FROM token WHERE id = $1"
        assert await connection.fetchval(query, caller.tenant.token_id) is None
        await caller.get("/Users")
        await served.faces.public[TOKENS]._write_use()
        used: datetime = await connection.fetchval(query, caller.tenant.token_id)
        assert timedelta(0) <= datetime.now(UTC) - used < timedelta(seconds=30)
        (await caller.bearing("wrong").get("/Users")).error(401)
        await served.faces.public[TOKENS]._write_use()
        assert await connection.fetchval(query, caller.tenant.token_id) == used


async def test_refusals_are_audited_without_what_was_presented(api: Api) -> None:
    async with serving(api.settings) as served:
        caller = await served.caller()
        expired = await issue(served, caller, days=-1)
        for token in (expired.text, expired.text, "garbage-secret"):
            (await caller.bearing(token).get("/Users")).error(401)
    async with store(api.settings) as connection:  # the stop has written them
        rows = await connection.fetch(
            "SELECT reason, tenant_id, context, actor_id, audit_event::text AS whole FROM audit_event"
            " WHERE action = 'auth.request.deny' AND (tenant_id = $1 OR reason = 'malformed') ORDER BY occurred_at, id",
            caller.tenant.id,
        )
    assert [row["reason"] for row in rows][-3:] == ["expired", "expired", "malformed"]
    assert rows[-3]["tenant_id"] == caller.tenant.id
    assert rows[-3]["context"]["token_hint"] == rows[-2]["context"]["token_hint"]
    assert not any(secret in row["whole"] for row in rows for secret in (expired.text, "garbage"))


async def _unreachable(api: Api) -> AsyncIterator[tuple[str, Api]]:
    [port] = free_ports(1)
    nobody = f"postgresql://usher:secret@127.0.0.1:{port}/usher"
    async with serving(altered(api.settings, database_url=nobody)) as served:
        yield "nobody listens", served
    async with serving(altered(api.settings, token_cache_seconds=0)) as served:
        await served.faces.public[TOKENS]._pool.close()
        yield "the pool has ended", served


async def test_a_store_that_is_out_of_reach_is_503_and_never_401(api: Api, caller: Caller) -> None:
    async for name, served in _unreachable(api):
        at = caller.at(served.scim_url)
        answers = [await at.get("/Users"), await at.post("/Users", document(ANA)), await at.get("/Groups")]
        for answer in answers:
            assert "secret" not in answer.error(503), name
            assert int(answer.headers["Retry-After"]) > 0
        (await at.bearing("malformed").get("/Users")).error(401)  # for this the store is not asked
        assert (await at.bearing(None).get("/ServiceProviderConfig")).status == 200
        async with (
            at.session.get(f"{served.internal_url}/readyz") as ready,
            at.session.get(f"{served.internal_url}/livez") as live,
        ):
            assert (ready.status, live.status) == (503, 200)


async def test_a_token_that_the_cache_knows_outlives_a_short_outage_of_its_store(api: Api) -> None:
    async with serving(altered(api.settings, token_cache_seconds=5)) as served:
        caller = await served.caller()
        await caller.get("/Users")
        for pool in (served.faces.public[TOKENS]._pool, served.faces.public[TENANT_POOL]):
            await pool.close()
        (await caller.get("/Users")).error(503)
        (await caller.bearing("wrong").get("/Users")).error(401)


async def test_case_46_and_144_a_tenant_never_sees_another_s_users(api: Api) -> None:
    ours, theirs = await api.caller(), await api.caller()
    sent = document(ANA, externalId="b3c2", title="Buyer", emails=[work_email(ANA), work_email("second@x.example")])
    user = await theirs.create(sent)
    nothing = [
        f'userName eq "{ANA}"',
        'externalId eq "b3c2"',
        f'id eq "{user["id"]}"',
        f'emails[type eq "work"].value eq "{ANA}"',
        'emails[type eq "work"].value eq "second@x.example"',
        f'emails.value eq "{ANA}"',
        'title eq "Buyer"',
        'userName co "ana" or active eq true',
        f'not (id ne "{user["id"]}")',
        'meta.created gt "2000-01-01T00:00:00Z"',
    ]
    unknown = (await ours.get("/Users/00000000-0000-7000-8000-000000000000")).error(404)
    for _ in ("waiting", "applied"):
        for text in nothing:
            assert await ours.match(text) == [], text
            assert len(await theirs.match(text)) == 1, text
        assert (await ours.get("/Users")).json["totalResults"] == 0
        assert (await ours.get(f"/Users/{user['id']}")).error(404) == unknown
        await apply_all(api.settings)
    own = await ours.post("/Users", sent)  # the same userName: no hint that another tenant has it
    assert own.status == 201
    assert own.json["id"] != user["id"]
    assert await ours.match(f'userName eq "{ANA}"') == [own.json]
    assert await theirs.match(f'userName eq "{ANA}"') == [user]


async def test_many_requests_with_a_token_that_nobody_has_seen_ask_the_store_once(api: Api) -> None:
    async with serving(api.settings) as served, store(api.settings) as connection:
        caller = await served.caller()
        async with connection.transaction():
            await connection.execute("LOCK TABLE token IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.create_task(caller.get("/Users")) for _ in range(50)]

            async def waiting() -> int:
                return int(
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_locks WHERE relation = 'token'::regclass AND NOT granted"
                    )
                )

            await until(waiting, "the store is asked for the token")
            assert await waiting() == 1
        assert {answer.status for answer in await asyncio.gather(*requests)} == {200}
