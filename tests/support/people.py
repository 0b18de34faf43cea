"""A table of people as the store has them, for filters to search."""

from __future__ import annotations

import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import asyncpg
from scim2_models import URN, CaseExact, Extension
from scim2_models.attributes import ComplexAttribute

from models.scim.filter import parse_filter
from models.scim.filter_sql import compile_filter
from models.scim.schema import USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

BADGE_URN = "urn:example:scim:Badge:2.0:User"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Pass(ComplexAttribute):
    value: int | None = None
    label: str | None = None
    code: Annotated[str | None, CaseExact.true] = None
    valid: bool | None = None
    until: datetime | None = None


class Badge(Extension):
    __schema__ = URN(BADGE_URN)

    level: int | None = None
    score: float | None = None
    since: datetime | None = None
    code: Annotated[str | None, CaseExact.true] = None
    trusted: bool | None = None
    tags: list[str] | None = None
    passes: list[Pass] | None = None


SCHEMA = USER.with_extensions([Badge.to_schema().model_dump()])

CREATE_TABLE = """
CREATE TABLE r_people (id uuid, doc jsonb, external_id text, version int DEFAULT 1,
                       created_at timestamptz, last_modified timestamptz);
CREATE INDEX r_people_fold ON r_people USING gin (usher_fold_json(doc) jsonb_path_ops);
"""


class Directory:
    """A table of people, and the same people as scim2-models has them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def fill(self, docs: Iterable[dict[str, Any]]) -> list[uuid.UUID]:
        await self.connection.execute("TRUNCATE r_people")
        rows = [(uuid.uuid4(), json.dumps(doc), doc.get("externalId")) for doc in docs]
        await self.connection.execute(
            "INSERT INTO r_people SELECT i, d, e, 1, $4, $4"
            " FROM unnest($1::uuid[], $2::jsonb[], $3::text[]) AS x(i, d, e)",
            *([list(column) for column in zip(*rows, strict=True)] or [[], [], []]),
            CREATED,
        )
        return [row[0] for row in rows]

    async def find(self, text: str, **options: Any) -> set[uuid.UUID]:
        fragment = compile_filter(parse_filter(text), SCHEMA, first_param=1, **options)
        rows = await self.connection.fetch(f"SELECT r.id FROM r_people r WHERE {fragment.sql}", *fragment.params)  # noqa: S608 - the compiler is what is tested
        return {row["id"] for row in rows}


@asynccontextmanager
async def people_directory(database_url: str) -> AsyncIterator[Directory]:
    """Make the table, empty and with its index, in a database of the test's own."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(CREATE_TABLE)
        yield Directory(connection)
    finally:
        await connection.close()
