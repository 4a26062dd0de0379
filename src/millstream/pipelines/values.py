"""A value in a project's YAML ↔ a value of a column: read by the column's type, compared as such, shown as it is written.

Written as topics are shown: decimals and times as text, bytes as base64, lists and records as YAML has them.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pyarrow as pa

from millstream.events.types import Type
from millstream.pipelines.diagnostics import Place
from millstream.pipelines.yaml import Items, Node, Scalar, Section

N = TypeVar("N", Scalar, Items, Section)

_EXAMPLES: Mapping[str, str] = {
    "boolean": "true",
    "bytes": "bytes in base64, such as 3q2+7w==",
    "date": "2026-11-25",
    "time": "14:30:00",
    "timestamp": "2026-11-25T14:30:00",
    "timestamptz": "2026-11-25T14:30:00Z",
    "uuid": "9f1b1f0e-5f3b-4c7e-8a53-0d5c2f7a1e11",
    "list": "[a, b]",
    "record": "{name: value}",
}


def read(node: Node, type_: Type) -> Any:
    """The value as Arrow's Python form has it. Raises ValueError, saying what is wanted, where it is none of the type."""
    try:
        value = _read(node, type_)
        return pa.scalar(value, type_.arrow).as_py()  # bounds and scale are Arrow's to judge
    except (ValueError, ArithmeticError, pa.ArrowException) as e:
        said = node.text if isinstance(node, Scalar) else "this"
        example = _EXAMPLES.get(type_.kind)
        raise ValueError(f"{said!r} is no {type_}" + (f"; write {example}" if example else "")) from e


def of_text(text: str, type_: Type) -> Any:
    """As `read`, of a text that stands alone."""
    meaning = {"true": True, "false": False}.get(text, text)
    return read(Scalar(text, meaning, Place("", 1, 1), text, False), type_)


def _read(node: Node, type_: Type) -> Any:
    if isinstance(node, Scalar) and node.value is None:
        return None
    match type_.kind:
        case "json":
            return node.text if isinstance(node, Scalar) and isinstance(node.value, str) else json.dumps(plain(node))
        case "list":
            assert type_.element is not None
            return [_read(item, type_.element) for item in _of(node, Items).items]
        case "record":
            section = _of(node, Section)
            types = {f.name: f.type for f in type_.fields}
            if unknown := set(section.entries) - set(types):
                raise ValueError(f"no member {min(unknown)}")
            return {name: _read(section.entries[name], t) if name in section.entries else None for name, t in types.items()}
    scalar = _of(node, Scalar)
    return _scalar(scalar.text, scalar.value, type_)


def _scalar(text: str, value: object, type_: Type) -> Any:
    match type_.kind:
        case "boolean":
            if not isinstance(value, bool):
                raise ValueError(text)
            return value
        case "int32" | "int64":
            return int(text)
        case "float32" | "float64":
            return float(text)
        case "decimal":
            return Decimal(text)
        case "bytes":
            return b64decode(text, validate=True)
        case "date":
            return date.fromisoformat(text)
        case "time":
            return time.fromisoformat(text)
        case "timestamp":
            return _moment(text, zoned=False)
        case "timestamptz":
            return _moment(text, zoned=True)
        case "uuid":
            return str(UUID(text))
    return text


def _moment(text: str, *, zoned: bool) -> datetime:
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is not None) is not zoned:
        raise ValueError(text)
    return moment.astimezone(UTC) if zoned else moment


def _of(node: Node, wanted: type[N]) -> N:
    if not isinstance(node, wanted):
        raise ValueError("of another shape")
    return node


def plain(node: Node) -> Any:
    """A node as JSON has it."""
    if isinstance(node, Section):
        return {k: plain(v) for k, v in node.entries.items()}
    if isinstance(node, Items):
        return [plain(v) for v in node.items]
    return node.value


def equal(left: Any, right: Any, type_: Type) -> bool:
    """Whether two values of a column are the same. A NaN is itself; JSON texts are compared by what they say."""
    if left is None or right is None:
        return left is right
    match type_.kind:
        case "float32" | "float64":
            return bool(left == right) or (math.isnan(left) and math.isnan(right))
        case "json":
            return bool(_said(left) == _said(right))
        case "list":
            assert type_.element is not None
            element = type_.element
            return len(left) == len(right) and all(equal(a, b, element) for a, b in zip(left, right, strict=True))
        case "record":
            return all(equal(left[f.name], right[f.name], f.type) for f in type_.fields)
    return bool(left == right)


def _said(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def shown(value: Any) -> str:
    """A value of a column as it would be written."""
    match value:
        case None:
            return "null"
        case bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case bytes():
            return b64encode(value).decode()
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date() | time():
            return value.isoformat()
        case list():
            return f"[{', '.join(map(shown, value))}]"
        case dict():
            return f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
        case Decimal():
            return f"{value:f}"
    return str(value)
