# ruff: noqa: INP001  a script that stands alone
"""Verify an export of Usher's audit log, with nothing of Usher's: Python 3.11 and the package `cryptography`.

    python verify_audit.py EVENTS.jsonl EVENTS.jsonl.manifest.json --key VERIFIER [--key …] [--anchors FILE]

Every line is hashed anew and looked for among the leaves of its seal; the leaves must come to the root that is
signed, by a key that you were given by other means than this export (`usher audit key` shows them). With anchors,
the seals must also be those that were published. What cannot be seen from an export: events between its seals, and
those that its search left out. Exit status: 0 clean, 1 usage, 2 tampering found, 3 the export does not have every
event of its seals (because its search did not ask for them, or retention removed them).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

BESIDE = ("actor_label", "diff", "salt", "personal_hash", "erasure_id")
KEPT_OF_TARGET = ("type", "id")
PERSONAL_CONTEXT = ("ip", "peer", "user_agent")
NOBODY = "00000000-0000-0000-0000-000000000000"
SIGNED = re.compile(r"\u2014 (\S+) (\S+)\n?")


class Number(str):
    """A number in the digits that it was written in."""

    __slots__ = ()


def canonical(value: Any) -> str:
    """Write JSON as RFC 8785 has it, but with the digits of numbers as they are."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)


def sha256(*parts: bytes) -> bytes:
    """Hash the parts, one behind the other."""
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_of(line: str) -> tuple[str, str, bytes]:
    """Return id, stream and leaf of an event's line."""
    event = json.loads(line, parse_int=Number, parse_float=Number)
    personal = {"actor_label": event["actor_label"], "diff": event["diff"]}
    salt, hidden = event["salt"], event["personal_hash"]
    for name in BESIDE:
        del event[name]
    targets = event["targets"]
    event["targets"] = [{key: one[key] for key in one if key in KEPT_OF_TARGET} for one in targets]
    personal["targets"] = [{key: one[key] for key in one if key not in KEPT_OF_TARGET} for one in targets]
    context = event["context"] or {}
    personal["context"] = {key: context.pop(key) for key in PERSONAL_CONTEXT if key in context}
    if salt is None:
        if personal["actor_label"] or personal["diff"] or any(personal["targets"]) or personal["context"]:
            raise ValueError("values stand where they are said to be erased")
        digest = bytes.fromhex(hidden)
    else:
        digest = sha256(bytes.fromhex(salt.replace("-", "")), canonical(personal).encode())
    return event["id"], event["tenant_id"] or NOBODY, sha256(b"\0", canonical(event).encode(), digest)


def root_of(leaves: list[bytes]) -> bytes:
    """Return the Merkle root (RFC 6962)."""
    level = leaves or [sha256()]
    while len(level) > 1:
        pairs = [sha256(b"\1", *level[place : place + 2]) for place in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def read_key(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    """Read `name+hash+base64`."""
    name, digest, encoded = text.strip().split("+", 2)
    raw = b64decode(encoded, validate=True)
    if hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8] != digest or raw[:1] != b"\1":
        raise ValueError(text)
    return name, bytes.fromhex(digest), Ed25519PublicKey.from_public_bytes(raw[1:])


def is_signed(note: str, keys: list[tuple[str, bytes, Ed25519PublicKey]]) -> bool:
    """Tell whether one of the keys signed the note."""
    body, _, signatures = note.partition("\n\n")
    for name, encoded in SIGNED.findall(signatures):
        raw = b64decode(encoded, validate=True)
        for known, digest, key in keys:
            if (known, digest) == (name, raw[:4]):
                try:
                    key.verify(raw[4:], (body + "\n").encode())
                except InvalidSignature:
                    continue
                return True
    return False


def fields_of(note: str) -> dict[str, str]:
    """Return what a note says."""
    return dict(line.split(" ", 1) for line in note.partition("\n\n")[0].splitlines()[1:])


def check_seals(seals: list[dict[str, str]], keys: list[Any], anchors: list[str]) -> tuple[list[str], set[Any]]:
    """Return what is wrong with the seals, and every stream and leaf that they are over."""
    wrong: list[str] = []
    published = {(fields["stream"], fields["seq"]): note for note in anchors for fields in [fields_of(note)]}
    places: set[tuple[str, bytes]] = set()
    last: dict[str, tuple[int, bytes]] = {}
    for seal in seals:
        note, fields = seal["note"], fields_of(seal["note"])
        stream, seq, body = fields["stream"], int(fields["seq"]), note.partition("\n\n")[0]
        raw = b64decode(seal["leaves"])
        leaves = [raw[start : start + 32] for start in range(0, len(raw), 32)]
        checks = {
            "re_signed: {} is not signed by a key that you trust": is_signed(note, keys),
            "edited: the leaves of {} do not come to its root": len(leaves) == int(fields["count"])
            and root_of(leaves) == b64decode(fields["root"]),
            "rolled_back: {} is not the one that was published": published.get((stream, fields["seq"]), note).partition(
                "\n\n"
            )[0]
            == body,
            "edited: {} does not follow from the one before it": stream not in last
            or last[stream][0] + 1 != seq
            or last[stream][1] == b64decode(fields["previous"]),
        }
        wrong += [text.format(f"seal {seq} of {stream}") for text, holds in checks.items() if not holds]
        last[stream] = seq, sha256(body.encode(), b"\n")
        places.update((stream, leaf) for leaf in leaves)
    return wrong, places


def check_events(events: Path, manifest: dict[str, Any], places: set[Any]) -> tuple[list[str], int]:
    """Return what is wrong with the events, and how many are under a seal."""
    wrong: list[str] = []
    found = set()
    digest, count = hashlib.sha256(), 0
    with events.open("rb") as file:
        for count, line in enumerate(file, 1):
            digest.update(line)
            try:
                event_id, stream, leaf = leaf_of(line.decode())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                wrong.append(f"edited: line {count} is no event as it was written: {error}")
                continue
            if (stream, leaf) not in places:
                wrong.append(f"edited or inserted: event {event_id} (line {count}) is under no seal")
            elif (stream, leaf) in found:
                wrong.append(f"inserted: event {event_id} (line {count}) is there twice")
            found.add((stream, leaf))
    if (digest.hexdigest(), count) != (manifest["sha256"], manifest["rows"]):
        wrong.append("edited: the file is not the one that the manifest was written for")
    return wrong, len(found & places)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints end with status 1: 2 is what tampering is told by."""

    def error(self, message: str) -> NoReturn:
        """Complain."""
        self.exit(1, f"{self.format_usage()}verify_audit: {message}\n")


def main() -> int:
    """Read the arguments, verify, and say what came of it."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--key", action="append", required=True, help="a public key to trust; may be repeated")
    parser.add_argument("--anchors", type=Path)
    arguments = parser.parse_args()
    try:
        keys = [read_key(text) for text in arguments.key]
        manifest = json.loads(arguments.manifest.read_text(encoding="utf-8"))
        text = arguments.anchors.read_text(encoding="utf-8") if arguments.anchors else ""
        anchors = [f"usher audit seal{part}" for part in text.split("usher audit seal")[1:]]
        wrong, places = check_seals(manifest["seals"], keys, anchors)
        strange, verified = check_events(arguments.events, manifest, places)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"cannot be verified: {error!r} (only an export as jsonl, with its manifest, can)")
    sys.stdout.write("".join(f"{sentence}\n" for sentence in wrong + strange))
    absent = len(places) - verified
    sys.stdout.write(f"{verified} events verified under {len(manifest['seals'])} seals; {absent} more are not here.\n")
    return 2 if wrong or strange else 3 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
