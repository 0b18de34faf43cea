"""Column types that several tables share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Text, func
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
