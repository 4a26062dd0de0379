"""Values as `jsontext` wrote them, parsed by a JSON reader, as Arrow columns again: for targets whose own documents are read back."""

from __future__ import annotations

import datetime as dt
from base64 import b64decode
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.events.types import Field, Type

_EXACT = Context(prec=100)


def column(values: Sequence[Any], type_: Type) -> pa.Array:
    """One column of values, None where there is none. Numbers of a narrower type are taken too: 7 for a decimal.

    Raises ValueError, TypeError, ArithmeticError or pa.ArrowException on what `jsontext` never wrote of such a type.
    """
    match type_:
        case Type("list", element=Type() as element):
            lengths = [0 if v is None else len(v) for v in values]
            items = column([item for v in values if v is not None for item in v], element)
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
            return pa.ListArray.from_arrays(offsets, items, type=type_.arrow, mask=_nulls(values))
        case Type("record"):
            return record(values, type_.fields)
        case Type("decimal"):
            unit = Decimal(1).scaleb(-(type_.scale or 0))
            return pa.array([None if v is None else Decimal(v).quantize(unit, context=_EXACT) for v in values], type_.arrow)
        case Type("float32" | "float64"):
            return pa.array([None if v is None else float(v) for v in values], type_.arrow)
        case Type("bytes"):
            return pa.array([None if v is None else b64decode(v, validate=True) for v in values], type_.arrow)
        case Type("time"):
            return pa.array([None if v is None else dt.time.fromisoformat(v) for v in values], type_.arrow)
        case Type("date" | "timestamp" | "timestamptz"):
            return _moments(values, type_)
        case Type("numeric"):
            return pa.array([None if v is None else str(v) for v in values], type_.arrow)
    return pa.array(values, type_.arrow)


def record(values: Sequence[Any], fields: Sequence[Field]) -> pa.StructArray:
    """Objects with these members as one column of records; a member that an object lacks is null."""
    members = [column([None if v is None else v.get(f.name) for v in values], f.type) for f in fields]
    return pa.StructArray.from_arrays(members, fields=[pa.field(f.name, f.type.arrow) for f in fields], mask=_nulls(values))


def _nulls(values: Sequence[Any]) -> pa.Array:
    return pa.array([v is None for v in values], pa.bool_())


def _moments(values: Sequence[Any], type_: Type) -> pa.Array:
    """Also of years that no Python date has."""
    unit, width = ("D", pa.int32()) if type_.kind == "date" else ("us", pa.int64())
    texts = ["1970-01-01" if v is None else str(v).removesuffix("Z") for v in values]
    counts = np.array(texts, f"datetime64[{unit}]").astype(np.int64)
    return pa.array(counts, width, mask=np.array([v is None for v in values], bool)).cast(type_.arrow)
