"""Expressions of Millstream SQL over columns of rows, to compare two engines by: every row of the tables with every kind it takes."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence

from millstream.events.types import Field, Kind, RowSchema, Type, list_of
from millstream.pipelines.sql import subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.infer import Inference
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.relations import Relation, Relations
from millstream.pipelines.sql.shape import Argument, Function
from millstream.pipelines.sql.typed import Typed

COLUMNS: dict[str, Type] = {
    "i": t.INT32, "l": t.INT64, "n": t.decimal(10, 2), "n3": t.decimal(18, 0), "n4": t.decimal(30, 12), "f": t.FLOAT32, "d": t.FLOAT64,
    "s": t.TEXT, "s2": t.TEXT, "b": t.BOOLEAN, "y": t.BYTES, "dt": t.DATE, "tm": t.TIME, "ts": t.TIMESTAMP, "tz": t.TIMESTAMPTZ,
    "u": t.UUID_TEXT, "js": Type("json"), "nu": Type("numeric"), "li": list_of(t.INT32), "k": t.INT32,
}  # fmt: skip
SCHEMA = RowSchema(tuple(Field(name, type_, i) for i, (name, type_) in enumerate(COLUMNS.items(), 1)), ("i",))

# Literals of Millstream SQL, of DuckDB where it has none.
VALUES: dict[str, list[str]] = {
    "i": ["0", "1", "-7", "12", "100000", "2147483647", "-2147483648"],
    "l": ["0", "3", "-7", "1714979289123", "9223372036854775807", "-9223372036854775808", "4"],
    "n": ["0.00", "12.34", "-7.50", "99999999.99", "0.05", "-0.01", "2.50"],
    "n3": ["0.0", "7.0", "-9.0", "999999999999999999.0", "9007199254740993.0", "2.0"],
    "n4": ["0.000000000000", "123456789012345678.123456789012", "-2.500000000000", "0.000000000001", "9007199254740993.500000000000"],
    "f": ["0e0", "1.5e0", "-2.25e0", "0.1e0", "3.4e38", "16777216e0"],
    "d": ["0e0", "2.5e0", "-2.5e0", "0.1e0", "2.675e0", "1e15", "-3.7e0", "123456.789e0", "1e-7", "0.5e0"],
    "s": ["''", "'abc'", "'ABC'", "'a😀é'", "' a b '", "'12'", "'a,b,,c'", "'x_%y\\z'", "'héllo wörld'", "'true'", "'2024-02-29'"],
    "s2": ["'b'", "''", "'a'", "'%b%'", "'A_C'", "','", "'-3.75'", "'o'", "'2024-02-29 13:45:01.5'"],
    "b": ["TRUE", "FALSE"],
    "y": ["'\\x00\\xFFa'::BLOB", "''::BLOB", "'abc'::BLOB"],
    "dt": [f"DATE '{x}'" for x in ("2024-02-29", "1969-12-28", "2024-05-05", "2000-01-01", "1900-03-01", "2021-01-03")],
    "tm": [f"TIME '{x}'" for x in ("00:00:00", "23:59:59.999999", "07:08:09", "10:20:30.5", "12:00:00.000001")],
    "ts": [f"TIMESTAMP '{x}'" for x in ("2024-02-29 13:45:01.123456", "1969-12-31 23:59:59.5", "2024-05-05 00:00:00")],
    "tz": [f"TIMESTAMPTZ '{x}+00'" for x in ("2024-02-29 13:45:01.123456", "1969-12-31 23:59:59.5", "2024-12-30 00:00:00")],
    "u": ["UUID '6f9619ff-8b86-d011-b42d-00cf4fc964ff'", "UUID '00000000-0000-0000-0000-000000000000'"],
    "js": [f"'{x}'" for x in ('{"a": 1, "b": {"c": [0, "x"]}}', '{"a": "é", "b": null}', "[]", '{"a": 1.5}', '{"a": true}')],
    "nu": [f"'{x}'" for x in ("1.5", "-12", "100000000000000000000.25")],
    "li": ["[1, 2, 3]", "[5, NULL]", "[7]"],
    "k": ["0", "1", "2", "-1", "3"],
}  # fmt: skip
WRITTEN = {
    "unit": [f"'{u}'" for u in subset.UNITS], "constant": ["0", "2"], "quoted": ["','", "'ab'"], "pattern": ["'[a-c]+'", "'^.b|(e|é)'"],
    "path": ["'$.a'", "'$.b.c[1]'", "'$.b'"], "format": ["'%Y-%m-%d'", "'%d/%m/%Y at %H:%M:%S'"],
}  # fmt: skip
CASTS = ["INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL(12,3)", "DECIMAL(4,1)", "DECIMAL(38,0)", "TEXT", "DATE", "TIME", "TIMESTAMP",
         "TIMESTAMPTZ", "UUID", "BOOLEAN"]  # fmt: skip


def typed(text: str) -> tuple[Typed, Mistakes]:
    """The expression over COLUMNS, and what is wrong with it."""
    mistakes = Mistakes()
    relations = Relations(qualified=False)
    select = parse(f"SELECT {text} FROM v", mistakes)
    assert select is not None, (text, mistakes.found)
    relations.met.append(Relation("v", "v", "v", SCHEMA, False))
    return Inference(relations, mistakes).typed(select.expressions[0]), mistakes


def rows(count: int, seed: int) -> list[tuple[str, ...]]:
    """Random rows of VALUES, as DuckDB text, with a null in one cell of ten; every value comes up if there are enough rows."""
    rng = random.Random(seed)
    return [tuple("NULL" if rng.random() < 0.1 else _cell(name, rng.choice(VALUES[name])) for name in COLUMNS) for _ in range(count)]


def _cell(name: str, value: str) -> str:
    if COLUMNS[name].kind in ("bytes", "json", "numeric"):
        return value
    made, mistakes = typed(value)
    assert not mistakes, value
    return made.sql


def of_functions() -> Iterator[str]:
    """Each function with each kind of column as its first argument, with and without what may be left out, each written word in turn."""
    yield "make_date(2000 + k, 4 * k, 30 + k)"
    for function in subset.FUNCTIONS:
        if function.name == "make_date":
            continue
        for kind in sorted(function.arguments[0].kinds):
            columns = [name for name, type_ in COLUMNS.items() if type_.kind == kind] or [None]
            for column in columns[:2] if function.arguments[0].form == "any" else [None]:
                yield from _calls(function, column, kind)


def _calls(function: Function, column: str | None, kind: Kind) -> Iterator[str]:
    counts = {len(function.arguments) - function.optional, len(function.arguments)} if function.name != "concat_ws" else {3}
    for count in sorted(counts | ({3} if function.variadic else set())):
        expected = [function.arguments[min(k, len(function.arguments) - 1)] for k in range(count)]
        choices = [[column] if k == 0 and column else _choices(function, a, kind) for k, a in enumerate(expected)]
        for arguments in itertools.islice(itertools.product(*choices), 10):
            yield f"{function.name}({', '.join(arguments)})"


def _choices(function: Function, argument: Argument, kind: Kind) -> Sequence[str]:
    if argument.form in WRITTEN:
        return WRITTEN[argument.form]
    if argument.to == t.INT32:
        return ["k"]
    kinds = [kind] if function.common or (kind in argument.kinds and argument.kinds != frozenset({"text"})) else sorted(argument.kinds)
    others = [name for name, type_ in COLUMNS.items() if type_.kind in kinds]
    return others[-1:] if others else ["1"]


def of_operators() -> Iterator[str]:
    for operator in subset.OPERATORS:
        for left, right in itertools.product(COLUMNS, COLUMNS):
            if operator.rule(COLUMNS[left], COLUMNS[right]) is not None:
                yield f"{left} {operator.symbol} {right}"


def of_casts() -> Iterator[str]:
    for column, target in itertools.product(COLUMNS, CASTS):
        for word in ("CAST", "TRY_CAST"):
            yield f"{word}({column} AS {target})"


def of_forms() -> Iterator[str]:
    yield from ["-i", "-l", "-n", "-d", "b AND s = 'abc'", "b OR i > 3", "NOT b", "i IS NULL", "li IS NOT NULL", "b IS TRUE", "b IS FALSE"]
    yield from ["i IN (1, 12, 100000)", "n NOT IN (2.5, 12.34)", "s BETWEEN 'a' AND 'b'", "dt NOT BETWEEN '2000-01-01' AND '2024-03-01'"]
    yield from ["CASE WHEN i > 1 THEN s ELSE s2 END", "CASE i WHEN 1 THEN 'one' WHEN 12 THEN 'twelve' END", "if(b, i, l)", "[i, NULL, 3]"]
    yield from ["CASE WHEN b THEN li END", "coalesce(li, [0])", "extract(month FROM ts)", "coalesce(n, n4)", "tz = '2024-12-30 00:00:00'"]
    yield from ["u = '6F9619FF-8B86-D011-B42D-00CF4FC964FF'", "js IS NULL", "i / 0", "0 / i", "-7 // 2"]


def of_nested() -> Iterator[str]:
    """Random expressions in which columns are expressions, of those that are the same on both engines to the last digit."""
    rng = random.Random(5)
    apart = [f.name for f in subset.FUNCTIONS if f.differs or f.near]
    apart += ["pad(", "repeat(", " / ", " // ", "i + dt", "dt + i", "dt - i", "CAST(f ", "CAST(d ", "js"]
    pool: dict[Type, list[str]] = {}
    for text in itertools.chain(of_functions(), of_operators(), of_casts(), of_forms()):
        value, mistakes = typed(text)
        if not mistakes and value.type and value.flink and not any(a in text for a in apart):
            pool.setdefault(value.type, []).append(text)
    kinds = list(pool)
    for _ in range(200):
        text = rng.choice(pool[rng.choice(kinds)])
        for _ in range(2):
            columns = [c for c in re.findall(r"\w+", text) if COLUMNS.get(c) in pool]
            if columns:
                column = rng.choice(columns)
                text = re.sub(rf"\b{column}\b", f"({rng.choice(pool[COLUMNS[column]])})".replace("\\", "\\\\"), text, count=1)
        yield text
