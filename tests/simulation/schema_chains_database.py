"""A scripted database whose tables change: every version of a schema with its place in the log, and what each change makes of the rows.

A change does what Postgres does: an added column is null, a constant, or a value of each row's own in the rows that there are, of
which no event tells; a column keeps its id through every rename and change of type; one that was dropped never gets it back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type
from millstream.testing.scripted_source import Change, Key, Row, ScriptedDatabase

INT, LONG, TEXT, PRICE = Type("int32"), Type("int64"), Type("text"), Type("decimal", 6, 2)
FIRST: dict[str, RowSchema] = {
    "public.movie": RowSchema(
        (
            Field("id", LONG, 1, nullable=False),
            Field("title", TEXT, 2),
            Field("year", INT, 3),
            Field("director", LONG, 4),
            Field("price", PRICE, 5),
        ),
        ("id",),
    ),
    "public.person": RowSchema((Field("id", LONG, 1, nullable=False), Field("name", TEXT, 2), Field("born", INT, 3)), ("id",)),
    "public.credit": RowSchema(
        (Field("id", LONG, 1, nullable=False), Field("movie", LONG, 2), Field("role", TEXT, 3), Field("place", INT, 4)), ("id",)
    ),
}
NAMES = ("note", "mark", "shade", "rank", "grade")
WIDE, WIDEST = Type("decimal", 9, 2), Type("decimal", 12, 2)
WIDER = {INT: (LONG, Type("decimal", 14, 2)), PRICE: (WIDE, Type("decimal", 9, 3)), WIDE: (WIDEST,)}
NARROWER = {LONG: INT, WIDE: PRICE, WIDEST: WIDE}


Convert = Callable[[Row], Row]


@dataclass
class ChangingDatabase(ScriptedDatabase):
    """`converts` are, of each entry of `altered`, what makes a row of the schema before into one of that. A column may get the name of
    one that was dropped or renamed."""

    converts: list[Convert] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._free = {t: max(f.id for f in s.fields) + 1 for t, s in self.tables.items()}

    def history(self, table: str) -> list[RowSchema]:
        """Every schema that the table has had."""
        return [self._first[table], *(s for _, t, s in self.altered if t == table)]

    def rows(self, table: str, entries: int | None = None) -> dict[Key, Row]:
        until = len(self.log) if entries is None else entries
        pending = [(at, convert) for (at, t, _), convert in zip(self.altered, self.converts, strict=True) if t == table]
        rows: dict[Key, Row] = {}
        for at, entry in enumerate([*self.log[:until], ""]):
            while pending and pending[0][0] <= at:
                _, convert = pending.pop(0)
                rows = {k: convert(r) for k, r in rows.items()}
            for c in entry if isinstance(entry, list) else ():
                if c.table == table:
                    key = tuple((c.after or c.before or {})[k] for k in self.tables[table].key)
                    rows.pop(key, None)
                    if c.after is not None:
                        rows[key] = c.after
        return rows

    def turn(self, table: str, schema: RowSchema, convert: Convert) -> None:
        self.converts.append(convert)
        self.alter(table, schema)

    def write(self, table: str, count: int = 1) -> None:
        """One transaction on the table."""
        rows, schema, changes, rng = dict(self.rows(table)), self.tables[table], list[Change](), self.rng
        for _ in range(count):
            key = rng.randrange(6)
            before = rows.get((key,))
            if before is not None and rng.random() < 0.25:
                changes.append(Change(table, before, None))
                del rows[key,]
                continue
            kept = before is not None and rng.random() < 0.5  # an update of one column
            new = {f.name: key if f.name in schema.key else value(rng, f) for f in schema.fields}
            one = rng.choice([f.name for f in schema.fields if f.name not in schema.key])
            after = {**before, one: new[one]} if kept and before is not None else new
            rows[key,] = after
            changes.append(Change(table, before, after))
        self.commit(*changes)

    # ---- the changes of schemas

    def change(self, table: str) -> str:
        """One, by chance; gives its kind."""
        free = [f for f in self.tables[table].fields if f.name not in self.tables[table].key]
        kinds = ["add", "add", "add", "rename", "widen", "narrow", "retype", "reorder", "null", "doc"] + ["drop", "drop"] * (len(free) > 2)
        while True:
            kind = self.rng.choice(kinds)
            if getattr(self, f"_{kind}")(table, self.rng.choice(free)):
                return kind

    def _put(self, table: str, was: Field, now: Field, convert: Callable[[Any], Any] = lambda v: v) -> bool:
        schema = self.tables[table]
        if now.name != was.name and now.name in schema.names:
            return False
        fields = tuple(now if f.id == was.id else f for f in schema.fields)

        def made(row: Row) -> Row:
            return {(now.name if n == was.name else n): convert(v) if n == was.name and v is not None else v for n, v in row.items()}

        self.turn(table, RowSchema(fields, schema.key), made)
        return True

    def _add(self, table: str, _: Field) -> bool:
        schema, rng = self.tables[table], self.rng
        name = self._name(table)
        if name in schema.names:
            return False
        new = Field(name, rng.choice([INT, TEXT, PRICE]), self._free[table])
        new = replace(new, fill=rng.choice([None, Constant(str(value(rng, new, False))), UNKNOWN]))
        self._free[table] += 1
        constant = None if not isinstance(new.fill, Constant) else read(new.fill.text, new.type)

        def made(row: Row) -> Row:
            own = value(random.Random(repr(row[schema.key[0]])), new, False)
            return {**row, name: own if new.fill is UNKNOWN else constant}

        self.turn(table, RowSchema((*schema.fields, new), schema.key), made)
        return True

    def _drop(self, table: str, gone: Field) -> bool:
        schema = self.tables[table]
        left = tuple(f for f in schema.fields if f != gone)
        self.turn(table, RowSchema(left, schema.key), lambda row: {n: v for n, v in row.items() if n != gone.name})
        return True

    def _rename(self, table: str, one: Field) -> bool:
        return self._put(table, one, replace(one, name=self._name(table)))

    def _name(self, table: str) -> str:
        had = sorted({f.name for a in self.history(table) for f in a.fields})
        fresh = [f"{n}{i}" for n in NAMES for i in range(9) if f"{n}{i}" not in had]
        return self.rng.choice([*fresh[:3], *had])

    def _widen(self, table: str, one: Field) -> bool:
        wider = self.rng.choice(WIDER.get(one.type, (None,)))
        return wider is not None and self._put(table, one, replace(one, type=wider), lambda v: convert(v, wider))

    def _narrow(self, table: str, one: Field) -> bool:
        narrower = NARROWER.get(one.type)
        return narrower is not None and self._put(table, one, replace(one, type=narrower), lambda v: convert(v, narrower))

    def _retype(self, table: str, one: Field) -> bool:
        if one.type not in (INT, LONG) or self.rng.random() < 0.5:
            return False
        return self._put(table, one, replace(one, type=TEXT, fill=UNKNOWN), lambda v: convert(v, TEXT))

    def _reorder(self, table: str, one: Field) -> bool:
        schema = self.tables[table]
        fields = self.rng.sample(schema.fields, len(schema.fields))
        self.turn(table, RowSchema(tuple(fields), schema.key), dict)
        return True

    def _null(self, table: str, one: Field) -> bool:
        rows = self.rows(table).values()
        if one.nullable and any(r[one.name] is None for r in rows):
            return False
        return self._put(table, one, replace(one, nullable=not one.nullable))

    def _doc(self, table: str, one: Field) -> bool:
        return self._put(table, one, replace(one, doc=f"{one.doc}!"))


def value(rng: random.Random, of: Field, null: bool = True) -> Any:
    if null and of.nullable and rng.random() < 0.2:
        return None
    match of.type.kind:
        case "text":
            return rng.choice(["a", "b", "c", "7"])
        case "decimal":
            return Decimal(rng.randrange(100, 999)) / 100
    return rng.randrange(6)


def read(text: str, type_: Type) -> Any:
    return {"text": str, "decimal": Decimal}.get(type_.kind, int)(text)


def convert(given: Any, type_: Type) -> Any:
    """A value in another type, by Python's own means; None where it is none of that type."""
    try:
        return None if given is None else {"text": str, "decimal": Decimal}.get(type_.kind, int)(given)
    except (ValueError, ArithmeticError):
        return None


def holds(wide: Type, narrow: Type) -> bool:
    """Whether a type that these tables have holds every value of another."""
    if "text" in (wide.kind, narrow.kind) or wide.kind in ("list", "record"):
        return wide == narrow
    before, after = (
        {"int32": (9, 0), "int64": (18, 0)}.get(t.kind) or ((t.precision or 0) - (t.scale or 0), t.scale or 0) for t in (wide, narrow)
    )
    return before[0] >= after[0] and before[1] >= after[1]
