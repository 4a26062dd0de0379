"""Random queries of every construct over random rows. The oracle is DuckDB on the same SQL: what the compiler makes of it gives the
same rows, with types and nulls as it says, a key that is one, and, for some units alone, from the rows that the edges lead to.
"""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from queries import CONSTRUCTS, TABLES, oracle, plain, write

from millstream.pipelines import reads
from millstream.pipelines.nodes import StepNodes
from millstream.pipelines.plan import Node, Stateful, Stateless, Union
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Query
from millstream.pipelines.sql.types import duckdb_name


def compiled(sql: str) -> tuple[list[Node] | None, list[Query], Mistakes]:
    mistakes = Mistakes()
    tree = parse(sql, mistakes)
    assert tree is not None, (sql, mistakes.found)
    building = StepNodes("s", TABLES, mistakes)
    return building.build(tree, None, ()), building.queries, mistakes


def fill(con: duckdb.DuckDBPyConnection, rng: random.Random) -> None:
    value = lambda: rng.choice([None, 0, 1, 2, 3])  # noqa: E731
    for name, schema in TABLES.items():
        con.execute(f"CREATE OR REPLACE TABLE {name}({', '.join(f'{f.name} {duckdb_name(f.type)}' for f in schema.fields)})")
        keys = {tuple(rng.randrange(5) for _ in schema.key) for _ in range(8)}
        rest = schema.fields[len(schema.key) :]
        rows = [(*key, *(rng.choice("pqr") if f.type.kind == "text" else value() for f in rest)) for key in sorted(keys)]
        con.execute(f"INSERT INTO {name} VALUES {', '.join(str(r).replace('None', 'NULL') for r in rows)}")


def counted(rows: list[tuple[Any, ...]]) -> Counter[str]:
    return Counter(repr(_narrow(row)) for row in rows)


def _narrow(value: Any) -> Any:
    """DuckDB's own sums are of another type than ours: compared as the numbers that they are."""
    match value:
        case Decimal():
            return int(value)
        case tuple() | list():
            return [_narrow(v) for v in value]
        case dict():
            return {k: _narrow(v) for k, v in value.items()}
    return value


def names(columns: Any) -> str:
    return ", ".join(f'"{c}"' for c in columns)


def run(con: duckdb.DuckDBPyConnection, node: Node, sql: str) -> None:
    """Makes a table of the node's name with its rows."""
    match node:
        case Stateless():
            select = ", ".join(f'{p.sql} AS "{p.name}"' for p in node.projections)
            where = f" WHERE {node.where}" if node.where else ""
            text = f'SELECT {select} FROM "{node.input}"{where}'
        case Union():
            text = " UNION ALL ".join(f'SELECT * FROM "{name}"' for name in node.inputs)
        case Stateful():
            for o in node.occurrences:
                con.execute(f'CREATE TEMP VIEW "{o.alias}" AS SELECT * FROM main."{o.input}"')
            text = node.sql
    con.execute(f'CREATE TABLE main."{node.name}" AS {text}')
    for o in node.occurrences if isinstance(node, Stateful) else ():
        con.execute(f'DROP VIEW temp."{o.alias}"')
    described = con.execute(f'DESCRIBE main."{node.name}"').fetchall()
    assert [(r[0], r[1].replace('"', "")) for r in described] == [
        (f.name, duckdb_name(f.type).replace('"', "")) for f in node.schema.fields
    ], sql
    key = names(node.schema.key)
    twice = con.execute(f'SELECT {key} FROM main."{node.name}" GROUP BY {key} HAVING count(*) > 1').fetchall()
    assert not twice, (sql, node.schema.key, twice)
    nulls = con.execute(
        f'SELECT count(*) FROM main."{node.name}" WHERE {" OR ".join(f""""{k}" IS NULL""" for k in node.schema.key)}'
    ).fetchall()
    assert nulls == [(0,)], (sql, node.schema.key)


def closure_holds(con: duckdb.DuckDBPyConnection, node: Stateful, rng: random.Random, sql: str) -> None:
    """From the rows that the edges lead to for some units, and the columns that are read, the query gives those units' rows."""
    unit = names(node.unit)
    every = con.execute(f'SELECT DISTINCT {unit} FROM main."{node.name}"').fetchall()
    wanted = [u for u in every if rng.random() < 0.5] or every[:1]
    if not wanted:
        return
    con.execute(f'CREATE OR REPLACE TEMP TABLE units AS SELECT DISTINCT {unit} FROM main."{node.name}" LIMIT 0')
    con.execute(f"INSERT INTO units VALUES {', '.join('(' + ', '.join(map(_literal, u)) + ')' for u in wanted)}")
    inputs = {o.alias: o.input for o in node.occurrences}
    used = reads.of_stateful(node)
    extra = {name: [c for c in node.computed if c.input == name] for name in inputs.values()}
    columns = {a: set(used[a]) for a in inputs}
    for e in node.edges:
        columns[e.parent] |= set(e.parent_columns)
        columns[e.child] |= set(e.child_columns)

    def restricted(alias: str, condition: str) -> None:
        computed = "".join(f', {c.sql} AS "{c.name}"' for c in extra[inputs[alias]])
        kept = sorted(columns[alias] - {c.name for c in extra[inputs[alias]]}) or ["1"]
        kept_names = ", ".join(f'"{c}"' if c != "1" else "1 AS one" for c in kept)
        made = "".join(f', "{c.name}"' for c in extra[inputs[alias]])
        rows = f'(SELECT *{computed} FROM main."{inputs[alias]}") AS r'
        con.execute(f'CREATE TEMP TABLE "{alias}" AS SELECT {kept_names}{made} FROM {rows} WHERE {condition}')

    for root in node.roots:
        columns[root.alias] |= set(root.columns)
        on = " AND ".join(f'r."{c}" = u."{n}"' for c, n in zip(root.columns, node.unit, strict=True))
        restricted(root.alias, f"EXISTS (SELECT 1 FROM units u WHERE {on})")
    for e in node.edges:
        on = " AND ".join(f'r."{c}" = p."{n}"' for c, n in zip(e.child_columns, e.parent_columns, strict=True))
        restricted(e.child, f'EXISTS (SELECT 1 FROM temp."{e.parent}" p WHERE {on})')
    assert {e.child for e in node.edges} | {r.alias for r in node.roots} == set(inputs), sql
    here = con.execute(node.sql).fetchall()
    on = " AND ".join(f's."{n}" = u."{n}"' for n in node.unit)
    there = con.execute(f'SELECT * FROM main."{node.name}" s WHERE EXISTS (SELECT 1 FROM units u WHERE {on})').fetchall()
    assert counted(here) == counted(there), (sql, node)
    for o in node.occurrences:
        con.execute(f'DROP TABLE temp."{o.alias}"')


def _literal(value: object) -> str:
    return "NULL" if value is None else repr(value)


@pytest.mark.parametrize("construct", CONSTRUCTS)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_accepted_gives_the_rows_that_duckdb_gives(construct: str, seed: int) -> None:
    rng, con = random.Random(f"{construct}{seed}"), duckdb.connect(config={"threads": 1})
    accepted = stateful = 0
    for round_ in range(60):
        if round_ % 20 == 0:
            fill(con, rng)
        sql = write(construct, rng)
        nodes, queries, mistakes = compiled(plain(sql))
        if nodes is None:
            assert mistakes.found, sql
            assert not {m.code for m in mistakes.found} & {"sql_unreadable", "unknown_column", "unknown_table"}, (sql, mistakes.found)
            continue
        accepted += 1
        con.execute("BEGIN")
        for node in nodes:
            run(con, node, sql)
        rows = con.execute('SELECT * FROM main."s"').fetchall()
        assert counted(rows) == counted(con.execute(oracle(sql)).fetchall()), (sql, nodes)
        if len(nodes) == 1 and not isinstance(nodes[0], Union):
            for i, column in enumerate(queries[0].columns):
                assert column.nullable or not any(r[i] is None for r in rows), (sql, column)
        for node in nodes:
            if isinstance(node, Stateful):
                stateful += 1
                closure_holds(con, node, rng, sql)
        con.execute("ROLLBACK")
    assert accepted > 12, "too few queries are accepted for the test to say anything"
    assert stateful > 12
