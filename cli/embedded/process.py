"""Child processes that leave no orphans: own session, output in a file, found again after the parent was killed.

A child is found again in two ways. Its pid file names the process and when it started, so a stranger with the same
pid is left alone. And every descendant that keeps its environment carries the mark of that file, so the processes of
a leader that is already gone are found as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil

from cli.embedded.folder import read_text, write_private
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from cli.embedded.account import Account

MARK = "EMBEDDED_CHILD"
LOG_LIMIT = 20 * 1024 * 1024  # bytes; a longer log is set aside at the next start
_SAME_START = 3.0  # seconds that two readings of one start time may differ when the clock is set in between
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Child:
    """One child process of this one, known by name in a data folder."""

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        hurry_signal: signal.Signals | None = None,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.pid_file = home / "run" / f"{name}.json"
        self.log_file = home / "log" / f"{name}.log"
        self.account = account
        self._stop_signal = stop_signal
        self._hurry_signal = hurry_signal  # sent, and given five seconds, before the child is killed
        self._mark = f"{self.pid_file}:{int(stop_signal)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id of the child that was started last."""
        return self._process.pid if self._process else None

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command after ending what an earlier parent left behind under this name.

        Raises:
            UsageError: another living parent runs it, or it cannot be started.
        """
        self.end_strays()
        for folder in (self.pid_file.parent, self.log_file.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_LIMIT:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        account = self.account
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(  # noqa: S603 -- the command is built by the caller, never by a request
                    command,
                    env={**environment, MARK: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd="/" if account else None,  # the account may not be allowed into the current folder
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                    start_new_session=True,  # Ctrl-C at the terminal reaches the parent alone, which stops in order
                    preexec_fn=_dying_with_parent(self._stop_signal),  # noqa: PLW1509 -- given only while there is one thread
                )
            except OSError as error:
                raise UsageError(f"{self.name} cannot be started: {error}") from error
        pid = self._process.pid
        record = {
            "pid": pid,
            "started": _started(pid),
            "parent": os.getpid(),
            "parent_started": _started(os.getpid()),
        }
        write_private(self.pid_file, json.dumps(record))

    def poll(self) -> int | None:
        """Return the exit code (minus the signal number for a death by signal), or None while it runs."""
        return self._process.poll() if self._process else 0

    def wait(self, seconds: float) -> int | None:
        """Wait for the child to end by itself; return its exit code, or None if it still runs then."""
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        return self.poll()

    def ask_to_stop(self) -> None:
        """Send the child its stop signal and do not wait."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(self._stop_signal)

    def kill(self) -> None:
        """End the child and its process group at once."""
        if self._process and self._hurry_signal and self._process.poll() is None:
            self._process.send_signal(self._hurry_signal)
            self.wait(5.0)
        if self._process and self._process.poll() is None:
            # The leader is not reaped yet, so its group cannot be anybody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self, grace: float) -> None:
        """Ask the child to stop, kill it after ``grace`` seconds, and leave none of its descendants."""
        stop_all([self], grace)

    def forget(self) -> None:
        """End what the child left behind and take its pid file away. The child itself has ended, if it ever began."""
        if self._process is None:
            return
        self.end_strays()
        self.pid_file.unlink(missing_ok=True)
        self._process = None

    def end_strays(self) -> None:
        """End the processes of this name that have no living parent.

        Raises:
            UsageError: another living process runs them.
        """
        record = _read_record(self.pid_file)
        leader = _same_process(record.get("pid"), record.get("started"))
        parent = _same_process(record.get("parent"), record.get("parent_started"))
        if leader and parent and parent.pid != os.getpid():
            raise UsageError(f"{self.name} in this folder is being run by process {parent.pid}.")
        strays = _marked(lambda file: file == str(self.pid_file))
        if leader:
            strays[leader] = self._stop_signal
        end(strays)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines that the child wrote to its log since it was started."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(self._log_start, self.log_file.stat().st_size - 16_384))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


def stop_all(children: Iterable[Child], grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """Stop children together: ask each, wait up to ``grace`` seconds or until told to hurry, kill the rest."""
    children = list(children)
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + grace
    while any(child.poll() is None for child in children):
        if time.monotonic() >= deadline or hurry():
            break
        time.sleep(0.02)
    for child in children:
        child.kill()
        child.forget()


def end_all_strays(home: Path) -> None:
    """End every process that an earlier parent left behind in the folder. The caller holds the folder's lock."""
    run = home.absolute() / "run"
    strays = _marked(lambda file: file.startswith(f"{run}{os.sep}"))
    for pid_file in run.glob("*.json"):
        record = _read_record(pid_file)
        if leader := _same_process(record.get("pid"), record.get("started")):
            strays.setdefault(leader, signal.SIGTERM)
    end(strays)


def end(strays: Mapping[psutil.Process, signal.Signals], grace: float = 5.0) -> None:
    """Stop those processes that no other of them started, each with its own signal; kill what they leave.

    The others are for their leader to stop: PostgreSQL's processes take signals in a sense of their own.
    """
    pids = {process.pid for process in strays}
    leaders = [process for process in strays if _parent(process) not in pids]
    for process in leaders:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(strays[process])
    _wait_for_end(leaders, grace)
    for process in strays:
        if _is_alive(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    _wait_for_end(strays, grace)


def _wait_for_end(processes: Iterable[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def _is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still does something; one that ended may wait long for init to reap it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return 0


def _dying_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return what a new child does first on Linux: ask the kernel for a signal when its parent is gone.

    The kernel watches the thread that forked, and a fork beside other threads is not safe: with more than one thread
    the pid files alone must do.
    """
    if _LIBC is None or threading.active_count() > 1 or threading.current_thread() is not threading.main_thread():
        return None
    prctl, parent = _LIBC.prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask


def _started(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _same_process(pid: object, started: object) -> psutil.Process | None:
    if not isinstance(pid, int) or not isinstance(started, int | float):
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_START
    except psutil.NoSuchProcess:
        return None
    return process if same and _is_alive(process) else None


def _marked(wanted: Callable[[str], bool]) -> dict[psutil.Process, signal.Signals]:
    """Return the processes whose mark names a wanted pid file, with the signal that stops their leader."""
    found = {}
    for process in psutil.process_iter():
        try:
            file, _, number = process.environ().get(MARK, "").rpartition(":")
        except (psutil.Error, OSError):
            continue  # gone, a kernel thread, or another user's
        if file and process.pid != os.getpid() and wanted(file):
            found[process] = signal.Signals(int(number))
    return found


def _read_record(pid_file: Path) -> dict[str, object]:
    try:
        record = json.loads(read_text(pid_file) or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
