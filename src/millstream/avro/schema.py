"""An Avro schema as a tree of nodes, each with its Arrow type. Parsing only: the bytes are for the other files here.

Reference: Apache Avro 1.12 specification. A logical type that does not fit its base type is ignored, as it demands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from millstream.errors import Refused

LeafKind = Literal["null", "boolean", "int", "long", "float", "double", "string", "bytes", "decimal", "enum", "fixed"]

_LEAST_BYTES = {"null": 0, "float": 4, "double": 8}
_PLAIN: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}
_LOGICAL: dict[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    **{
        ("long", f"{local}timestamp-{name}"): pa.timestamp(unit, None if local else "UTC")
        for local in ("", "local-")
        for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
    },
}
DECIMAL_DIGITS_MAX = 76


@dataclass(frozen=True)
class Leaf:
    """One value: `kind` is how it lies in the bytes, `arrow` what it is in a column.

    An enum (`symbols`) is text. A fixed (`size`) is binary or, with that logical type, decimal.
    """

    kind: LeafKind
    arrow: pa.DataType
    size: int = 0
    symbols: tuple[str, ...] = ()

    @property
    def least_bytes(self) -> int:
        return self.size if self.kind == "fixed" else _LEAST_BYTES.get(self.kind, 1)


@dataclass(frozen=True)
class Nullable:
    """A union of null and one other type; `null_branch` says which of the two stands first (0) or second (1)."""

    item: Node
    null_branch: int

    @property
    def arrow(self) -> pa.DataType:
        return self.item.arrow

    @property
    def least_bytes(self) -> int:
        return 1


@dataclass(frozen=True)
class Record:
    fields: tuple[tuple[str, Node], ...]

    @property
    def arrow(self) -> pa.StructType:
        return pa.struct([pa.field(name, node.arrow, isinstance(node, Nullable)) for name, node in self.fields])

    @property
    def least_bytes(self) -> int:
        return sum(node.least_bytes for _, node in self.fields)


@dataclass(frozen=True)
class Items:
    """An Avro array, or a map: an array of records of key and value."""

    item: Node
    is_map: bool = False
    least_bytes = 1

    @property
    def arrow(self) -> pa.DataType:
        if self.is_map:
            key, value = self.item.arrow
            return pa.map_(key, value)
        return pa.list_(pa.field("item", self.item.arrow, isinstance(self.item, Nullable)))


@dataclass(frozen=True)
class Union:
    """Any other union: a struct with a child per branch that is not null, of which one is set. A null struct is null."""

    branches: tuple[tuple[str, Node], ...]
    least_bytes = 1

    @property
    def arrow(self) -> pa.StructType:
        return pa.struct([pa.field(name, node.arrow) for name, node in self.branches if node.arrow != pa.null()])


@dataclass(frozen=True, eq=False)
class Recursive:
    """A record inside itself, which no Arrow type can be: carried as the Avro bytes of the inner record."""

    name: str
    named: dict[str, Node]
    arrow = pa.binary()
    least_bytes = 1  # what holds it takes a byte at least: a union's branch, a block's count

    @property
    def record(self) -> Node:
        return self.named[self.name]


Node = Leaf | Nullable | Record | Items | Union | Recursive


def parse(text: str) -> Record:
    """The schema of a record. Raises Refused("avro_schema") on anything that is not one."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise _refused(f"not JSON: {error}") from None
    node = _Parser().node(document, "")
    if not isinstance(node, Record):
        raise _refused("the outermost type must be a record")
    return node


def _refused(what: str) -> Refused:
    return Refused(
        f"unusable Avro schema: {what}", code="avro_schema", cure="register a schema as Avro 1.12 defines it, a record outermost"
    )


class _Parser:
    def __init__(self) -> None:
        self.named: dict[str, Node] = {}
        self.open: set[str] = set()

    def node(self, document: Any, namespace: str) -> Node:
        if isinstance(document, list):
            return self._union(document, namespace)
        if isinstance(document, str):
            return self._reference(document, namespace)
        if not isinstance(document, dict) or "type" not in document:
            raise _refused(f"{document!r} is no type")
        kind = document["type"]
        if isinstance(kind, (list, dict)):
            return self.node(kind, namespace)
        if kind in ("record", "error"):
            return self._record(document, namespace)
        if kind == "array":
            return self._items(document, namespace)
        if kind == "map":
            entry = Record((("key", Leaf("string", pa.string())), ("value", self.node(document.get("values"), namespace))))
            return Items(entry, is_map=True)
        if kind in ("enum", "fixed"):
            return self._named(document, namespace)
        return _leaf(document) if kind in _PLAIN else self._reference(kind, namespace)

    def _reference(self, name: str, namespace: str) -> Node:
        if name in _PLAIN:
            return _leaf({"type": name})
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full in self.open:
            return Recursive(full, self.named)
        if full not in self.named:
            raise _refused(f"the type {name!r} is not defined before it is used")
        return self.named[full]

    def _union(self, branches: list[Any], namespace: str) -> Node:
        nodes = [self.node(branch, namespace) for branch in branches]
        nulls = [i for i, n in enumerate(nodes) if isinstance(n, Leaf) and n.kind == "null"]
        if len(nodes) == 2 and len(nulls) == 1:
            return Nullable(nodes[1 - nulls[0]], nulls[0])
        names = [_branch_name(branch) for branch in branches]
        if len(set(names)) != len(names) or any(isinstance(n, (Nullable, Union)) for n in nodes):
            raise _refused(f"a union of {', '.join(names)}: each type may stand in it once, another union not at all")
        return Union(tuple(zip(names, nodes, strict=True)))

    def _name(self, document: dict[str, Any], namespace: str) -> tuple[str, str]:
        name = document.get("name")
        if not isinstance(name, str) or not name:
            raise _refused(f"a {document['type']} has no name")
        if "." in name:
            return name, name.rpartition(".")[0]
        namespace = document.get("namespace", namespace) or ""
        return (f"{namespace}.{name}" if namespace else name), namespace

    def _record(self, document: dict[str, Any], namespace: str) -> Node:
        full, namespace = self._name(document, namespace)
        if full in self.named:
            raise _refused(f"the type {full} is defined twice")
        if not isinstance(document.get("fields"), list):
            raise _refused(f"the record {full} has no list of fields")
        self.open.add(full)
        fields = []
        for field in document["fields"]:
            if not isinstance(field, dict) or not isinstance(field.get("name"), str) or "type" not in field:
                raise _refused(f"{field!r} is no field of the record {full}")
            fields.append((field["name"], self.node(field["type"], namespace)))
        self.open.discard(full)
        if len({name for name, _ in fields}) != len(fields):
            raise _refused(f"the record {full} names a field twice")
        record = Record(tuple(fields))
        self.named[full] = record
        return record

    def _items(self, document: dict[str, Any], namespace: str) -> Node:
        item = self.node(document.get("items"), namespace)
        if item.least_bytes == 0:
            # A few bytes could ask for 2^60 of them.
            raise _refused("an array of items that take no bytes")
        return Items(item)

    def _named(self, document: dict[str, Any], namespace: str) -> Node:
        full, _ = self._name(document, namespace)
        if document["type"] == "enum":
            symbols = document.get("symbols")
            if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
                raise _refused(f"the enum {full} has no symbols")
            node = Leaf("enum", pa.string(), symbols=tuple(symbols))
        else:
            size = document.get("size")
            if not isinstance(size, int) or size < 0:
                raise _refused(f"the fixed type {full} has no size")
            node = Leaf("fixed", _decimal(document) or pa.binary(), size=size)
        self.named[full] = node
        return node


def _branch_name(document: Any) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict):
        return str(document["name"] if document["type"] in ("record", "error", "enum", "fixed") else document["type"])
    return "union"


def _leaf(document: dict[str, Any]) -> Leaf:
    kind = document["type"]
    logical = str(document.get("logicalType"))
    if kind == "bytes" and (decimal := _decimal(document)) is not None:
        return Leaf("decimal", decimal)
    return Leaf(kind, _LOGICAL.get((kind, logical), _PLAIN[kind]))


def _decimal(document: dict[str, Any]) -> pa.DataType | None:
    if document.get("logicalType") != "decimal":
        return None
    precision, scale = document.get("precision"), document.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int) or precision <= 0 or not 0 <= scale <= precision:
        return None
    if precision > DECIMAL_DIGITS_MAX:
        raise _refused(f"decimal({precision},{scale}) has more than {DECIMAL_DIGITS_MAX} digits: carry it as text")
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
