"""What a User and a Group may hold, and what each attribute is like (RFC 7643 §2.2, §7).

The attributes come from scim2-models; what Entra needs different is changed in one place, ``_core``.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import scim2_models

from models.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

USER_URN: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_URN: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE_URN: Final = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
SCHEMA_URN: Final = "urn:ietf:params:scim:schemas:core:2.0:Schema"

COMMON: Final = frozenset({"schemas", "id", "externalid", "meta"})
"""Lower-case names of the attributes that every resource has (RFC 7643 §3, §3.1)."""

_TYPES: Final = (
    "string",
    "boolean",
    "decimal",
    "integer",
    "dateTime",
    "binary",
    "reference",
    "complex",
)
_KEYWORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "mutability": ("readWrite", "readOnly", "immutable", "writeOnly"),
    "returned": ("default", "always", "request", "never"),
    "uniqueness": ("none", "server", "global"),
}
# What an attribute that a tenant defines can be: the store's identifiers know none of its values, nobody but
# the client sets them, and there is no use in one that cannot be read.
_OWN_SUPPORTED: Final[Mapping[str, tuple[str, ...]]] = {
    "mutability": ("readWrite", "immutable"),
    "returned": ("default", "always"),
    "uniqueness": ("none",),
}
# RFC 7643 §2.1; "$ref" is the one name that begins with another sign (§2.4).
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9$_-]*|\$ref")
_OWN: Final = "urn:ietf:params:scim:schemas:extension:"
_URN: Final = re.compile(r"urn:[A-Za-z0-9][A-Za-z0-9-]{0,31}:[A-Za-z0-9._:-]*[A-Za-z0-9]")


def compare_key(value: str) -> str:
    """Return what is compared and indexed in place of a case-insensitive string.

    NFC, then case folding, then NFC again since folding can decompose (RFC 7644 §5 asks for a prepared
    comparison of userName; entra-cases.md 20, 42 and 56 for its effect). The value itself is kept as sent.
    """
    if value.isascii():
        return value.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute or sub-attribute with its characteristics (RFC 7643 §7)."""

    name: str
    type: str = "string"
    multi_valued: bool = False
    required: bool = False
    case_exact: bool = False
    mutability: str = "readWrite"
    returned: str = "default"
    uniqueness: str = "none"
    canonical_values: tuple[str, ...] = ()
    sub_attributes: Mapping[str, Attribute] = field(default_factory=dict, hash=False)
    """By lower-case name; empty when the attribute is not complex."""
    reference_types: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Extension:
    """A schema whose attributes live in an object of their own, named by its URN (RFC 7643 §3.3)."""

    urn: str
    attributes: Mapping[str, Attribute] = field(hash=False)
    """By lower-case name."""
    required: bool = False
    name: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedPath:
    """What an attribute path names: an attribute, a sub-attribute, or an extension as a whole."""

    extension: Extension | None
    attribute: Attribute | None
    sub_attribute: Attribute | None

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys to walk in a document, from the outside in."""
        parts = (
            self.extension and self.extension.urn,
            self.attribute and self.attribute.name,
            self.sub_attribute and self.sub_attribute.name,
        )
        return tuple(part for part in parts if part)

    @property
    def canonical(self) -> str:
        """Return the path as the schema spells it; core attributes carry no URN."""
        names = [item.name for item in (self.attribute, self.sub_attribute) if item]
        if self.extension is None:
            return ".".join(names)
        return f"{self.extension.urn}:{'.'.join(names)}" if names else self.extension.urn


@dataclass(frozen=True, slots=True, eq=False)
class ResourceSchema:
    """A resource type: its core schema, the common attributes and its extensions.

    Compared and hashed by identity, so that what is compiled from it can be cached.
    """

    urn: str
    name: str
    endpoint: str
    attributes: Mapping[str, Attribute]
    """By lower-case name: the core schema's attributes and the common ones."""
    extensions: Mapping[str, Extension]
    """By lower-case URN."""
    description: str = ""
    _paths: Mapping[str, ResolvedPath] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        paths: dict[str, ResolvedPath] = {}
        for key, path in self._walk():
            if key in paths:
                raise InvalidValueError(f"The path {path.canonical} would have two meanings.")
            paths[key] = path
        object.__setattr__(self, "_paths", MappingProxyType(paths))

    def _walk(self) -> Iterator[tuple[str, ResolvedPath]]:
        """Yield every path that names something, in lower case, with what it names."""
        for name, attribute in self.attributes.items():
            for suffix, path in _below(None, attribute):
                yield f"{name}{suffix}", path
                yield f"{self.urn.lower()}:{name}{suffix}", path
        for urn, extension in self.extensions.items():
            yield urn, ResolvedPath(extension, None, None)
            for name, attribute in extension.attributes.items():
                for suffix, path in _below(extension, attribute):
                    yield f"{urn}:{name}{suffix}", path

    def find(self, path: str) -> ResolvedPath | None:
        """Return what an attribute path names, or None when it names nothing.

        Names and URNs are case-insensitive (RFC 7643 §2.1, RFC 7644 §3.10). Every legal path is listed
        beforehand, so that the dots in a URN cannot be taken for those of a sub-attribute
        (entra-cases.md 29).

        Args:
            path: ``name.givenName``, ``urn:…:core:2.0:User:title``, ``urn:…:enterprise:2.0:User:manager.value``
                or the URN of an extension. No value filter.
        """
        return self._paths.get(path.lower())

    def with_extensions(self, documents: Iterable[Mapping[str, Any]]) -> ResourceSchema:
        """Return this schema with further extensions.

        Args:
            documents: SCIM Schema documents (RFC 7643 §7), as a tenant defines them. Of the characteristics they
                can give an attribute: mutability readWrite or immutable, returned default or always, uniqueness
                none.

        Raises:
            InvalidValueError: A document is not a usable schema, or its URN is taken.
        """
        extensions = dict(self.extensions)
        for document in documents:
            extension = _extension(document)
            key = extension.urn.lower()
            if key in extensions:
                raise InvalidValueError(f"The schema {extension.urn} is already defined.")
            extensions[key] = extension
        return replace(self, extensions=MappingProxyType(extensions))


def _below(extension: Extension | None, attribute: Attribute) -> Iterator[tuple[str, ResolvedPath]]:
    yield "", ResolvedPath(extension, attribute, None)
    for name, sub_attribute in attribute.sub_attributes.items():
        yield f".{name}", ResolvedPath(extension, attribute, sub_attribute)


def _extension(document: Mapping[str, Any]) -> Extension:
    urn = document.get("id")
    if not isinstance(urn, str) or not _URN.fullmatch(urn):
        raise InvalidValueError("The id of a schema must be a URN such as urn:example:params:scim:Badge:2.0:User.")
    if urn.lower().startswith("urn:ietf:params:scim:") and not urn.lower().startswith(_OWN):
        raise InvalidValueError(f"The schema {urn} belongs to SCIM itself; an own one begins with {_OWN}.")
    attributes = _attributes(document.get("attributes"), urn)
    for attribute in attributes.values():
        for item in (attribute, *attribute.sub_attributes.values()):
            for keyword, supported in _OWN_SUPPORTED.items():
                if getattr(item, keyword) not in supported:
                    raise InvalidValueError(
                        f"{urn}:{attribute.name}: the {keyword} of an own attribute must be {' or '.join(supported)}."
                    )
    return Extension(
        urn=urn,
        attributes=attributes,
        name=_text(document, "name", urn),
        description=_text(document, "description", urn),
    )


def _attributes(documents: Any, where: str) -> Mapping[str, Attribute]:
    if not isinstance(documents, list) or not documents:
        raise InvalidValueError(f"{where} must have a list of attributes that is not empty.")
    attributes: dict[str, Attribute] = {}
    for document in documents:
        attribute = _attribute(document, where)
        key = attribute.name.lower()
        if key in attributes:
            raise InvalidValueError(f"{where} defines {attribute.name} twice.")
        attributes[key] = attribute
    return MappingProxyType(attributes)


def _attribute(document: Any, where: str) -> Attribute:
    if not isinstance(document, dict):
        raise InvalidValueError(f"{where}: an attribute must be an object.")
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidValueError(f"{where}: an attribute's name must be letters, digits, '-', '_' or '$'.")
    path = f"{where}{':' if where.startswith('urn:') else '.'}{name}"
    kind = document.get("type", "string")
    if kind not in _TYPES:
        raise InvalidValueError(f"{path}: type must be one of {', '.join(_TYPES)}.")
    if kind == "complex" and not where.startswith("urn:"):
        raise InvalidValueError(f"{path}: a complex attribute may not hold another one (RFC 7643 §2.3.8).")
    return Attribute(
        name=name,
        type=kind,
        multi_valued=_flag(document, "multiValued", path),
        required=_flag(document, "required", path),
        case_exact=_flag(document, "caseExact", path),
        mutability=_keyword(document, "mutability", path),
        returned=_keyword(document, "returned", path),
        uniqueness=_keyword(document, "uniqueness", path),
        canonical_values=_texts(document, "canonicalValues", path),
        sub_attributes=(
            _attributes(document.get("subAttributes"), name) if kind == "complex" else MappingProxyType({})
        ),
        reference_types=_texts(document, "referenceTypes", path),
        description=_text(document, "description", path),
    )


def _flag(document: Mapping[str, Any], key: str, path: str) -> bool:
    value = document.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidValueError(f"{path}: {key} must be true or false.")
    return bool(value)


def _keyword(document: Mapping[str, Any], key: str, path: str) -> str:
    allowed = _KEYWORDS[key]
    value = document.get(key)
    if value is None:
        return allowed[0]  # the default of RFC 7643 §2.2
    if value not in allowed:
        raise InvalidValueError(f"{path}: {key} must be one of {', '.join(allowed)}.")
    return str(value)


def _texts(document: Mapping[str, Any], key: str, path: str) -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidValueError(f"{path}: {key} must be a list of strings.")
    return tuple(value)


def _text(document: Mapping[str, Any], key: str, path: str) -> str:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidValueError(f"{path}: {key} must be a string.")
    return " ".join(value.split()) if value else ""


def _meta() -> Attribute:
    subs = (
        Attribute("resourceType", case_exact=True, mutability="readOnly"),
        Attribute("created", "dateTime", mutability="readOnly"),
        Attribute("lastModified", "dateTime", mutability="readOnly"),
        Attribute("location", "reference", case_exact=True, mutability="readOnly", reference_types=("uri",)),
        Attribute("version", case_exact=True, mutability="readOnly"),
    )
    return Attribute(
        "meta",
        "complex",
        mutability="readOnly",
        sub_attributes=MappingProxyType({sub.name.lower(): sub for sub in subs}),
    )


def _common() -> dict[str, Attribute]:
    """Return the attributes that no schema lists and every resource has (RFC 7643 §3, §3.1)."""
    return {
        "schemas": Attribute(
            "schemas",
            "reference",
            multi_valued=True,
            required=True,
            case_exact=True,
            returned="always",
            reference_types=("uri",),
        ),
        "id": Attribute("id", case_exact=True, mutability="readOnly", returned="always", uniqueness="server"),
        "externalid": Attribute("externalId", case_exact=True, description="The client's own identifier."),
        "meta": _meta(),
    }


def _core(model: type[scim2_models.User[Any] | scim2_models.Group], endpoint: str) -> ResourceSchema:
    document = model.to_schema().model_dump()
    return ResourceSchema(
        urn=document["id"],
        name=document["name"],
        endpoint=endpoint,
        attributes=MappingProxyType(_common() | dict(_attributes(document["attributes"], document["id"]))),
        extensions=MappingProxyType({}),
        description=document["description"],
    )


def _user() -> ResourceSchema:
    core = _core(scim2_models.User, "/Users")
    document = scim2_models.EnterpriseUser.to_schema().model_dump()
    attributes = dict(_attributes(document["attributes"], document["id"]))
    manager = attributes["manager"]
    # Entra sends the manager's id and nothing else (entra-wire.md §5.3).
    subs = {key: replace(sub, required=False) for key, sub in manager.sub_attributes.items()}
    attributes["manager"] = replace(manager, sub_attributes=MappingProxyType(subs))
    enterprise = Extension(
        urn=document["id"],
        attributes=MappingProxyType(attributes),
        name=document["name"],
        description="Enterprise User",
    )
    return replace(core, extensions=MappingProxyType({enterprise.urn.lower(): enterprise}))


USER: Final = _user()
GROUP: Final = _core(scim2_models.Group, "/Groups")
