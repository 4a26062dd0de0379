"""The oracle of type inference is DuckDB: what it says of the text that inference wrote, and the values it computes."""

from __future__ import annotations

import random
from decimal import Decimal, localcontext

import duckdb
import pytest

from millstream.events.types import Field, RowSchema, Type, list_of, record_of
from millstream.pipelines.sql import subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.relations import Relation, Relations
from millstream.pipelines.sql.typed import Typed

COLUMNS = {
    "i": t.INT32, "j": t.INT32, "l": t.INT64, "f": t.FLOAT32, "d": t.FLOAT64, "s": t.TEXT, "s2": t.TEXT, "b": t.BOOLEAN, "y": t.BYTES,
    "n": t.decimal(10, 2), "n2": t.decimal(38, 10), "n3": t.decimal(18, 0), "n4": t.decimal(5, 5), "dt": t.DATE, "tm": t.TIME,
    "ts": t.TIMESTAMP, "tz": t.TIMESTAMPTZ, "u": t.UUID_TEXT, "js": Type("json"), "nu": Type("numeric"),
    "li": list_of(t.INT32), "re": record_of(("x", t.INT32), ("order", t.TEXT)),
}  # fmt: skip
SCHEMA = RowSchema(tuple(Field(name, type_, i) for i, (name, type_) in enumerate(COLUMNS.items(), 1)), ("i", "s"))
VALUES = {
    "i": "3", "j": "NULL", "l": "-7", "f": "1.5", "d": "2.25", "s": "'12'", "s2": "NULL", "b": "TRUE", "y": "'x'::BLOB", "n": "12.34",
    "n2": "1.5", "n3": "9", "n4": "0.12345", "dt": "DATE '2024-02-29'", "tm": "TIME '01:02:03'", "ts": "TIMESTAMP '2024-02-29 01:02:03'",
    "tz": "TIMESTAMPTZ '2024-02-29 01:02:03+00'", "u": "'6f9619ff-8b86-d011-b42d-00cf4fc964ff'", "js": "'{}'", "nu": "'1.0'",
    "li": "[1, NULL]", "re": "{'x': 1, 'order': 'a'}",
}  # fmt: skip
LITERALS = ["1", "0", "-5", "2147483648", "1.5", "0.001", "2e3", "'a'", "'2024-01-31'", "'12:30:00'", "TRUE", "DATE '2024-01-31'", "NULL"]
WRITTEN = {
    "unit": lambda rng: f"'{rng.choice(subset.UNITS)}'", "constant": lambda rng: "1", "quoted": lambda rng: "'-'",
    "pattern": lambda rng: "'[0-9]+'", "path": lambda rng: "'$.a'", "format": lambda rng: "'%Y-%m'",
}  # fmt: skip
CASTS = ["INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(12,3)", "TEXT", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "UUID", "BOOLEAN"]


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1})
    con.execute("SET TimeZone = 'UTC'")
    con.execute(f"CREATE TABLE t({', '.join(f'{name} {t.duckdb_name(type_)}' for name, type_ in COLUMNS.items())})")
    con.execute(f"INSERT INTO t VALUES ({', '.join(VALUES[name] for name in COLUMNS)})")
    return con


def typed(text: str) -> tuple[Typed, Mistakes]:
    mistakes = Mistakes()
    relations = Relations(qualified=False)
    select = parse(f"SELECT {text} FROM t", mistakes)
    assert select is not None, (text, mistakes.found)
    relations.met.append(Relation("t", "t", "t", SCHEMA, False))
    return Inference(relations, mistakes).typed(select.expressions[0]), mistakes


def expression(rng: random.Random, depth: int) -> str:
    """Random text of the grammar, without regard to types: most of it clashes, which is half of the test."""
    if depth == 0 or rng.random() < 0.15:
        return rng.choice(LITERALS if rng.random() < 0.3 else list(COLUMNS))
    e = lambda: expression(rng, depth - 1)  # noqa: E731
    match rng.randrange(11):
        case 0 | 1 | 2:
            return f"({e()} {rng.choice(subset.OPERATORS).symbol} {e()})"
        case 3 | 4 | 5:
            function = rng.choice(subset.FUNCTIONS)
            count = len(function.arguments) - (rng.randint(0, function.optional)) + (rng.randint(0, 2) if function.variadic else 0)
            forms = [function.arguments[min(k, len(function.arguments) - 1)].form for k in range(count)]
            args = [WRITTEN[f](rng) if f in WRITTEN else e() for f in forms]
            return f"{function.name}({', '.join(args)})"
        case 6:
            return f"{rng.choice(['CAST', 'TRY_CAST'])}({e()} AS {rng.choice(CASTS)})"
        case 7:
            return f"CASE WHEN {e()} THEN {e()} ELSE {e()} END"
        case 8:
            return f"({e()} {rng.choice(['AND', 'OR'])} NOT {e()})"
        case 9:
            return f"({e()} {rng.choice(['IS NULL', 'IS NOT NULL', f'IN ({e()}, {e()})', f'NOT BETWEEN {e()} AND {e()}'])})"
        case _:
            return f"(- {e()})"


@pytest.mark.parametrize("seed", range(6))
def test_the_inferred_type_is_what_duckdb_says(seed: int, con: duckdb.DuckDBPyConnection) -> None:
    rng = random.Random(seed)
    accepted = 0
    for _ in range(250):
        text = expression(rng, rng.choice([1, 1, 2, 2, 3]))
        value, mistakes = typed(text)
        if mistakes or value.type is None:
            assert mistakes or value.null, f"{text} has no type, and nothing says why"
            continue
        accepted += 1
        described = con.execute(f"DESCRIBE SELECT {value.sql} AS x FROM t").fetchall()[0][1]
        assert described.replace('"', "") == t.duckdb_name(value.type).replace('"', ""), (text, value)
        try:
            (is_null,) = con.execute(f"SELECT ({value.sql}) IS NULL FROM t").fetchall()[0]
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException):
            continue  # a value that fails at run time is a BadRecord
        assert value.nullable or not is_null, (text, value)
    assert accepted > 40, "too few expressions are well typed for the test to say anything"


@pytest.mark.parametrize(
    ("text", "wanted"), [e for entry in (*subset.OPERATORS, *subset.FUNCTIONS) for e in entry.examples], ids=lambda v: v.replace(" ", "_")
)
def test_every_example_of_the_table_holds(text: str, wanted: str, con: duckdb.DuckDBPyConnection) -> None:
    (left, wrong), (right, wrong_too) = typed(text), typed(wanted)
    assert not wrong.found and not wrong_too.found
    assert con.execute(f"SELECT {left.sql} IS NOT DISTINCT FROM {right.sql}").fetchall() == [(True,)]


def test_every_function_has_an_example_and_a_line_of_doc() -> None:
    for entry in (*subset.OPERATORS, *subset.FUNCTIONS):
        assert entry.doc.endswith(".")
        assert entry.examples or entry.name in ("octet_length", "json_value")  # bytes and JSON cannot be written as a literal


def test_functions_of_what_no_literal_gives(con: duckdb.DuckDBPyConnection) -> None:
    assert con.execute(f"SELECT {typed('octet_length(y)')[0].sql} FROM t").fetchall() == [(1,)]
    for path, wanted in (("$.a", "1"), ("$.b.c[1]", "x"), ("$.b", None), ("$.d", None), ("$.e", "true"), ("$.no", None)):
        value = typed(f"json_value(js, '{path}')")[0]
        given = """(SELECT '{"a": 1, "b": {"c": [0, "x"]}, "d": null, "e": true}' AS js)"""
        assert con.execute(f"SELECT {value.sql} FROM {given}").fetchall() == [(wanted,)]


@pytest.mark.parametrize("operator", subset.OPERATORS, ids=lambda o: o.symbol)
def test_null_on_either_side_is_known(operator, con: duckdb.DuckDBPyConnection) -> None:
    for known, null in (("i", "j"), ("s", "s2")):
        for text in (f"{known} {operator.symbol} {null}", f"{null} {operator.symbol} {known}", f"{known} {operator.symbol} {known}"):
            value, mistakes = typed(text)
            if mistakes:
                continue
            ((is_null,),) = con.execute(f"SELECT ({value.sql}) IS NULL FROM t").fetchall()
            assert value.nullable == is_null, text


def test_exact_numbers_stay_exact(con: duckdb.DuckDBPyConnection) -> None:
    """Python's decimals are the oracle: nothing is rounded or overflows while the result has at most 38 digits."""
    rng = random.Random(5)
    python = {"+": Decimal.__add__, "-": Decimal.__sub__, "*": Decimal.__mul__, "<": Decimal.__lt__, "=": Decimal.__eq__}
    with localcontext(prec=80):
        for _ in range(100):
            pair = []
            for _ in range(2):
                digits = rng.randint(1, 18)
                point = rng.randint(0, digits)
                text = rng.choice(["9" * digits, str(rng.randrange(10**digits)).zfill(digits)])
                pair.append((text[:point] or "0") + "." + (text[point:] or "0"))
            texts = [f"{pair[0]} {symbol} {pair[1]}" for symbol in python]
            results = con.execute(f"SELECT {', '.join(typed(text)[0].sql for text in texts)}").fetchone()
            assert results == tuple(compute(Decimal(pair[0]), Decimal(pair[1])) for compute in python.values()), pair
