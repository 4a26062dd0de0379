"""Millstream SQL: a named subset with a meaning of its own, as data. What is not in these tables is refused.

`operators.py`, `functions.py` and `aggregates.py` hold the rows, each with its types, nulls, errors, DuckDB text and examples;
`infer.py` applies them. A test runs every example, and one compares every inferred type with what DuckDB says of the text.
"""

from __future__ import annotations

from millstream.pipelines.sql.aggregates import AGGREGATES
from millstream.pipelines.sql.functions import FUNCTIONS, UNITS
from millstream.pipelines.sql.operators import OPERATORS
from millstream.pipelines.sql.shape import Aggregate, Function

__all__ = [
    "AGGREGATES", "AGGREGATE_AS", "AGGREGATE_NAMES", "BY_AGGREGATE", "BY_NAME", "BY_NODE", "FUNCTIONS", "OPERATORS", "SAME_AS", "UNITS",
    "VOLATILE", "aggregate", "function",
]  # fmt: skip

SAME_AS = {
    "substr": "substring",
    "ceiling": "ceil",
    "pow": "power",
    "ifnull": "coalesce",
    "char_length": "length",
    "datetrunc": "date_trunc",
    "datediff": "date_diff",
    "array_slice": "list_slice",
    "list_has": "list_contains",
    "array_contains": "list_contains",
    "len": "length",
    "cardinality": "length",
}
"""Other spellings of functions in the table."""

AGGREGATE_AS = {"mean": "avg", "array_agg": "list", "listagg": "string_agg", "group_concat": "string_agg", "every": "bool_and"}
"""Other spellings of aggregates in the table."""

_VOLATILE = """
now today random uuid gen_random_uuid uuidv4 uuidv7 nextval currval current_date current_timestamp current_time setseed
get_current_timestamp get_current_time transaction_timestamp localtime localtimestamp current_localtime current_localtimestamp txid_current
"""
_ELSEWHERE = """
count count_star sum avg mean min max list array_agg string_agg group_concat listagg bool_and bool_or any_value first last
arg_min arg_max min_by max_by median mode stddev variance var_pop var_samp approx_count_distinct quantile quantile_cont
histogram product bit_and bit_or
"""
VOLATILE = frozenset(_VOLATILE.split())
AGGREGATE_NAMES = frozenset(_ELSEWHERE.split())
"""What is an aggregate in DuckDB or elsewhere; those of ours are in the table."""

BY_NODE = {o.node: o for o in OPERATORS}
BY_NAME = {f.name: f for f in FUNCTIONS}
BY_AGGREGATE = {a.name: a for a in AGGREGATES}


def function(name: str) -> Function | None:
    """By its name or another spelling, without regard to case."""
    folded = name.casefold()
    return BY_NAME.get(SAME_AS.get(folded, folded))


def aggregate(name: str) -> Aggregate | None:
    """By its name or another spelling, without regard to case."""
    folded = name.casefold()
    return BY_AGGREGATE.get(AGGREGATE_AS.get(folded, folded))
