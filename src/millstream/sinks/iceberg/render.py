"""Change events → rows of the changelog table, whole columns at a time; and which Iceberg type a column has.

A row is the row after the change (before it, where it is gone) and what Millstream says of the event:
`META`. What the table's columns are now is `columns.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from millstream.errors import Irrecoverable, Refused
from millstream.events import version
from millstream.events.batch import Batch
from millstream.events.nested import relabelled
from millstream.events.types import Field, Type

# A column, or a member in it, by the ids of fields that lead to it; a list's items add none.
Path = tuple[int, ...]

META: Mapping[str, tuple[IcebergType, str]] = {
    "_op": (StringType(), "c, u, d or r: insert, update, delete, read"),
    "_version": (StringType(), "orders the changes of one key: 32 hex digits, rising"),
    "_topic": (StringType(), "the topic the event was read from"),
    "_offset": (LongType(), "its place there"),
    "_ts": (TimestamptzType(), "when the source committed the change"),
    "_backfill": (StringType(), "the backfill that read the row, if one did"),
}

_TYPES: Mapping[str, IcebergType] = {
    "boolean": BooleanType(),
    "int32": IntegerType(),
    "int64": LongType(),
    "float32": FloatType(),
    "float64": DoubleType(),
    "text": StringType(),
    "bytes": BinaryType(),
    "date": DateType(),
    "time": TimeType(),
    "timestamp": TimestampType(),
    "timestamptz": TimestamptzType(),
    "uuid": StringType(),
    "json": StringType(),
    "numeric": StringType(),
}
_DOCS = {"uuid": "a UUID, as text", "json": "JSON, as text", "numeric": "a decimal of any size, as text"}
DECIMAL_DIGITS_MAX = 38


def doc_of(f: Field) -> str | None:
    """What the table says of a column: its description, or else what a text holds that Iceberg has no type for."""
    return f.doc or _DOCS.get(f.type.kind)


def iceberg_type(f: Field, where: str) -> IcebergType:
    """The type that holds every value of this column. Raises Refused("type_not_taken") where Iceberg has none.

    The ids of what lies inside are of no meaning: Iceberg gives its own when the column is added.
    """
    return _type(f.type, f.name, where)


def _type(type_: Type, name: str, where: str) -> IcebergType:
    """`name` says which value it is: the column, or the member's path in it."""
    match type_:
        case Type("list", element=Type() as element):
            return ListType(element_id=1, element=_type(element, name, where), element_required=False)
        case Type("record"):
            if not type_.fields:
                raise _not_taken(f"{name!r} is a record without members", "give it one in a pipeline step, or leave it out", where)
            members = [(m, _type(m.type, f"{name}.{m.name}", where)) for m in type_.fields]
            return StructType(*(NestedField(m.id, m.name, held, required=False, doc=doc_of(m)) for m, held in members))
        case Type("decimal"):
            precision, scale = type_.precision or 0, type_.scale or 0
            if precision > DECIMAL_DIGITS_MAX:
                raise _not_taken(
                    f"{name!r} is {type_}: Iceberg's decimals have at most {DECIMAL_DIGITS_MAX} digits",
                    f"in a pipeline step, CAST it to text or to a decimal of at most {DECIMAL_DIGITS_MAX} digits, or leave it out",
                    where,
                )
            return DecimalType(precision, scale)
    return _TYPES[type_.kind]


def _not_taken(what: str, cure: str, where: str) -> Refused:
    return Refused(f"column {what}", code="type_not_taken", where=where, cure=cure)


def rows(batch: Batch, names: Mapping[Path, str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The batch as rows of the table. `names`: path of ids → its name there; `types`: column → Arrow type.

    Raises Irrecoverable("schema_not_accepted") where a column of the batch, or a member in one, has no place in the table.
    """
    table = pa.struct(list(types.items()))
    labels, unknown = _labelled(batch.schema.fields, (), table, names)
    if unknown:
        raise Irrecoverable(
            f"events of {batch.topic} have columns that this sink has not accepted: {', '.join(unknown)}",
            code="schema_not_accepted",
            where=f"{batch.topic}@{batch.offsets[0] if batch.offsets is not None else '?'}",
            cure="start again: a sink accepts its topic's schema when it opens",
        )
    events = batch.rows
    after = events.column("after")
    image = pc.if_else(pc.is_null(after), events.column("before"), after)
    columns = {label.name: relabelled(column, label.type) for label, column in zip(labels, image.flatten(), strict=True)}
    columns |= {
        "_op": events.column("op"),
        "_version": version.texts(events.column("incarnation"), events.column("major"), events.column("minor")),
        "_topic": pa.repeat(pa.scalar(batch.topic), len(batch)),
        "_offset": pa.array(batch.offsets),
        "_ts": events.column("ts_us").cast(Type("timestamptz").arrow),
        "_backfill": events.column("backfill"),
    }
    return pa.table({name: _widened(column, types[name]) for name, column in columns.items()})


def _labelled(fields: Iterable[Field], path: Path, table: pa.StructType, names: Mapping[Path, str]) -> tuple[list[pa.Field], list[str]]:
    """The fields under the table's names, all their members too, and what has none."""
    unknown: list[str] = []

    def inside(type_: Type, path: Path, there: pa.DataType) -> pa.DataType:
        if type_.element is not None and pa.types.is_large_list(there):
            return pa.list_(inside(type_.element, path, there.value_type))
        if type_.kind == "record" and pa.types.is_struct(there):
            labels, more = _labelled(type_.fields, path, there, names)
            unknown.extend(more)
            return pa.struct(labels)
        return type_.arrow

    labels = []
    taken = {name for there, name in names.items() if there[:-1] == path}
    for f in fields:
        own = f.name if table.get_field_index(f.name) >= 0 and f.name not in taken else None
        name = names.get((*path, f.id), own)
        if name is None:
            unknown.append(f.name)
        else:
            labels.append(pa.field(name, inside(f.type, (*path, f.id), table.field(name).type)))
    return labels, unknown


def _widened(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Events of an older schema version into a column that was promoted, or given more members, since; texts keep their own layout."""
    same = column.type == wanted or pa.types.is_large_string(wanted) or pa.types.is_large_binary(wanted)
    return column if same else column.cast(wanted)
