"""What old rows have in a column that was added later: its fill as a value, and as a column."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pyarrow as pa

from millstream.events.types import Constant, Field, Type

_BOOLEANS = {"t": True, "true": True, "f": False, "false": False}


def fill_value(type_: Type, text: str) -> pa.Scalar:
    """The value of this type that `text` writes, as Postgres writes it or as JSON lines do.

    Where they differ both are read: t and true, \\x… and base64. Lists and records are JSON. Raises ValueError on any other text.
    """
    try:
        match type_.kind:
            case "boolean":
                return pa.scalar(_BOOLEANS[text], type_.arrow)
            case "bytes":
                return pa.scalar(bytes.fromhex(text[2:]) if text.startswith("\\x") else b64decode(text, validate=True), type_.arrow)
            case "time":  # Arrow reads no time alone
                return pa.scalar(f"1970-01-01 {text}").cast(pa.timestamp("us")).cast(pa.int64()).cast(type_.arrow)
            case "list" | "record":
                return pa.scalar(_plain(type_, json.loads(text)), type_.arrow)
        return pa.scalar(text, pa.string()).cast(type_.arrow)
    except (ValueError, LookupError, TypeError, ArithmeticError, pa.ArrowException) as e:
        raise ValueError(f"{text!r} is no {type_}") from e


def _plain(type_: Type, said: Any) -> Any:
    """What Arrow makes the value of, out of its JSON."""
    if said is None:
        return None
    if type_.element is not None:
        element = type_.element
        return [_plain(element, item) for item in said]
    if type_.kind == "record":
        if not isinstance(said, dict) or (strange := set(said) - {f.name for f in type_.fields}):
            raise ValueError(f"no member {min(strange)}" if isinstance(said, dict) else "not an object")
        return {f.name: _plain(f.type, said.get(f.name)) for f in type_.fields}
    return fill_value(type_, said if isinstance(said, str) else json.dumps(said)).as_py()


def filled(field: Field, rows: int) -> pa.Array:
    """The column in that many rows written before it was there. Raises ValueError where its fill is no value of its type."""
    if isinstance(field.fill, Constant):
        return pa.repeat(fill_value(field.type, field.fill.text), rows)
    return pa.nulls(rows, field.type.arrow)
