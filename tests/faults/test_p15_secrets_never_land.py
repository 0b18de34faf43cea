"""P15: passwords, tokens and links are in nothing that Usher and its servers keep, say or send on."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.acceptance.test_tracing import collecting
from tests.support.api import document, make_tenant, work_email
from tests.support.releases import ROOT, usher
from tests.support.waiting import wait_until
from tests.support.writing import PATCH_URN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Answer, Caller
    from tests.support.rig import Rig

PASSWORD: Final = "ZqPasswordThatNobodyMayKeep7391"
FORGED: Final = "ZqTokenThatNobodyIssued4410"
BASIC: Final = "ZqLoginThatIsNotForScim5512:ZqItsPassword8823"
BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"


@pytest.mark.promise("P15", quick=True)
async def test_marked_secrets_are_found_nowhere(make_rig: MakeRig, measure: Measure) -> None:
    async with (
        collecting() as collector,
        make_rig(apis=1, workers=1, otlp_endpoint=collector.endpoint) as rig,
        watching_redis(rig) as commands,
    ):
        [caller] = rig.callers(await make_tenant(rig.direct, invitations=True))
        answers = await work(caller)
        await rig.drain()
        [mail] = await rig.mailbox.wait_for(1, "ana@example.com")
        letter = (await rig.mailbox.open(mail["id"])).as_bytes()
        [link] = set(re.findall(rb"/invitations/([\w-]{20,})", letter.replace(b"=\r\n", b"").replace(b"=\n", b"")))
        async with caller.session.get(
            f"{rig.apis[0].scim_url.removesuffix('/scim/v2')}/invitations/{link.decode()}"
        ) as page:
            assert page.status == 200
        await asyncio.gather(*(one.stop() for one in (*rig.apis, *rig.workers)))
        await wait_until(lambda: collector.bodies, "traces have come")
        places = {
            "the database": await dumped(rig),
            "what Redis was told": "\n".join(commands).encode(),
            "answers": b"\n".join(answer.content + str(answer.headers).encode() for answer in answers),
            "traces": b"\n".join(collector.bodies),
            "the exported audit log": await exported(rig),
            **logs(rig),
        }
        mails = b"\n".join(file.read_bytes() for file in rig.grounds.mail.home.glob("mail/**/*") if file.is_file())
        # Each was looked for where there was something to be found.
        for name, mark in {
            "the database": b"ana@example.com",
            "what Redis was told": b"usher:provision",
            "answers": b"invalidSyntax",
            "traces": b"scim.operation",
            "the exported audit log": b"scim.user.create",
            "log api-0.log": b"scim.request",
            "log worker-0.log": b"job.done",
        }.items():
            assert mark in places[name], name
        assert link in mails.replace(b"=\r\n", b"").replace(b"=\n", b"")
        token = caller.tenant.token.split("_")[2]
        secrets = {"password": PASSWORD, "forged token": FORGED, "login": BASIC, "token": token}
        everywhere = {**places, "mail": mails}
        found = [
            f"the {secret} in {place}"
            for secret, text in secrets.items()
            for place, content in everywhere.items()
            if any(form in content for form in forms(text))
        ]
        found += [f"the link in {place}" for place, content in places.items() if link in content]
        assert found == []
        measure(secrets=len(secrets) + 1, places=len(everywhere))
        measure(bytes_searched=sum(len(content) for content in everywhere.values()))


def forms(text: str) -> list[bytes]:
    """Return a secret as it may be written: itself, in small letters, in hexadecimal digits, in base 64."""
    raw = text.encode()
    # What stands before it shifts base 64; the inner part is the same for one of three shifts.
    shifted = [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, raw.lower(), raw.hex().encode(), *shifted]


async def work(caller: Caller) -> list[Answer]:
    """Send secrets in every way that a client can."""
    mails = [work_email("ana@example.com", primary=True)]
    ana = await caller.post("/Users", document("ana@example.com", password=PASSWORD, emails=mails))
    assert ana.status == 201, ana
    path = f"/Users/{ana.json['id']}"
    answers = [ana]

    async def send(method: str, where: str, body: Any, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answers.append(await caller.send(method, where, body=content, headers=headers))

    for operation in (
        {"op": "Replace", "path": "password", "value": PASSWORD},
        {"op": "add", "value": {"password": PASSWORD, "title": "x"}},
        {"op": "add", "path": "name.password", "value": PASSWORD},
        {"op": "replace", "path": f'emails[password eq "{PASSWORD}"].value', "value": "x@example.com"},
    ):
        await send("PATCH", path, {"schemas": [PATCH_URN], "Operations": [operation]})
    await send("PUT", path, document("ana@example.com", password=PASSWORD, emails=mails))
    await send("POST", "/Users", document("bad@example.com", password=PASSWORD, active={"no": "boolean"}))
    await send("POST", "/Users", f'{{"userName": "cut@example.com", "password": "{PASSWORD}"'.encode())
    await send("POST", "/Users", document("ana@example.com", password=PASSWORD))
    bulk = {"method": "POST", "path": "/Users", "bulkId": "q", "data": document("bulk@example.com", password=PASSWORD)}
    await send("POST", "/Bulk", {"schemas": [BULK], "Operations": [bulk]})
    await send("POST", "/Users", document("late@example.com", password=PASSWORD), Prefer="respond-async")
    for authorization in (
        f"Bearer ush_{FORGED}_{FORGED}",
        f"Bearer {caller.tenant.token}x",
        f"Basic {base64.b64encode(BASIC.encode()).decode()}",
        f"Bearer {PASSWORD}",
    ):
        answers.append(await caller.send("GET", "/Users", headers={"Authorization": authorization}))
        answers[-1].error(401)
    return answers


@asynccontextmanager
async def watching_redis(rig: Rig) -> AsyncIterator[list[str]]:
    """Take down every command that Redis is given."""
    commands: list[str] = []
    async with rig.valkey() as redis, redis.monitor() as monitor:

        async def listen() -> None:
            async for command in monitor.listen():
                commands.append(str(command["command"]))  # noqa: PERF401  it never ends

        listening = asyncio.create_task(listen())
        try:
            yield commands
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def dumped(rig: Rig) -> bytes:
    """Return the database as `pg_dump` writes it."""
    process = await asyncio.create_subprocess_exec(
        *(str(rig.grounds.postgres._binaries / "pg_dump"), rig.direct.database_url.get_secret_value()),
        stdout=asyncio.subprocess.PIPE,
    )
    content = (await process.communicate())[0]
    assert process.returncode == 0
    return content


async def exported(rig: Rig) -> bytes:
    """Return the audit log as it is exported, in each format."""
    content = b""
    for form in ("jsonl", "csv", "ocsf"):
        file = rig.folder / f"export.{form}"
        await usher(ROOT, rig.direct, "audit", "export", "action:*", "--format", form, "--out", str(file))
        content += file.read_bytes()
    return content


def logs(rig: Rig) -> dict[str, bytes]:
    """Return what processes and servers wrote: their logs, and Valkey's append-only file."""
    files = [*rig.folder.glob("*.log"), *rig.grounds.postgres.home.glob("log/*.log")]
    files += [file for file in rig.grounds.valkey.home.glob("valkey/**/*") if file.is_file() and "aof" in file.name]
    return {f"log {file.name}": file.read_bytes() for file in files}
