"""The load generator: one process, raw non-blocking sockets, one request in flight on each.

It is written for little work a request, so that it is not what is measured: requests are rendered before the clock
starts, an answer is told complete by its Content-Length, and checked by a search in its bytes. Run as
``python -m tests.bench.load``, it takes one plan a line on standard input and prints one JSON object for each.
Linux only (epoll).
"""

from __future__ import annotations

import gc
import json
import select
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from tests.bench.scripts import Plan, Step, render

if TYPE_CHECKING:
    from collections.abc import Iterator

_STALL_SECONDS = 60.0
_KEPT_WRONG = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one process saw.

    Attributes:
        began, ended: seconds of the monotonic clock, which all processes of a machine share.
        cpu_seconds: processor time that the load generator itself took.
        wrong: the first few answers that were not right, shortened.
        wrong_count: how many were not right.
        latencies: seconds of each request, by kind of step.
    """

    began: float
    ended: float
    cpu_seconds: float
    wrong: list[str]
    wrong_count: int
    latencies: list[list[float]]


def drive(  # noqa: C901 - the hot path: one loop that calls as little as it can
    plan: Plan, steps: Iterator[Step], sockets: list[socket.socket]
) -> Outcome:
    """Send all steps over the sockets and check every answer.

    Raises:
        TimeoutError: nothing came for a minute.
        ConnectionError: the server closed a connection.
    """
    # Everything that the loop touches is a local or a list indexed by descriptor: this is the hot path.
    highest = max(sock.fileno() for sock in sockets) + 1
    receive = [sockets[0].recv] * highest
    send = [sockets[0].send] * highest
    current: list[Step] = [Step(b"", b"", b"", None, 0, None)] * highest
    sent = [0.0] * highest
    partial: list[bytes] = [b""] * highest
    latencies = [array("d") for _ in plan.kinds]
    wrong: list[str] = []
    wrong_count = 0
    clock = time.perf_counter
    epoll = select.epoll()
    open_requests = 0
    cpu = time.process_time()
    began = ended = clock()
    for sock in sockets:
        step = next(steps, None)
        if step is None:
            break
        fd = sock.fileno()
        receive[fd], send[fd], current[fd] = sock.recv, sock.send, step
        epoll.register(fd, select.EPOLLIN)
        sent[fd] = clock()
        sock.send(step.request)
        open_requests += 1
    while open_requests:
        events = epoll.poll(_STALL_SECONDS)
        if not events:
            raise TimeoutError(f"{open_requests} requests without an answer for {_STALL_SECONDS:.0f} s")
        for fd, _ in events:
            data = receive[fd](65536)  # larger buffers cost an mmap each
            if not data:
                raise ConnectionError("the server closed a connection in the middle of the load")
            if partial[fd]:
                data = partial[fd] + data
            end = _length(data)
            if len(data) < end or not end:
                partial[fd] = data
                continue
            partial[fd] = b""
            request, status, needle, total, kind, following = current[fd]
            ended = clock()
            latencies[kind].append(ended - sent[fd])
            if not data.startswith(status) or needle not in data or (total is not None and not _counts(data, total)):
                wrong_count += 1
                if len(wrong) < _KEPT_WRONG:
                    wrong.append(f"{_line(request)} → {data[:300].decode(errors='replace')}")
                following = None  # the rest of this script makes no sense
            step = following or next(steps, None)
            if step is None:
                open_requests -= 1
                continue
            current[fd] = step
            sent[fd] = clock()
            send[fd](step[0])
    epoll.close()
    return Outcome(
        began, ended, time.process_time() - cpu, wrong, wrong_count, [values.tolist() for values in latencies]
    )


def _length(data: bytes) -> int:
    """Return the length of the answer that ``data`` begins with, or 0 while its head is not complete."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return 0
    field = data.find(b"Content-Length: ", 0, head)
    if field < 0:
        field = data[:head].lower().find(b"content-length: ")
        if field < 0 and data.startswith(b"HTTP/1.1 204"):
            return head + 4
        if field < 0:
            raise ConnectionError(f"an answer without Content-Length: {data[:200]!r}")
    return head + 4 + int(data[field + 16 : data.find(b"\r", field + 16)])


def _counts(data: bytes, total: int) -> bool:
    """Tell whether a list answer says that ``total`` resources match."""
    if b'"totalResults":%d,' % total in data:
        return True
    body = data[data.find(b"\r\n\r\n") + 4 :]
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(doc, dict) and doc.get("totalResults") == total


def _line(request: bytes) -> str:
    return request[: request.find(b"\r")].decode(errors="replace")


def connect(plan: Plan) -> list[socket.socket]:
    """Open the connections of a plan."""
    sockets = []
    for _ in range(plan.connections):
        sock = socket.create_connection((plan.host, plan.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def main() -> None:
    """Carry out plans from standard input: prepare, say ``ready``, wait for ``go``, drive, print the outcome."""
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        steps = list(render(plan))
        sockets = connect(plan)
        gc.collect()
        gc.freeze()
        gc.disable()
        print("ready", flush=True)  # noqa: T201 - the protocol with the parent
        sys.stdin.readline()
        outcome = drive(plan, iter(steps), sockets)
        gc.enable()
        gc.unfreeze()
        for sock in sockets:
            sock.close()
        print(orjson.dumps(asdict(outcome)).decode(), flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    main()
