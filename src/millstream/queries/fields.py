"""What can be asked of a document: its columns, nested ones too, how each is found, and what a name in a query means.

A route goes from a document (or from one element of a list, inside ANY) to values. Lists on the way are gone
through, so it may lead to many values; columns of kind json are gone into by the names that follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any

from millstream.events.types import Field, Type
from millstream.queries.mistakes import mistake, nearest
from millstream.queries.treatment import Treatment
from millstream.queries.tree import Path
from millstream.queries.values import number

Names = tuple[str, ...]

ELEMENT = "value"
"""What an element of a list of plain values is called inside ANY."""
JSON_DEPTH_MAX = 100
WORDY = ("text", "json", "uuid", "numeric")


@dataclass(frozen=True)
class Route:
    """`base`: the list whose element this starts at, () for the document. `names`: from there on. `inside`: into a json column.

    `kind` is that of the values; "record" leads to records. `deep`: all that lies below in a json column.
    """

    names: Names
    kind: str
    base: Names = ()
    inside: Names = ()
    deep: bool = False

    @property
    def whole(self) -> Names:
        """From the document on, without what lies inside a json column."""
        return self.base + self.names

    def values(self, scope: Any) -> Iterator[Any]:
        """The values that it leads to, never None: JSON's own, those of a json column with exact numbers."""
        found = at_end_of(scope, self.names)
        if self.kind != "json":
            return found
        parsed = (value for text in found for value in at_end_of(json_value(text), self.inside))
        return (v for top in parsed for v in everything(top)) if self.deep else parsed


def at_end_of(value: Any, names: Names) -> Iterator[Any]:
    """What lies at the end of the names, lists gone through; never None."""
    if value is None:
        return
    if isinstance(value, list):
        for element in value:
            yield from at_end_of(element, names)
    elif not names:
        yield value
    elif isinstance(value, dict):
        yield from at_end_of(value.get(names[0]), names[1:])


def everything(value: Any) -> Iterator[Any]:
    """Every plain value in a value of JSON."""
    if isinstance(value, dict):
        for member in value.values():
            yield from everything(member)
    elif isinstance(value, list):
        for element in value:
            yield from everything(element)
    elif value is not None:
        yield value


def json_value(text: str) -> Any:
    """The value of a json column; text that is no JSON, or too deep, is itself. Numbers are exact, those out of reach None."""
    try:
        value = json.loads(text, parse_float=number, parse_int=_whole, parse_constant=_nothing)
    except (ValueError, RecursionError):
        return text
    deep = text.count("[") + text.count("{") > JSON_DEPTH_MAX and _depth(value) > JSON_DEPTH_MAX
    return text if deep else value


def _whole(text: str) -> int | Decimal | None:
    return int(text) if len(text) < 19 else number(text)


def _nothing(text: str) -> None:
    raise ValueError(text)


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level = [m for v in level for m in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())]
        depth += 1
    return depth


@dataclass(frozen=True)
class Leaf:
    """A column, or a member of one, that holds plain values. `listed`: a document may hold many."""

    names: Names
    type: Type
    listed: bool


@dataclass(frozen=True)
class Fields:
    """The columns of an index's documents. `treatments`: dotted name → how it is found, where the definition says so."""

    columns: Mapping[str, Type]
    treatments: Mapping[str, Treatment] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(leaf for name, type_ in self.columns.items() for leaf in _leaves((name,), type_, False))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every name that can be asked for, dotted."""
        return tuple(".".join(leaf.names) for leaf in self.leaves)

    def treatment(self, names: Names, type_: Type) -> Treatment:
        return treatment(".".join(names), type_, self.treatments)

    def texts(self, under: Names = (), base: Names = ()) -> tuple[Route, ...]:
        """The routes, from `base`, to every text below `under` that is found by words."""
        return tuple(
            Route(leaf.names[len(base) :], "json" if leaf.type.kind == "json" else "text", base, deep=leaf.type.kind == "json")
            for leaf in self.leaves
            if leaf.names[: len(under)] == under and self.treatment(leaf.names, leaf.type) == "text"
        )


def treatment(name: str, type_: Type, given: Mapping[str, Treatment]) -> Treatment:
    """How a column is found: as given for it or for what it is a member of, text only where it can be; by default text and
    json by words, bytes not at all."""
    parts = name.split(".")
    said = next((given[n] for n in (".".join(parts[:k]) for k in range(len(parts), 0, -1)) if n in given), None)
    if said is not None:
        return "exact" if said == "text" and type_.kind not in WORDY else said
    return {"text": "text", "json": "text", "bytes": "stored"}.get(type_.kind, "exact")  # type: ignore[return-value]


def _leaves(names: Names, type_: Type, listed: bool) -> Iterator[Leaf]:
    if type_.kind == "list":
        assert type_.element is not None
        yield from _leaves(names, type_.element, True)
    elif type_.kind == "record":
        for member in type_.fields:
            yield from _leaves((*names, member.name), member.type, listed)
    else:
        yield Leaf(names, type_, listed)


@dataclass(frozen=True)
class Scope:
    """Where names in a query begin: the document, or an element of the list at `base`."""

    fields: Fields
    members: Mapping[str, Type]
    base: Names = ()
    element: Type | None = None

    @classmethod
    def of(cls, fields: Fields) -> Scope:
        return cls(fields, fields.columns)

    def resolved(self, path: Path, query: str) -> tuple[Route, Type, bool]:
        """The route, the type at its end (elements', where that is a list), and whether a list lies on it.

        Raises Refused("unknown_column") with the nearest names.
        """
        if self.element is not None and path.parts == (ELEMENT,):
            return Route((), self.element.kind, self.base), self.element, False
        members, parts, listed = self.members, path.parts, False
        names: Names = ()
        while True:
            taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in members), 0)
            if not taken:
                raise self._unknown(path, query)
            name = ".".join(parts[:taken])
            names, parts, type_ = (*names, name), parts[taken:], members[name]
            while type_.kind == "list":
                assert type_.element is not None
                type_, listed = type_.element, True
            if type_.kind == "json":
                return Route(names, "json", self.base, inside=parts), type_, True
            if not parts:
                return Route(names, type_.kind, self.base), type_, listed
            members = _members(type_.fields)

    def within(self, route: Route, type_: Type) -> Scope:
        """The scope of ANY over this route."""
        return Scope(self.fields, _members(type_.fields), route.whole, None if type_.kind == "record" else type_)

    def _unknown(self, path: Path, query: str) -> Exception:
        if self.element is not None:
            known = [ELEMENT]
        else:
            depth = len(self.base)
            known = [".".join(leaf.names[depth:]) for leaf in self.fields.leaves if leaf.names[:depth] == self.base]
        what = f"an element of {'.'.join(self.base)}" if self.base else "the index"
        return mistake(
            f"{what} has no field {str(path)!r}",
            query,
            path.at,
            code="unknown_column",
            cure=f"one of: {nearest(str(path), known)}; or put quotes round it if it is not meant as a field",
        )


def _members(fields: tuple[Field, ...]) -> dict[str, Type]:
    return {f.name: f.type for f in fields}
