"""One filter over several resource types (RFC 7644 §3.4.2.1): what a type does not have has no value there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from scim2_models.path import AttrPath, CompareOperator, Comparison, LogicalExpr, Not, Present, ValuePath

from models.errors import InvalidFilterError
from models.scim import entra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scim2_models.path import FilterNode

    from models.scim.schema import ResourceSchema

_TRUE = Present(AttrPath("id"))  # every resource has one
_FALSE = Not(_TRUE)


def filter_of_each(tree: FilterNode, schemas: Sequence[ResourceSchema]) -> list[FilterNode]:
    """Return the filter as each of the types is to be asked.

    Args:
        tree: What ``parse_filter`` returned.
        schemas: The resource types that are searched.

    Raises:
        InvalidFilterError: None of the types has an attribute that the filter names.
    """
    return [_for_type(tree, partial(_has, schema, schemas)) for schema in schemas]


def _has(schema: ResourceSchema, schemas: Sequence[ResourceSchema], path: AttrPath) -> bool:
    if entra.find(schema, str(path)):
        return True
    if not any(entra.find(other, str(path)) for other in schemas):
        raise InvalidFilterError(f"{' and '.join(each.name for each in schemas)} have no attribute {path}.")
    return False


def _for_type(node: FilterNode, has: Callable[[AttrPath], bool]) -> FilterNode:
    match node:
        case LogicalExpr():
            return LogicalExpr(node.op, tuple(_for_type(term, has) for term in node.terms))
        case Not():
            return Not(_for_type(node.expr, has))
        case Comparison() if not has(node.attr_path):
            # `ne` is the negation of `eq`, so it holds where there is no value.
            return _TRUE if (node.value is None) is (node.op is CompareOperator.eq) and _is_equality(node) else _FALSE
        case Present() | ValuePath() if not has(node.attr_path):
            return _FALSE
    return node


def _is_equality(node: Comparison) -> bool:
    return node.op in (CompareOperator.eq, CompareOperator.ne)
