"""The functions of Millstream SQL, as data. "fails": at run time, as a BadRecord that names the record."""

from __future__ import annotations

from millstream.pipelines.sql import list_functions, number_functions, text_functions, time_functions
from millstream.pipelines.sql.shape import Call, Function
from millstream.pipelines.sql.signatures import ANY, COMPARED, UNITS, shared

__all__ = ["FUNCTIONS", "UNITS"]


def _skipping(function: str, call: Call) -> str | None:
    """GREATEST and LEAST of Flink are null beside a null: each argument is led by itself and filled by the others."""
    if call.types[0].kind == "bytes":
        return None
    texts = call.texts
    filled = [f"COALESCE({', '.join((*texts[i:], *texts[:i]))})" for i in range(len(texts))]
    return f"{function}({', '.join(filled)})" if len(texts) > 1 else texts[0]


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "coalesce",
        (ANY,),
        shared,
        "coalesce({all})",
        "The first that is not null.",
        (("coalesce(NULL, 2)", "2"),),
        nulls="skipped",
        variadic=True,
        common=True,
        flink="COALESCE({all})",
        differs="fails where an argument that is not needed fails",
    ),
    Function(
        "nullif",
        (COMPARED, COMPARED),
        shared,
        "nullif({all})",
        "Null where both are equal, else the first.",
        (("nullif(1, 2)", "1"), ("nullif(2, 2)", "CAST(NULL AS INTEGER)")),
        nulls="own",
        common=True,
        flink="NULLIF({all})",
    ),
    Function(
        "greatest",
        (COMPARED,),
        shared,
        "greatest({all})",
        "The greatest of those that are not null.",
        (("greatest(1, 3, 2)", "3"), ("greatest(CAST(NULL AS INTEGER), 3)", "3")),
        nulls="skipped",
        variadic=True,
        common=True,
        flink=lambda call: _skipping("GREATEST", call),
        differs="NaN",
    ),
    Function(
        "least",
        (COMPARED,),
        shared,
        "least({all})",
        "The least of those that are not null.",
        (("least(1, 3, 2)", "1"), ("least(CAST(NULL AS INTEGER), 3)", "3")),
        nulls="skipped",
        variadic=True,
        common=True,
        flink=lambda call: _skipping("LEAST", call),
        differs="NaN",
    ),
    *text_functions.FUNCTIONS,
    *number_functions.FUNCTIONS,
    *time_functions.FUNCTIONS,
    *list_functions.FUNCTIONS,
)
