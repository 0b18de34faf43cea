"""`make audit-deps`: ask a database of known weaknesses (OSV) about every dependency that requirements.lock names."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[2] / "requirements.lock"
SERVICE = os.environ.get("OSV_URL", "https://api.osv.dev")
_PINNED = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
_SECONDS = 30


def pinned(lock: str) -> list[tuple[str, str]]:
    """Return the names and versions that a lock file pins."""
    return _PINNED.findall(lock)


def known(service: str, packages: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the ids of known weaknesses by `name version`; of packages without any nothing.

    Raises:
        OSError: the database cannot be reached, or refuses.
        ValueError: what came back is no answer to the question.
    """
    queries = [{"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in packages]
    request = urllib.request.Request(  # noqa: S310  the address is https, or what somebody set on purpose
        f"{service}/v1/querybatch",
        data=json.dumps({"queries": queries}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  as above
        results: list[dict[str, Any]] = json.load(answer).get("results", [])
    if len(results) != len(packages):
        raise ValueError(f"{len(packages)} packages were asked about, {len(results)} answered")
    return {
        f"{name} {version}": [str(one["id"]) for one in result.get("vulns", [])]
        for (name, version), result in zip(packages, results, strict=True)
        if result.get("vulns")
    }


def main() -> int:
    """Print what is known; 0 if nothing is, 1 if something is, 2 if nobody could be asked."""
    packages = pinned(LOCK.read_text(encoding="utf-8"))
    try:
        found = known(SERVICE, packages)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"The database of weaknesses at {SERVICE} did not answer: {error}. Nothing was audited.\n")
        return 2
    for name, ids in found.items():
        sys.stdout.write(f"{name}: {', '.join(ids)}\n")
    sys.stdout.write(f"{len(packages)} dependencies, {len(found)} with known weaknesses.\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
