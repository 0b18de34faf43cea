"""Compiles a filter (RFC 7644 §3.4.2.2) into an SQL expression that a GIN index answers where it asks for ``eq``.

Values reach the SQL as parameters only; names only as the schema registry spells them.
The database brings ``usher_fold(text)`` and ``usher_fold_json(jsonb)``, which lower-case the NFC form.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scim2_models.path import (
    AttrPath,
    CompareOperator,
    Comparison,
    FilterNode,
    FilterVisitor,
    LogicalExpr,
    LogicalOperator,
    Not,
    Present,
    ValuePath,
)

from models.errors import InvalidFilterError
from models.scim import entra
from models.scim.filter_value import LEAF, NEVER, Kind, Operand, compare, literal, operand_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.scim.schema import Attribute, ResolvedPath, ResourceSchema


@dataclass(frozen=True, slots=True)
class Fragment:
    """A boolean SQL expression over the row ``r``, and its parameters in the order of their numbers."""

    sql: str
    params: list[Any]


@dataclass(frozen=True, slots=True)
class Column:
    """SQL for one sub-attribute of a relation's row, and what it yields."""

    sql: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Relation:
    """A multi-valued attribute whose elements are rows of another table.

    ``source`` is what stands behind FROM, with a WHERE that ties it to ``r``:
    ``membership AS m WHERE m.group_id = r.id``.
    """

    source: str
    columns: Mapping[str, Column]
    """By lower-case name of the sub-attribute."""


def compile_filter(
    tree: FilterNode,
    schema: ResourceSchema,
    *,
    first_param: int,
    relations: Mapping[str, Relation] | None = None,
    base_url: str = "",
) -> Fragment:
    """Compile a filter for a relation ``r (id, doc, external_id, version, created_at, last_modified)``.

    A multi-valued attribute matches when any of its elements does, a value path when one element meets all
    of it. ``ne`` is the negation of ``eq``, so it holds where there is no value, and for a list when no
    element equals; that is how scim2-models evaluates it where the RFC is silent.

    Args:
        tree: What ``parse_filter`` returned.
        schema: The resource type whose attributes may be named.
        first_param: The number of the first placeholder.
        relations: Attributes that are not in the document, by lower-case name (``members``, ``groups``).
        base_url: What ``meta.location`` begins with, up to the endpoint.

    Raises:
        InvalidFilterError: An attribute is unknown or may not be asked for, an operator does not fit the type
            of its attribute, or a value is of another type.
    """
    compiler = _ResourceCompiler(schema, first_param, relations or {}, base_url)
    return Fragment(compiler.visit(tree), compiler.params)


@dataclass(frozen=True, slots=True)
class _Elements:
    """The elements of an attribute, each of which is compared on its own."""

    attribute: Attribute
    path: str
    source: str
    """What stands behind FROM, up to a WHERE or AND."""
    columns: Mapping[str, Column] | None = None
    """Given when the elements are rows; otherwise they are JSON and called ``e.v``."""

    def any(self, condition: str) -> str:
        return f"EXISTS (SELECT FROM {self.source} ({condition}))"

    def operand(self, name: str) -> Operand:
        """Return one sub-attribute; what is not complex is its own ``value``."""
        key = name.lower()
        if self.attribute.type != "complex" and key == "value":
            return Operand(self.attribute, self.path, "e.v")
        sub = self.attribute.sub_attributes.get(key)
        if sub is None or (self.columns is not None and key not in self.columns):
            raise InvalidFilterError(f"{self.path} has no sub-attribute {name} to filter on.")
        _refuse_secret(sub)
        path = f"{self.path}.{sub.name}"
        if self.columns is not None:
            return Operand(sub, path, self.columns[key].sql, self.columns[key].kind)
        return Operand(sub, path, f"(e.v -> {literal(sub.name)})")

    def example(self, condition: FilterNode) -> tuple[dict[str, Any], bool]:
        """Return what an element must contain to meet the condition, and whether that says all of it."""
        terms: tuple[FilterNode, ...] = (condition,)
        if isinstance(condition, LogicalExpr) and condition.op is LogicalOperator.and_:
            terms = condition.terms
        wanted: dict[str, Any] = {}
        complete = True
        for term in terms:
            sub = self._plain_eq(term)
            if sub is None or sub.name in wanted or not isinstance(term, Comparison):
                complete = False
                continue
            wanted[sub.name] = operand_value(sub, self.path, term.op, term.value)
            complete = complete and not _needs_recheck(sub)
        subs = self.attribute.sub_attributes
        if all(_is_label(subs[name.lower()], value) for name, value in wanted.items()):
            return {}, False
        return wanted, complete

    def _plain_eq(self, term: FilterNode) -> Attribute | None:
        if not isinstance(term, Comparison) or term.op is not CompareOperator.eq or term.value is None:
            return None
        sub = self.attribute.sub_attributes.get(term.attr_path.attr.lower())
        return None if sub is None or sub.multi_valued or sub.type == "dateTime" else sub


COLUMNS: Mapping[str, tuple[str, Kind]] = {
    "id": ("r.id", "uuid"),
    "externalId": ("r.external_id", "text"),
    "meta.created": ("r.created_at", "timestamptz"),
    "meta.lastModified": ("r.last_modified", "timestamptz"),
    "meta.version": ("""('W/"' || r.version || '"')""", "text"),
}
"""Attributes that the row `r` holds in a column of its own: SQL, and what it yields."""


class _Compiler(FilterVisitor[str], ABC):
    """What is the same for a resource and for one element."""

    def __init__(self, first_param: int, params: list[Any]) -> None:
        self.first_param = first_param
        self.params = params

    def visit_not(self, node: Not) -> str:
        return f"({self.visit(node.expr)}) IS NOT TRUE"  # NULL, where something is absent, counts as false

    def visit_logical_expr(self, node: LogicalExpr) -> str:
        glue = " AND " if node.op is LogicalOperator.and_ else " OR "
        return "(" + glue.join(self.visit(term) for term in node.terms) + ")"

    def visit_comparison(self, node: Comparison) -> str:
        if node.op is CompareOperator.ne:
            return f"({self.compare(node.attr_path, CompareOperator.eq, node.value)}) IS NOT TRUE"
        return self.compare(node.attr_path, node.op, node.value)

    @abstractmethod
    def compare(self, path: AttrPath, op: CompareOperator, value: Any) -> str:
        """Compile any comparison but ``ne``."""

    def param(self, kind: str, value: Any) -> str:
        self.params.append(value)
        return f"${self.first_param + len(self.params) - 1}::{kind}"

    def any(self, elements: _Elements, name: str, op: CompareOperator, value: Any) -> str:
        """Compile a comparison that holds for one of the elements or, asked for null, for want of elements."""
        inner = _ElementCompiler(elements, self.first_param, self.params)
        one = elements.any(inner.compare(AttrPath(name), op, value))
        return f"({one} OR NOT {elements.any('TRUE')})" if value is None and op is CompareOperator.eq else one


class _ResourceCompiler(_Compiler):
    def __init__(
        self, schema: ResourceSchema, first_param: int, relations: Mapping[str, Relation], base_url: str
    ) -> None:
        super().__init__(first_param, [])
        self.schema = schema
        self.relations = relations
        self.base_url = base_url

    def compare(self, path: AttrPath, op: CompareOperator, value: Any) -> str:
        found = self._find(path)
        target = found.sub_attribute or found.attribute
        if target is None or target.type == "complex":
            # Entra's `members eq`, `manager eq` and `emails eq` mean the value: entra-cases.md 32 and 33.
            if target and "value" in target.sub_attributes:
                return self.compare(AttrPath(path.attr, "value", path.uri), op, value)
            if value is None and op is CompareOperator.eq:
                return f"({self.visit_present(Present(path))}) IS NOT TRUE"
            raise InvalidFilterError(f"{found.canonical} is complex: name one of its sub-attributes.")
        return self._compare(found, target, op, value)

    def _compare(self, found: ResolvedPath, target: Attribute, op: CompareOperator, value: Any) -> str:
        typed = operand_value(target, found.canonical, op, value)
        if value is None and op is not CompareOperator.eq:
            return NEVER
        if column := self._column(found, target):
            return compare(column, op, typed, self.param)
        if relation := self._relation(found):
            return self.any(relation, target.name, op, value)
        if op is not CompareOperator.eq or not _is_indexed(found, target, typed):
            return self._compare_in_document(found, target, op, value)
        narrowed = self._contains(found, typed)
        if not _needs_recheck(target):
            return narrowed
        return f"({narrowed} AND {self._compare_in_document(found, target, op, value)})"

    def _compare_in_document(self, found: ResolvedPath, target: Attribute, op: CompareOperator, value: Any) -> str:
        if found.attribute and found.attribute.multi_valued and found.sub_attribute:
            return self.any(self._elements(found, found.attribute), target.name, op, value)
        if _is_list(found):
            return self.any(self._elements(found, target), "value", op, value)
        chain = " -> ".join(["r.doc", *map(literal, found.keys)])
        operand = Operand(target, found.canonical, f"({chain})")
        return compare(operand, op, operand_value(target, found.canonical, op, value), self.param)

    def visit_present(self, node: Present) -> str:
        found = self._find(node.attr_path)
        target = found.sub_attribute or found.attribute
        if found.canonical == "meta":
            return "TRUE"
        if target and (column := self._column(found, target)):
            return column.present
        if relation := self._relation(found):
            return relation.any(relation.operand(target.name).present if target and found.sub_attribute else "TRUE")
        return f"jsonb_path_exists(r.doc, {_json_path(found, LEAF)})"

    def visit_value_path(self, node: ValuePath) -> str:
        found = self._find(node.attr_path)
        attribute = found.attribute
        if attribute is None or found.sub_attribute or not (attribute.multi_valued or attribute.type == "complex"):
            raise InvalidFilterError(f"{found.canonical} has no values to select from.")
        if found.canonical == "meta":
            raise InvalidFilterError("meta is not a list: write meta.lastModified and the like.")
        relation = self._relation(found)
        elements = relation or self._elements(found, attribute)
        taken = len(self.params)
        exact = elements.any(_ElementCompiler(elements, self.first_param, self.params).visit(node.val_filter))
        wanted, complete = ({}, False) if relation else elements.example(node.val_filter)
        if not wanted:
            return exact
        if complete:
            del self.params[taken:]
            return self._contains(found, wanted)
        return f"({self._contains(found, wanted)} AND {exact})"

    def _find(self, path: AttrPath) -> ResolvedPath:
        found = entra.find(self.schema, str(path))
        if found is None:
            raise InvalidFilterError(f"{self.schema.name} has no attribute {path}.")
        for attribute in (found.attribute, found.sub_attribute):
            if attribute:
                _refuse_secret(attribute)
        return found

    def _column(self, found: ResolvedPath, target: Attribute) -> Operand | None:
        """Return the operand of an attribute that the row holds in a column of its own."""
        sql, kind = COLUMNS.get(found.canonical, ("", "text"))
        if found.canonical == "meta.resourceType":
            sql = f"{literal(self.schema.name)}::text"
        elif found.canonical == "meta.location":
            sql = f"({self.param('text', f'{self.base_url}{self.schema.endpoint}/')} || r.id)"
        return Operand(target, found.canonical, sql, kind) if sql else None

    def _relation(self, found: ResolvedPath) -> _Elements | None:
        """Return the rows of an attribute that is not in the document."""
        if found.extension or found.canonical.split(".")[0] not in ("members", "groups"):
            return None
        relation = self.relations.get(found.keys[0])
        if relation is None or found.attribute is None:
            raise InvalidFilterError(f"{found.keys[0]} cannot be filtered on here.")
        return _Elements(found.attribute, found.keys[0], f"{relation.source} AND", relation.columns)

    def _elements(self, found: ResolvedPath, attribute: Attribute) -> _Elements:
        """Return the elements in the document of a list, or of what stands for a list of one."""
        path = replace(found, sub_attribute=None) if attribute is found.attribute else found
        return _Elements(attribute, path.canonical, f"jsonb_path_query(r.doc, {_json_path(path)}) AS e(v) WHERE")

    def _contains(self, found: ResolvedPath, value: Any) -> str:
        """Compile what the index on ``usher_fold_json(doc)`` answers."""
        for part in (found.sub_attribute, found.attribute):
            if part:
                value = {part.name: [value] if part.multi_valued else value}
        if found.extension:
            value = {found.extension.urn: value}
        return f"usher_fold_json(r.doc) @> usher_fold_json({self.param('text', json.dumps(value))}::jsonb)"


class _ElementCompiler(_Compiler):
    def __init__(self, elements: _Elements, first_param: int, params: list[Any]) -> None:
        super().__init__(first_param, params)
        self.elements = elements

    def compare(self, path: AttrPath, op: CompareOperator, value: Any) -> str:
        operand = self._operand(path)
        if operand.attribute.multi_valued and operand.sql != "e.v":
            source = f"jsonb_path_query({operand.sql}, '$[*]') AS e(v) WHERE"
            return self.any(_Elements(operand.attribute, operand.path, source), "value", op, value)
        return compare(operand, op, operand_value(operand.attribute, operand.path, op, value), self.param)

    def visit_present(self, node: Present) -> str:
        return self._operand(node.attr_path).present

    def visit_value_path(self, node: ValuePath) -> str:
        raise InvalidFilterError(f"{node.attr_path}[…] cannot stand within the brackets of {self.elements.path}.")

    def _operand(self, path: AttrPath) -> Operand:
        if path.uri or path.sub_attr:
            raise InvalidFilterError(f"Within the brackets of {self.elements.path} stand plain names, not {path}.")
        return self.elements.operand(path.attr)


def _is_list(found: ResolvedPath) -> bool:
    return any(part.multi_valued for part in (found.attribute, found.sub_attribute) if part)


def _is_indexed(found: ResolvedPath, target: Attribute, value: Any) -> bool:
    if target.type == "boolean":
        return value is False and not _is_list(found)
    return value is not None and target.type != "dateTime" and not _is_label(target, value)


def _is_label(attribute: Attribute, value: Any) -> bool:
    """Tell whether so many documents hold the value that reading them all is quicker than asking the index.

    ``active eq true`` and ``emails.type eq "work"`` hold for nearly everyone, and what the index finds is folded
    once more to be sure: 34 µs a row, against 1 to 3 µs for reading it.
    """
    return isinstance(value, bool) or (
        attribute.name == "type" and str(value).lower() in {each.lower() for each in attribute.canonical_values}
    )


def _needs_recheck(attribute: Attribute) -> bool:
    """Tell whether the index, in which all is lower case, answers too much."""
    return attribute.case_exact or attribute.type == "binary"


def _refuse_secret(attribute: Attribute) -> None:
    if attribute.returned == "never" or attribute.mutability == "writeOnly":
        raise InvalidFilterError(f"{attribute.name} is never returned, so it cannot be filtered on.")


def _json_path(found: ResolvedPath, suffix: str = "") -> str:
    """Return the jsonpath of every value of an attribute, as an SQL literal."""
    lists = {part.name for part in (found.attribute, found.sub_attribute) if part and part.multi_valued}
    steps = "".join(f".{json.dumps(key)}{'[*]' if key in lists else ''}" for key in found.keys)
    return literal(f"${steps}{suffix}")
