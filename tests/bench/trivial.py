"""A server that does nothing but answer, to see how much the load generator itself can do.

Run as ``python -m tests.bench.trivial``, it prints its port and serves until it is told to stop. Linux only (epoll).
"""

from __future__ import annotations

import select
import socket


def _answer(request: bytes) -> bytes:
    body = request[request.find(b"\r\n\r\n") + 4 :]
    return b"HTTP/1.1 201 Created\r\nContent-Type: application/scim+json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def _serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                epoll.register(connection.fileno(), select.EPOLLIN)
            elif request := connections[fd].recv(65536):  # a whole request: the generator sends each in one piece
                connections[fd].send(_answer(request))
            else:
                epoll.unregister(fd)
                connections.pop(fd).close()


if __name__ == "__main__":
    _serve()
