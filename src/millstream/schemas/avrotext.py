"""Avro schemas as documents: which are valid, when two of them say the same, and one that refers to others made whole.

Bytes and columns are `avro/`'s; whether one schema reads what another wrote is not asked here. Reference: Apache Avro 1.12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from millstream.errors import Refused

Document = Any
"""A JSON value: what stands for a type in Avro."""

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "string", "bytes"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTEGERS = {"int": 1 << 31, "long": 1 << 63}


class AvroText:
    """One schema, read. `given` are the named types that other texts define and that this one may refer to.

    Raises Refused("avro_schema") where it is not a schema.
    """

    def __init__(self, text: str, given: Mapping[str, Document] | None = None) -> None:
        try:
            self._document = json.loads(text, parse_constant=_no_constant)
            self.compact = _dumped(self._document)
            walk = _Walk(given or {}, inline=False)
            self._canonical = walk.type(self._document, "")
        except RecursionError:
            raise _refused("it is nested too deeply") from None
        except ValueError as error:
            raise _refused(f"not JSON: {error}") from None
        self._given = given or {}
        self.defined: Mapping[str, Document] = walk.defined
        """The named types that it defines, by their full names."""

    @property
    def canonical(self) -> str:
        """Equal for two texts exactly where they say the same: names are full, what is said by default is left out."""
        return _dumped(self._canonical, sort=True)

    @property
    def normal(self) -> str:
        """The canonical form in an order for people."""
        return _dumped(self._canonical)

    @property
    def whole(self) -> str:
        """The same schema with every type of others that it uses written out where it is first used."""
        return _dumped(_Walk(self._given, inline=True).type(self._document, ""))


def canonical(text: str) -> str:
    """The canonical form of a text; the text itself where it is no Avro schema that stands alone."""
    try:
        return AvroText(text).canonical
    except Refused:
        return text


def _dumped(document: Document, *, sort: bool = False) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=sort, ensure_ascii=False, allow_nan=False)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _refused(what: str) -> Refused:
    return Refused(f"invalid Avro schema: {what}", code="avro_schema", cure="write it as Avro 1.12 defines it")


class _Walk:
    def __init__(self, given: Mapping[str, Document], *, inline: bool) -> None:
        self._given, self._inline = given, inline
        self.defined: dict[str, Document] = {}

    def type(self, document: Document, namespace: str) -> Document:
        """The type in canonical form. What stands in it unknown to Avro is kept: it is the schema's too."""
        if isinstance(document, list):
            return self._union(document, namespace)
        if isinstance(document, str):
            return document if document in PRIMITIVES else self._named(document, namespace)
        if not isinstance(document, dict) or "type" not in document:
            raise _refused(f"{_short(document)} is no type")
        kind = document["type"]
        rest = {k: v for k, v in document.items() if k != "type"}
        if kind in ("record", "error", "enum", "fixed"):
            return self._definition(kind, rest, namespace)
        if kind in ("array", "map"):
            part = "items" if kind == "array" else "values"
            if part not in rest:
                raise _refused(f"the {kind} has no {part}")
            return {"type": kind, **rest, part: self.type(rest[part], namespace)}
        inner = self.type(kind, namespace)
        if not rest:
            return inner
        if isinstance(inner, list):
            raise _refused("a union takes no attributes")
        return {**inner, **rest} if isinstance(inner, dict) else {"type": inner, **rest}

    def _union(self, branches: list[Document], namespace: str) -> Document:
        types = [self.type(branch, namespace) for branch in branches]
        kinds = [_kind(t) for t in types]
        if any(isinstance(t, list) for t in types):
            raise _refused("a union stands in a union")
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise _refused(f"{kind} stands twice in a union")
        return types

    def _named(self, name: str, namespace: str) -> Document:
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for candidate in (full, name):  # a name of no namespace may be meant from within one
            if candidate in self.defined:
                return candidate
            if candidate in self._given:
                return self.type({"namespace": "", **self._given[candidate]}, namespace) if self._inline else candidate
        raise _refused(f"the type {name} is not defined before it is used")

    def _definition(self, kind: str, rest: dict[str, Any], namespace: str) -> Document:
        around = namespace
        full, namespace = _full(rest.pop("name", None), rest.pop("namespace", None), around, kind)
        if full in self.defined or (full in self._given and not self._inline):
            raise _refused(f"the type {full} is defined twice")
        made: dict[str, Any] = {"type": kind, "name": full}
        if around and not namespace:
            made["namespace"] = ""  # or it would be read as a name of what stands around it
        self.defined[full] = made  # before its fields: it may stand in itself
        if "aliases" in rest:
            made["aliases"] = [_full(a, None, namespace, "alias")[0] for a in _listed(rest.pop("aliases"), "aliases")]
        if kind == "enum":
            self._enum(full, rest)
        elif kind == "fixed":
            size = rest.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise _refused(f"the fixed {full} has no size")
        else:
            rest["fields"] = self._fields(full, rest.get("fields"), namespace)
        made.update({k: v for k, v in rest.items() if v is not None})
        if kind in ("record", "error"):
            self._defaults(made)
        return made

    def _enum(self, full: str, rest: dict[str, Any]) -> None:
        symbols = _listed(rest.get("symbols"), f"the symbols of {full}")
        if not all(isinstance(s, str) and _NAME.fullmatch(s) for s in symbols) or len(set(symbols)) != len(symbols):
            raise _refused(f"the symbols of {full} are not names, each of its own")
        if "default" in rest and rest["default"] not in symbols:
            raise _refused(f"the default of {full} is none of its symbols")

    def _fields(self, full: str, fields: Document, namespace: str) -> list[Document]:
        made, names = [], set()
        for field in _listed(fields, f"the fields of {full}"):
            if not isinstance(field, dict) or not isinstance(field.get("name"), str) or "type" not in field:
                raise _refused(f"{_short(field)} is no field of {full}")
            name = field["name"]
            if not _NAME.fullmatch(name) or name in names:
                raise _refused(f"{full} cannot have {'another' if name in names else 'a'} field {_short(name)}")
            names.add(name)
            kept = {k: v for k, v in field.items() if (k, v) != ("order", "ascending")}
            made.append({**kept, "type": self.type(field["type"], namespace)})
        return made

    def _defaults(self, record: Document) -> None:
        for field in record["fields"]:
            if "default" in field and not self._fits(field["type"], field["default"]):
                what = f"the default {_short(field['default'])} of {record['name']}.{field['name']}"
                raise _refused(f"{what} is no value of its type")

    def _fits(self, kind: Document, value: Document) -> bool:
        if isinstance(kind, list):
            return any(self._fits(branch, value) for branch in kind)
        while isinstance(kind, str) and kind not in PRIMITIVES:
            kind = self.defined.get(kind) or self._given[kind]
        name = kind if isinstance(kind, str) else kind["type"]
        if name == "array":
            return isinstance(value, list) and all(self._fits(kind["items"], v) for v in value)
        if name == "map":
            return isinstance(value, dict) and all(self._fits(kind["values"], v) for v in value.values())
        if name in ("record", "error"):
            return isinstance(value, dict) and all(
                self._fits(f["type"], value[f["name"]]) if f["name"] in value else "default" in f for f in kind.get("fields", ())
            )
        if name == "enum":
            return value in kind["symbols"]
        if name in ("bytes", "fixed"):
            plain = isinstance(value, str) and all(ord(c) < 256 for c in value)
            return plain and (name == "bytes" or len(value) == kind["size"])
        return self._fits(name, value) if name not in PRIMITIVES else _primitive_fits(name, value)


def _primitive_fits(kind: str, value: Document) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind in _INTEGERS:
        return isinstance(value, int) and -_INTEGERS[kind] <= value < _INTEGERS[kind]
    return isinstance(value, str) if kind == "string" else isinstance(value, int | float)


def _full(name: Document, namespace: Document, around: str, kind: str) -> tuple[str, str]:
    """The full name, and the namespace that holds inside."""
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        raise _refused(f"the {kind} has no name")
    if "." not in name:
        space = around if namespace is None else namespace
        name = f"{space}.{name}" if space else name
    if not all(_NAME.fullmatch(part) for part in name.split(".")) or name in PRIMITIVES:
        raise _refused(f"{_short(name)} cannot be a name")
    return name, name.rpartition(".")[0]


def _kind(document: Document) -> str:
    """What a type is in a union: of each kind there may be one, of named types one of each name."""
    if isinstance(document, dict):
        return str(document.get("name") or _kind(document["type"]))
    return str(document)


def _listed(value: Document, what: str) -> list[Document]:
    if not isinstance(value, list):
        raise _refused(f"{what}: not a list")
    return value


def _short(value: Document) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
