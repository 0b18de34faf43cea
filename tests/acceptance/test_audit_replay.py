"""The audit log tells the whole story: replaying every user's diffs gives the user store, whatever failed meanwhile.

`USHER_TEST_REPLAY_ROUNDS=20` makes it twenty rounds of faults, and the run as long as that.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, defaultdict
from random import Random
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
from redis.asyncio import Redis

from models.scim.schema import ENTERPRISE_URN, USER
from tests.support.api import Caller, document, fresh_settings, make_tenant, store, until, work_email
from tests.support.groups import adding, group
from tests.support.processes import processes
from tests.support.replay import in_any_order, replay
from tests.support.writing import DIALECTS, PATCH_URN, removing, setting

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from models.settings import Settings
    from tests.support.processes import Fleet
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROUNDS: Final = int(os.environ.get("USHER_TEST_REPLAY_ROUNDS", "1"))
BETWEEN: Final = 50
"""Requests between two faults, at least."""
CLIENTS: Final = 4
NAMES: Final = 60
"""Few enough that clients meet at the same user."""
BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
ASKED: Final = {200, 201, 202, 204, 404, 409, 412}
WORK: Final = 'emails[type eq "work"].value'

_EVENTS = """
SELECT target_id, action, diff FROM audit_event
 WHERE tenant_id = $1 AND target_type = 'User' AND phase = 'applied' AND starts_with(action, 'scim.user.')
 ORDER BY xid, id
"""
_USERS = "SELECT id::text, doc, version, active, external_id FROM users WHERE tenant_id = $1"
_OPEN = """
SELECT (SELECT count(*) FROM job
         WHERE tenant_id = $1 AND kind = 'user.create' AND state IN ('staged', 'running', 'retry'))
     + (SELECT count(*) FROM deferred_request WHERE tenant_id = $1 AND finished_at IS NULL)
"""
_CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


class Crowd:
    """Clients that do to a tenant's users whatever SCIM has, without regard for each other or for what fails."""

    def __init__(self, callers: list[Caller], seed: int) -> None:
        self._callers = callers
        self._seed = seed
        self.enough = False
        self._ids: list[str] = []
        self._group: str | None = None
        self.answers: Counter[int] = Counter()
        self.doubts = 0
        """Requests whose answer was lost."""

    @property
    def done(self) -> int:
        """How many requests have ended."""
        return self.answers.total() + self.doubts

    async def run(self) -> None:
        """Go on until there is `enough`."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._client(Random(f"{self._seed} {number}")))  # noqa: S311  a plan that comes back

    async def _client(self, dice: Random) -> None:
        while not self.enough:
            try:
                answer = await self._act(dice, dice.choice(self._callers))
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                self.doubts += 1
                continue
            self.answers[answer.status] += 1
            if answer.status == 503:
                continue
            assert answer.status in ASKED, answer
            if answer.status == 201:
                user_id = answer.json["id"]
                if "displayName" in answer.json and "userName" not in answer.json:
                    self._group = user_id
                else:
                    self._ids.append(user_id)
            elif answer.status == 200 and "Operations" in answer.json:
                made = [each["location"] for each in answer.json["Operations"] if each["status"] == "201"]
                self._ids += [location.rpartition("/")[2] for location in made]

    async def _act(self, dice: Random, caller: Caller) -> Any:
        acts = {"create": 5, "patch": 12, "put": 3, "delete": 2, "bulk": 2, "group": 1}
        act = dice.choices(list(acts), list(acts.values()))[0]
        if act == "create" or not self._ids:
            return await self._send(dice, caller, "POST", "/Users", person(dice))
        # The newest are those that may wait to be applied.
        user_id = dice.choice(self._ids[-5:] if dice.random() < 0.3 else self._ids)
        if act in ("patch", "put", "delete"):
            value = change(dice) if act == "patch" else person(dice) if act == "put" else None
            answer = await self._send(dice, caller, act.upper(), f"/Users/{user_id}", value)
            if answer.status == 404 and user_id in self._ids:
                self._ids.remove(user_id)
            return answer
        if act == "bulk":
            return await caller.post("/Bulk", {"schemas": [BULK], "Operations": self._operations(dice)})
        if self._group is None:
            return await caller.post("/Groups", group(f"everybody {dice.random()}"))
        operations = {"schemas": [PATCH_URN], "Operations": adding(dice.choice(DIALECTS), user_id)}
        answer = await self._send(dice, caller, "PATCH", f"/Groups/{self._group}", operations)
        if answer.status == 400:  # whoever was deleted can be no member
            answer.error(400, "invalidValue")
            return await caller.get(f"/Groups/{self._group}")
        return answer

    async def _send(self, dice: Random, caller: Caller, method: str, path: str, value: Any = None) -> Any:
        headers = {"Prefer": "respond-async"} if dice.random() < 0.1 else {}
        body = None if value is None else json.dumps(value).encode()
        return await caller.send(method, path, body=body, headers=headers)

    def _operations(self, dice: Random) -> list[dict[str, Any]]:
        user_id = dice.choice(self._ids)
        return [
            {"method": "POST", "bulkId": "new", "path": "/Users", "data": person(dice)},
            {"method": "PATCH", "path": "/Users/bulkId:new", "data": change(dice)},
            {"method": "PATCH", "path": f"/Users/{user_id}", "data": change(dice)},
            {"method": dice.choice(["PUT", "DELETE"]), "path": f"/Users/{user_id}", "data": person(dice)},
        ]


def person(dice: Random) -> dict[str, Any]:
    """Return a user as a client sends one whole."""
    name = f"user{dice.randrange(NAMES)}@contoso.example"
    attributes: dict[str, Any] = {
        "externalId": f"e{dice.randrange(NAMES)}",
        "title": dice.choice(["Buyer", "Seller", 'so-called "chief"']),
        "active": dice.random() < 0.8,
        "name": {"givenName": dice.choice(["Ana", "Žofie"]), "familyName": "Nováková"},
        "emails": [work_email(name, primary=True), {"type": "home", "value": f"h{dice.randrange(9)}@home.example"}],
        "phoneNumbers": [{"value": f"+420 {dice.randrange(3)}"}, {"type": "mobile", "value": "+420 9"}],
        "roles": [{"value": role, "display": role} for role in dice.sample(["admin", "buyer", "seller"], 2)],
        "password": f"Zq{dice.random()}",
        ENTERPRISE_URN: {"department": dice.choice(["Sales", "Care"]), "costCenter": f"{dice.randrange(3)}"},
    }
    kept = dice.sample(list(attributes), dice.randrange(len(attributes) + 1))
    return document(name, **{key: attributes[key] for key in kept})


def change(dice: Random) -> dict[str, Any]:
    """Return a PATCH in one of Entra's dialects; the same values come again, so that some change nothing."""
    dialect = dice.choice(DIALECTS)
    values = {
        "title": dice.choice(["Buyer", "Seller", "Žena"]),
        "active": dice.random() < 0.7,
        "displayName": f"Ana {dice.randrange(5)}",
        "name.familyName": dice.choice(["Nováková", "Dvořáková"]),
        WORK: f"w{dice.randrange(9)}@contoso.example",
        'phoneNumbers[type eq "mobile"].value': f"+420 {dice.randrange(9)}",
        f"{ENTERPRISE_URN}:department": dice.choice(["Sales", "Care"]),
        "userName": f"user{dice.randrange(NAMES)}@contoso.example",
        "password": f"Zq{dice.random()}",
    }
    chosen = dice.sample(list(values), dice.randrange(1, 4))
    operations = setting(dialect, {path: values[path] for path in chosen}, dice.choice(["add", "replace"]))
    if dice.random() < 0.3:
        paths = ["title", "name", "roles", "emails", 'emails[type eq "work"]', f"{ENTERPRISE_URN}:department"]
        operations += removing(dialect, *dice.sample(paths, 2))
    return {"schemas": [PATCH_URN], "Operations": operations}


async def fail(settings: Settings, fleet: Fleet, crowd: Crowd, clients: asyncio.Task[None]) -> None:
    """Let one fault after the other happen, each after so many requests."""
    [worker] = fleet.workers

    async def cut_connections() -> None:
        async with store(settings) as connection:
            assert await connection.fetchval(_CUT)

    async def empty_redis() -> None:
        async with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
            await redis.flushall()

    async def kill_the_worker() -> None:
        await worker.kill()
        await worker.start()

    async def more() -> None:
        goal = crowd.done + BETWEEN

        async def reached() -> bool:
            return clients.done() or crowd.done >= goal

        await until(reached, f"{BETWEEN} more requests have ended", 60)

    await worker.start()  # some creates have come to wait meanwhile
    for _ in range(ROUNDS):
        for deed in (cut_connections, empty_redis, kill_the_worker, cut_connections):
            await more()
            await deed()
    await more()


async def check_replay(settings: Settings, tenant_id: UUID) -> Counter[str]:
    """Hold every user of the store, and every user that is told of, to the replay; return how often what was done."""
    async with store(settings) as connection:
        users = {row["id"]: row for row in await connection.fetch(_USERS, tenant_id)}
        lives: dict[str, list[dict[str, Any]]] = defaultdict(list)
        done: Counter[str] = Counter()
        for row in await connection.fetch(_EVENTS, tenant_id):
            lives[row["target_id"]].append(dict(row))
            done[row["action"]] += 1
    for user_id in {*users, *lives}:
        told, user = replay(lives[user_id], USER), users.get(user_id)
        if told is None or user is None:
            assert (told is None) == (user is None), (user_id, told, user)
            continue
        assert in_any_order(told.doc) == in_any_order(user["doc"]), user_id
        assert told.version == user["version"], user_id
        assert (told.doc.get("active", True), told.doc.get("externalId")) == (user["active"], user["external_id"])
    return done


async def test_shows_3_replaying_every_users_diffs_gives_the_store(servers: Servers, tmp_path: Path) -> None:
    async with fresh_settings(servers, lease_seconds=3, lease_beat_seconds=1, sweep_seconds=0.5) as settings:
        tenant = await make_tenant(settings)
        async with (
            processes(settings, tmp_path, apis=2, workers=1) as fleet,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            crowd = Crowd([Caller(session, api.scim_url, tenant, tenant.token) for api in fleet.apis], seed=7)
            clients = asyncio.create_task(crowd.run())
            await fail(settings, fleet, crowd, clients)
            crowd.enough = True
            await clients
            async with store(settings) as connection:

                async def settled() -> bool:
                    return not await connection.fetchval(_OPEN, tenant.id)

                await until(settled, "nothing waits any more", 60)
        assert crowd.doubts + crowd.answers[503] > 0  # they did fall in the middle
        done = await check_replay(settings, tenant.id)
        told = {f"scim.user.{verb}" for verb in ("create", "update", "disable", "enable", "delete")}
        assert told == set(done), done
