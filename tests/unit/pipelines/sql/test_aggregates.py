"""Each aggregate of the table on DuckDB: its samples, its type, and what it is over no row."""

from __future__ import annotations

import random
from decimal import Decimal, localcontext
from fractions import Fraction

import duckdb
import pytest

from millstream.events.types import Type, list_of, record_of
from millstream.pipelines.sql import aggregates, subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Aggregate, Sample

CASES = [(a, s) for a in aggregates.AGGREGATES for s in a.examples]
TYPES = {
    "int32": t.INT32, "int64": t.INT64, "decimal": t.decimal(10, 2), "float32": t.FLOAT32, "float64": t.FLOAT64, "text": t.TEXT,
    "boolean": t.BOOLEAN, "bytes": t.BYTES, "date": t.DATE, "time": t.TIME, "timestamp": t.TIMESTAMP, "timestamptz": t.TIMESTAMPTZ,
    "uuid": t.UUID_TEXT, "json": Type("json"), "numeric": Type("numeric"), "list": list_of(t.INT32),
    "record": record_of(("a", t.INT32), ("b", t.TEXT)),
}  # fmt: skip


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1})
    con.execute("SET TimeZone = 'UTC'")
    return con


def call(aggregate: Aggregate, types: list[Type], arguments: tuple[str, ...], order: str = "", distinct: bool = False) -> str:
    result = aggregate.result(types)
    return aggregates.text(aggregate.duckdb, arguments, types, t.duckdb_name, result, order=order, distinct=distinct)


def rows(sample: Sample) -> str:
    names = [name for name, _ in sample.columns]
    types = [t.duckdb_name(type_) for _, type_ in sample.columns]
    values = sample.rows or (("NULL",) * len(names),)
    casts = ", ".join(f"CAST({n} AS {type_}) AS {n}" for n, type_ in zip(names, types, strict=True))
    source = f"(VALUES {', '.join('(' + ', '.join(r) + ')' for r in values)}) v({', '.join(names)})"
    return f"(SELECT {casts} FROM {source}{'' if sample.rows else ' WHERE FALSE'})"


@pytest.mark.parametrize(("aggregate", "sample"), CASES, ids=lambda v: getattr(v, "name", None))
def test_every_sample_holds(aggregate: Aggregate, sample: Sample, con: duckdb.DuckDBPyConnection) -> None:
    known = dict(sample.columns)
    types = [known.get(a, t.TEXT) for a in sample.arguments]
    text = call(aggregate, types, sample.arguments, sample.order, sample.distinct)
    ((equal, value),) = con.execute(f"SELECT {text} IS NOT DISTINCT FROM {sample.wanted}, {text} FROM {rows(sample)}").fetchall()
    assert equal, value
    assert bool(sample.order) == aggregate.ordered


@pytest.mark.parametrize("aggregate", aggregates.AGGREGATES, ids=lambda a: a.name)
def test_the_result_has_the_type_that_the_table_says(aggregate: Aggregate, con: duckdb.DuckDBPyConnection) -> None:
    for kind in aggregate.arguments[0].kinds:
        type_ = TYPES[kind]
        arguments = ("x", "', '")[: len(aggregate.arguments)]
        text = call(aggregate, [type_, t.TEXT][: len(arguments)], arguments, "x" if aggregate.ordered else "")
        described = con.execute(f"DESCRIBE SELECT {text} AS v FROM (SELECT CAST(NULL AS {t.duckdb_name(type_)}) AS x)").fetchall()[0][1]
        assert described.replace('"', "") == t.duckdb_name(aggregate.result([type_])).replace('"', ""), kind
        ((none,),) = con.execute(f"SELECT {text} FROM (SELECT CAST(NULL AS {t.duckdb_name(type_)}) AS x) WHERE FALSE").fetchall()
        assert none == {"null": None, "zero": 0, "empty list": []}[aggregate.over_none], kind


def test_a_sum_does_not_depend_on_the_order_of_rows_and_an_average_is_the_nearest_float_quotient(con: duckdb.DuckDBPyConnection) -> None:
    """Python's exact numbers are the oracle."""
    rng = random.Random(3)
    for _ in range(50):
        scale, count = rng.randint(0, 18), rng.randint(1, 40)
        numbers = [Decimal(rng.randrange(-(10**30), 10**30)).scaleb(-scale) for _ in range(count)]
        type_ = t.decimal(38, scale)
        values = ", ".join(f"(CAST('{n:f}' AS {t.duckdb_name(type_)}))" for n in numbers)
        texts = [call(subset.BY_AGGREGATE[name], [type_], ("x",)) for name in ("sum", "avg")]
        ((total, average),) = con.execute(f"SELECT {', '.join(texts)} FROM (VALUES {values}) v(x)").fetchall()
        with localcontext(prec=80):
            assert total == sum(numbers)
            assert average == float(Fraction(sum(numbers))) / count


def test_a_sum_that_does_not_fit_fails(con: duckdb.DuckDBPyConnection) -> None:
    text = call(subset.BY_AGGREGATE["sum"], [t.decimal(38, 0)], ("x",))
    with pytest.raises(duckdb.OutOfRangeException):
        con.execute(f"SELECT {text} FROM (VALUES (CAST('6{'0' * 37}' AS DECIMAL(38,0))), (CAST('6{'0' * 37}' AS DECIMAL(38,0)))) v(x)")


def test_floats_are_not_summed_and_the_table_says_what_to_do() -> None:
    for name in ("sum", "avg"):
        aggregate = subset.BY_AGGREGATE[name]
        assert not aggregate.arguments[0].kinds & t.FLOATS
        assert "DECIMAL" in aggregate.cure
