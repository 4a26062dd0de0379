"""The table's columns beside a row schema's: which belong together, and what must change when the schema does.

A field's column is the one of its name; failing that, the one that its id had under a name that is gone: a rename. So are the
members of records in it. `Assigned` (path of field ids → Iceberg column id) is kept as a table property for that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.types import DecimalType, DoubleType, FloatType, IcebergType, IntegerType, ListType, LongType, NestedField, StructType

from millstream.errors import Refused
from millstream.events.types import Field, RowSchema, Type
from millstream.sinks.iceberg.render import DOCS, META, Path, iceberg_type

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
    """Stage what makes the table take rows of `schema`: columns added, renamed or promoted, and the assignment. None is dropped.

    Raises Refused("column_type_changed") where Iceberg cannot promote the type.
    """
    old = assigned(transaction.table_metadata.properties, sink)
    table: Schema = transaction.table_metadata.schema()
    with transaction.update_schema() as update:
        for name, (kind, _) in META.items():
            if (column := _find(table.fields, name)) is not None:
                _promote(update, column, (name,), kind, where)
        _adjust(_Change(update, table, old, where), table.fields, (), schema.fields, ())
    # A second step, because a name that was just given up may be given to a new column.
    table = transaction.table_metadata.schema()
    new = [f.name for f in schema.fields if _find(table.fields, f.name) is None]
    with transaction.update_schema() as update:
        for name, (kind, doc) in META.items():
            if _find(table.fields, name) is None:
                update.add_column((name,), kind, doc)
        _add(update, table.fields, (), schema.fields, where)
        for name in META if new else ():
            update.move_after((name,), new[-1])
            new.append(name)
    table = transaction.table_metadata.schema()
    now = {**old, **dict(_assignment(table.fields, schema.fields, ()))}
    if now != dict(old):
        transaction.set_properties({property_name(sink): json.dumps({".".join(map(str, k)): v for k, v in now.items()})})


@dataclass(frozen=True)
class _Change:
    """What is being staged: renames and promotions, all under the names that the table has before."""

    update: Any
    table: Schema
    old: Assigned
    where: str


def _adjust(change: _Change, columns: Sequence[NestedField], place: TablePath, fields: Sequence[Field], path: Path) -> None:
    """One level: the columns at `place`, which take `fields`; and all levels inside."""
    renamed = _renames(change, columns, fields, path)
    for name, column in renamed.items():
        change.update.rename_column((*place, column.name), name)
    for f in fields:
        column = renamed.get(f.name) or _find(columns, f.name)
        if column is not None:
            _adjust_one(change, column, (*place, column.name), f, (*path, f.id))


def _adjust_one(change: _Change, column: NestedField, place: TablePath, f: Field, path: Path) -> None:
    match column.field_type, f.type:
        case ListType() as held, Type("list", element=Type() as element):
            _adjust_one(change, held.element_field, (*place, held.element_field.name), Field(f.name, element, f.id), path)
        case StructType() as held, Type("record"):
            _adjust(change, held.fields, place, f.type.fields, path)
        case _:
            _promote(change.update, column, place, iceberg_type(f, change.where), change.where)
            return
    if column.required:
        change.update.make_column_optional(place)


def _renames(change: _Change, columns: Sequence[NestedField], fields: Sequence[Field], path: Path) -> dict[str, NestedField]:
    """New name → the column that gets it: of the same id, its old name no longer used and the new one not yet there."""
    found = {}
    names = {f.name for f in fields}
    for f in fields:
        held = change.old.get((*path, f.id))
        was = next((c for c in columns if c.field_id == held), None)
        if was is not None and was.name not in names and _find(columns, f.name) is None:
            found[f.name] = was
    return found


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
            update.add_column((*place, f.name), iceberg_type(f, where), DOCS.get(f.type.kind))
        else:
            inside(column.field_type, f.type, (*place, f.name))


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
        cure=f"CAST it to {has} in a pipeline step, give it another name there, rename the table's column, or write to another table",
    )
