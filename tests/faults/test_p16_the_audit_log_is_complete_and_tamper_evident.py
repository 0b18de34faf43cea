"""P16: a log that was written under faults is whole, and whatever is done to it afterwards is told by its class.

What is found of each class, down to the row, is in tests/integration/test_audit_tampering.py.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from models.audit.anchors import publish, read_anchors
from models.audit.keys import public_file, read_signer, read_verifiers
from models.audit.seal import seal_waiting
from models.audit.verify import verify
from tests.support.audit import superuser, write_events
from tests.support.databases import drop_database, with_path
from tests.support.promises import scale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.rig import Rig

# Of an event and of a stream that are sealed, in the statements below.
VICTIM: Final = "(SELECT id FROM audit_event WHERE action = 'scim.user.create' ORDER BY xid, id OFFSET 7 LIMIT 1)"
STREAM: Final = "(SELECT stream FROM audit_seal GROUP BY stream HAVING count(*) > 1 ORDER BY stream LIMIT 1)"
TAMPERING: Final = {
    "edited": "UPDATE audit_event SET reason = 'other' WHERE id = VICTIM",
    "deleted": "DELETE FROM audit_event WHERE id = VICTIM",
    "inserted": (
        "INSERT INTO audit_event (occurred_at, id, xid, tenant_id, action, phase, outcome, severity, actor_type,"
        " targets, correlation_id) SELECT occurred_at, gen_random_uuid(), xid, tenant_id, 'scim.user.delete',"
        " 'applied', 'success', 1, 'job', '[]', correlation_id FROM audit_event WHERE id = VICTIM"
    ),
    "reordered": "UPDATE audit_event SET xid = '9000000000' WHERE id = VICTIM",
    "seal_dropped": "DELETE FROM audit_seal WHERE seq = 1 AND stream = STREAM",
    "re_signed": "UPDATE audit_seal SET signature = decode(repeat('00', 64), 'hex') WHERE seq = 1 AND stream = STREAM",
    "truncated": (
        "DELETE FROM audit_seal WHERE stream = STREAM AND seq = (SELECT max(seq) FROM audit_seal WHERE stream = STREAM)"
    ),
}


@pytest.mark.promise("P16")
async def test_a_log_written_under_faults_is_clean_and_each_tampering_is_told_by_its_name(
    make_rig: MakeRig, measure: Measure
) -> None:
    async with make_rig() as rig:
        driver = await rig.driver(invitations=True)
        pushing = asyncio.create_task(driver.run(scale(100, 400)))
        await driver.until_known(50)
        await rig.kill(rig.workers[0], rig.apis[0])
        await rig.heal()
        await driver.until_known(scale(60, 200))
        await asyncio.gather(rig.kill(), rig.crash_postgres())
        await rig.heal()
        await pushing
        await rig.drain()
        await rig.check(driver, mails=True, copies=4)
        await stopped(rig)
        async with copy(rig) as old:
            await rig.start()
            await driver.run(20)
            await rig.drain()
            await rig.check(driver)
            await stopped(rig)
            async with rig.store() as connection:
                await seal_waiting(connection, read_signer(rig.folder / "audit.key"))
                await publish(connection, rig.folder / "anchors")
                events = await connection.fetchval("SELECT count(*) FROM audit_event")
            assert await told(rig, rig.direct.database_url.get_secret_value()) == set()
            assert await told(rig, old) == {"rolled_back"}
        for kind, statement in TAMPERING.items():
            async with copy(rig) as url:
                async with superuser(url) as connection:
                    await write_events(connection, None, 1)  # the database goes on
                    status = await connection.execute(statement.replace("VICTIM", VICTIM).replace("STREAM", STREAM))
                assert status.split()[-1] == "1", f"{kind}: {status}"
                assert kind in await told(rig, url)
        measure(events=events, classes=len(TAMPERING) + 1)


async def stopped(rig: Rig) -> None:
    """Stop every process."""
    await asyncio.gather(*(one.stop() for one in (*rig.apis, *rig.workers)))


@asynccontextmanager
async def copy(rig: Rig) -> AsyncIterator[str]:
    """Give the URL of a copy of the rig's database, on the same server."""
    admin = with_path(rig.grounds.postgres.url, "postgres")
    source = rig.direct.database_url.get_secret_value().rsplit("/", 1)[1]
    name = f"{source}_copy"
    async with superuser(admin) as connection:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    try:
        yield with_path(admin, name)
    finally:
        await drop_database(admin, name)


async def told(rig: Rig, url: str) -> set[str]:
    """Return the classes of what the verification finds."""
    async with superuser(url) as connection:
        trusted = read_verifiers(public_file(rig.folder / "audit.key"))
        report = await verify(connection, trusted, anchors=read_anchors(rig.folder / "anchors"))
    return {finding.kind for finding in report.findings}
