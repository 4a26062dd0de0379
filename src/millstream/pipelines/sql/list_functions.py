"""The functions of lists. A list comes from list(… ORDER BY …) or is written [a, b]."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.events.types import Kind, Type
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Argument, Call, Function
from millstream.pipelines.sql.signatures import constant, same

_LIST: frozenset[Kind] = frozenset({"list"})


def _within(types: Sequence[Type], constants: Sequence[int | None]) -> Type | None:
    return t.BOOLEAN if types[0].element == types[1] else None


def _slice(call: Call) -> str:
    begin, end = max(call.constants[1] or 0, 1), call.constants[2] or 0
    if end < begin:  # Flink reads an end of 0 as one from the list's end
        begin, end = 2, 1
    return f"ARRAY_SLICE({call.texts[0]}, {begin}, {end})"


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "list_slice",
        (Argument("list", _LIST), constant("begin"), constant("end")),
        same,
        "list_slice({all})",
        "The values from number `begin` to number `end`, counted from 1; list_slice(list, 1, 5) is its first five.",
        (("list_slice([1, 2, 3], 1, 2)", "[1, 2]"), ("list_slice([1, 2, 3], 3, 9)", "[3]"), ("list_slice([1, 2, 3], 0, 2)", "[1, 2]")),
        flink=_slice,
    ),
    Function(
        "list_contains",
        (Argument("list", _LIST), Argument("value", t.COMPARABLE)),
        _within,
        "list_contains({all})",
        "Whether a value of the list equals it; both must have one type.",
        (("list_contains([1, 2], 2)", "TRUE"), ("list_contains(['a'], 'b')", "FALSE")),
        # Flink's own finds a null in a list that has one.
        flink="(CASE WHEN {1} IS NOT NULL THEN ARRAY_CONTAINS({all}) END)",
    ),
)
