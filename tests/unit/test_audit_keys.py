"""Keys and signed notes in the text forms of C2SP."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from models.audit.keys import new_signer, public_file, read_signer, read_verifier, read_verifiers, write_key
from models.audit.note import Seal, read_notes
from models.audit.seal import signed
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def seal(seq: int = 1, **values: object) -> Seal:
    made = {
        "stream": UUID(int=7),
        "seq": seq,
        "kind": "events",
        "from_xid": 3,
        "to_xid": 9,
        "count": 2,
        "root": bytes(32),
        "previous": bytes(range(32)),
        "detail": None,
        "sealed_at": datetime(2026, 11, 24, 1, 2, 3, 450, tzinfo=UTC),
    }
    return Seal(**{**made, **values})  # type: ignore[arg-type]  # as the fields are


def test_a_key_file_is_private_and_its_public_half_stands_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "audit.key"
    first = write_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_signer(path).verifier.text == first.verifier.text
    second = write_key(path)
    assert read_signer(path).verifier.key_id == second.verifier.key_id != first.verifier.key_id
    known = read_verifiers(public_file(path))
    assert [one.text for one in known] == [first.verifier.text, second.verifier.text]
    assert known[0].holds(b"text", first.sign(b"text"))
    assert not known[0].holds(b"text", second.sign(b"text"))
    assert not known[0].holds(b"other", first.sign(b"text"))


def test_what_c2sp_itself_gives_as_an_example_is_read() -> None:
    # The key of the example in c2sp.org/signed-note; its hash must come out the same.
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert read_verifier(text).key_id == "PeterNeumann+c74f20a3"


@pytest.mark.parametrize(
    "text", ["", "usher-audit", "usher-audit+00000000+AQ==", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/"]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="public key"):
        read_verifier(text)


def test_what_is_no_key_file_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(UsageError, match="cannot be read"):
        read_signer(path)
    path.write_text("PRIVATE+KEY+usher-audit+00000000+c2VjcmV0")
    with pytest.raises(UsageError, match="holds no key") as caught:
        read_signer(path)
    assert "c2VjcmV0" not in str(caught.value)


def test_notes_are_read_as_they_were_written() -> None:
    signer = new_signer()
    seals = [signed(seal(1), signer), signed(seal(2, detail="{}", kind="tombstone"), signer)]
    found = read_notes("\n".join(one.note() for one in seals))
    assert [one.hash() for one in found] == [one.hash() for one in seals]
    assert all(signer.verifier.holds(one.body(), one.signature) for one in found)
    assert [one.key_id for one in found] == [signer.verifier.key_id] * 2


@pytest.mark.parametrize("change", [("seq 1", "sequence 1"), ("usher audit seal v1", "x"), ("\N{EM DASH} ", "- ")])
def test_damaged_notes_are_refused(change: tuple[str, str]) -> None:
    text = signed(seal(), new_signer()).note()
    with pytest.raises(UsageError, match="The anchors are damaged"):
        read_notes(text.replace(*change))
