"""The SQL woven of a tree gives the documents that the tree describes: random trees over random rows, against plain Python.

Both as it is written and as the compiler hands it to the engine, which every tree goes through.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.definitions import ProductDefinition
from millstream.pipelines.generations import compile_product
from millstream.pipelines.plan import Input, Stateful, Stateless
from millstream.pipelines.products import step_of
from millstream.pipelines.project import load
from millstream.sinks.kinds import KINDS

Rows = dict[str, list[dict[str, Any]]]
Row = dict[str, Any] | None

COLUMNS = RowSchema(
    (*(Field(name, Type("int32"), i) for i, name in enumerate(("id", "f", "g", "n"), 1)), Field("t", Type("text"), 5)), ("id",)
)
TABLES = {f"s.p.{name}": COLUMNS for name in "abcd"}
TREES, WORLDS = 40, 3


# ---- the oracle: what the YAML says, row by row
def documents(product: dict[str, Any], rows: Rows) -> list[dict[str, Any]]:
    root = product["root"]
    found = []
    for row in rows[root["from"]]:
        env = joined(root, {alias_of(root): row}, rows)
        if holds(root.get("where"), env, alias_of(root)):
            found.append(record(root["fields"], product.get("nest", {}), env, alias_of(root), rows))
    return found


def alias_of(part: dict[str, Any]) -> str:
    return part.get("as") or part["from"].rpartition(".")[2]


def joined(part: dict[str, Any], env: dict[str, Row], rows: Rows) -> dict[str, Row]:
    for name, table in part.get("join", {}).items():
        env = {**env, name: next((r for r in rows[table["from"]] if holds(table["on"], {**env, name: r}, name)), None)}
    return env


def value(text: str, env: dict[str, Row], own: str) -> Any:
    if text.lstrip("-").isdigit():
        return int(text)
    table, dot, column = text.rpartition(".")
    row = env[table if dot else own]
    return None if row is None else row[column]


def holds(condition: str | None, env: dict[str, Row], own: str) -> bool:
    if condition is None:
        return True
    left, sign, right = condition.split()
    a, b = value(left, env, own), value(right, env, own)
    return a is not None and b is not None and (a == b if sign == "=" else a > b)


def record(fields: Any, nest: dict[str, Any], env: dict[str, Row], own: str, rows: Rows) -> dict[str, Any]:
    if fields == "*":
        made = {c: value(c, env, own) for c in COLUMNS.names if c not in nest}
    elif isinstance(fields, dict):
        made = {name: value(text or name, env, own) for name, text in fields.items()}
    else:
        made = {f.rpartition(".")[2]: value(f, env, own) for f in fields}
    return made | {name: nested(part, env, rows) for name, part in nest.items()}


def nested(part: dict[str, Any], env: dict[str, Row], rows: Rows) -> Any:
    own = alias_of(part)
    found = []
    for row in rows[part["from"]]:
        here = {**env, own: row}
        if not holds(part["on"], here, own):
            continue
        here = joined(part, here, rows)
        if holds(part.get("where"), here, own):
            found.append((row, here))
    if "value" in part:
        return len(found) if part["value"] == "count(*)" else sum(r["n"] or 0 for r, _ in found) if found else None

    def content(here: dict[str, Row]) -> Any:
        what = part["one"] if "one" in part else part["each"]
        if isinstance(what, str) and what != "*":
            return value(what, here, own)
        return record(what, part.get("nest", {}), here, own, rows)

    if "one" in part:
        return content(found[0][1]) if found else None
    down = part.get("order", "").endswith("desc")
    found.sort(key=lambda f: f[0]["id"])
    if "order" in part:
        found.sort(key=lambda f: f[0]["n"], reverse=down)
    return [content(here) for _, here in found][: part.get("limit")]


# ---- random trees
class Trees:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def product(self) -> dict[str, Any]:
        root: dict[str, Any] = {
            "from": self.table(),
            "as": "top",
            "fields": self.rng.choice([["id", "n"], "*", {"id": None, "m": "top.f"}]),
        }
        if self.rng.random() < 0.4:
            root["where"] = "n > 1"
        if self.rng.random() < 0.3:
            root["join"] = {"beside": {"from": self.table(), "on": "beside.id = top.f"}}
            root["fields"] = {"id": "id", "b": "beside.t"}
        return {"product": "p", "owner": "o", "root": root, "nest": self.nest(["top"], 3), "sinks": []}

    def table(self) -> str:
        return self.rng.choice(sorted(TABLES))

    def nest(self, above: list[str], depth: int) -> dict[str, Any]:
        count = self.rng.randint(0 if depth < 3 else 1, 2) if depth else 0
        return {f"m{i}": self.part(above, depth) for i in range(count)}

    def part(self, above: list[str], depth: int) -> dict[str, Any]:
        rng, table, parent = self.rng, self.table(), above[-1]
        alias = table.rpartition(".")[2]
        part: dict[str, Any] = {"from": table}
        if alias in above:  # two paths to one table on one branch: another name
            alias = part["as"] = f"{alias}{len(above)}"
        makes = rng.choice(["each", "each", "one", "value"])
        tied = rng.choice(["f", "g"])
        part["on"] = f"{alias}.id = {parent}.{tied}" if makes == "one" else f"{parent}.id = {rng.choice([f'{alias}.', ''])}{tied}"
        if rng.random() < 0.3:
            part["where"] = f"{alias}.n > 1"
        here = [*above, alias]
        if rng.random() < 0.3:
            part["join"] = {f"j{len(here)}": {"from": self.table(), "on": f"j{len(here)}.id = {alias}.g"}}
        if makes == "value":
            return part | {"value": rng.choice(["count(*)", "sum(n)"])}
        if rng.random() < 0.3:
            return part | {makes: rng.choice([f"{alias}.t", "n"]), **self.listed(makes)}
        members = [["id", f"{alias}.n"], {"x": "t", "id": None}, "*"]
        if "join" in part:
            members.append(["id", f"j{len(here)}.t"])
        return part | {makes: rng.choice(members), "nest": self.nest(here, depth - 1), **self.listed(makes)}

    def listed(self, makes: str) -> dict[str, Any]:
        given = {}
        if makes == "each" and self.rng.random() < 0.5:
            given["order"] = self.rng.choice(["n", "n desc"])
        if makes == "each" and self.rng.random() < 0.3:
            given["limit"] = 2
        return given


def random_rows(rng: random.Random) -> Rows:
    def row(key: int) -> dict[str, Any]:
        some = lambda: rng.choice([None, *range(6)])  # noqa: E731
        return {"id": key, "f": some(), "g": some(), "n": rng.randrange(4), "t": rng.choice([None, "a", "b"])}

    return {name: [row(key) for key in rng.sample(range(6), rng.randrange(6))] for name in TABLES}


def read(folder: Path, product: dict[str, Any]) -> ProductDefinition:
    (folder / "products").mkdir(exist_ok=True)
    (folder / "mesh.yaml").write_text("mesh: demo\n")
    (folder / "products" / "p.yaml").write_text(yaml.safe_dump(product, sort_keys=False))
    (found,) = load(folder, {}, (), KINDS).products
    return found


def run(sql: str, rows: Rows) -> list[dict[str, Any]]:
    con = duckdb.connect()
    con.execute("ATTACH ':memory:' AS s; CREATE SCHEMA s.p")
    for name, found in rows.items():
        con.register("given", pa.Table.from_pylist(found, schema=pa.schema(list(COLUMNS.arrow))))
        con.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
    return con.sql(sql).to_arrow_table().to_pylist()


def plain(given: Any, meant: Any) -> Any:
    """DuckDB says a list of no rows by null, which Millstream SQL does not; and it sums to decimals and large integers."""
    if isinstance(meant, list):
        return [plain(g, m) for g, m in zip(given or [], meant, strict=True)]
    if isinstance(meant, dict) and isinstance(given, dict):
        return {k: plain(given[k], m) for k, m in meant.items()} | {k: v for k, v in given.items() if k not in meant}
    return given


def run_compiled(product: ProductDefinition, rows: Rows) -> list[dict[str, Any]]:
    """What the plan's node makes, each of its occurrences a relation of its alias's name."""
    known = {name: Input(name, s, i, "whole") for i, (name, s) in enumerate(TABLES.items(), 1)}
    node = compile_product(product, 1, known).nodes[-1]
    con = duckdb.connect()
    tables = {name: pa.Table.from_pylist(found, schema=pa.schema(list(COLUMNS.arrow))) for name, found in rows.items()}
    if isinstance(node, Stateless):
        con.register("given", tables[node.input])
        items = ", ".join(f'{p.sql} AS "{p.name}"' for p in node.projections)
        return con.sql(f"SELECT {items} FROM given WHERE {node.where or 'true'}").to_arrow_table().to_pylist()
    assert isinstance(node, Stateful)
    for o in node.occurrences:
        con.register(o.alias, tables[o.input])
    made = con.sql(node.sql).to_arrow_table()
    # The woven types are the plan's: what the topic and the index are told is what comes.
    assert {f.name: f.type for f in made.schema} == {f.name: f.type.arrow for f in node.schema.fields if f.name != node.stamp}
    return made.to_pylist()


@pytest.mark.parametrize("seed", range(TREES))
def test_the_woven_sql_makes_the_documents_of_the_tree(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    product = Trees(rng).product()
    definition = read(tmp_path, product)
    sql = step_of(definition, TABLES).sql
    for _ in range(WORLDS):
        rows = random_rows(rng)
        meant = sorted(documents(product, rows), key=lambda d: d["id"])
        given = sorted(run(sql, rows), key=lambda d: d["id"])
        assert [plain(g, m) for g, m in zip(given, meant, strict=True)] == meant, f"{yaml.safe_dump(product)}\n{sql}"
        assert sorted(run_compiled(definition, rows), key=lambda d: d["id"]) == meant, f"{yaml.safe_dump(product)}\n{sql}"


def test_the_trees_hold_every_construct() -> None:
    text = "".join(yaml.safe_dump(Trees(random.Random(seed)).product()) for seed in range(TREES))
    assert all(word in text for word in ("each:", "one:", "value:", "join:", "where:", "order:", "limit:", "as:", "'*'", "sum(n)"))
    assert "- id\n" in text
    assert text.count("nest:") >= TREES
