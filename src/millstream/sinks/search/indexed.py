"""Columns → what the index finds them by: words, terms, and beginnings for completion. Nested columns are flattened.

A flattened column is an array of values and, for each row, which of them are its: lists of lists become one run of values a row,
as a route goes through them (`queries/fields.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.events.types import Field, Type
from millstream.queries.fields import Names, json_value, treatment
from millstream.queries.treatment import Treatment
from millstream.queries.words import folded, words
from millstream.sinks.jsontext import joined, quoted
from millstream.sinks.search.keys import key
from millstream.sinks.search.layout import BEGINS
from millstream.sinks.search.terms import TEXT_BYTES_MAX, THERE, term, terms

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Indexed:
    """By member: JSON texts a row (null: nothing). `loose`, `texts`, `begins`: one a row."""

    words: dict[str, pa.Array]
    exact: dict[str, pa.Array]
    loose: list[dict[str, list[str]]]
    texts: list[list[str]]
    begins: list[list[str]]


@dataclass(frozen=True)
class _Flat:
    """Values of one leaf (or marks of one record). `offsets`: row r has those from offsets[r] to offsets[r + 1]; None: one a row."""

    names: Names
    type: Type
    values: pa.Array
    offsets: Offsets | None = field(default=None)

    def by_row(self) -> Iterator[tuple[int, Any]]:
        """(row, value) of each value that is there."""
        count, o = len(self.values), self.offsets
        rows: list[int] = list(range(count)) if o is None else np.repeat(np.arange(len(o) - 1), np.diff(o)).tolist()
        return ((row, value) for row, value in zip(rows, self.values.to_pylist(), strict=True) if value is not None)

    def json(self, texts: pa.Array) -> pa.Array:
        """JSON texts of the values as one JSON text a row: the text itself, or a list of those there are."""
        if self.offsets is None:
            return texts
        there = pc.is_valid(texts)
        offsets = np.concatenate([[0], np.cumsum(there.to_numpy(zero_copy_only=False))])[self.offsets]
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.drop_null())
        return pc.if_else(pa.array(np.diff(offsets) > 0), joined("[", pc.binary_join(lists, ","), "]"), None)


def indexed(fields: Sequence[Field], columns: Sequence[pa.Array], treatments: Mapping[str, Treatment], rows: int) -> Indexed:
    """What is found of these columns, as the treatments say."""
    made = Indexed({}, {}, [{} for _ in range(rows)], [[] for _ in range(rows)], [[] for _ in range(rows)])
    for f, column in zip(fields, columns, strict=True):
        for flat in _flattened(column, f.type, (f.name,), None):
            _leaf(made, flat, treatment(".".join(flat.names), flat.type, treatments))
    return made


def _flattened(column: pa.Array, type_: Type, names: Names, offsets: Offsets | None) -> Iterator[_Flat]:
    match type_.kind:
        case "list":
            assert type_.element is not None
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
            inner = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            yield from _flattened(column.flatten(), type_.element, names, inner if offsets is None else inner[offsets])
        case "record":
            yield _Flat(names, type_, pc.if_else(pc.is_valid(column), THERE, None), offsets)
            for member, child in zip(type_.fields, column.flatten(), strict=True):
                yield from _flattened(child, member.type, (*names, member.name), offsets)
        case _:
            yield _Flat(names, type_, column, offsets)


def _leaf(made: Indexed, flat: _Flat, how: Treatment) -> None:
    name, kind = key(flat.names), flat.type.kind
    if kind == "record":
        made.exact[name] = flat.json(joined('"', flat.values, '"'))
    elif kind == "json":
        _json(made, flat, how)
    elif how == "stored":
        made.exact[name] = flat.json(pc.if_else(pc.is_valid(flat.values), f'"{THERE}"', None))
    else:
        made.exact[name] = flat.json(joined('"', terms(flat.values, kind), '"'))
    if kind == "text" and how != "stored":
        for row, text in flat.by_row():
            if len(text) <= TEXT_BYTES_MAX:
                made.begins[row].append(f"{name}{BEGINS}{folded(text)}{BEGINS}{text}")
    if kind != "json" and how == "text":
        split = [None if t is None else " ".join(words(t)) for t in flat.values.to_pylist()]
        made.words[name] = flat.json(quoted(pa.array(split, pa.string())))
        for row, text in _Flat(flat.names, flat.type, pa.array(split, pa.string()), flat.offsets).by_row():
            made.texts[row].append(text)


# ---- json columns, row by row: each must be parsed to know what is in it


def _json(made: Indexed, flat: _Flat, how: Treatment) -> None:
    wordy: list[dict[str, list[str]]] = [{} for _ in made.texts]
    for row, text in flat.by_row():
        for inside, value in _inside(json_value(text), ()):
            name = key(flat.names, inside)
            found = _terms(value) if how != "stored" else [THERE]
            held = made.loose[row].setdefault(name, [])
            held += [t for t in found if t not in held] if len(found) + len(held) < 50 else found
            if isinstance(value, str) and how == "text":
                split = " ".join(words(value))
                wordy[row].setdefault(name, []).append(split)
                made.texts[row].append(split)
    for name in {n for row in wordy for n in row}:
        made.words[name] = pa.array([json.dumps(row[name]) if name in row else None for row in wordy], pa.string())


def _terms(value: Any) -> list[str]:
    if isinstance(value, bool):
        return [THERE, term("boolean", value)[0]]
    if isinstance(value, str):
        return [THERE, term("text", value)[0]]
    return [THERE] if isinstance(value, dict) else [THERE, term("number", value)[0]]


def _inside(value: Any, inside: Names) -> Iterator[tuple[Names, Any]]:
    """Every value that a route can lead to, and where it lies: objects too, lists gone through."""
    if isinstance(value, list):
        for element in value:
            yield from _inside(element, inside)
    elif value is not None:
        yield inside, value
        if isinstance(value, dict):
            for name, member in value.items():
                yield from _inside(member, (*inside, name))
