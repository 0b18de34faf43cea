"""Column types that several tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, DateTime, Index, Text, func, literal_column
from sqlalchemy.dialects.postgresql import ARRAY, JSONB


def moment(*, nullable: bool = False, now: bool = False) -> Column[Any]:
    """Return a timestamptz column; ``now`` lets the database fill it in."""
    return Column(DateTime(timezone=True), nullable=nullable, server_default=func.now() if now else None)


def texts(*, nullable: bool = False) -> Column[Any]:
    """Return a text[] column."""
    return Column(ARRAY(Text), nullable=nullable)


def json(*, nullable: bool = False) -> Column[Any]:
    """Return a jsonb column."""
    return Column(JSONB(none_as_null=True), nullable=nullable)


def folded(name: str) -> Index:
    """Return the index by which `models.scim.filter_sql` answers ``eq`` on any attribute of ``doc``."""
    expression: ColumnElement[Any] = literal_column("usher_fold_json(doc)")
    return Index(
        name,
        expression.label("folded"),
        postgresql_using="gin",
        postgresql_ops={"folded": "jsonb_path_ops"},
        # Rows are put into the index a batch at a time. A query reads those that wait, so they are kept few.
        postgresql_with={"gin_pending_list_limit": 1024},
    )
