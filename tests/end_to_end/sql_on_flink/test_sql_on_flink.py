"""The second column of the tables is true: on a real Flink every expression gives the value and type that it gives on DuckDB.

Values are compared per row. Where DuckDB fails for a row, Flink must fail too, unless the table says that it differs.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import sql_examples as examples

from millstream.errors import Refused
from millstream.events.types import Type
from millstream.pipelines.sql import aggregates, flink, subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.shape import Aggregate
from millstream.pipelines.sql.typed import Typed
from millstream.testing.flink_server import Answer, FlinkServer, StatementFailed

pytestmark = [pytest.mark.long, pytest.mark.servers, pytest.mark.timeout(1200)]

AT_ONCE = 40  # columns of one statement
ROWS = 24
NAMES = {"INTEGER": "INT", "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP", "TIMESTAMP WITH LOCAL TIME ZONE": "TIMESTAMP_LTZ", " ": "", "`": ""}
FAILURES = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)


@pytest.fixture(scope="module")
def server() -> Iterator[FlinkServer]:
    try:
        started = FlinkServer()
    except Refused as e:
        pytest.skip(f"SQL is not compared with Flink: {e}")
    with started:
        yield started


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1})
    con.execute("SET TimeZone = 'UTC'")
    return con


class Table:
    """The same rows in both engines, as `v`: a table in DuckDB, a file of JSON lines for Flink. Each has a number `rn`."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, server: FlinkServer, folder: Path, rows: Sequence[tuple[str, ...]], known: Mapping[str, Type]
    ) -> None:
        columns = {"rn": t.INT32, **known}
        con.execute("DROP TABLE IF EXISTS v")
        con.execute(f"CREATE TABLE v({', '.join(f'{name} {t.duckdb_name(type_)}' for name, type_ in columns.items())})")
        if rows:
            con.execute(f"INSERT INTO v VALUES {', '.join('(' + ', '.join([str(n), *row]) + ')' for n, row in enumerate(rows))}")
        self.con, self.count = con, len(rows)
        path = folder / "v.json"
        read = ", ".join(f"CAST({n} AS TIMESTAMP)" if type_ == t.TIMESTAMPTZ else n for n, type_ in columns.items())
        with path.open("w", encoding="utf-8") as file:
            for row in con.execute(f"SELECT {read} FROM v").fetchall():
                cells = {n: as_json(v, type_) for (n, type_), v in zip(columns.items(), row, strict=True)}
                file.write(json.dumps(cells) + "\n")
        server.sql("DROP TEMPORARY TABLE IF EXISTS v")
        server.sql(
            f"CREATE TEMPORARY TABLE v({', '.join(f'`{name}` {flink.name(type_)}' for name, type_ in columns.items())}) "
            f"WITH ('connector' = 'filesystem', 'path' = '{path.as_uri()}', 'format' = 'json')"
        )

    def on_duckdb(self, value: Typed) -> tuple[dict[int, Any], set[int]]:
        """The value for each row, and the rows for which it fails."""
        sql = f"CAST({value.sql} AS TIMESTAMP)" if value.type == t.TIMESTAMPTZ else value.sql
        try:
            return dict(self.con.execute(f"SELECT rn, {sql} FROM v").fetchall()), set()
        except FAILURES:
            found: dict[int, Any] = {}
            for n in range(self.count):
                try:
                    found.update(self.con.execute(f"SELECT rn, {sql} FROM v WHERE rn = {n}").fetchall())
                except FAILURES:
                    continue
            return found, set(range(self.count)) - set(found)

    def on_flink(self, server: FlinkServer, texts: Sequence[str]) -> Answer:
        items = ", ".join(f"{sql} AS c{i}" for i, sql in enumerate(texts))
        return server.sql(f"SELECT rn, {items} FROM v")


def compare(server: FlinkServer, table: Table, expressions: Sequence[str], near: frozenset[str] = frozenset()) -> list[str]:
    """What differs, each by the name of its expression. Expressions that clash or have no Flink text are passed over."""
    wanted = []
    for text in dict.fromkeys(expressions):
        value, mistakes = examples.typed(text)
        if mistakes or value.flink is None or value.type is None:
            continue
        good, bad = table.on_duckdb(value)
        guarded = f"CASE WHEN rn NOT IN ({', '.join(map(str, sorted(bad)))}) THEN {value.flink} END" if bad else value.flink
        wanted.append((text, value, good, bad, guarded))
    assert wanted, "no expression can be compared"
    table.on_flink(server, ["1"])  # that the rows themselves are taken
    differences = []
    for i in range(0, len(wanted), AT_ONCE):
        differences += _compare(server, table, wanted[i : i + AT_ONCE], near)
    for text, value, _, bad, _ in wanted:
        if bad and not milder(text) and not _fails(server, table, value, min(bad)):
            differences.append(f"{text}: fails on DuckDB for row {min(bad)} ({shown(table, min(bad), text)}), not on Flink: {value.flink}")
    return differences


def _compare(server: FlinkServer, table: Table, wanted: Sequence[Any], near: frozenset[str]) -> list[str]:
    try:
        answer = table.on_flink(server, [w[4] for w in wanted])
    except StatementFailed as e:
        if len(wanted) == 1:
            return [f"{wanted[0][0]}: {e.message[:300]}\n    {wanted[0][4]}"]
        middle = len(wanted) // 2
        return _compare(server, table, wanted[:middle], near) + _compare(server, table, wanted[middle:], near)
    differences = []
    for i, (text, value, good, _, sql) in enumerate(wanted, 1):
        kind = plain(answer.columns[i][1])
        if kind != plain(flink.name(value.type)):
            differences.append(f"{text}: its type on Flink is {kind}, not {flink.name(value.type)}\n    {sql}")
        for row in answer.rows:
            if row[0] in good and not same(good[row[0]], row[i], value.type, close=any(text.startswith(n) for n in near)):
                differences.append(f"{text}: {good[row[0]]!r} on DuckDB, {row[i]!r} on Flink ({shown(table, row[0], text)})\n    {sql}")
                break
    return differences


def plain(type_: str) -> str:
    """A type of Flink's by one spelling."""
    for long, short in NAMES.items():
        type_ = type_.replace(long, short)
    return type_


def _fails(server: FlinkServer, table: Table, value: Typed, row: int) -> bool:
    try:
        server.sql(f"SELECT {value.flink} AS x FROM v WHERE rn = {row}")
    except StatementFailed:
        return True
    return False


def shown(table: Table, row: int, text: str) -> str:
    words = re.findall(r"\w+", text)
    names = [n for n in examples.COLUMNS if n in words]
    values = table.con.execute(f"SELECT {', '.join(f'CAST({n} AS VARCHAR)' for n in names) or '0'} FROM v WHERE rn = {row}").fetchall()[0]
    return ", ".join(f"{n} = {v!r}" for n, v in zip(names, values, strict=False))


def same(ours: Any, theirs: Any, type_: Type, close: bool = False) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    match type_.kind:
        case "float32" | "float64":
            a, b = float(ours), float(theirs)
            if type_.kind == "float32":
                a, b = (struct.unpack("f", struct.pack("f", x))[0] for x in (a, b))
            return a == b or (math.isnan(a) and math.isnan(b)) or (close and math.isclose(a, b, rel_tol=1e-14))
        case "decimal":
            return Decimal(ours) == Decimal(theirs)
        case "date":
            if not theirs[0].isdigit():  # of a year beyond those that Python has
                return not isinstance(ours, date)
            return ours == date.fromisoformat(theirs)
        case "time":
            assert isinstance(ours, time)
            return ((ours.hour * 60 + ours.minute) * 60 + ours.second) * 1_000_000 + ours.microsecond == int(theirs)
        case "timestamp" | "timestamptz":
            return ours == datetime.fromisoformat(theirs.removesuffix("Z"))
        case "bytes":
            return ours == base64.b64decode(theirs)
        case "list":
            assert type_.element is not None
            return len(ours) == len(theirs) and all(same(x, y, type_.element) for x, y in zip(ours, theirs, strict=True))
    return ours == theirs


def as_json(value: Any, type_: Type) -> Any:
    """The value as Flink's JSON format reads it."""
    if value is None:
        return None
    match type_.kind:
        case "decimal" | "date":
            return str(value)
        case "float32":
            return float(str(np.float32(value)))
        case "bytes":
            return base64.b64encode(value).decode()
        case "time":
            return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
        case "timestamp":
            return value.isoformat(" ")
        case "timestamptz":
            return value.isoformat(" ") + "Z"
    return value


def milder(text: str) -> bool:
    """Whether the table says that Flink does not fail here: a function, or an operator on an int64 or a date."""
    if text.startswith(tuple(f.name + "(" for f in subset.FUNCTIONS if "does not fail" in f.differs)):
        return True
    words = text.split(" ")
    return any(o.symbol in words and "does not fail" in o.differs for o in subset.OPERATORS) and bool({"dt", "l"} & set(words))


NEAR = frozenset(f.name + "(" for f in subset.FUNCTIONS if f.near)


def test_every_example_has_on_flink_the_value_that_the_table_says(
    server: FlinkServer, con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    table = Table(con, server, tmp_path, examples.rows(1, seed=1), examples.COLUMNS)
    texts = [text for row in (*subset.OPERATORS, *subset.FUNCTIONS) for text, _ in row.examples]
    wanted = [wanted for row in (*subset.OPERATORS, *subset.FUNCTIONS) for _, wanted in row.examples]
    differences = compare(server, table, [*texts, *wanted], NEAR)
    assert not differences, "\n".join(differences)


@pytest.mark.parametrize("of", ["functions", "operators", "casts", "forms", "nested"])
def test_values_types_and_failures_are_the_same_over_rows(
    of: str, server: FlinkServer, con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    table = Table(con, server, tmp_path, examples.rows(ROWS, seed=7), examples.COLUMNS)
    differences = compare(server, table, list(getattr(examples, f"of_{of}")()), NEAR)
    assert not differences, f"{len(differences)} differ:\n" + "\n".join(differences)


@pytest.mark.parametrize("aggregate", [a for a in aggregates.AGGREGATES if a.flink], ids=lambda a: a.name)
def test_aggregates_give_the_same(aggregate: Aggregate, server: FlinkServer, con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    """Over the table's samples, and over every column that it takes, whole and in groups. The order of a list is not compared."""
    for sample in aggregate.examples:
        known = dict(sample.columns)
        table = Table(con, server, tmp_path, sample.rows, known)
        _aggregated(table, server, aggregate, [(sample.arguments, [known[a] for a in sample.arguments])], sample.distinct, "")
    table = Table(con, server, tmp_path, examples.rows(ROWS, seed=11), examples.COLUMNS)
    columns = [((n,), [type_]) for n, type_ in examples.COLUMNS.items() if type_.kind in aggregate.arguments[0].kinds]
    for group in ("", "k"):
        _aggregated(table, server, aggregate, columns, False, group)


def _aggregated(
    table: Table, server: FlinkServer, aggregate: Aggregate, calls: Sequence[tuple[Any, list[Type]]], distinct: bool, group: str
) -> None:
    assert aggregate.flink
    results = [aggregate.result(types) for _, types in calls]
    form = [(names, types, result) for (names, types), result in zip(calls, results, strict=True)]
    ours = [
        aggregates.text(aggregate.duckdb, n, ts, t.duckdb_name, r, order="rn" * aggregate.ordered, distinct=distinct) for n, ts, r in form
    ]
    theirs = [aggregates.text(aggregate.flink, [f"`{x}`" for x in n], ts, flink.name, r, distinct=distinct) for n, ts, r in form]
    ours = [f"CAST({sql} AS TIMESTAMP)" if r == t.TIMESTAMPTZ else sql for sql, r in zip(ours, results, strict=True)]
    ours = [f"CAST({sql} AS TIMESTAMP[])" if r.element == t.TIMESTAMPTZ else sql for sql, r in zip(ours, results, strict=True)]
    key, end = group or "0", f" GROUP BY {group}" if group else ""
    wanted = {row[0]: row[1:] for row in table.con.execute(f"SELECT {key}, {', '.join(ours)} FROM v{end}").fetchall()}
    answer = server.sql(f"SELECT {key} AS g, {', '.join(f'{sql} AS c{i}' for i, sql in enumerate(theirs))} FROM v{end}")
    assert len(answer.rows) == len(wanted)
    for i, (names, _, result) in enumerate(form):
        assert plain(answer.columns[i + 1][1]) == plain(flink.name(result)), names
        for row in answer.rows:
            mine, other = wanted[row[0]][i], row[i + 1]
            if result.element is not None:
                assert len(mine) == len(other), (names, mine, other)
                for value in mine:
                    assert sum(same(value, x, result.element) for x in other) == sum(value == x for x in mine), (names, value, mine, other)
            else:
                assert same(mine, other, result), (aggregate.name, names, mine, other)
