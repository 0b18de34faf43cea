"""Evaluates the filter of a value path on elements that are at hand, as a PATCH needs it (RFC 7644 §3.5.2)."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Callable
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
from models.scim.filter_value import operand_value
from models.scim.schema import compare_key

if TYPE_CHECKING:
    from models.scim.schema import Attribute

Matcher = Callable[[Any], bool]

_TESTS: dict[CompareOperator, Callable[[Any, Any], bool]] = {
    CompareOperator.eq: operator.eq,
    CompareOperator.co: operator.contains,
    CompareOperator.sw: str.startswith,
    CompareOperator.ew: str.endswith,
    CompareOperator.gt: operator.gt,
    CompareOperator.ge: operator.ge,
    CompareOperator.lt: operator.lt,
    CompareOperator.le: operator.le,
}


def compile_matcher(condition: FilterNode, attribute: Attribute, path: str) -> Matcher:
    """Compile a filter on the elements of an attribute.

    Args:
        condition: What stands between the brackets.
        attribute: The attribute in front of them; of one that is not complex, an element is its own ``value``.
        path: Its name for errors.

    Returns:
        A function that takes an element as the document holds it.

    Raises:
        InvalidFilterError: It names an unknown sub-attribute, or compares one in a way that its type does not know.
    """
    return _Compiler(attribute, path).visit(condition)


def comparable(attribute: Attribute, value: Any) -> Any:
    """Return the form in which two values of an attribute are compared."""
    if not isinstance(value, str):
        return value
    if attribute.case_exact or attribute.type == "binary":
        return unicodedata.normalize("NFC", value)
    return compare_key(value)


class _Compiler(FilterVisitor[Matcher]):
    def __init__(self, attribute: Attribute, path: str) -> None:
        self.attribute = attribute
        self.path = path

    def visit_not(self, node: Not) -> Matcher:
        inner = self.visit(node.expr)
        return lambda element: not inner(element)

    def visit_logical_expr(self, node: LogicalExpr) -> Matcher:
        terms = [self.visit(term) for term in node.terms]
        if node.op is LogicalOperator.and_:
            return lambda element: all(term(element) for term in terms)
        return lambda element: any(term(element) for term in terms)

    def visit_comparison(self, node: Comparison) -> Matcher:
        if node.op is CompareOperator.ne:
            equal = self.visit(Comparison(node.attr_path, CompareOperator.eq, node.value))
            return lambda element: not equal(element)
        sub = self._sub_attribute(node.attr_path)
        path = f"{self.path}.{sub.name}"
        wanted = comparable(sub, operand_value(sub, path, node.op, node.value))
        test = _TESTS[node.op]

        def matches(value: Any) -> bool:
            if value is None or wanted is None:
                return node.op is CompareOperator.eq and value is wanted
            try:
                return bool(test(comparable(sub, operand_value(sub, path, CompareOperator.eq, value)), wanted))
            except InvalidFilterError:  # the value is of a type that the attribute had before
                return False

        return lambda element: any(matches(value) for value in self._values(element, sub))

    def visit_present(self, node: Present) -> Matcher:
        sub = self._sub_attribute(node.attr_path)
        return lambda element: any(value not in (None, "") for value in self._values(element, sub))

    def visit_value_path(self, node: ValuePath) -> Matcher:
        raise InvalidFilterError(f"{node.attr_path}[…] cannot stand within the brackets of {self.path}.")

    def _sub_attribute(self, path: AttrPath) -> Attribute:
        if path.uri or path.sub_attr:
            raise InvalidFilterError(f"Within the brackets of {self.path} stand plain names, not {path}.")
        name = path.attr.lower()
        if self.attribute.type != "complex" and name == "value":
            return self.attribute
        if (sub := self.attribute.sub_attributes.get(name)) is None:
            raise InvalidFilterError(f"{self.path} has no sub-attribute {path}.")
        return sub

    def _values(self, element: Any, sub: Attribute) -> list[Any]:
        value = element if sub is self.attribute else element.get(sub.name)
        return value if isinstance(value, list) else [value]
