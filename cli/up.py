"""`usher up`: everything on one machine, from one folder, with one command."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import http.client
import json
import os
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer
from rich.console import Console
from rich.text import Text

from cli.embedded.folder import keep_audit_key, keep_port, keep_secret, read_text, write_private
from cli.embedded.mail import EmbeddedMail
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.process import end_all_strays, stop_all
from cli.embedded.valkey import EmbeddedValkey
from cli.supervise import Interrupts, Supervisor, UsherCommand, how
from models.errors import UsageError
from models.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cli.embedded.server import EmbeddedServer
    from models.settings import Settings

TENANT = "default"
READY_SECONDS = 60.0
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05
_AUDIT_FILES = {"audit_key_file": "audit.key", "audit_anchor_file": "audit.anchors", "audit_export_dir": "exports"}


def up(
    *,
    data_dir: Annotated[Path, typer.Option(help="Folder that holds the data, logs and secrets.")] = Path(".data"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="USHER_PORT", help="Port of the public listener; 0 = any free one.")
    ] = 8080,
    admin_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, envvar="USHER_ADMIN_PORT", help="Port of the internal listener; 0 = any free one."
        ),
    ] = 8081,
    processes: Annotated[int, typer.Option(min=1, max=64, help="API processes that share the ports.")] = 1,
    workers: Annotated[int, typer.Option(min=0, max=64, help="Worker processes; 0 = none.")] = 1,
    ready_file: Annotated[
        Path | None, typer.Option(help="File to write the addresses to, as JSON, once everything answers.")
    ] = None,
) -> None:
    """Run everything here: PostgreSQL, Redis, a mail catcher, the API and workers.

    A server is not started when USHER_DATABASE_URL, USHER_REDIS_URL or USHER_SMTP_URL names one of your own.
    """
    home = data_dir.absolute()
    ready_file = ready_file.absolute() if ready_file else None
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home), Interrupts() as interrupts:
        instance = Instance(home, Console(soft_wrap=True, highlight=False))
        try:
            if ready_file:
                ready_file.unlink(missing_ok=True)  # of a run that was killed
            addresses = instance.start(port, admin_port, processes, workers)
            if ready_file:
                write_private(ready_file, json.dumps(addresses, indent=2))
            instance.announce(addresses)
            interrupts.only_count()
            while not interrupts.count:
                instance.supervisor.check()
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            pass  # while it was starting
        finally:
            interrupts.only_count()
            if ready_file:
                ready_file.unlink(missing_ok=True)
            instance.stop(hurry=lambda: interrupts.count > 1)


class Instance:
    """Everything that `usher up` runs."""

    def __init__(self, home: Path, console: Console) -> None:
        self.home = home
        self.supervisor = Supervisor(self.say)
        self._console = console
        self._began = time.monotonic()
        self._servers: list[EmbeddedServer] = []
        self._commands: list[UsherCommand] = []

    def say(self, text: str) -> None:
        """Print a line for the person at the terminal."""
        self._print(Text(text))

    def start(self, port: int, admin_port: int, processes: int, workers: int) -> dict[str, Any]:
        """Start everything, wait until it answers, and return its addresses.

        Raises:
            UsageError: a setting or a port is of no use, or a part does not start; carries the end of its log.
        """
        self.say(f"Starting Usher in {self.home}")
        end_all_strays(self.home)
        chosen = self._choose(port, admin_port)
        postgres, valkey, mail = self._launch_servers()
        urls = {
            "database_url": postgres.url if postgres else None,
            "redis_url": valkey.url if valkey else None,
            "smtp_url": mail.url if mail else None,
        }
        settings = load_settings(**chosen, **{name: url for name, url in urls.items() if url})
        environment = _environment(settings)
        write_private(self.home / "env", "".join(f"{key}={shlex.quote(text)}\n" for key, text in environment.items()))
        self._await_servers(postgres, valkey)
        self._migrate(environment, postgres)
        self._run(UsherCommand(self.home, "api", ["api", "--processes", str(processes)], environment))
        for number in range(1, workers + 1):
            self._run(UsherCommand(self.home, f"worker-{number}", ["worker"], environment))
        token_file = self.home / "token"
        token = read_text(token_file) or self._issue_token(settings, token_file)
        link = _sign_in_url(settings)
        self._await_servers(mail)  # only now: it takes as long to start as the commands do
        self._wait_for(settings)
        path = "/scim/v2/Users?startIndex=1&count=1"
        if _status(settings.host, settings.port, path, token) in {401, 403}:  # another database, or it was revoked
            token = self._issue_token(settings, token_file)
        return {
            "scim_url": settings.scim_url,
            "token": token,
            "admin_url": f"http://{_authority(settings.admin_host, settings.admin_port)}",
            "dashboard_url": f"{settings.pages_url}/ops",
            "sign_in_url": link,
            "mailbox_url": mail.page_url if mail else None,
            "smtp_url": settings.smtp_url.get_secret_value(),
            "database_url": settings.database_url.get_secret_value(),
            "redis_url": settings.redis_url.get_secret_value(),
            "pid": os.getpid(),
            "data_dir": str(self.home),
        }

    def announce(self, addresses: Mapping[str, Any]) -> None:
        """Tell the person at the terminal where everything is and what to do next."""
        installed = Path(sys.executable).with_name("usher")
        beside = _relative(installed) if installed.exists() else f"{sys.executable} -m cli.main"
        usher = "usher" if shutil.which("usher") else beside
        self.say(f"Ready after {time.monotonic() - self._began:.1f} s.\n")
        env_file = _relative(self.home / "env")
        rows = {
            "Tenant URL": addresses["scim_url"],
            "Secret Token": addresses["token"],
            "Mailbox": addresses["mailbox_url"] or "none here: USHER_SMTP_URL names a server of your own",
            "Dashboard": addresses["dashboard_url"],
            "Sign in": addresses["sign_in_url"] or "every admin is disabled; usher operator change NAME --enable",
            "Database": _without_password(addresses["database_url"]),
            "Settings": f"{env_file}  (for the other commands: set -a; . {env_file})",
            "Logs": _relative(self.home / "log"),
        }
        for name, value in rows.items():
            self._print(Text(f"  {name:<14}", style="bold").append(str(value), style="not bold"))
        if addresses["sign_in_url"]:
            self.say(f"\nThe sign-in link works once, for 15 minutes; {usher} operator link admin makes another.")
        self.say("\nPlay Microsoft Entra against it, from another terminal:\n")
        self.say(f"  {usher} simulate --url {addresses['scim_url']} --token {addresses['token']}")
        self.say("\nCtrl-C stops everything; the data stays.")

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop the commands, then the servers they need; at once when told to hurry."""
        self.say("\nStopping. A second Ctrl-C hurries.")
        stop_all([command.child for command in self._commands], STOP_SECONDS, hurry)
        stop_all([child for server in self._servers for child in server.children], STOP_SECONDS, hurry)
        end_all_strays(self.home)
        self.say("Stopped.")

    def _print(self, text: Text) -> None:
        with suppress(OSError):  # a terminal that is gone must not keep anything from being stopped
            self._console.print(text)

    def _choose(self, port: int, admin_port: int) -> dict[str, Any]:
        """Choose ports, public address and key, having refused every wrong setting before anything is started."""
        chosen: dict[str, Any] = {"port": port, "admin_port": admin_port}
        if not os.environ.get("USHER_METRICS_DIR"):
            chosen["metrics_dir"] = self.home / "metrics"
        if not os.environ.get("USHER_SECRET_KEY"):
            chosen["secret_key"] = keep_secret(self.home / "secret_key", 48)
        for name, file in _AUDIT_FILES.items():
            if not os.environ.get(f"USHER_{name.upper()}"):
                chosen[name] = self.home / file
        if "audit_key_file" in chosen:
            keep_audit_key(chosen["audit_key_file"])
        later = {"database_url": "postgresql://", "redis_url": "redis://"}  # of servers that are started here
        wished = load_settings(
            **chosen, **{name: url for name, url in later.items() if not os.environ.get(f"USHER_{name.upper()}")}
        )
        chosen["port"] = _choose_port(self.home, "api", "--port", wished.host, port)
        chosen["admin_port"] = _choose_port(self.home, "api-internal", "--admin-port", wished.admin_host, admin_port)
        if chosen["port"] == chosen["admin_port"]:
            raise UsageError(f"--port and --admin-port are both {port}: two listeners need two ports.")
        if not os.environ.get("USHER_PUBLIC_URL"):
            chosen["public_url"] = f"http://{_authority(wished.host, chosen['port'])}"
        if not os.environ.get("USHER_ADMIN_URL"):
            chosen["admin_url"] = f"http://{_authority(wished.admin_host, chosen['admin_port'])}"
        return chosen

    def _launch_servers(self) -> tuple[EmbeddedPostgres | None, EmbeddedValkey | None, EmbeddedMail | None]:
        postgres = None if os.environ.get("USHER_DATABASE_URL") else EmbeddedPostgres(self.home)
        valkey = None if os.environ.get("USHER_REDIS_URL") else EmbeddedValkey(self.home)
        mail = None if os.environ.get("USHER_SMTP_URL") else EmbeddedMail(self.home)
        for server in (postgres, valkey, mail):
            if server:
                self._servers.append(server)
                server.launch()
        if postgres and not postgres.cluster.is_relative_to(self.home):
            self.say(f"The database is in {postgres.cluster}: the account it runs under cannot reach {self.home}.")
        return postgres, valkey, mail

    def _await_servers(self, *servers: EmbeddedServer | None) -> None:
        for server in servers:
            if server:
                server.ready()
                self.supervisor.watch(server)

    def _run(self, command: UsherCommand) -> None:
        self._commands.append(command)
        command.launch()
        self.supervisor.watch(command)

    def _migrate(self, environment: Mapping[str, str], postgres: EmbeddedPostgres | None) -> None:
        """Bring the database to the newest schema, unless our own one is known to have it: asking takes seconds."""
        note = self.home / "migrated"
        if postgres and _schema(postgres) == read_text(note):
            return
        command = UsherCommand(self.home, "migrate", ["migrate"], environment)
        self._commands.append(command)
        command.launch()
        while (code := command.poll()) is None:
            self.supervisor.demand_alive()
            time.sleep(_POLL_SECONDS)
        self._commands.remove(command)
        if code != 0:
            raise UsageError(f"The database was not migrated ({how(code)}):\n{command.child.tail()}")
        command.child.forget()
        if postgres:
            write_private(note, _schema(postgres))

    def _issue_token(self, settings: Settings, token_file: Path) -> str:
        token = asyncio.run(_issue_token(settings))
        write_private(token_file, token)
        return token

    def _wait_for(self, settings: Settings) -> None:
        awaited = [
            (settings.host, settings.port, "/scim/v2/ServiceProviderConfig"),
            (settings.admin_host, settings.admin_port, "/readyz"),
        ]
        deadline = time.monotonic() + READY_SECONDS
        for host, port, path in awaited:
            while (status := _status(host, port, path)) != 200:
                self.supervisor.demand_alive()
                if time.monotonic() > deadline:
                    where = f"http://{_authority(host, port)}{path}"
                    raise UsageError(f"{where} is not ready after {READY_SECONDS:.0f} s (status {status}).")
                time.sleep(_POLL_SECONDS)


def _schema(postgres: EmbeddedPostgres) -> str:
    """Return the revision that the database stands at and a fingerprint of the migrations that this code has."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "models" / "migrations" / "versions").glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    revision = postgres.value("SELECT version_num FROM alembic_version")
    return f"{revision} {digest.hexdigest()}"


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Hold the folder against a second `usher up`; the kernel lets go of it however this process ends."""
    with (home / "up.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UsageError(
                f"Another `usher up` (process {file.read().strip()}) runs in {home}: "
                "stop it, or choose another folder with --data-dir."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _choose_port(home: Path, name: str, flag: str, host: str, wanted: int) -> int:
    try:
        return keep_port(home, name, wanted, host)
    except UsageError as error:
        raise UsageError(
            f"Port {wanted} is taken by another process: choose another with {flag}, or {flag} 0 for any free one."
        ) from error


def _sign_in_url(settings: Settings) -> str | None:
    # Imported here: meanwhile what was started before is starting.
    from cli.first_operator import sign_in_url  # noqa: PLC0415 -- as said

    return asyncio.run(sign_in_url(settings))


async def _issue_token(settings: Settings) -> str:
    """Issue a token for the tenant that `usher up` keeps, adding the tenant first if need be."""
    # Imported here: a later start has its token and starts sooner without these.
    from uuid_utils.compat import uuid7  # noqa: PLC0415 -- as said

    from models.audit.record import OPERATOR  # noqa: PLC0415 -- as said
    from models.db import open_pool  # noqa: PLC0415 -- as said
    from models.tenants import add_tenant, list_tenants  # noqa: PLC0415 -- as said
    from models.tokens import issue_token  # noqa: PLC0415 -- as said

    who: dict[str, Any] = {"actor": OPERATOR, "correlation_id": uuid7()}
    pool = await open_pool(settings, name="up", size=1)
    try:
        async with pool.acquire() as connection:
            found = [tenant for tenant in await list_tenants(connection) if tenant["name"] == TENANT]
            tenant = found[0] if found else await add_tenant(connection, name=TENANT, **who)
            issued = await issue_token(
                connection,
                tenant_id=tenant["id"],
                scopes=["scim"],
                label="usher up",
                days=settings.token_days,
                **who,
            )
            return issued.text
    finally:
        await pool.close()


def _environment(settings: Settings) -> dict[str, str]:
    """Return what children must see beside the environment of this process."""
    return {
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SMTP_URL": settings.smtp_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "USHER_PUBLIC_URL": str(settings.public_url),
        "USHER_ADMIN_URL": str(settings.admin_url),
        "USHER_PORT": str(settings.port),
        "USHER_ADMIN_PORT": str(settings.admin_port),
        "USHER_METRICS_DIR": str(settings.metrics_dir),
        **{f"USHER_{name.upper()}": str(getattr(settings, name)) for name in _AUDIT_FILES},
    }


def _status(host: str, port: int, path: str, token: str | None = None) -> int | None:
    """Return the HTTP status of a GET, or None if nobody answers."""
    connection = http.client.HTTPConnection(_reachable(host), port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound


def _authority(host: str, port: int) -> str:
    host = _reachable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    login, at, rest = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}{colon}{'…' if colon else ''}{at}{rest}"))


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
