"""The table's columns beside a row schema's: which belong together, and what must change when the schema does.

A field's column is the one of its name; failing that, the one that its id had under a name that is gone: a rename.
`Assigned` (field id → Iceberg column id) is kept as a table property for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.types import DecimalType, DoubleType, FloatType, IcebergType, IntegerType, LongType, NestedField

from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.sinks.iceberg.render import DOCS, META, iceberg_type

Assigned = Mapping[int, int]


def property_name(sink: str) -> str:
    return f"millstream.columns.{sink}"


def assigned(properties: Mapping[str, str], sink: str) -> Assigned:
    return {int(ours): theirs for ours, theirs in json.loads(properties.get(property_name(sink), "{}")).items()}


def first_schema() -> Schema:
    """A new table's columns: what Millstream says of an event. The row's own come with `accept`."""
    return Schema(*(NestedField(i, name, kind, required=False, doc=doc) for i, (name, (kind, doc)) in enumerate(META.items(), 1)))


def refuse_untakable(schema: RowSchema, where: str) -> None:
    """Raises Refused for a type Iceberg does not have, or a column named as one of `META` is."""
    for f in schema.fields:
        iceberg_type(f, where)
        if f.name in META:
            raise Refused(
                f"column {f.name!r} has the name of a column that every changelog table has",
                code="column_name_taken",
                where=where,
                cure="give it another name in a pipeline step",
            )


def evolve(transaction: Any, schema: RowSchema, sink: str, where: str) -> None:
    """Stage what makes the table take rows of `schema`: columns added, renamed or promoted, and the assignment. None is dropped.

    Raises Refused("column_type_changed") where Iceberg cannot promote the type.
    """
    table: Schema = transaction.table_metadata.schema()
    old = assigned(transaction.table_metadata.properties, sink)
    wanted: list[tuple[str, IcebergType, str | None]] = [(name, kind, doc) for name, (kind, doc) in META.items()]
    wanted += [(f.name, iceberg_type(f, where), DOCS.get(f.type.kind)) for f in schema.fields]
    renamed = _renames(table, schema, old)
    with transaction.update_schema() as update:
        for was, name in renamed.items():
            update.rename_column((was,), name)
        for name, kind, _ in wanted:
            column = _find(table, next((was for was, new in renamed.items() if new == name), name))
            if column is not None:
                _promote(update, column, kind, where)
    # A second step, because a name that was just given up may be given to a new column.
    table = transaction.table_metadata.schema()
    new = [w for w in wanted if _find(table, w[0]) is None]
    if new:
        with transaction.update_schema() as update:
            for name, kind, doc in new:
                update.add_column((name,), kind, doc)
            last = next((name for name, *_ in reversed(new) if name not in META), None)
            for name in META if last else ():
                update.move_after((name,), last)
                last = name
        table = transaction.table_metadata.schema()
    now = {**old, **{f.id: table.find_field(f.name).field_id for f in schema.fields}}
    if now != dict(old):
        transaction.set_properties({property_name(sink): json.dumps({str(k): v for k, v in now.items()})})


def _renames(table: Schema, schema: RowSchema, old: Assigned) -> dict[str, str]:
    """Column → its new name: of the same id, the old name no longer used and the new one not yet there."""
    found = {}
    for f in schema.fields:
        was = table.find_column_name(old[f.id]) if f.id in old else None
        if was is not None and was not in schema.names and _find(table, f.name) is None:
            found[was] = f.name
    return found


def _find(table: Schema, name: str) -> NestedField | None:
    return next((c for c in table.fields if c.name == name), None)


def _promote(update: Any, column: NestedField, wanted: IcebergType, where: str) -> None:
    if column.required:
        update.make_column_optional((column.name,))
    if column.field_type == wanted or _holds(column.field_type, wanted):
        return
    if not _holds(wanted, column.field_type):
        raise _clash(column.name, column.field_type, wanted, where)
    update.update_column((column.name,), wanted)


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
