"""Random joins over random rows: what the compiler accepts has one row per key, nulls only where it says so, and edges that hold."""

from __future__ import annotations

import random

import duckdb
import pytest

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.joins import edges, prove_unique
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.query import Query, bind

INT = Type("int32")
TABLES = {
    "a": RowSchema((Field("id", INT, 1), Field("x", INT, 2), Field("y", INT, 3)), ("id",)),
    "b": RowSchema((Field("k", INT, 1), Field("n", INT, 2), Field("x", INT, 3)), ("k", "n")),
    "c": RowSchema((Field("id", INT, 1), Field("ref", INT, 2), Field("x", INT, 3)), ("id",)),
}


def random_sql(rng: random.Random) -> str:
    first = rng.choice(list(TABLES))
    met = {"t0": first}
    joins = []
    for i in range(1, rng.randint(2, 4)):
        table, alias = rng.choice(list(TABLES)), f"t{i}"
        key = TABLES[table].key if rng.random() < 0.8 else TABLES[table].names[-1:]
        parts = []
        for column in key:
            if rng.random() < 0.2:
                parts.append(f"{alias}.{column} = {rng.randint(0, 2)}")
            other = rng.choice(list(met))
            if not parts or rng.random() < 0.9:
                parts.append(f"{other}.{rng.choice(TABLES[met[other]].names)} = {alias}.{column}")
        if rng.random() < 0.3:
            parts.append(f"{alias}.x > {rng.choice(list(met))}.x")
        joins.append(f"{rng.choice(['LEFT ', ''])}JOIN {table} {alias} ON {' AND '.join(parts)}")
        met[alias] = table
    select = ", ".join(f"t0.{k}" for k in TABLES[first].key)
    select += "".join(f", {alias}.{column} AS {alias}_{column}" for alias, table in met.items() for column in TABLES[table].names)
    one = rng.choice(list(met))
    where = rng.choice(["", f" WHERE {one}.x IS NULL OR t0.{TABLES[first].names[-1]} > 0", f" WHERE {one}.x > 0 AND t0.x IS NOT NULL"])
    return f"SELECT {select} FROM {first} t0 {' '.join(joins)}{where}"


def bound(sql: str) -> tuple[Query | None, Mistakes]:
    mistakes = Mistakes()
    select = parse(sql, mistakes)
    assert select is not None
    query = bind(select, TABLES, mistakes)
    if query is not None:
        prove_unique(query, mistakes)
    return query, mistakes


def fill(con: duckdb.DuckDBPyConnection, rng: random.Random) -> None:
    value = lambda: rng.choice([None, 0, 1, 2, 3])  # noqa: E731
    for name, schema in TABLES.items():
        con.execute(f"CREATE OR REPLACE TABLE {name}({', '.join(f'{n} INTEGER' for n in schema.names)})")
        keys = {tuple(rng.randrange(4) for _ in schema.key) for _ in range(8)}
        rows = [(*key, *(value() for _ in schema.names[len(key) :])) for key in sorted(keys)]
        con.execute(f"INSERT INTO {name} VALUES {', '.join(str(r).replace('None', 'NULL') for r in rows)}")


@pytest.mark.parametrize("seed", range(3))
def test_an_accepted_join_has_one_row_per_key_and_edges_that_hold(seed: int) -> None:
    rng, con = random.Random(seed), duckdb.connect(config={"threads": 1})
    accepted = refused_rightly = 0
    for round_ in range(80):
        if round_ % 20 == 0:
            fill(con, rng)
        sql = random_sql(rng)
        query, mistakes = bound(sql)
        if query is None:
            assert mistakes
            continue
        relations = [query.root, *(j.relation for j in query.joins)]
        con.execute("BEGIN")
        for r in relations:
            con.execute(f'CREATE VIEW "{r.alias}" AS SELECT * FROM {r.input}')
        rows = con.execute(query.sql).fetchall()
        keys = [row[: len(query.root.schema.key)] for row in rows]
        for i, column in enumerate(query.columns):
            assert column.nullable or not any(row[i] is None for row in rows), (sql, column)
        if mistakes:
            refused_rightly += len(set(keys)) < len(keys)
        else:
            accepted += 1
            assert len(set(keys)) == len(keys), sql
            assert not any(column.nullable for column in query.columns[: len(query.root.schema.key)])
            tail = query.sql.partition(" FROM ")[2].partition(" WHERE ")[0]
            for e in edges(query):
                pairs = zip(e.parent_columns, e.child_columns, strict=True)
                held = " AND ".join(f'"{e.child}"."{c}" = "{e.parent}"."{p}"' for p, c in pairs)
                there = query_key(relations, e.child)
                assert con.execute(f"SELECT count(*) FROM {tail} WHERE {there} AND ({held}) IS NOT TRUE").fetchall() == [(0,)], (sql, e)
        con.execute("ROLLBACK")
    assert accepted > 15
    assert refused_rightly > 3, "no refused join would have had two rows with one key: the test says little"


def query_key(relations: list, alias: str) -> str:
    """That a row of `alias` is there, and not the nulls of a LEFT JOIN."""
    schema = next(r.schema for r in relations if r.alias == alias)
    return f'"{alias}"."{schema.key[0]}" IS NOT NULL'
