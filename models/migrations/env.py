"""Alembic's entry: runs the migrations on the connection that `models.migrations.run` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import models.tables  # noqa: F401  registers the tables in the metadata


def run() -> None:
    """Apply what is missing, all in one transaction."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
    with context.begin_transaction():
        context.run_migrations()


run()
