"""Exports from the page, and the commands of the proof with their exit statuses, as administrators meet them."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from uuid_utils.compat import uuid7

from models.audit.keys import new_signer, public_file, read_signer, write_key
from models.audit.seal import seal_waiting
from models.db import open_pool
from tests.acceptance.test_cli import Usher
from tests.support.api import altered, serving, store
from tests.support.audit import superuser, write_events
from tests.support.ledger import new_tenant
from tests.support.pages import browser
from worker import exporter, sealer
from worker.context import Context
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    import asyncpg

    from models.settings import Settings

USHER = Path(sys.executable).with_name("usher")


@pytest.fixture
async def proving(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a key, anchors and a folder of exports, for a log in which nothing stands yet."""
    async with superuser(settings.database_url.get_secret_value()) as owner:
        await owner.execute("DELETE FROM audit_event")  # the migration's own
    write_key(tmp_path / "audit.key")
    return altered(
        settings,
        audit_key_file=tmp_path / "audit.key",
        audit_anchor_file=tmp_path / "anchors",
        audit_export_dir=tmp_path / "exports",
    )


async def usher(settings: Settings, *words: str) -> tuple[int, str, str]:
    """Run a command in this process; returns status, output and complaints."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("USHER_")},
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "USHER_AUDIT_KEY_FILE": str(settings.audit_key_file),
        "USHER_AUDIT_ANCHOR_FILE": str(settings.audit_anchor_file),
        "COLUMNS": "200",
    }
    with patch.dict(os.environ, environment, clear=True):
        said = await Usher()(*words)
    return said.status, said.out, said.err


def context_of(settings: Settings, pool: asyncpg.Pool) -> Context:
    return Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)


async def test_the_commands_say_by_their_status_what_they_found(
    proving: Settings, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", tenant_id)
        [user, *_] = await write_events(connection, tenant_id, 5)
        event_id = await connection.fetchval("SELECT id FROM audit_event WHERE target_id = $1", str(user))
        status, out, _ = await usher(proving, "audit", "prove", str(event_id))
        assert (status, out) == (3, "The event is not sealed yet; that takes a minute.\n")
        status, out, _ = await usher(proving, "audit", "seal")
        assert (status, out) == (0, "6 events sealed in 1 seals.\n")
        status, out, _ = await usher(proving, "audit", "verify")
        assert status == 3
        assert "Without anchors" in out
        assert await sealer.anchor(context_of(proving, pool), connection) == "1 anchors"
        status, out, _ = await usher(proving, "audit", "verify")
        assert status == 0, out
        assert out.startswith("Clean: 6 events under 1 seals of 1 streams, 1 anchors")
        proof = json.loads((await usher(proving, "audit", "prove", str(event_id), "--tenant", name))[1])
        assert (proof["event"]["id"], proof["count"], len(proof["path"])) == (str(event_id), 6, 3)
        # Erasing, exporting, and verifying what was exported, with the key that the command shows.
        status, _, err = await usher(proving, "audit", "erase", str(user), "--tenant", name)
        assert (status, "--yes" in err) == (1, True)
        status, out, _ = await usher(proving, "audit", "erase", str(user), "--tenant", name, "--yes")
        assert (status, "no longer say who it was" in out) == (0, True)
        await usher(proving, "audit", "seal")
        out_file = tmp_path / "out.jsonl"
        status, out, _ = await usher(proving, "audit", "export", "--out", str(out_file), "--tenant", name, "--json")
        made = json.loads(out)
        assert (status, made["rows"], made["sha256"]) == (0, 7, hashlib.sha256(out_file.read_bytes()).hexdigest())
        assert f"u{user}@example.com" not in out_file.read_text()
        key = (await usher(proving, "audit", "key"))[1].strip()
        script = Path(__file__).parents[2] / "deploy" / "verify_audit.py"
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(out_file), f"{out_file}.manifest.json", "--key", key
        )
        assert await process.wait() == 0
        # Tampering.
        async with superuser(proving.database_url.get_secret_value()) as owner:
            await owner.execute("UPDATE audit_event SET action = 'scim.user.delete' WHERE id = $1", event_id)
    status, out, _ = await usher(proving, "audit", "verify", "--json")
    report = json.loads(out)
    assert (status, report["outcome"]) == (2, "tampering")
    assert [(one["class"], one["event"]) for one in report["findings"]] == [("edited", str(event_id))]
    status, out, _ = await usher(proving, "audit", "verify", "--tenant", name)
    assert status == 2
    assert str(event_id) in out
    status, out, _ = await usher(proving, "audit", "verify", "--key", new_signer().verifier.text)
    assert (status, "re_signed" in out) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "--from", "yesterday"),
        ("verify", "--from", "2026-06-02", "--to", "2026-06-01"),
        ("verify", "--anchors", "/nowhere"),
        ("verify", "--key", "x"),
        ("verify", "--bogus"),
        ("verify", "--tenant", "nobody"),
        ("prove", "1"),
        ("prove", "01a20b51-c3fd-776e-9701-871251ccc02b"),
        ("release", "01a20b51-c3fd-776e-9701-871251ccc02b"),
        ("export", "--out", "/nowhere/x"),
        ("export", "bogus:1", "--out", "x"),
        ("export", "--format", "xml", "--out", "x"),
        ("hold", "--reason", " "),
    ],
    ids=" ".join,
)
async def test_a_mistake_of_usage_has_a_status_of_its_own(words: tuple[str, ...], proving: Settings) -> None:
    status, _, err = await usher(proving, "audit", *words)
    assert status == 1, err
    assert err


async def test_a_new_key_leaves_what_the_old_one_signed_verifiable(proving: Settings, pool: asyncpg.Pool) -> None:
    assert proving.audit_key_file is not None
    async with pool.acquire() as connection:
        await write_events(connection, None, 2)
        await seal_waiting(connection, read_signer(proving.audit_key_file))
        assert len((await usher(proving, "audit", "key", "--new"))[1].splitlines()) == 2
        await write_events(connection, None, 2)
        await seal_waiting(connection, read_signer(proving.audit_key_file))
        await sealer.anchor(context_of(proving, pool), connection)
    assert (await usher(proving, "audit", "verify"))[0] == 0
    assert len(public_file(proving.audit_key_file).read_text().splitlines()) == 2


async def test_the_nightly_verification_is_an_event_of_its_own(proving: Settings, pool: asyncpg.Pool) -> None:
    context = context_of(proving, pool)
    async with pool.acquire() as connection:
        await write_events(connection, None, 3)
        assert await sealer.seal(context, connection) == "3 events in 1 seals"
        assert await sealer.anchor(context, connection) == "", "the first seals are anchored at once"
        assert (await sealer.verify_all(context, connection)).startswith("clean: 3 events")
        async with superuser(proving.database_url.get_secret_value()) as owner:
            await owner.execute("DELETE FROM audit_event WHERE reason = 'seen'")
        assert (await sealer.verify_all(context, connection)).startswith("tampering")
        rows = await connection.fetch(
            "SELECT phase, reason, context FROM audit_event WHERE action = 'audit.log.verify' ORDER BY occurred_at"
        )
    assert [(row["phase"], row["reason"], row["context"]["findings"]) for row in rows] == [
        ("applied", None, 0),
        ("failed", "deleted", 3),
    ]


async def test_a_worker_without_a_key_seals_nothing_and_says_so(settings: Settings, pool: asyncpg.Pool) -> None:
    context = context_of(settings, pool)
    async with pool.acquire() as connection:
        for run in (sealer.seal, sealer.verify_all, sealer.remove_old):
            assert await run(context, connection) == sealer.NO_KEY


# The page


def links(text: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]+\?token=[^"]+)"', text)]


async def test_an_export_is_asked_for_in_the_page_written_by_a_worker_and_fetched_by_its_link(
    proving: Settings, pool: asyncpg.Pool
) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", tenant_id)
        await write_events(connection, tenant_id, 20)
    context = context_of(proving, pool)
    async with serving(proving) as api:
        admin, viewer = await browser(api), await browser(api, "viewer")
        page = await admin.read("/admin/audit/export?q=action%3Ascim.user.*")
        assert 'value="action:scim.user.*"' in page
        form = {"q": "action:scim.user.*", "format": "jsonl", "tenant": name}
        text = await admin.follow(await admin.post("/admin/audit/export", form))
        assert "staged" in text
        assert links(text) == []
        async with pool.acquire() as connection:
            assert await exporter.export_waiting(context, connection) == "20 events exported"
            assert await exporter.export_waiting(context, connection) == ""
        text = await admin.read("/admin/audit/export")
        file, manifest = links(text)
        got = await admin.get(file)
        assert got.status == 200
        assert len(got.content.splitlines()) == 20
        assert got.headers["Content-Disposition"].startswith("attachment")
        assert json.loads((await admin.get(manifest)).content)["sha256"] == hashlib.sha256(got.content).hexdigest()
        # Not without the token, not for those who may not export, not once it is over.
        assert (await admin.get(file.partition("?")[0])).status == 403
        assert (await admin.get(file[:-1] + ("0" if file[-1] != "0" else "1"))).status == 403
        assert (await viewer.get(file)).status == 403
        assert (await viewer.post("/admin/audit/export", form)).status == 403
        async with store(proving) as owner:
            await owner.execute("UPDATE audit_export SET expires_at = now()")
        assert (await admin.get(file)).status == 410
        async with pool.acquire() as connection:
            await exporter.export_waiting(context, connection)
        assert proving.audit_export_dir is not None
        assert list(proving.audit_export_dir.iterdir()) == []
        assert "expired" in await admin.read("/admin/audit/export")
        events = await pool.fetch("SELECT * FROM audit_event WHERE action = 'audit.log.export'")
    assert [(row["tenant_id"], row["context"]["events"]) for row in events] == [(tenant_id, 20)]
    assert admin.operator is not None
    assert events[0]["actor_label"] == admin.operator.name


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"q": "bogus:1"}, "There is no qualifier bogus:"),
        ({"format": "xml"}, "There is no format xml"),
        ({"tenant": "nobody"}, "There is no tenant nobody"),
    ],
)
async def test_what_cannot_be_exported_is_said(form: dict[str, str], sentence: str, proving: Settings) -> None:
    async with serving(proving) as api:
        admin = await browser(api)
        answer = await admin.post("/admin/audit/export", {"q": "", "format": "csv", "tenant": "", **form})
        assert answer.status == 400
        assert sentence in html.unescape(answer.content.decode())
        for path in ("x", str(uuid7())):
            assert (await admin.get(f"/admin/audit/export/{path}/file")).status == 404


async def test_an_export_whose_worker_died_is_begun_anew(proving: Settings) -> None:
    async with serving(proving) as api:
        admin = await browser(api)
        answer = await admin.post("/admin/audit/export", {"q": "", "format": "csv", "tenant": ""})
        assert answer.status == 303
        async with store(proving) as owner:
            await owner.execute("UPDATE audit_export SET state = 'running', beat_at = now() - interval '2 minutes'")
        pool: Any = await open_pool(proving, name="tests", size=2)
        try:
            async with pool.acquire() as connection:
                said = await exporter.export_waiting(context_of(proving, pool), connection)
        finally:
            await pool.close()
        assert said.endswith("events exported")
        file, _ = links(await admin.read("/admin/audit/export"))
        assert (await admin.get(file)).content.startswith(b"occurred_at,id,")
