"""Whether one Avro schema reads what another wrote, and the seven modes of compatibility that are made of that. Pure.

Reference: Apache Avro 1.12 specification, "Schema Resolution" and "Aliases". Where that lets a reader take the first branch of a
union that matches, any branch that can be resolved counts here, as it does in Avro's own check for Java.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from millstream.errors import Refused
from millstream.schemas.avrotext import PRIMITIVES, AvroText

AvroMode = Literal["BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE"]
AVRO_MODES: tuple[AvroMode, ...] = get_args(AvroMode)
Direction = Literal["backward", "forward"]

Kind = Literal[
    "NAME_MISMATCH", "FIXED_SIZE_MISMATCH", "MISSING_ENUM_SYMBOLS", "READER_FIELD_MISSING_DEFAULT_VALUE", "TYPE_MISMATCH",
    "MISSING_UNION_BRANCH",
]  # fmt: skip


@dataclass(frozen=True)
class Incompatibility:
    """Why a reader cannot read a writer's data. `path` is the place in the reader's schema: "after.cast[].name", {} for a map's
    values, "" for the whole."""

    path: str
    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{self.path or 'the schema'}: {self.message}"


@dataclass(frozen=True)
class Breach(Incompatibility):
    """What breaks a mode. backward: the new schema does not read what the earlier one wrote; forward: the other way about.
    `earlier` is that schema's place in the list that was given."""

    direction: Direction
    earlier: int

    def __str__(self) -> str:
        way = (
            "the new schema does not read an earlier one" if self.direction == "backward" else "an earlier schema does not read the new one"
        )
        return f"{super().__str__()} ({way})"


def check(mode: AvroMode, new: str, earlier_versions: Sequence[str]) -> list[Breach]:
    """What in `new` breaks the mode, towards the earlier versions (oldest first): the newest of them, or all where it is transitive.

    Raises Refused("avro_schema") where a text is no Avro schema that stands alone.
    """
    if mode == "NONE" or not earlier_versions:
        return []
    ways, _, reach = mode.partition("_")
    first = 0 if reach else len(earlier_versions) - 1
    breaches = []
    for place in range(len(earlier_versions) - 1, first - 1, -1):
        if ways in ("BACKWARD", "FULL"):
            found = incompatibilities(new, earlier_versions[place])
            breaches += [Breach(i.path, i.kind, i.message, "backward", place) for i in found]
        if ways in ("FORWARD", "FULL"):
            found = incompatibilities(earlier_versions[place], new)
            breaches += [Breach(i.path, i.kind, i.message, "forward", place) for i in found]
    return breaches


def incompatibilities(reader_text: str, writer_text: str) -> list[Incompatibility]:
    """Why the reader's schema cannot read all that the writer's may write; empty where it can.

    A type that stands in several places is told of in full once. Raises Refused("avro_schema") as `check` does.
    """
    if reader_text == writer_text:
        return []
    try:
        return _incompatibilities(_read(reader_text), _read(writer_text))
    except RecursionError:
        cure = "give the types inside names, and use them by these"
        raise Refused("a schema is nested too deeply to be compared", code="avro_schema", cure=cure) from None


def _incompatibilities(reader: _Schema, writer: _Schema) -> list[Incompatibility]:
    refuted: set[_Pair] = set()
    while True:
        # A record inside itself is held for readable until a pass has refuted it; what rested on that is then asked again.
        known = len(refuted)
        found = _Pass(reader, writer, refuted).differences(reader.root, writer.root)
        if len(refuted) == known:
            told = [d for d in found if d is not _AGAIN] or found[:1]
            return [Incompatibility("".join(d.path).removeprefix("."), d.kind, d.message) for d in told]


_KEPT_CHARACTERS_MAX = 1 << 16  # of a text whose tree stays in memory: a check of all versions reads the same ones again

_Document = Any
_Pair = tuple[str, str]
"""The full names of two records, the reader's and the writer's."""

_PROMOTIONS: Mapping[str, tuple[str, ...]] = {
    "long": ("int",),
    "float": ("int", "long"),
    "double": ("int", "long", "float"),
    "string": ("bytes",),
    "bytes": ("string",),
}


@dataclass(frozen=True)
class _Difference:
    """As Incompatibility; `path` in pieces, from where it is found."""

    path: tuple[str, ...]
    kind: Kind
    message: str

    def under(self, piece: str) -> _Difference:
        return self if self is _AGAIN else _Difference((piece, *self.path), self.kind, self.message)


_AGAIN = _Difference((), "TYPE_MISMATCH", "a record inside itself cannot be read")


@dataclass(frozen=True, eq=False)
class _Schema:
    root: _Document
    named: Mapping[str, _Document]

    def __getitem__(self, document: _Document) -> _Document:
        """The type itself, where a name stands for it."""
        return self.named.get(document, document) if isinstance(document, str) else document


def _read(text: str) -> _Schema:
    return _kept(text) if len(text) <= _KEPT_CHARACTERS_MAX else _parsed(text)


@lru_cache(maxsize=256)
def _kept(text: str) -> _Schema:
    return _parsed(text)


def _parsed(text: str) -> _Schema:
    root = json.loads(AvroText(text).canonical)  # in which every name is full
    return _Schema(root, dict(_definitions(root)))


def _definitions(document: _Document) -> Iterator[tuple[str, _Document]]:
    if isinstance(document, list):
        for branch in document:
            yield from _definitions(branch)
    elif isinstance(document, dict):
        match _kind(document):
            case "array":
                yield from _definitions(document["items"])
            case "map":
                yield from _definitions(document["values"])
            case "enum" | "fixed":
                yield document["name"], document
            case "record":
                yield document["name"], document
                for f in document["fields"]:
                    yield from _definitions(f["type"])


def _nameless(document: _Document) -> bool:
    """Whether it is a primitive, or a union of such: it says all that it is."""
    return document in PRIMITIVES if isinstance(document, str) else isinstance(document, list) and all(map(_nameless, document))


def _kind(document: _Document) -> str:
    """The kind of a type that no name stands for."""
    if isinstance(document, list):
        return "union"
    kind = document if isinstance(document, str) else document["type"]
    return "record" if kind == "error" else str(kind)


class _Pass:
    """One look at the two schemas, under the assumption that every pair of records that is not `refuted` is readable."""

    def __init__(self, reader: _Schema, writer: _Schema, refuted: set[_Pair]) -> None:
        self._reader, self._writer, self._refuted = reader, writer, refuted
        self._seen: dict[_Pair, list[_Difference]] = {}

    def differences(self, reader: _Document, writer: _Document) -> list[_Difference]:
        if reader == writer and _nameless(reader):
            return []
        reader, writer = self._reader[reader], self._writer[writer]
        kind, wrote = _kind(reader), _kind(writer)
        if wrote == "union":
            return [d for branch in writer for d in self.differences(reader, branch)]
        if kind == "union":
            return self._of_union(reader, writer)
        if kind != wrote:
            if wrote in _PROMOTIONS.get(kind, ()):
                return []
            return [_Difference((), "TYPE_MISMATCH", f"the writer's {_said(writer)} cannot be read as {_said(reader)}")]
        match kind:
            case "record":
                return self._of_records(reader, writer)
            case "array":
                return [d.under("[]") for d in self.differences(reader["items"], writer["items"])]
            case "map":
                return [d.under("{}") for d in self.differences(reader["values"], writer["values"])]
            case "enum":
                return [*_of_names(reader, writer), *_of_symbols(reader, writer)]
            case "fixed":
                return [*_of_names(reader, writer), *_of_sizes(reader, writer), *_of_decimals(reader, writer)]
            case "bytes":
                return list(_of_decimals(reader, writer))
        return []

    def _of_union(self, reader: list[_Document], writer: _Document) -> list[_Difference]:
        """Where no branch reads it, why: that of the one branch of its kind and name, where there is just one."""
        tried = [(self._reader[branch], self.differences(branch, writer)) for branch in reader]
        if any(not found for _, found in tried):
            return []
        like = [found for branch, found in tried if _kind(branch) == _kind(writer) and not any(d.kind == "NAME_MISMATCH" for d in found)]
        if len(like) == 1:
            return like[0]
        said = ", ".join(_said(self._reader[branch]) for branch in reader)
        return [_Difference((), "MISSING_UNION_BRANCH", f"the writer's {_said(writer)} is none of the union of {said}")]

    def _of_records(self, reader: _Document, writer: _Document) -> list[_Difference]:
        pair = (reader["name"], writer["name"])
        if pair in self._seen:
            told = (d for d in self._seen[pair] if d is not _AGAIN)
            return [next(told, _AGAIN)] if self._seen[pair] or pair in self._refuted else []
        if mismatch := list(_of_names(reader, writer)):
            return mismatch
        self._seen[pair] = []
        found = self._seen[pair] = list(self._of_fields(reader, writer))
        if found:
            self._refuted.add(pair)
            if all(d is _AGAIN for d in found):  # the reason is one that stands around it here, and elsewhere is to be told
                del self._seen[pair]
        return found

    def _of_fields(self, reader: _Document, writer: _Document) -> Iterator[_Difference]:
        wrote = {f["name"]: f for f in writer["fields"]}
        for f in reader["fields"]:
            was = next((wrote[name] for name in (f["name"], *f.get("aliases", ())) if name in wrote), None)
            if was is not None:
                yield from (d.under(f".{f['name']}") for d in self.differences(f["type"], was["type"]))
            elif "default" not in f:
                message = "the reader has no default for it, and the writer does not write it"
                yield _Difference((f".{f['name']}",), "READER_FIELD_MISSING_DEFAULT_VALUE", message)


def _of_names(reader: _Document, writer: _Document) -> Iterator[_Difference]:
    """Of a record, an enum or a fixed: the last part of the names counts, or an alias that the reader gives."""
    if _last(reader["name"]) != _last(writer["name"]) and writer["name"] not in reader.get("aliases", ()):
        message = f"the writer's {_said(writer)} is not {_said(reader)}, and no alias of that"
        yield _Difference((), "NAME_MISMATCH", message)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _of_symbols(reader: _Document, writer: _Document) -> Iterator[_Difference]:
    missing = [s for s in writer["symbols"] if s not in reader["symbols"]]
    if missing and "default" not in reader:
        message = f"the reader's enum has no {', '.join(missing)} and no default for them"
        yield _Difference((), "MISSING_ENUM_SYMBOLS", message)


def _of_sizes(reader: _Document, writer: _Document) -> Iterator[_Difference]:
    if reader["size"] != writer["size"]:
        message = f"the writer's has {writer['size']} bytes, the reader's {reader['size']}"
        yield _Difference((), "FIXED_SIZE_MISMATCH", message)


def _of_decimals(reader: _Document, writer: _Document) -> Iterator[_Difference]:
    """Two decimals match where precision and scale are equal; where one of the two is none, the bytes are read as they are."""
    one, other = _decimal(reader), _decimal(writer)
    if one and other and one != other:
        yield _Difference((), "TYPE_MISMATCH", f"the writer's decimal{other} cannot be read as decimal{one}: the digits would move")


def _decimal(document: _Document) -> tuple[int, int] | None:
    """Precision and scale; a logical type that does not hold together is ignored, as the specification demands."""
    if isinstance(document, str) or document.get("logicalType") != "decimal":
        return None
    precision, scale = document.get("precision"), document.get("scale", 0)
    sound = isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision and precision > 0
    return (precision, scale) if sound else None


def _said(document: _Document) -> str:
    kind = _kind(document)
    return f"{kind} {document['name']}" if kind in ("record", "enum", "fixed") else kind
