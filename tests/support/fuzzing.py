"""Sending mutated requests, many at once, and judging what they are answered."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.support.api import ERROR_URN, SCIM_TYPE, SCIM_TYPES, store
from tests.support.raw import exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.api import Api, Caller
    from tests.support.raw import RawAnswer

USERS = b"/scim/v2/Users"
JSON = (b"Content-Type", SCIM_TYPE.encode())
AT_ONCE = 24
_ROWS = (
    "SELECT resource_id FROM job WHERE tenant_id = $1",
    "SELECT resource_id FROM identifier WHERE tenant_id = $1",
)


class Fuzz:
    """Sends requests of one kind, many at once, and judges what they were answered."""

    def __init__(self, api: Api, caller: Caller) -> None:
        self.api = api
        self.caller = caller
        self.statuses: dict[int, int] = {}
        self.hung_up = 0
        self.created: set[str] = set()

    @property
    def bearer(self) -> tuple[bytes, bytes]:
        return b"Authorization", f"Bearer {self.caller.token}".encode()

    async def run(self, count: int, make: Callable[[random.Random], bytes], *, may_hang_up: bool = False) -> None:
        """Send what ``make`` draws; ``may_hang_up`` says that it need not be HTTP at all."""
        waiting = iter(range(count))

        async def send() -> None:
            for number in waiting:
                request = make(random.Random(number))  # noqa: S311  a generator that can be repeated
                try:
                    answer = await exchange(self.api.scim_url, request, half_close=may_hang_up)
                    self.judge(answer, may_hang_up)
                except Exception as error:
                    raise AssertionError(f"request {number}: {request[:1500]!r}") from error

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(send())
        assert sum(self.statuses.values()) + self.hung_up == count

    def judge(self, answer: RawAnswer | None, may_hang_up: bool) -> None:
        if answer is None:
            assert may_hang_up, "the server hung up"
            self.hung_up += 1
            return
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if "x-correlation-id" not in answer.headers:
            # What is not HTTP never reaches the application.
            assert may_hang_up
            assert answer.status == 400
            return
        assert answer.status < 500 or answer.status == 501, answer
        if answer.status == 204:
            assert not answer.body
            return
        if answer.status == 202:  # RFC 9967: where the outcome will be, and no body
            assert answer.headers["location"]
            assert not answer.body
            return
        assert answer.headers["content-type"] == SCIM_TYPE
        body = answer.json
        if answer.status == 201:
            self.created.add(body["id"])
            assert answer.headers["location"].endswith(body["id"])
        elif answer.status == 200:
            assert "schemas" in body
        else:
            assert body["schemas"] == [ERROR_URN]
            assert body["status"] == str(answer.status)
            assert body["detail"]
            assert body.get("scimType") in {None, *SCIM_TYPES}

    async def check_rows(self) -> None:
        async with store(self.api.settings) as connection:
            for query in _ROWS:
                rows = await connection.fetch(query, self.caller.tenant.id)
                assert sorted(str(row["resource_id"]) for row in rows) == sorted(self.created)
