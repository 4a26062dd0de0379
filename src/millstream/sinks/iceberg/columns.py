"""The table's columns beside a row schema's: which belong together, and what must change when the schema does.

A field keeps the column that its id was given, under whatever name, and so do the members of records: `Assigned` (path of field
ids → Iceberg column id) is kept as a table property for that. A field that is new takes a column of its name that no field of ours
ever had, or gets one. A field that is dropped leaves its column behind, null from then on, for its past is part of the
changelog; where another field takes its name, that column is called NAME_dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.types import DecimalType, DoubleType, FloatType, IcebergType, IntegerType, ListType, LongType, NestedField, StructType

from millstream.errors import Refused
from millstream.events.types import Field, RowSchema, Type
from millstream.sinks.iceberg.render import META, Path, doc_of, iceberg_type

Assigned = Mapping[Path, int]
TablePath = tuple[str, ...]


def property_name(sink: str) -> str:
    return f"millstream.columns.{sink}"


def assigned(properties: Mapping[str, str], sink: str) -> Assigned:
    noted = json.loads(properties.get(property_name(sink), "{}"))
    return {tuple(map(int, ours.split("."))): theirs for ours, theirs in noted.items()}


def names_of(table: Schema, held: Assigned) -> dict[Path, str]:
    """What each path that was ever assigned is called in the table now; the ones that left it are not named."""
    return {ours: table.find_field(theirs).name for ours, theirs in held.items() if table.find_column_name(theirs)}


def first_schema() -> Schema:
    """A new table's columns: what Millstream says of an event. The row's own come with `accept`."""
    return Schema(*(NestedField(i, name, kind, required=False, doc=doc) for i, (name, (kind, doc)) in enumerate(META.items(), 1)))


def refuse_untakable(schema: RowSchema, where: str) -> None:
    """Raises Refused for a type Iceberg does not have, a column named as one of `META` is, or two of one dotted path."""
    for f in schema.fields:
        iceberg_type(f, where)
        if f.name in META:
            raise _name_taken(f"column {f.name!r} has the name of a column that every changelog table has", where)
    paths = list(_dotted(schema.fields, ""))
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise _name_taken(f"{twice!r} is the name of a column and the path of a member, and Iceberg cannot tell them apart", where)


def _dotted(fields: Iterable[Field], place: str) -> Iterator[str]:
    """Every column and member by Iceberg's own names for them."""

    def inside(type_: Type, path: str) -> Iterator[str]:
        if type_.element is not None:
            yield f"{path}.element"
            yield from inside(type_.element, f"{path}.element")
        yield from _dotted(type_.fields, f"{path}.")

    for f in fields:
        yield f"{place}{f.name}"
        yield from inside(f.type, f"{place}{f.name}")


def _name_taken(what: str, where: str) -> Refused:
    return Refused(what, code="column_name_taken", where=where, cure="give it another name in a pipeline step")


def evolve(transaction: Any, schema: RowSchema, sink: str, where: str) -> None:
    """Stage what makes the table take rows of `schema`: columns renamed, promoted, added and put in its order, and the assignment.

    None is dropped. Staged again for the same schema, it is nothing. Raises Refused("column_type_changed") where Iceberg cannot
    promote the type.
    """
    old = assigned(transaction.table_metadata.properties, sink)
    known = _Known(old, frozenset(old.values()), where)
    table: Schema = transaction.table_metadata.schema()
    with transaction.update_schema() as update:
        for name, (kind, _) in META.items():
            if (column := _find(table.fields, name)) is not None:
                _promote(update, column, (name,), kind, where)
        _adjust(update, known, table.fields, (), schema.fields, ())
    # A second step, because a name that was just given up may be given to a new column.
    table = transaction.table_metadata.schema()
    with transaction.update_schema() as update:
        for name, (kind, doc) in META.items():
            if _find(table.fields, name) is None:
                update.add_column((name,), kind, doc)
        _add(update, table.fields, (), schema.fields, where)
    table = transaction.table_metadata.schema()
    now = {**old, **dict(_assignment(table.fields, schema.fields, ()))}
    with transaction.update_schema() as update:
        _order(update, table.fields, (), [*(f.name for f in schema.fields), *META])
        for columns, place, fields in _levels(table.fields, (), schema.fields):
            _order(update, columns, place, [f.name for f in fields])
    if now != dict(old):
        transaction.set_properties({property_name(sink): json.dumps({".".join(map(str, k)): v for k, v in now.items()})})


@dataclass(frozen=True)
class _Known:
    """Which columns were assigned when the schema was taken that came before, and all of them together."""

    old: Assigned
    ours: frozenset[int]
    where: str

    def column(self, columns: Sequence[NestedField], f: Field, path: Path) -> NestedField | None:
        """The column that this field goes into; None where it needs a new one."""
        named = _find(columns, f.name)
        if named is not None and named.field_id not in self.ours:
            return named
        held = self.old.get(path)
        return next((c for c in columns if c.field_id == held), None)


def _adjust(update: Any, known: _Known, columns: Sequence[NestedField], place: TablePath, fields: Sequence[Field], path: Path) -> None:
    """One level: the columns at `place`, which take `fields`; and all levels inside. All under the names that the table has before."""
    found = [(f, known.column(columns, f, (*path, f.id))) for f in fields]
    used = {column.field_id for _, column in found if column is not None}
    wanted = [f.name for f in fields]
    for column in columns:
        if column.name in wanted and column.field_id not in used:  # of a field that was dropped: its name goes to another now
            update.rename_column((*place, column.name), _free(f"{column.name}_dropped", [*(c.name for c in columns), *wanted]))
    for f, column in found:
        if column is not None:
            if column.name != f.name:
                update.rename_column((*place, column.name), f.name)
            if f.doc and column.doc != f.doc:
                update.update_column((*place, column.name), doc=f.doc)
            _adjust_one(update, known, column, (*place, column.name), f, (*path, f.id))


def _free(name: str, taken: Sequence[str]) -> str:
    return next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def _adjust_one(update: Any, known: _Known, column: NestedField, place: TablePath, f: Field, path: Path) -> None:
    if column.required:
        update.make_column_optional(place)
    match column.field_type, f.type:
        case ListType() as held, Type("list", element=Type() as element):
            inner = held.element_field
            _adjust_one(update, known, inner, (*place, inner.name), Field(f.name, element, f.id), path)
        case StructType() as held, Type("record"):
            _adjust(update, known, held.fields, place, f.type.fields, path)
        case _:
            _promote(update, column, place, iceberg_type(f, known.where), known.where)


def _add(update: Any, columns: Sequence[NestedField], place: TablePath, fields: Sequence[Field], where: str) -> None:
    """The columns, and members inside those that are there, that the table lacks."""

    def inside(held: IcebergType, type_: Type, place: TablePath) -> None:
        if isinstance(held, ListType) and type_.element is not None:
            inside(held.element_type, type_.element, (*place, held.element_field.name))
        if isinstance(held, StructType):
            _add(update, held.fields, place, type_.fields, where)

    for f in fields:
        column = _find(columns, f.name)
        if column is None:
            update.add_column((*place, f.name), iceberg_type(f, where), doc_of(f))
        else:
            inside(column.field_type, f.type, (*place, f.name))


Level = tuple[Sequence[NestedField], TablePath, Sequence[Field]]


def _levels(columns: Sequence[NestedField], place: TablePath, fields: Sequence[Field]) -> Iterator[Level]:
    """The records inside these columns, at any depth, beside the members that go into them."""

    def inside(held: IcebergType, type_: Type, place: TablePath) -> Iterator[Level]:
        if isinstance(held, ListType) and type_.element is not None:
            yield from inside(held.element_type, type_.element, (*place, held.element_field.name))
        if isinstance(held, StructType):
            yield held.fields, place, type_.fields
            yield from _levels(held.fields, place, type_.fields)

    for f in fields:
        column = _find(columns, f.name)
        assert column is not None
        yield from inside(column.field_type, f.type, (*place, f.name))


def _order(update: Any, columns: Sequence[NestedField], place: TablePath, names: Sequence[str]) -> None:
    """Put the columns of these names in this order. Others keep their places: they may be another sink's."""
    if [c.name for c in columns if c.name in names] == list(names):
        return
    for before, name in pairwise(names):
        update.move_after((*place, name), (*place, before))


def _assignment(columns: Sequence[NestedField], fields: Sequence[Field], path: Path) -> Iterator[tuple[Path, int]]:
    def inside(held: IcebergType, type_: Type, path: Path) -> Iterator[tuple[Path, int]]:
        if isinstance(held, ListType) and type_.element is not None:
            yield from inside(held.element_type, type_.element, path)
        if isinstance(held, StructType):
            yield from _assignment(held.fields, type_.fields, path)

    for f in fields:
        column = _find(columns, f.name)
        assert column is not None
        yield (*path, f.id), column.field_id
        yield from inside(column.field_type, f.type, (*path, f.id))


def _find(columns: Sequence[NestedField], name: str) -> NestedField | None:
    return next((c for c in columns if c.name == name), None)


def _promote(update: Any, column: NestedField, place: TablePath, wanted: IcebergType, where: str) -> None:
    if column.required:
        update.make_column_optional(place)
    if column.field_type == wanted or _holds(column.field_type, wanted):
        return
    if not _holds(wanted, column.field_type):
        raise _clash(".".join(place), column.field_type, wanted, where)
    update.update_column(place, wanted)


def _holds(wide: IcebergType, narrow: IcebergType) -> bool:
    """Whether Iceberg promotes `narrow` to `wide`. Reference: Iceberg spec, format version 2, "Schema Evolution"."""
    if isinstance(wide, DecimalType) and isinstance(narrow, DecimalType):
        return bool(wide.scale == narrow.scale and wide.precision >= narrow.precision)
    return (type(narrow), type(wide)) in ((IntegerType, LongType), (FloatType, DoubleType))


def _clash(name: str, has: IcebergType, wanted: IcebergType, where: str) -> Refused:
    return Refused(
        f"column {name!r} is {has} in the table and would have to become {wanted}, which Iceberg cannot do without rewriting it",
        code="column_type_changed",
        where=where,
        cure=f"CAST it to {has} in a pipeline step, give it another name there, drop the table's column (its values stay in earlier "
        "snapshots), or write to another table",
    )
