"""What may be shown of a SCIM message to somebody who looks for what is wrong with it: its form, and nobody's data.

Everything is hidden but what is known to be harmless, by attribute: ids, types, operations, paths, booleans. Of a
hidden text remain its length and whether it looks like an address, which is what mistakes are found by.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import orjson

from models.errors import ClientError
from models.scim import json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_UUID: Final = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_IS_UUID: Final = re.compile(_UUID)
_RESOURCE: Final = re.compile(rf".*?(/(?:Users|Groups)(?:/{_UUID})?)", re.DOTALL | re.IGNORECASE)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_URN: Final = re.compile(r"urn:ietf:params:scim:[A-Za-z0-9._:-]{1,120}")
_NAME: Final = r"(?:urn:[A-Za-z0-9._:-]{1,120}:)?[A-Za-z$][A-Za-z0-9$_-]{0,60}(?:\.[A-Za-z$][A-Za-z0-9$_-]{0,60})?"
_ONE_NAME: Final = re.compile(_NAME)
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_OPERATORS: Final = "eq|ne|co|sw|ew|gt|ge|lt|le"
_TERM: Final = re.compile(
    rf"\s*(?:not\s*)?\(?\s*(?P<name>{_NAME})\s+(?:(?P<op>{_OPERATORS})\s+(?P<value>{_QUOTED}|true|false|null)|pr)\s*\)?\s*",
    re.IGNORECASE,
)
_GLUE: Final = re.compile(r"(?:and|or)\b", re.IGNORECASE)
_PATH: Final = re.compile(rf"({_NAME})(?:\[(.*)\])?(?:\.([A-Za-z$][A-Za-z0-9$_-]{{0,60}}))?", re.DOTALL)
_WORDS: Final = re.compile(rf"{_QUOTED}|[^\s()\[\],\"]+")
_NAME_LISTS: Final = ("attributes", "excludedattributes", "sortby")
_ADDRESS: Final = re.compile(r"\S*@\S*")

_TYPES: Final = frozenset(
    ("work", "home", "other", "mobile", "fax", "pager", "photo", "thumbnail", "direct", "indirect", "user", "group")
)
_BOOLEANS: Final = frozenset(("true", "false"))
_COUNTS: Final = frozenset(("totalresults", "startindex", "itemsperpage", "count", "status", "failonerrors"))
_KEPT: Final[dict[str, re.Pattern[str]]] = {
    "schemas": _URN,
    "schema": _URN,
    "op": re.compile(r"add|replace|remove", re.IGNORECASE),
    "method": re.compile(r"GET|POST|PUT|PATCH|DELETE"),
    "resourcetype": re.compile(r"User|Group"),
    "created": _MOMENT,
    "lastmodified": _MOMENT,
    "version": re.compile(r'W/"\d{1,18}"'),
    "status": re.compile(r"\d{3}"),
    "scimtype": re.compile(
        "invalid(?:Filter|Syntax|Path|Value|Vers|Cursor|Count)|uniqueness|mutability|noTarget|tooMany|sensitive"
        "|expiredCursor"
    ),
}
_KEYWORDS: Final = frozenset((*_OPERATORS.split("|"), "pr", "and", "or", "not", "true", "false", "null"))
_OMITTED: Final = "(removed)"
_HOLE: Final = "…"
_MOST_SENT: Final = 2000
_DEPTH: Final = 40
_LONGEST_NAME: Final = 60


def last_name(path: str) -> str:
    """Return the lower-case name of the attribute that a path ends in: `value` of `emails[type eq "work"].value`."""
    if path.isidentifier():
        return path.lower()
    head, bracket, tail = path.partition("[")
    if bracket:
        after = tail.rpartition("]")[2]
        head = after if after.startswith(".") else head
    return head.strip().rpartition(":")[2].rpartition(".")[2].lower()


def redact(value: Any, sent: Iterable[str] = ()) -> Any:
    """Return a request's or an answer's JSON value with all hidden that may be somebody's.

    Args:
        value: parsed JSON.
        sent: texts of the client that an error's detail may repeat.
    """
    return _Redactor(list(sent)).walk(value, "", 0)


class _Redactor:
    def __init__(self, sent: list[str]) -> None:
        self._sent = sent

    def walk(self, value: Any, name: str, depth: int) -> Any:
        if depth > _DEPTH:
            return "(too deep)"
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list):
            return [self.walk(item, name, depth + 1) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value, name)
        return value if name in _COUNTS else "(number)"

    def _object(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        path = next((item for key, item in value.items() if key.lower() == "path" and isinstance(item, str)), None)
        result: dict[str, Any] = {}
        for key, item in value.items():
            name = last_name(key)
            if name == "value" and path is not None and "." not in key and "[" not in key:
                name = last_name(path)
            shown = shown_path(key)
            while shown in result:
                shown += "'"
            result[shown] = _OMITTED if name == "password" else self.walk(item, name, depth + 1)
        return result

    def _text(self, text: str, name: str) -> str:
        if text == "" or text.lower() in _BOOLEANS or _IS_UUID.fullmatch(text):
            return text
        if name == "type" and text.lower() in _TYPES:
            return text
        if name in ("path", "location", "$ref") and (found := _RESOURCE.fullmatch(text)):
            return found[1]
        if name == "path":
            return shown_path(text)
        if name == "detail":
            return without_sent(text, self._sent)
        known = _KEPT.get(name)
        return text if known is not None and known.fullmatch(text) else _shape(text)


def _shape(text: str) -> str:
    words = f"{'address' if '@' in text else 'text'}, {len(text)} character{'' if len(text) == 1 else 's'}"
    return f"({words}{', with space at an end' if text != text.strip() else ''})"


def shown_path(path: str) -> str:
    """Return an attribute path with the values in its filter hidden; hide it whole when it is no such path."""
    if len(path) <= _LONGEST_NAME and path.isascii() and path.isidentifier():
        return path  # as nearly every name is
    found = _PATH.fullmatch(path)
    if found is None:
        return f"(a name, {len(path)} characters)"
    head, condition, tail = found.groups()
    filtered = "" if condition is None else f"[{shown_filter(condition)}]"
    return f"{head}{filtered}{'.' + tail if tail else ''}"


def shown_filter(text: str) -> str:
    """Return a filter with its values hidden, but for types and booleans; only a hole when it cannot be read."""
    shown, place = [], 0
    while place < len(text):
        term = _TERM.match(text, place)
        if term is None:
            return _HOLE
        place = term.end()
        literal = term["value"]
        if literal is None:
            shown.append(f"{term['name']} pr")
        else:
            bare = literal.strip('"')
            kept = not literal.startswith('"') or bare.lower() in (_TYPES | _BOOLEANS) or _IS_UUID.fullmatch(bare)
            shown.append(f"{term['name']} {term['op'].lower()} {literal if kept else _HOLE}")
        if place < len(text):
            glue = _GLUE.match(text, place)
            if glue is None:
                return _HOLE
            shown.append(glue[0].lower())
            place = glue.end()
    return " ".join(shown)


def sent_texts(body: bytes | None, query: str, tail: str = "") -> list[str]:
    """Return the texts of a request that may be somebody's and that an error's detail might repeat.

    Args:
        body: as it came; None or malformed JSON has none that could be told.
        query: the query string.
        tail: the path below the base URL.
    """
    found: list[str] = []
    try:
        value = json.parse(body, max_depth=_DEPTH) if body else None
    except ClientError:
        value = None
    for text in _leaves(value, ""):
        found.append(text)
        if len(found) >= _MOST_SENT:
            break
    for name, text in parse_qsl(query):
        found.extend(_strangers(text, names=name.lower() in _NAME_LISTS))
        found.extend([] if _ONE_NAME.fullmatch(name) else [name])
    found.extend(part for part in tail.split("/") if part and part.lower() not in ("users", "groups", ".search"))
    return found


def _leaves(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not (len(key) <= _LONGEST_NAME and key.isascii() and key.isidentifier()):
                yield from _strangers(key, names=True)
            yield from _leaves(item, key.lower())
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    elif isinstance(value, str):
        if name in ("path", "filter") or name in _NAME_LISTS:
            yield from _strangers(value, names=name in _NAME_LISTS)
        elif name not in ("schemas", "op", "method"):
            yield value
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _strangers(text: str, *, names: bool) -> Iterator[str]:
    """Give what stands in a path or filter and is neither a name in a name's place nor a word of the grammar."""
    words = list(_WORDS.finditer(text))
    for place, found in enumerate(words):
        word = found[0]
        if word.startswith('"'):
            yield word[1:-1]
            try:
                yield orjson.loads(word)
            except orjson.JSONDecodeError:
                continue
        elif word.lower() not in _KEYWORDS:
            bare = word.removeprefix(".")
            compared = place + 1 < len(words) and words[place + 1][0].lower() in _KEYWORDS
            named = names or len(words) == 1 or compared or bare != word or text[found.end() : found.end() + 1] == "["
            if not named or not _ONE_NAME.fullmatch(bare):
                yield word


def without_sent(text: str, sent: Iterable[str]) -> str:
    """Return an error's sentence with what the client sent taken out of it."""
    for each in sorted({one.strip() for one in sent} - {""}, key=len, reverse=True):
        if len(each) <= len(text) and each.lower() in text.lower():
            text = re.sub(rf"(?<!\w){re.escape(each)}(?!\w)", _HOLE, text, flags=re.IGNORECASE)
    return _ADDRESS.sub(_HOLE, text)
