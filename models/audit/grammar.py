"""The text of a search of the audit log, taken apart: terms with their places; what they mean is `models.audit.search`.

action:scim.user.* -outcome:success target:"Ana Šimić",ben@example.com created:2026-06-01..2026-06-30 "words"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, NoReturn

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedEOF, UnexpectedInput

from models.errors import InvalidQueryError

TEXT: Final = ""
"""Name of a term that has no qualifier: free text."""
LONGEST: Final = 2000  # characters
MOST_TERMS: Final = 40
MOST_VALUES: Final = 50

# A qualifier is a word that a colon follows at once; so a time of day or an address in free text needs quotes only
# when it begins with a letter. Space separates terms and stands nowhere else.
_GRAMMAR = r"""
start: _WS? (term (_WS term)*)? _WS?
term: NOT? (NAME _COLON value (_COMMA value)* | word)
value: QUOTED | VALUE
word: QUOTED | WORD
NOT.3: /-(?=\S)/
NAME.2: /[A-Za-z_]+(?=:)/
_COLON: ":"
_COMMA: ","
QUOTED.2: /"(?:[^"\\]|\\[\s\S])*"/
VALUE: /[^\s",]+/
WORD: /[^\s"\-][^\s"]*/
_WS: /\s+/
"""
_ESCAPE = re.compile(r"\\([\s\S])")


@dataclass(frozen=True, slots=True)
class Value:
    """One value as it is meant, without its quotation marks."""

    text: str
    position: int
    quoted: bool


@dataclass(frozen=True, slots=True)
class Term:
    """A qualifier with its values, any of which will do; or free text."""

    name: str
    values: tuple[Value, ...]
    negated: bool
    position: int


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual")


def read_terms(text: str) -> list[Term]:
    """Return the terms of a search, in order; all of them must hold.

    Raises:
        InvalidQueryError: it cannot be read; says where and why.
    """
    if len(text) > LONGEST:
        raise InvalidQueryError(f"The search is longer than {LONGEST} characters.", position=LONGEST)
    _check_letters(text)
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        _explain(text, error)
    terms = [_term(child) for child in tree.children if isinstance(child, Tree)]
    if len(terms) > MOST_TERMS:
        raise InvalidQueryError(f"The search has more than {MOST_TERMS} terms.", position=terms[MOST_TERMS].position)
    for term in terms:
        if len(term.values) > MOST_VALUES:
            raise InvalidQueryError(
                f"{term.name}: has more than {MOST_VALUES} values.", position=term.values[MOST_VALUES].position
            )
    return terms


def quote(value: str) -> str:
    """Return a value as it can stand behind a qualifier, in quotation marks if it needs them."""
    if re.fullmatch(r'[^\s",\\]+', value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_letters(text: str) -> None:
    for position, letter in enumerate(text):
        if letter == "\x00" or "\ud800" <= letter <= "\udfff":
            raise InvalidQueryError("The search holds a character that nothing stored can hold.", position=position)


def _term(tree: Tree[Token]) -> Term:
    tokens = [child for child in tree.children if isinstance(child, Token)]
    values = tuple(_value(child.children[0]) for child in tree.children if isinstance(child, Tree))
    names = [token for token in tokens if token.type == "NAME"]
    negated = any(token.type == "NOT" for token in tokens)
    position = tokens[0].start_pos if tokens else values[0].position
    return Term(names[0].lower() if names else TEXT, values, negated, position or 0)


def _value(token: Token | Tree[Token]) -> Value:
    assert isinstance(token, Token)  # noqa: S101  the grammar has it so
    quoted = token.type == "QUOTED"
    text = _ESCAPE.sub(r"\1", token[1:-1]) if quoted else str(token)
    return Value(text, token.start_pos or 0, quoted)


def _explain(text: str, error: UnexpectedInput) -> NoReturn:
    """Say what cannot be read, and where."""
    found = error.pos_in_stream
    at_end = isinstance(error, UnexpectedEOF) or getattr(getattr(error, "token", None), "type", "") == "$END"
    position = len(text) if at_end or found is None or found < 0 else found
    before, here = text[:position], text[position : position + 1]
    if before.rstrip().endswith((":", ",")) and (not here or here.isspace() or here == "," or before[-1:].isspace()):
        detail = f"A value is missing behind {before.split()[-1]!r}; it follows without a space."
    elif here == '"' and text.count('"', position) == 1:
        detail = "A quotation mark is opened and never closed."
    elif here == "-":
        detail = "A - stands before the term that it negates, without a space."
    else:
        detail = "Something unexpected stands here; put values with spaces, commas or quotation marks in quotes."
    raise InvalidQueryError(detail, position=position) from error
