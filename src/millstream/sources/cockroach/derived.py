"""Derived tables: a table's rows for which a condition holds, of the columns that are selected, as a topic of their own.

The same condition and projection are always applied here, to both images of each event, whatever the server has left out before:
a row that comes in is a create, one that leaves is a delete. What the server can leave out exactly so, it is asked to leave out
(`Derived.pushes`): that saves bytes and changes nothing that is told. What follows from it is in docs/how-to/derive-tables.md.
Reference: CockroachDB 23.1 to 26.1, "Change Data Capture Queries"; recordings 08 and 16.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import Irrecoverable, MillstreamError, Refused
from millstream.events.batch import HOLES, Batch, batch
from millstream.events.types import RowSchema, Type
from millstream.sources import filtering, filters
from millstream.sources.cockroach.describe import Shape
from millstream.sources.cockroach.described import Described
from millstream.sources.cockroach.options import DerivedTable
from millstream.sources.cockroach.types import type_of
from millstream.sources.filtering import Cells
from millstream.sources.filters import Condition
from millstream.sources.names import TableName, quoted
from millstream.sources.octets import Mask

QUERIES_FROM = (23, 1)
"""The first version whose CDC queries see the row before as `cdc_prev`."""
OUTSIDE, OUTBOX = "outside the filter", "deletes of an outbox"
"""Words of `Delivery.dropped`."""
_PLAIN_TEXT = ("STRING", "TEXT", "VARCHAR")
_SAME_IN_BOTH = frozenset(("boolean", "int32", "int64", "decimal", "numeric", "uuid"))


class Stopped(Exception):
    """A derived table cannot be told from here on, and why."""

    def __init__(self, written: str, why: MillstreamError) -> None:
        super().__init__(str(why))
        self.written, self.why = written, why

    @property
    def refused(self) -> Refused:
        """Where nothing was told of it yet."""
        return Refused(self.why.message, code=self.why.code, where=self.why.where, cure=self.why.cure)


@dataclass(frozen=True)
class Derived:
    """How the table `written` comes from its base; without `select` all columns, without `condition` all rows: then it is the base."""

    written: str
    where: str
    select: tuple[str, ...] | None = None
    condition: Condition | None = None
    outbox: bool = False
    said: str = ""
    """What makes it another one: goes with the position. "" of a table under its own name."""

    @property
    def is_whole(self) -> bool:
        return self.select is None and self.condition is None

    @property
    def is_derived(self) -> bool:
        return self.outbox or not self.is_whole

    # ---- its columns

    def described(self, whole: Described) -> Described:
        """The table as its feed is decoded: the columns that are told, then those that the condition reads alone. Raises Stopped."""
        if self.is_whole:
            return whole
        by_name = {c.name: c for c in whole.columns}
        if missing := [n for n in (*(self.select or ()), *filters.columns_of(self.condition)) if n not in by_name]:
            raise self.stopped(f"{', '.join(missing)} is no column of the table any more, or has another name")
        try:
            if self.condition is not None:
                filtering.fits(self.condition, whole.schema, lambda _: True)
        except ValueError as error:
            raise self.stopped(f"its condition does not fit the table: {error}") from None
        if self.select is None:
            return whole
        told = self._told(whole.schema)
        read = [*told, *(n for n in filters.columns_of(self.condition) if n not in told)]
        return replace(whole, columns=tuple(by_name[n] for n in read), projected=True)

    def schema(self, schema: RowSchema) -> RowSchema:
        """What is told, of what `described` has."""
        return schema if self.select is None else RowSchema(tuple(schema[n] for n in self._told(schema)), schema.key)

    def reads(self, name: str, key: tuple[str, ...]) -> bool:
        """Whether a column is read for it."""
        return self.select is None or name in self.select or name in key or name in filters.columns_of(self.condition)

    def _told(self, schema: RowSchema) -> list[str]:
        assert self.select is not None
        return [*(k for k in schema.key if k not in self.select), *self.select]

    def compared(self, schema: RowSchema) -> dict[str, str]:
        """The types with which the condition was read: with others it may have held for other rows."""
        return {name: str(schema[name].type) for name in filters.columns_of(self.condition)}

    def changed(self, names: list[str]) -> Stopped:
        return self.stopped(f"{', '.join(names)}, which its condition reads, has another type now: which rows were told is not known")

    def another_key(self) -> Stopped:
        return self.stopped("the key of its table has changed")

    def stopped(self, why: str) -> Stopped:
        """For this reason, with the cure."""
        cure = (
            "the other tables of the source go on. For this one write `select` and `where` anew under another name (`as`): "
            "it gets a topic and a load of its own"
        )
        where = f"{self.where} {self.written}"
        return Stopped(self.written, Irrecoverable(f"{self.written}: {why}", code="derived_table", where=where, cure=cure))

    # ---- what the server does

    def pushes(self, shape: Shape, version: tuple[int, int]) -> str | None:
        """None where the server may filter; else why it does not."""
        if self.is_whole:
            return "there is nothing to leave out"
        if version < QUERIES_FROM:
            return (
                f"the server is {version[0]}.{version[1]}, CDC queries that see the row before are of {QUERIES_FROM[0]}.{QUERIES_FROM[1]}"
            )
        if self.select is None and any(c.computed == "virtual" for c in shape.columns):
            return "the table has virtual columns, and all columns are asked for"
        return self._unlike(shape)

    def _unlike(self, shape: Shape) -> str | None:
        """Why the condition may not mean the same to the server."""
        columns = {c.name: c for c in shape.told}
        schema_types = {name: (c.sql_type, type_of(c.sql_type)) for name, c in columns.items()}
        for leaf in filters.leaves(self.condition) if self.condition is not None else ():
            sql_type, type_ = schema_types.get(leaf.column, ("", Type("text")))
            if isinstance(leaf, filters.IsNull):
                if type_.kind == "json":
                    return f"{leaf.column} is {sql_type}, whose null need not be NULL"
                # A text may stand for any type: of a composite one whose fields are all NULL, the server says that it IS NULL.
                if type_.kind == "text" and not is_plain_text(sql_type):
                    return f"{leaf.column} is {sql_type}, of which the server may say otherwise what is NULL"
            elif type_.kind not in _SAME_IN_BOTH and not is_plain_text(sql_type):
                return f"{leaf.column} is {sql_type}, which the server may compare otherwise"
        return None

    def query(self, name: TableName, shape: Shape) -> str:
        """SELECT … of a changefeed."""
        key = tuple(c.name for c in shape.told if c.number in shape.key_numbers)
        if self.select is None:
            items = ", ".join(["*", *(quoted(c.name) for c in shape.told if c.hidden)])
        else:
            items = ", ".join(quoted(c.name) for c in shape.told if self.reads(c.name, key))
        where = ""
        if self.condition is not None:
            now, before = filters.sql(self.condition, quoted), filters.sql(self.condition, lambda n: f"(cdc_prev).{quoted(n)}")
            where = f" WHERE ({now}) OR ({before})"
        return f"SELECT {items} FROM {name.quoted}{where}"

    def within(self, shape: Shape) -> list[str]:
        """Conditions that rows which are read must fulfil, as far as the server compares as we do."""
        return [f"({filters.sql(self.condition, quoted)})"] if self.condition is not None and self._unlike(shape) is None else []

    def told(self, shape: Shape) -> Shape:
        """The table without the columns that are not told: what a person's condition may read."""
        if self.select is None:
            return shape
        return replace(shape, columns=tuple(c for c in shape.columns if c.name in (*self.select, *shape.key)))

    # ---- what is told

    def holds(self, rows: pa.RecordBatch | pa.StructArray, schema: RowSchema, holes: pa.Array | None, image: str) -> Mask:
        """Whether the condition is true, row by row. `holes` as `events.batch`."""
        count = len(rows)
        if self.condition is None:
            return np.ones(count, np.bool_)
        found = {} if holes is None or holes.null_count == count else filtering.holes_of(holes.to_pylist(), image)

        def cells(name: str) -> Cells:
            array = rows.column(name) if isinstance(rows, pa.RecordBatch) else pc.struct_field(rows, [schema.names.index(name)])
            return Cells(array, found.get(name, {}))

        return filtering.true(self.condition, schema, cells, count)

    def projected(self, rows: pa.RecordBatch, schema: RowSchema) -> pa.RecordBatch:
        told = self.schema(schema)
        return rows if told is schema else rows.select(list(told.names))

    def holes(self, holes: pa.Array | None, schema: RowSchema) -> pa.Array | None:
        """Those of the columns that are told."""
        if holes is None or self.select is None or holes.null_count == len(holes):
            return None if holes is None or holes.null_count == len(holes) else holes
        names = set(self.schema(schema).names)
        return pa.array([[h for h in said or () if h["field"] in names] or None for said in holes.to_pylist()], HOLES)

    def tell(self, given: Batch) -> tuple[Batch | None, Mapping[str, int]]:
        """The events of it among those of its base, and how many were left out, by words."""
        if self.is_whole and not self.outbox:
            return given, {}
        after, before, holes = given.column("after"), given.column("before"), given.column("holes")
        is_in = self.holds(after, given.schema, holes, "after") & ~_absent(after)
        was_in = self.holds(before, given.schema, holes, "before") & ~_absent(before)
        keep = is_in | was_in
        dropped = {OUTSIDE: int((~keep).sum())}
        if self.outbox:
            dropped[OUTBOX] = int((keep & ~is_in).sum())
            keep = is_in
        counted = {word: count for word, count in dropped.items() if count}
        if not keep.any():
            return None, counted
        is_in, was_in, kept = is_in[keep], was_in[keep], given.filter(keep)
        return self._turned(kept, is_in, was_in), counted

    def _turned(self, given: Batch, is_in: Mask, was_in: Mask) -> Batch:
        schema = self.schema(given.schema)
        op, after, before = given.column("op"), given.column("after"), given.column("before")
        updates = pc.equal(op, "u").to_numpy(zero_copy_only=False)
        came, left = updates & ~was_in, updates & ~is_in
        columns: dict[str, Any] = {name: given.column(name) for name in given.rows.schema.names}
        columns["op"] = pc.if_else(pa.array(came), "c", pc.if_else(pa.array(left), "d", op))
        columns["after"] = _image(after, given.schema, schema, _absent(after) | left)
        columns["before"] = _image(before, given.schema, schema, _absent(before) | came)
        if columns["holes"].null_count < len(given):
            gone = zip(
                columns["holes"].to_pylist(), columns["after"].is_null().to_pylist(), columns["before"].is_null().to_pylist(), strict=True
            )
            names = set(schema.names)
            columns["holes"] = pa.array(
                [
                    [h for h in said or () if h["field"] in names and not (no_after if h["image"] == "after" else no_before)] or None
                    for said, no_after, no_before in gone
                ],
                HOLES,
            )
        return batch(given.topic, schema, columns)


def derived(table: DerivedTable, where: str) -> Derived:
    condition = filters.parse(table.where) if table.where is not None else None
    is_plain = table.select is None and condition is None and table.name == table.table
    said = "" if is_plain else repr((table.table, table.select, condition))
    return Derived(table.name, f"source {where}", table.select, condition, table.outbox, said)


def refuse_others(tables: Mapping[str, Derived], begun: Mapping[str, str], written: Iterable[str], where: str) -> None:
    """What a topic was begun with it stays: its rows would be of two kinds. `begun`: what was `said` then, by name.

    Once nothing was said of whole tables under another name: those are judged by their ids alone.
    """
    old = {w: tables[w] for w in written if w in tables and not (w not in begun and tables[w].is_whole)}
    changed = {w: _differences(of.said, begun.get(w, "")) for w, of in old.items() if of.said != begun.get(w, "")}
    if changed:
        raise another("; ".join(f"{w} has another {', '.join(names)}" for w, names in changed.items()), where)


def another(said: str, where: str) -> Refused:
    cure = "give the new one another name (`as`): it gets a topic and a load of its own; or take the old definition back"
    return Refused(f"{said} than its topic was begun with", code="derived_changed", where=where, cure=cure)


def _differences(now: str, before: str) -> list[str]:
    """The options that differ. Of a table under its own name the other is known to be another by what it has beside that."""
    table, *rest = _options(now) if now else _options(before)
    was = _options(before) if now and before else [table, "None", "None"]
    found = [name for name, a, b in zip(("`select`", "`where`"), rest, was[1:], strict=True) if a != b]
    return [*([f"`table` ({table}, not {was[0]})"] if table != was[0] else []), *found] or ["`table`"]


def _options(said: str) -> list[str]:
    given = ast.parse(said, mode="eval").body
    assert isinstance(given, ast.Tuple)
    return [ast.unparse(option) for option in given.elts]


def checked(of: Derived, shape: Shape, whole: Described) -> None:
    """Raises Stopped where the table, as it is now, cannot be read so."""
    of.described(whole)
    ordered = {c.name: is_plain_text(c.sql_type) for c in shape.told}
    try:
        if of.condition is not None:
            filtering.fits(of.condition, whole.schema, lambda name: ordered[name])
    except ValueError as error:
        raise of.stopped(f"its condition does not fit the table: {error}") from None


def is_plain_text(sql_type: str) -> bool:
    """Whether it is text that is ordered by its bytes: no collation, no enum, no padding."""
    return sql_type.split("(")[0].strip().upper() in _PLAIN_TEXT and " COLLATE " not in sql_type.upper()


def _absent(image: pa.StructArray) -> Mask:
    found: Mask = pc.is_null(image).to_numpy(zero_copy_only=False)
    return found


def _image(image: pa.StructArray, schema: RowSchema, told: RowSchema, absent: Mask) -> pa.StructArray:
    children = [pc.struct_field(image, [schema.names.index(n)]) for n in told.names]
    return pa.StructArray.from_arrays(children, fields=list(told.arrow), mask=pa.array(absent))
