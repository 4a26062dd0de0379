"""The types that a person may name in CAST(… AS …)."""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from millstream.events.types import Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.mistakes import Mistakes

_KINDS: Mapping[str, Type] = {
    "BOOLEAN": t.BOOLEAN, "INT": t.INT32, "BIGINT": t.INT64, "FLOAT": t.FLOAT32, "DOUBLE": t.FLOAT64, "TEXT": t.TEXT, "VARCHAR": t.TEXT,
    "DATE": t.DATE, "TIME": t.TIME, "TIMESTAMP": t.TIMESTAMP, "TIMESTAMPNTZ": t.TIMESTAMP, "TIMESTAMPTZ": t.TIMESTAMPTZ,
    "UUID": t.UUID_TEXT,
}  # fmt: skip
_NAMES = "BOOLEAN, INTEGER, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), TEXT, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, UUID"


def cast_target(node: exp.Cast, mistakes: Mistakes) -> Type | None:
    """The type that a cast names; None and a mistake where Millstream SQL has none such. DECIMAL alone is DECIMAL(18,3)."""
    to = node.args["to"]
    kind = getattr(to, "this", None)
    name = str(getattr(kind, "value", kind)).upper()
    if name == "DECIMAL":
        return _decimal(node, [int(p.name) for p in to.expressions if p.name.isdigit()], mistakes)
    target = None if to.args.get("nested") else _KINDS.get(name)
    if target is None or node.args.get("format"):
        mistakes.add(node, "bad_type", f"Millstream SQL has no type {to.sql('duckdb')}", f"it has {_NAMES}")
        return None
    return target


def _decimal(node: exp.Cast, given: list[int], mistakes: Mistakes) -> Type | None:
    precision, scale = [*given, 0][:2] if given else (18, 3)
    if 1 <= precision <= t.PRECISION_MAX and scale <= precision:
        return t.decimal(precision, scale)
    cure = f"precision is 1 to {t.PRECISION_MAX}, scale 0 to precision"
    mistakes.add(node, "bad_type", f"DECIMAL({precision},{scale}) is no type", cure)
    return None
