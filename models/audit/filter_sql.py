"""Conditions of a search as SQL over `audit_event`; every value is a parameter, and the tenant comes from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from models.audit.grammar import TEXT
from models.audit.search import ACTORS, RARE_ACTORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network
    from uuid import UUID

    from models.audit.search import Condition, Search

DRIFT: Final = timedelta(days=1)
"""How far the clock in an event's id (a UUID of version 7) may be from the database's."""

_ADDRESS = r"^(\d{1,3}\.){3}\d{1,3}$|^[0-9a-f]*:[0-9a-f:.]+$"  # what PostgreSQL can make an inet of
_INET = f"CASE WHEN context ->> 'ip' ~ '{_ADDRESS}' THEN (context ->> 'ip')::inet END"
_PLAIN = re.compile(r"[ !#-:<-\[\]-_a-z{-~]+")  # ASCII but for controls, `"`, `\\`, and ` and ; that others become
_RARE = "(" + ", ".join(f"'{kind}'" for kind in RARE_ACTORS) + ")"
_TOKEN = re.compile(r"(?:ush|tok)_([0-9A-Za-z]{12})(?:_\w*)?")


@dataclass(slots=True)
class Where:
    """A WHERE clause that grows, with its parameters."""

    values: list[Any] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def add(self, value: Any) -> str:
        """Return the name of a new parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    def __str__(self) -> str:
        return " AND ".join(self.parts) or "true"


def where(search: Search, tenant_id: UUID | None, *, text: bool = True) -> Where:
    """Return what must hold of an event.

    Args:
        search: what is asked.
        tenant_id: whose events may be seen; None for all. It stands beside the search and is always applied.
        text: whether free text is among it.
    """
    made = Where()
    if tenant_id is not None:
        made.parts.append(f"tenant_id = {made.add(tenant_id)}::uuid")
    made.parts.append(f"occurred_at >= {made.add(search.since)}::timestamptz")
    made.parts.append(f"occurred_at < {made.add(search.until)}::timestamptz")
    for condition in search.conditions:
        if condition.name == TEXT and not text:
            continue
        sql = _COMPILERS[condition.name](made, condition)
        made.parts.append(f"({sql}) IS NOT TRUE" if condition.negated else f"({sql})")
    return made


def text_of(search: Search, made: Where) -> str:
    """Return the conditions of free text alone, their parameters added to ``made``."""
    parts = []
    for condition in search.conditions:
        if condition.name == TEXT:
            sql = _text(made, condition)
            parts.append(f"({sql}) IS NOT TRUE" if condition.negated else f"({sql})")
    return " AND ".join(parts)


def written_about(event_id: UUID, drift: timedelta = DRIFT) -> tuple[datetime, datetime] | None:
    """Return the stretch of time in which an event with this id was written, or None if its id has no clock."""
    if event_id.version != 7:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event_id.int >> 80)
    return moment - drift, moment + drift


def _any(made: Where, condition: Condition, column: str, kind: str) -> str:
    return f"{column} = ANY ({made.add(list(condition.values))}::{kind}[])"


def _action(made: Where, condition: Condition) -> str:
    # One name as a plain equality, for which the index has the order wanted.
    if len(condition.values) == 1:
        return f"action = {made.add(condition.values[0])}::text"
    return _any(made, condition, "action", "text")


def _outcome(_: Where, condition: Condition) -> str:
    # As constants, so that an index over rare outcomes can be used; they are words of ours.
    return "outcome IN (" + ", ".join(f"'{word}'" for word in condition.values) + ")"


def _phase(made: Where, condition: Condition) -> str:
    return _any(made, condition, "phase", "text")


def _severity(made: Where, condition: Condition) -> str:
    return _any(made, condition, "severity", "smallint")


def _actor(made: Where, condition: Condition) -> str:
    parts = []
    for value in condition.values:
        if value.lower() in ACTORS:
            parts.append(f"actor_type = '{value.lower()}'")  # as a constant, for the index over rare ones
            continue
        name = made.add(token_id(value) or value)
        label = f"usher_fold(actor_label) = usher_fold({name})"
        if _PLAIN.fullmatch(value):  # see `_text`
            label = f"lower(actor_label) = lower({name})"
        named = f"actor_id = {name}::text OR {label}"
        parts.append(f"actor_type IN {_RARE} AND ({named})" if condition.rare else named)
    return " OR ".join(parts)


def token_id(text: str) -> str | None:
    """Return the id in a token's text; its secret is no part of any question."""
    token = _TOKEN.fullmatch(text)
    return token[1] if token else None


def _target(made: Where, condition: Condition) -> str:
    parts = []
    for value in condition.values:
        name = made.add(value)
        parts += [
            f"usher_fold_json(targets) @> usher_fold_json(jsonb_build_array(jsonb_build_object('{key}', {name}::text)))"
            for key in ("id", "label", "external_id")
        ]
    return " OR ".join(parts)


def _reason(made: Where, condition: Condition) -> str:
    parts = []
    for value in condition.values:
        if value.endswith("*"):
            parts.append(f"starts_with(lower(reason), lower({made.add(value[:-1])}::text))")
        else:
            parts.append(f"lower(reason) = lower({made.add(value)}::text)")
    return " OR ".join(parts)


def _correlation(made: Where, condition: Condition) -> str:
    return _any(made, condition, "correlation_id", "uuid")


def _job(made: Where, condition: Condition) -> str:
    # Events of a job carry the correlation id that its row has, and that is indexed.
    name = made.add(list(condition.values))
    return (
        f"job_id = ANY ({name}::uuid[]) AND correlation_id ="  # noqa: S608  a parameter's name
        f" ANY (ARRAY(SELECT job.correlation_id FROM job WHERE job.id = ANY ({name}::uuid[])))"
    )


def _id(made: Where, condition: Condition) -> str:
    parts = []
    for value in condition.values:
        around = written_about(value)
        if around is not None:
            parts.append(
                f"id = {made.add(value)}::uuid AND occurred_at BETWEEN {made.add(around[0])}::timestamptz"
                f" AND {made.add(around[1])}::timestamptz"
            )
    return " OR ".join(parts) or "false"


def _attribute(made: Where, condition: Condition) -> str:
    parts = []
    for value in condition.values:
        name = f"lower({made.add(value.removesuffix('*').removesuffix('.'))}::text)"
        for path in ("lower(path)", r"regexp_replace(lower(path), '^urn:[^\[]*:', '')"):
            parts += [f"{path} = {name}", f"starts_with({path}, {name} || '.')", f"starts_with({path}, {name} || '[')"]
    return f"EXISTS (SELECT FROM unnest(changed) AS path WHERE {' OR '.join(parts)})"


def _ip(made: Where, condition: Condition) -> str:
    return " OR ".join(f"({_within(made, network)})" for network in condition.values)


def _within(made: Where, network: IPv4Network | IPv6Network) -> str:
    """Return the test of one network: by its text where that says it all, which costs a tenth."""
    octets = str(network.network_address).split(".")[: network.prefixlen // 8]
    if network.version == 4 and network.prefixlen == 32:
        return f"context ->> 'ip' = {made.add(str(network.network_address))}::text"
    parts = []
    if network.version == 4 and octets:
        parts.append(f"starts_with(context ->> 'ip', {made.add('.'.join(octets) + '.')}::text)")
    if network.version == 6 or network.prefixlen % 8 or not octets:
        parts.append(f"{_INET} <<= {made.add(str(network))}::text::inet")
    return " AND ".join(parts)


def _tenant(made: Where, condition: Condition) -> str:
    name = made.add(list(condition.values))
    return (
        "tenant_id = ANY (ARRAY(SELECT tenant.id FROM tenant WHERE tenant.name ="  # noqa: S608  a parameter's name
        f" ANY ({name}::text[]) OR tenant.id::text = ANY ({name})))"
    )


def _text(made: Where, condition: Condition) -> str:
    wanted = condition.values[0]
    name = f"usher_fold({made.add(wanted)}::text)"
    labels = (
        "EXISTS (SELECT FROM jsonb_array_elements(targets) AS target"
        f" WHERE strpos(usher_fold(target ->> 'label'), {name}) > 0"
        f" OR strpos(usher_fold(target ->> 'external_id'), {name}) > 0)"
    )
    actor = f"strpos(usher_fold(actor_label), {name}) > 0"
    if _PLAIN.fullmatch(wanted):
        # Normalizing costs most. What it leaves as it is, and JSON writes as it is, stands in the text before it too.
        plain = f"lower({made.add(wanted)}::text)"
        labels = f"CASE WHEN strpos(lower(targets::text), {plain}) > 0 THEN {labels} END"
        actor = f"CASE WHEN strpos(lower(actor_label), {plain}) > 0 THEN {actor} END"
    return f"{actor} OR {labels}"


_COMPILERS: Final[dict[str, Callable[[Where, Condition], str]]] = {
    "action": _action,
    "actor": _actor,
    "attribute": _attribute,
    "correlation": _correlation,
    "id": _id,
    "ip": _ip,
    "job": _job,
    "outcome": _outcome,
    "phase": _phase,
    "reason": _reason,
    "severity": _severity,
    "target": _target,
    "tenant": _tenant,
    TEXT: _text,
}
