"""Audit events: insert-only, partitioned by month."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Computed, Index, LargeBinary, SmallInteger, Text, literal_column, text
from sqlalchemy.types import UserDefinedType
from sqlmodel import Field, SQLModel

from models.tables.columns import json, moment, texts


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, by which events below the safe horizon are told."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name in SQL."""
        return "xid8"


_XID_NUMBER: ColumnElement[Any] = literal_column("((xid::text)::bigint)")
_IP: ColumnElement[Any] = literal_column("(context ->> 'ip'::text)")
_FOLDED_TARGETS: ColumnElement[Any] = literal_column("usher_fold_json(targets)")


class AuditEvent(SQLModel, table=True):
    """Who did what to whom, written in the transaction of the change (reference/audit-logs.md §3.1)."""

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("audit_event_tenant", "tenant_id", text("occurred_at DESC"), text("id DESC")),
        Index("audit_event_target", "tenant_id", "target_id", text("occurred_at DESC")),
        Index("audit_event_correlation", "correlation_id"),
        # Over all events and not only those with an address, for of such an index the planner uses the statistics.
        Index(
            "audit_event_ip",
            _IP.label("ip"),
            "tenant_id",
            "occurred_at",
            postgresql_ops={"ip": "text_pattern_ops"},
        ),
        Index("audit_event_action", "action", text("occurred_at DESC"), text("id DESC")),
        Index(
            "audit_event_targets",
            _FOLDED_TARGETS.label("folded"),
            postgresql_using="gin",
            postgresql_ops={"folded": "jsonb_path_ops"},
            postgresql_with={"gin_pending_list_limit": 1024},
        ),
        Index(
            "audit_event_xid",
            _XID_NUMBER.label("number"),
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        ),
        Index(
            "audit_event_wrong",
            "tenant_id",
            text("occurred_at DESC"),
            text("id DESC"),
            postgresql_where=text("outcome = ANY (ARRAY['failure'::text, 'denied'::text])"),
        ),
        Index(
            "audit_event_rare_actor",
            text("occurred_at DESC"),
            text("id DESC"),
            postgresql_where=text("actor_type = ANY (ARRAY['operator'::text, 'person'::text, 'system'::text])"),
        ),
        {"postgresql_partition_by": "RANGE (occurred_at)"},
    )

    occurred_at: datetime = Field(
        sa_column=Column(moment(now=True).type, primary_key=True, server_default=text("now()"))
    )
    id: UUID = Field(primary_key=True)
    xid: int = Field(sa_column=Column(Xid8, nullable=False, server_default=text("pg_current_xact_id()")))
    tenant_id: UUID | None = None
    """Empty only for events of the installation itself."""
    action: str = Field(sa_column=Column(Text, nullable=False))
    """A name from `models.audit.actions`."""
    phase: str = Field(sa_column=Column(Text, nullable=False))
    """`requested`, `applied`, `failed` or `denied`."""
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    """`pending`, `success`, `failure` or `denied`."""
    reason: str | None = Field(default=None, sa_column=Column(Text))
    """A bounded code (scimType, SMTP reply class, error class), never free text."""
    severity: int = Field(sa_column=Column(SmallInteger, nullable=False))
    actor_type: str = Field(sa_column=Column(Text, nullable=False))
    """`token`, `operator`, `system`, `job` or `person`."""
    actor_id: str | None = Field(default=None, sa_column=Column(Text))
    actor_label: str | None = Field(default=None, sa_column=Column(Text))
    targets: list[dict[str, Any]] = Field(sa_column=json())
    """`[{"type", "id", "label"}, …]`; the first also stands in the two columns below."""
    target_type: str | None = Field(
        default=None, sa_column=Column(Text, Computed("((targets -> 0) ->> 'type'::text)", persisted=True))
    )
    target_id: str | None = Field(
        default=None, sa_column=Column(Text, Computed("((targets -> 0) ->> 'id'::text)", persisted=True))
    )
    correlation_id: UUID
    job_id: UUID | None = None
    context: dict[str, Any] | None = Field(default=None, sa_column=json(nullable=True))
    """Method, route, HTTP status, peer address, …; never a query string."""
    diff: list[dict[str, Any]] | None = Field(default=None, sa_column=json(nullable=True))
    """`[{"op", "path", "before", "after"}, …]` by SCIM path."""
    changed: list[str] | None = Field(default=None, sa_column=texts(nullable=True))
    """The paths in `diff`."""
    schema_version: int = Field(default=1, sa_column=Column(SmallInteger, nullable=False, server_default=text("1")))
    salt: UUID | None = Field(default=None, sa_column_kwargs={"server_default": text("gen_random_uuid()")})
    """Goes into the hash of the personal values; erased together with them."""
    personal_hash: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    """Stands in for personal values and salt once they are erased."""
    erasure_id: UUID | None = None
    """The event of the erasure."""
