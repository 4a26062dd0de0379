"""Change events → rows of the changelog table, whole columns at a time; and which Iceberg type a column has.

A row is the row after the change (before it, where it is gone) and what Millstream says of the event:
`META`. What the table's columns are now is `columns.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from millstream.errors import Irrecoverable, Refused
from millstream.events import version
from millstream.events.batch import Batch
from millstream.events.types import Field, Type

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
DOCS = {"uuid": "a UUID, as text", "json": "JSON, as text", "numeric": "a decimal of any size, as text"}
DECIMAL_DIGITS_MAX = 38


def iceberg_type(f: Field, where: str) -> IcebergType:
    """The type that holds every value of this column. Raises Refused("type_not_taken") where Iceberg has none."""
    if f.type.kind != "decimal":
        return _TYPES[f.type.kind]
    precision, scale = f.type.precision or 0, f.type.scale or 0
    if precision > DECIMAL_DIGITS_MAX:
        raise Refused(
            f"column {f.name!r} is {f.type}: Iceberg's decimals have at most {DECIMAL_DIGITS_MAX} digits",
            code="type_not_taken",
            where=where,
            cure=f"in a pipeline step, CAST it to text or to a decimal of at most {DECIMAL_DIGITS_MAX} digits, or leave it out",
        )
    return DecimalType(precision, scale)


def rows(batch: Batch, names: Mapping[int, str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The batch as rows of the table. `names`: field id → column, for a field of an older name; `types`: column → Arrow type.

    Raises Irrecoverable("schema_not_accepted") where a column of the batch has no place in the table.
    """
    places = [f.name if f.name in types else names.get(f.id, "") for f in batch.schema.fields]
    unknown = [f.name for f, place in zip(batch.schema.fields, places, strict=True) if not place]
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
    columns = dict(zip(places, image.flatten(), strict=True))
    columns |= {
        "_op": events.column("op"),
        "_version": version.texts(events.column("incarnation"), events.column("major"), events.column("minor")),
        "_topic": pa.repeat(pa.scalar(batch.topic), len(batch)),
        "_offset": pa.array(batch.offsets),
        "_ts": events.column("ts_us").cast(Type("timestamptz").arrow),
        "_backfill": events.column("backfill"),
    }
    return pa.table({name: _widened(column, types[name]) for name, column in columns.items()})


def _widened(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Events of an older schema version into a column that was promoted since; texts keep their own layout."""
    same = column.type == wanted or pa.types.is_large_string(wanted) or pa.types.is_large_binary(wanted)
    return column if same else column.cast(wanted)
