"""Taking the application's own wall between tenants down, to see what is behind it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from models import db

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every way in which a statement of a request says whose rows it means.
_CONDITIONS: Final = (
    (re.compile(r"(?:\b\w+\.)?\b(?:tenant_id|stream) = (\$\d+)(?:::uuid)?(?![\w:])"), r"\1::uuid IS NOT NULL"),
    (re.compile(r"\b(?:\w+\.)?tenant_id = (?:\w+\.)tenant_id\b"), "true"),
    (re.compile(r"JOIN users USING \(tenant_id, "), "JOIN users USING ("),
    (re.compile(r"JOIN wanted USING \(tenant_id\)"), "CROSS JOIN wanted"),
)
# What the tenant itself has set, and what somebody searches for.
_LEFT: Final = re.compile(r"tenant\.id = tenant_id|tenant_id = ANY \(ARRAY\(SELECT tenant\.id")
_FORGOTTEN: Final = re.compile(
    r"\b(?:tenant_id|stream)\b(?:::\w+)? *(?:=|<>|IN\b|IS\b)|= *(?:\w+\.)?(?:tenant_id|stream)\b"
)


def without_tenant(query: str) -> str:
    """Return a statement without any condition on whose rows it means."""
    for condition, instead in _CONDITIONS:
        query = condition.sub(instead, query)
    return query


def has_tenant(query: str) -> bool:
    """Tell whether a statement has a condition on whose rows it means."""
    return bool(_FORGOTTEN.search(_LEFT.sub("", query)))


class Breach:
    """What became of the statements of requests."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        """Statements as they stand in the code, that ran without their conditions."""
        self.resisted: set[str] = set()
        """Statements that had a condition left: the mutation knows too little."""

    def open(self, query: str) -> str:
        changed = without_tenant(query)
        if changed != query:
            self.opened.add(query)
        if has_tenant(changed):
            self.resisted.add(changed)
        return changed


@contextmanager
def breached(*, second: bool = True) -> Iterator[Breach]:
    """Have every front end that is made meanwhile send its statements without their conditions on tenants.

    Args:
        second: whether the second wall stands.
    """
    breach = Breach()

    class Session(db.Session):
        """A connection that leaves conditions out where it serves a tenant."""

        async def _execute(self, query: str, *args: Any, **options: Any) -> Any:
            if self.get_settings().application_name.startswith(("usher scim", "usher audit")):
                query = breach.open(query)
            return await super()._execute(query, *args, **options)  # type: ignore[misc]  # the stubs lack it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "Session", Session)
        if not second:
            patch.setattr("api.app.TENANT_ROLE", "usher_app")
        yield breach
