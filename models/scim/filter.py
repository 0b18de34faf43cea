"""Reads filters (RFC 7644 §3.4.2.2) into the syntax tree of scim2-models, Entra's spellings included."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from scim2_models import InvalidFilterException, ScimFilter
from scim2_models.path import (
    AttrPath,
    CompareOperator,
    Comparison,
    FilterNode,
    LogicalExpr,
    LogicalOperator,
    Not,
    ValuePath,
)

from models.errors import InvalidFilterError
from models.scim.schema import GROUP_URN, USER_URN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.scim.schema import ResourceSchema

_MAX_LENGTH = 4096

LookupKind = Literal["userName", "displayName", "externalId", "id", "workEmail"]

# What nearly every matching query looks like. It is read without the grammar, which costs fifty times as much.
_HOT = re.compile(r'[ \t\f\r\n]*+([A-Za-z][A-Za-z0-9_-]*+)[ \t]++[Ee][Qq][ \t]++"([^"\\\x00-\x1f]*+)"[ \t\f\r\n]*+')

# And as Entra writes one by the work address.
_HOT_EMAIL = re.compile(r'emails\[type eq "work"\]\.value eq "([^"\\\x00-\x1f]*+)"', re.IGNORECASE)

_STRING = r'"(?:[^"\\]|\\.)*+"'
_OPERATOR = r"(?:eq|ne|co|sw|ew|gt|ge|lt|le)(?![\w$-])"
_LITERAL = r"(?:true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(?![^\s()\[\]])"

# Two spellings that the grammar refuses and Entra has been seen to send: entra-wire.md §3.
_BARE_WORD = re.compile(rf'{_STRING}|(?<=\s)({_OPERATOR}\s+)(?!{_LITERAL})([^\s"()\[\]]+)', re.IGNORECASE)
_BARE_SELECTION = re.compile(rf"{_STRING}|(\])\s*(?={_OPERATOR})", re.IGNORECASE)
_BRACKETS = re.compile(rf"{_STRING}|[()\[\]]")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A filter that asks for one value of one indexed attribute.

    ``value`` is as the client wrote it; the store brings it into the form that its index holds.
    """

    kind: LookupKind
    value: str


def quick_lookup(text: str, schema: ResourceSchema) -> Lookup | None:
    """Return what `lookup` of `parse_filter` would, of a filter in the spelling in which nearly all of them come.

    Every matching query of Entra does, and making a syntax tree of it to take it apart again costs ten times as much.

    Args:
        text: The filter.
        schema: The resource type that is asked for.

    Returns:
        The attribute and the value, or None where `parse_filter` has to have a look.
    """
    if len(text) > _MAX_LENGTH or not text.isprintable():  # nor is half of a surrogate pair
        return None
    if hot := _HOT.fullmatch(text):
        attribute = schema.attributes.get(hot[1].lower())
        return None if attribute is None else _named_lookup(attribute.name, hot[2], schema)
    if schema.urn == USER_URN and (hot := _HOT_EMAIL.fullmatch(text)):
        return Lookup("workEmail", hot[1])
    return None


def parse_filter(text: str, *, max_length: int = _MAX_LENGTH, max_depth: int = 20) -> FilterNode:
    """Read a filter into its syntax tree.

    Beyond the grammar, two spellings of Entra are read (entra-wire.md §3): a value without quotes
    (``externalId eq jyoung``) and a comparison right behind a selection (``emails[type eq "work"] eq "x"``,
    which means its ``value``).

    Args:
        text: The filter as it stands in the query after URL decoding, or in a search request.
        max_length: The longest filter that is read, in characters.
        max_depth: How deep parentheses, brackets and expressions may nest.

    Returns:
        The root of the tree. Names in it are as they were written: nothing has been looked up in a schema.

    Raises:
        InvalidFilterError: The filter is malformed, too long, too deep, or holds characters that no stored
            value can hold (NUL, lone surrogates).
    """
    if len(text) > max_length:
        raise InvalidFilterError(f"The filter has {len(text)} characters; {max_length} are allowed.")
    _check_characters(text)
    if hot := _HOT.fullmatch(text):
        return Comparison(AttrPath(hot[1]), CompareOperator.eq, hot[2])
    if not text.strip():
        raise InvalidFilterError("The filter is empty.")
    _check_brackets(text, max_depth)
    tree = _parse(text)
    for depth, node in _walk(tree):
        if depth > max_depth:
            raise InvalidFilterError(f"The filter nests more than {max_depth} expressions.")
        if isinstance(node, Comparison) and isinstance(node.value, str):
            _check_characters(node.value)
    return tree


def lookup(tree: FilterNode, schema: ResourceSchema) -> Lookup | None:
    """Recognise the filters by which clients match, for which the store has an index of its own.

    These are one ``eq`` on ``userName``, ``externalId`` or ``id``, and ``emails[type eq "work"].value eq``; of groups
    on ``displayName``.

    Args:
        tree: What ``parse_filter`` returned.
        schema: The resource type that is asked for.

    Returns:
        The attribute and the value, or None for every other filter (``compile_filter`` has those).
    """
    if isinstance(tree, Comparison):
        return _attribute_lookup(tree, schema)
    if isinstance(tree, ValuePath):
        return _work_email_lookup(tree, schema)
    return None


def _attribute_lookup(node: Comparison, schema: ResourceSchema) -> Lookup | None:
    if node.op is not CompareOperator.eq or not isinstance(node.value, str):
        return None
    found = schema.find(str(node.attr_path))
    if found is None or found.extension or found.attribute is None or found.sub_attribute:
        return None
    return _named_lookup(found.attribute.name, node.value, schema)


def _named_lookup(name: str, value: str, schema: ResourceSchema) -> Lookup | None:
    kind = _KINDS.get(name)
    if kind == "displayName" and schema.urn != GROUP_URN:
        return None
    return Lookup(kind, value) if kind else None


def _work_email_lookup(node: ValuePath, schema: ResourceSchema) -> Lookup | None:
    found = schema.find(str(node.attr_path))
    if found is None or found.canonical != "emails":
        return None
    both = node.val_filter
    if not isinstance(both, LogicalExpr) or both.op is not LogicalOperator.and_ or len(both.terms) != 2:
        return None
    terms: dict[str, str] = {}
    for term in both.terms:
        if not isinstance(term, Comparison) or term.op is not CompareOperator.eq or not isinstance(term.value, str):
            return None
        terms[str(term.attr_path).lower()] = term.value
    if terms.keys() != {"type", "value"} or terms["type"].lower() != "work":
        return None
    return Lookup("workEmail", terms["value"])


_KINDS: dict[str, LookupKind] = {kind: kind for kind in get_args(LookupKind) if kind != "workEmail"}


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidFilterError("The filter holds half of a surrogate pair, which is not a character.") from error
    if "\x00" in text:
        raise InvalidFilterError("The filter holds U+0000, which no value can hold.")


def _check_brackets(text: str, max_depth: int) -> None:
    # The library bounds its tree, in which parentheses leave no trace; here they count.
    if text.count("(") + text.count("[") <= max_depth:
        return
    depth = 0
    for token in _BRACKETS.finditer(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token[0], 0)
        if depth > max_depth:
            raise InvalidFilterError(f"The filter nests more than {max_depth} brackets, at column {token.start() + 1}.")


def _parse(text: str) -> FilterNode:
    try:
        return ScimFilter(text).ast
    except InvalidFilterException as error:
        tolerated = _BARE_SELECTION.sub(lambda m: "].value " if m[1] else m[0], text)
        tolerated = _BARE_WORD.sub(_quote_word, tolerated)
        if tolerated != text:
            try:
                return ScimFilter(tolerated).ast
            except InvalidFilterException:
                pass  # the message about what was really sent helps more
        raise InvalidFilterError(f"The filter cannot be read: {error.detail}.") from error


def _quote_word(match: re.Match[str]) -> str:
    return f"{match[1]}{ScimFilter.quote(match[2])}" if match[2] else match[0]


def _walk(tree: FilterNode) -> Iterator[tuple[int, FilterNode]]:
    """Yield every node with the number of nodes that it hangs under, itself included."""
    waiting = [(1, tree)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        if isinstance(node, LogicalExpr):
            waiting += [(depth + 1, term) for term in node.terms]
        elif isinstance(node, Not):
            waiting.append((depth + 1, node.expr))
        elif isinstance(node, ValuePath):
            waiting.append((depth + 1, node.val_filter))
