"""What lineage says, held to what happens: random queries of every construct and random products over random rows.

Sound: other values in one column change nothing but what lineage leads to from it. Exact: what it calls a value is one. Complete: a
column that it says nobody names can be dropped and everything compiles; without one that somebody names, just that does not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import queries
from test_products_sql import TABLES as TREE_TABLES
from test_products_sql import Trees, random_rows, read

from millstream.events.types import RowSchema, Type
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.generations import compile_product
from millstream.pipelines.lineage import Lineage, Ref, lineage
from millstream.pipelines.nodes import StepNodes
from millstream.pipelines.plan import Input, Node, Output, Plan, Stateful, Stateless, Union, inputs_of
from millstream.pipelines.sql.dialect import parse
from millstream.pipelines.sql.mistakes import Mistakes

QUERIES, MORE_QUERIES, PRODUCTS, CHANGES = 6, 80, 24, 6
Row = dict[str, Any]
Rows = Mapping[str, Sequence[Row]]
MARK = 1_000
"""Added to every number of a column: no value of another column is among them."""


@dataclass(frozen=True)
class Case:
    """A plan, its lineage, and rows for its tables."""

    plan: Plan
    tables: Mapping[str, RowSchema]
    rows: Rows

    @cached_property
    def lineage(self) -> Lineage:
        return lineage([self.plan], self.tables)

    def made(self, rows: Rows) -> dict[str, list[Row]]:
        """Every node's rows, evaluated from scratch."""
        con = duckdb.connect()
        made = {t: pa.Table.from_pylist(list(rows[t]), schema=pa.schema(list(s.arrow))) for t, s in self.tables.items()}
        for node in self.plan.nodes:
            made[node.name] = _evaluated(con, node, made)
        con.close()
        return {n.name: made[n.name].to_pylist() for n in self.plan.nodes}


def _evaluated(con: duckdb.DuckDBPyConnection, node: Node, made: Mapping[str, pa.Table]) -> pa.Table:
    match node:
        case Union():
            return pa.concat_tables([made[i].cast(pa.schema(list(node.schema.arrow))) for i in node.inputs])
        case Stateless():
            con.register("given", made[node.input])
            items = ", ".join(f'({p.sql}) AS "{p.name}"' for p in node.projections)
            sql = f"SELECT {items} FROM given" + (f" WHERE {node.where}" if node.where else "")
        case Stateful():
            for o in node.occurrences:
                con.register(o.alias, made[o.input])
            sql = node.sql
    return con.sql(sql).to_arrow_table()


@cache
def query_case(construct: str, seed: int) -> tuple[str, Case]:
    rng = random.Random(f"{construct} {seed}")
    while True:
        sql = queries.plain(queries.write(construct, rng))
        nodes = compiled(sql, queries.TABLES)
        if nodes is not None:
            break
    rows = {t: [_row(rng, s, key) for key in _keys(rng, t)] for t, s in queries.TABLES.items()}
    return sql, Case(plan_of(nodes, queries.TABLES), queries.TABLES, rows)


def compiled(sql: str, tables: Mapping[str, RowSchema]) -> list[Node] | None:
    tree = parse(sql, Mistakes())
    assert tree is not None
    return StepNodes("out", tables, Mistakes()).build(tree, None, ())


def plan_of(nodes: Sequence[Node], tables: Mapping[str, RowSchema]) -> Plan:
    read = {i for n in nodes for i in inputs_of(n)}
    inputs = tuple(Input(t, s, 1, "whole") for t, s in tables.items() if t in read)
    return Plan("p", "team", inputs, tuple(nodes), (Output("out", "p.out", "whole"),), ())


def _keys(rng: random.Random, table: str) -> list[tuple[int, ...]]:
    keys = [(i, j) for i in range(4) for j in range(3)] if table == "b" else [(i,) for i in range(5)]
    return [k for k in keys if rng.random() < 0.7]


def _row(rng: random.Random, schema: RowSchema, key: tuple[int, ...]) -> Row:
    row: Row = dict(zip(schema.key, key, strict=True))
    return row | {f.name: rng.choice("pqr") if f.type.kind == "text" else rng.choice([None, 0, 1, 2, 3]) for f in schema.fields[len(key) :]}


def product_case(seed: int, folder: Path) -> Case:
    rng = random.Random(seed)
    definition = read(folder, Trees(rng).product())
    known = {name: Input(name, s, i, "whole") for i, (name, s) in enumerate(TREE_TABLES.items(), 1)}
    return Case(compile_product(definition, 1, known), TREE_TABLES, random_rows(rng))


# ---- sound --------------------------------------------------------------------------------------------------------------
def other_values(rng: random.Random, case: Case, table: str, column: str) -> Rows:
    """The rows with other values in some of one column."""
    type_ = case.tables[table][column].type
    values = ["p", "q", "r", "z"] if type_.kind == "text" else [0, 1, 2, 3, 9]
    changed = [{**r, column: rng.choice(values)} if rng.random() < 0.5 else r for r in case.rows[table]]
    return {**case.rows, table: changed}


def differences(path: tuple[str, ...], type_: Type, was: Any, now: Any) -> Iterator[tuple[str, ...]]:
    """The paths at which two values differ: where both are records, or lists of as many, in their members."""
    if was == now:
        return
    if was is None or now is None or type_.kind not in ("list", "record") or (type_.element and len(was) != len(now)):
        yield path
    elif type_.element is not None:
        for one, other in zip(was, now, strict=True):
            yield from differences(path, type_.element, one, other)
    else:
        for f in type_.fields:
            yield from differences((*path, f.name), f.type, was[f.name], now[f.name])


def unforeseen(case: Case, table: str, column: str, rows: Rows, seen: Counter[str]) -> list[str]:
    """What differs over `rows` and is not led to from the column."""
    graph = case.lineage
    reached = set(graph.downstream(Ref(table, (column,))))
    if column in case.tables[table].key:
        reached |= set(graph.downstream(Ref(table))) | {Ref(table)}
    was, now = case.made(case.rows), case.made(rows)
    found = []
    for node in case.plan.nodes:
        holder = f"{case.plan.pipeline}.{node.name}"
        if Ref(holder) in reached:
            seen["rows"] += 1
            continue
        key = node.schema.key
        before, after = ({tuple(r[k] for k in key): r for r in m[node.name]} for m in (was, now))
        if set(before) != set(after):
            found.append(f"rows of {holder}")
        for k in set(before) & set(after):
            for f in node.schema.fields:
                if f.name == "_seen":
                    continue
                for path in differences((f.name,), f.type, before[k][f.name], after[k][f.name]):
                    seen["fields"] += 1
                    if not any(Ref(holder, path[:i]) in reached for i in range(1, len(path) + 1)):
                        found.append(f"{holder}.{'.'.join(path)}")
        seen["still"] += before == after
    return found


def check_sound(case: Case, rng: random.Random, seen: Counter[str]) -> None:
    columns = [(t, n) for t, s in case.tables.items() for n in s.names if n not in s.key]
    used = [c for c in columns if (led := case.lineage.downstream(Ref(c[0], c[1:]))) and not any(not r.path for r in led)]
    for _ in range(CHANGES):  # most of those that decide no rows: there every field counts
        table, column = rng.choice(used if used and rng.random() < 0.7 else columns)
        found = unforeseen(case, table, column, other_values(rng, case, table, column), seen)
        assert not found, f"{table}.{column} changes {found}\n{case.plan.nodes}"


@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_nothing_changes_but_what_lineage_leads_to(construct: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(QUERIES):
        _, case = query_case(construct, seed)
        check_sound(case, random.Random(seed), seen)
    assert seen["rows"] and seen["still"] and (seen["fields"] or construct == "top"), seen


def test_no_member_of_a_document_changes_but_what_lineage_leads_to(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(PRODUCTS):
        check_sound(product_case(seed, tmp_path), random.Random(seed), seen)
    assert seen["rows"] and min(seen["fields"], seen["still"]) > 20, seen


# ---- exact ----------------------------------------------------------------------------------------------------------------
def leaves(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """The values at a path, through lists."""
    if isinstance(value, list):
        for item in value:
            yield from leaves(item, path)
    elif value is not None and path:
        yield from leaves(value[path[0]], path[1:])
    elif value is not None:
        yield value


def check_values(case: Case, seen: Counter[str]) -> None:
    """Of a column marked by numbers of its own: a value made of it alone is one of them, and no other field holds one as it is."""
    graph = case.lineage
    for table, schema in case.tables.items():
        for f in (f for f in schema.fields if f.type.kind == "int32" and f.name not in schema.key):
            if not graph.out.get(Ref(table, (f.name,))):
                continue
            marked = {**case.rows, table: [{**r, f.name: r[f.name] if r[f.name] is None else r[f.name] + MARK} for r in case.rows[table]]}
            reached = graph.downstream(Ref(table, (f.name,)))
            made = case.made(marked)
            for node in case.plan.nodes:
                holder, rows = f"{case.plan.pipeline}.{node.name}", made[node.name]
                for path in (p for p in graph.holders[holder].fields if node.schema[p[0]].name != "_seen"):
                    found = [v for r in rows for v in leaves(r, path) if isinstance(v, int)]
                    kind = reached.get(Ref(holder, path))
                    if kind == "value" and _alone(graph, Ref(holder, path)):
                        assert all(v >= MARK for v in found), f"{holder}.{path} is said to be {table}.{f.name}\n{case.plan.nodes}"
                        seen["value"] += len(found)
                    elif kind not in ("value", "derived"):
                        assert all(v < MARK for v in found), f"{holder}.{path} holds {table}.{f.name}\n{case.plan.nodes}"
                        seen["other"] += len(found)


def _alone(graph: Lineage, ref: Ref) -> bool:
    """Whether it is a value of one column, by one way: not of several branches."""
    before = [r for r, kind in graph.into.get(ref, {}).items() if kind == "value"]
    return not before or (len(before) == 1 and _alone(graph, before[0]))


@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_a_value_is_the_column_that_it_is_said_to_be(construct: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(QUERIES):
        check_values(query_case(construct, seed)[1], seen)
    assert seen["other"] > 10 and (seen["value"] or construct in ("groups", "top", "within")), seen


def test_a_value_in_a_document_is_the_column_that_it_is_said_to_be(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(PRODUCTS):
        check_values(product_case(seed, tmp_path), seen)
    assert min(seen["value"], seen["other"]) > 50, seen


# ---- complete -------------------------------------------------------------------------------------------------------------
def without(tables: Mapping[str, RowSchema], table: str, column: str) -> dict[str, RowSchema]:
    left = tuple(f for f in tables[table].fields if f.name != column)
    return {**tables, table: replace(tables[table], fields=left)}


def check_drop(table: str, name: str, used: bool, was: Sequence[Node], now: Sequence[Node] | None) -> None:
    """A bare name may find another table's column once its own is gone: that compiles, and is another plan."""
    assert (now is None or list(now) != list(was)) == used, f"{table}.{name}, {'used' if used else 'not used'}\n{was}"


@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_a_column_can_go_exactly_where_nobody_names_it(construct: str) -> None:
    seen: Counter[bool] = Counter()
    for seed in range(QUERIES):
        sql, case = query_case(construct, seed)
        for table, name in droppable(case.tables):
            used = bool(case.lineage.out.get(Ref(table, (name,))))
            check_drop(table, name, used, case.plan.nodes, compiled(sql, without(case.tables, table, name)))
            seen[used] += 1
    assert min(seen[True], seen[False]) > 3, seen


def test_a_column_can_go_exactly_where_no_document_names_it(tmp_path: Path) -> None:
    seen: Counter[bool] = Counter()
    for seed in range(PRODUCTS):
        tree = Trees(random.Random(seed)).product()
        if "'*'" in repr(tree):  # it names none, and reads all
            continue
        case, definition = product_case(seed, tmp_path), read(tmp_path, tree)
        for table, name in droppable(TREE_TABLES):
            used = bool(case.lineage.out.get(Ref(table, (name,))))
            known = {t: Input(t, s, 1, "whole") for t, s in without(TREE_TABLES, table, name).items()}
            try:
                now = compile_product(definition, 1, known).nodes
            except InvalidProject:
                now = None
            check_drop(table, name, used, case.plan.nodes, now)
            seen[used] += 1
    assert min(seen[True], seen[False]) > 5, seen


def droppable(tables: Mapping[str, RowSchema]) -> list[tuple[str, str]]:
    return [(table, name) for table, schema in tables.items() for name in schema.names if name not in schema.key]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_many_more(construct: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(QUERIES, MORE_QUERIES):
        sql, case = query_case(construct, seed)
        check_sound(case, random.Random(seed), seen)
        check_values(case, seen)
        for table, name in droppable(case.tables):
            used = bool(case.lineage.out.get(Ref(table, (name,))))
            check_drop(table, name, used, case.plan.nodes, compiled(sql, without(case.tables, table, name)))
    assert seen["rows"] and (seen["fields"] or construct == "top")
