from __future__ import annotations

import json
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from cli.embedded.folder import is_free, keep_port, keep_secret, write_private
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"

    secret = keep_secret(path)

    assert len(secret) >= 32
    assert keep_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_writing_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and readable by all")

    write_private(path, "new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_port_is_remembered_while_it_is_free(tmp_path: Path) -> None:
    port = keep_port(tmp_path, "postgres")

    assert keep_port(tmp_path, "postgres") == port
    assert keep_port(tmp_path, "valkey") != port

    with socket.create_server(("127.0.0.1", port)):
        other = keep_port(tmp_path, "postgres")
    assert other != port
    assert keep_port(tmp_path, "postgres") == other


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(UsageError, match=str(port)):
            keep_port(tmp_path, "postgres", port)
    assert is_free(port)
    assert keep_port(tmp_path, "postgres", port) == port


@pytest.mark.parametrize("content", ["", "{", "[]", '{"postgres": "x"}', '{"postgres": 99999999}', '{"postgres": 0}'])
def test_a_damaged_list_of_ports_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)

    port = keep_port(tmp_path, "postgres")

    assert json.loads((tmp_path / "ports.json").read_text()) == {"postgres": port}
