"""What the property of stateful steps is held on: three tables of one source with columns of random types, a plan for every
construct of the SQL over them, random changes, and the oracle: each node evaluated from scratch by another DuckDB."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from millstream.engine.images import conform
from millstream.events.types import Field, RowSchema, Type, list_of, record_of
from millstream.pipelines.plan import Computed, Edge, Node, Occurrence, Projection, Root, Stateful, Stateless, Union

INT, TEXT = Type("int64"), Type("text")
KEYS = 5
TABLES = ("src.a", "src.b", "src.c")
Row = dict[str, Any]
Columns = list[tuple[str, Type]]

PAYLOADS: dict[str, tuple[Type, list[Any]]] = {
    "int": (Type("int32"), [None, -1, 7]),
    "text": (TEXT, [None, "", "it's", "ß"]),
    "decimal": (Type("decimal", 10, 2), [None, Decimal("1.50"), Decimal("-0.01")]),
    "boolean": (Type("boolean"), [None, True, False]),
    "date": (Type("date"), [None, dt.date(2024, 2, 29)]),
    "timestamptz": (Type("timestamptz"), [None, dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC)]),
    "float": (Type("float64"), [None, 0.1, float("inf")]),
    "bytes": (Type("bytes"), [None, b"\x00\xff"]),
}


@dataclass
class World:
    """`nodes` make a plan over the three tables, of which c has a key of two columns. `published` names the nodes that have a topic."""

    rng: random.Random
    payload: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    rows: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=lambda: {t: {} for t in TABLES})

    def __post_init__(self) -> None:
        self.payload = {t: self.rng.choice(list(PAYLOADS)) for t in TABLES}

    def type(self, table: str) -> Type:
        return PAYLOADS[self.payload[table]][0]

    def schema(self, table: str) -> RowSchema:
        own = [("s", TEXT)] if table == "src.c" else []
        columns = [("id", INT), *own, ("x", INT), ("y", INT), ("t", TEXT), ("g", INT), ("v", INT), ("p", self.type(table))]
        return RowSchema(tuple(Field(n, t, i) for i, (n, t) in enumerate(columns, 1)), ("id", "s") if own else ("id",))

    def random_row(self, table: str, key: tuple[Any, ...]) -> Row:
        number = lambda: self.rng.choice([None, *range(KEYS)])  # noqa: E731
        row = dict(zip(self.schema(table).key, key, strict=True))
        return row | {
            "x": number(),
            "y": number(),
            "t": self.rng.choice([None, "u", "w"]),
            "g": self.rng.choice([None, 0, 1, 2]),
            "v": number(),
            "p": self.rng.choice(PAYLOADS[self.payload[table]][1]),
        }

    def keys(self, table: str) -> list[tuple[Any, ...]]:
        return [(i, s) for i in range(KEYS) for s in "uw"] if table == "src.c" else [(i,) for i in range(KEYS)]

    def change(self) -> dict[str, list[tuple[Row | None, Row | None]]]:
        """A transaction over several tables, with several changes of one key and keys that move (a delete and an insert)."""
        out: dict[str, list[tuple[Row | None, Row | None]]] = {}
        for _ in range(self.rng.randint(1, 6)):
            table = self.rng.choice(TABLES)
            rows, key = self.rows[table], self.rng.choice(self.keys(table))
            changes = out.setdefault(table, [])
            if key in rows and self.rng.random() < 0.3:
                changes.append((rows.pop(key), None))
            elif key in rows and self.rng.random() < 0.3 and (free := [k for k in self.keys(table) if k not in rows]):
                old, moved = rows.pop(key), self.rng.choice(free)
                rows[moved] = old | dict(zip(self.schema(table).key, moved, strict=True))
                changes += [(old, None), (None, rows[moved])]
            else:
                old_row = rows.get(key)
                rows[key] = self.random_row(table, key)
                changes.append((old_row, rows[key]))
        return out

    def first_rows(self) -> dict[str, list[tuple[Row | None, Row | None]]]:
        for table in TABLES:
            self.rows[table] = {k: self.random_row(table, k) for k in self.keys(table) if self.rng.random() < 0.6}
        return {t: [(None, r) for r in rows.values()] for t, rows in self.rows.items() if rows}

    # ---- writing plans down

    def stateful(
        self, name: str, sql: str, columns: Columns, key: Sequence[str], roots: Sequence[Root], unit: Sequence[str], inputs: dict[str, str],
        edges: Sequence[Edge] = (), **given: Any,
    ) -> Stateful:  # fmt: skip
        schema = RowSchema(tuple(Field(n, t, i) for i, (n, t) in enumerate(columns, 1)), tuple(key))
        occurrences = tuple(Occurrence(alias, i) for alias, i in inputs.items())
        node = Stateful(name, sql, tuple(roots), tuple(unit), occurrences, tuple(edges), schema, **given)
        self.nodes.append(node)
        return node

    def expected(self) -> dict[str, list[Row]]:
        """Published node → its rows, evaluated from scratch."""
        made: dict[str, pa.Table] = {}
        for table in TABLES:
            schema = pa.schema(list(self.schema(table).arrow))
            made[table] = pa.Table.from_pylist(list(self.rows[table].values()), schema=schema)
        con = duckdb.connect()
        con.execute("SET TimeZone = 'UTC'")
        for node in self.nodes:
            match node:
                case Stateful():
                    for o in node.occurrences:
                        con.register(o.alias, made[o.input])
                    stamp = f', NULL::VARCHAR AS "{node.stamp}"' if node.stamp else ""
                    made[node.name] = conform(con.sql(f"SELECT *{stamp} FROM ({node.sql})").to_arrow_table(), node.schema)
                case Stateless():
                    con.register("__ms_in", made[node.input])
                    outputs = ", ".join(f'({p.sql}) AS "{p.name}"' for p in node.projections)
                    where = f" WHERE {node.where}" if node.where else ""
                    made[node.name] = conform(con.sql(f"SELECT {outputs} FROM __ms_in{where}").to_arrow_table(), node.schema)
                case Union():
                    made[node.name] = pa.concat_tables([made[i] for i in node.inputs])
        con.close()
        return {name: made[name].to_pylist() for name in self.published}


# ---- the constructs


def edge(parent: str, columns: str, child: str, child_columns: str) -> Edge:
    return Edge(parent, child, tuple(columns.split()), tuple(child_columns.split()))


A, B, C = TABLES
ON_C = '"c"."id" = "{0}"."y" AND "c"."s" = "{0}"."t"'


def inner(w: World) -> None:
    """Over a key of two columns too."""
    sql = (
        'SELECT "a"."id" AS "id", "b"."v" AS "bv", "b"."p" AS "bp", "c"."p" AS "cp" '
        f'FROM "a" JOIN "b" ON "a"."x" = "b"."id" JOIN "c" ON {ON_C.format("b")}'
    )
    columns = [("id", INT), ("bv", INT), ("bp", w.type(B)), ("cp", w.type(C))]
    edges = [edge("a", "x", "b", "id"), edge("b", "y t", "c", "id s")]
    w.stateful("out", sql, columns, ["id"], [Root("a", ("id",))], ["id"], {"a": A, "b": B, "c": C}, edges)


def left(w: World) -> None:
    where = w.rng.choice(['"b"."id" IS NULL OR "c"."v" > 2', 'coalesce("b"."v", 9) > 2', '"c"."id" IS NULL'])
    sql = (
        'SELECT "a"."id" AS "id", "a"."p" AS "ap", "b"."p" AS "bp", "c"."v" AS "cv" '
        'FROM "a" LEFT JOIN "b" ON "a"."x" = "b"."id" AND "a"."v" > 1 '
        f'LEFT JOIN "c" ON {ON_C.format("b")} WHERE {where}'
    )
    columns = [("id", INT), ("ap", w.type(A)), ("bp", w.type(B)), ("cv", INT)]
    edges = [edge("a", "x", "b", "id"), edge("b", "y t", "c", "id s")]
    w.stateful("out", sql, columns, ["id"], [Root("a", ("id",))], ["id"], {"a": A, "b": B, "c": C}, edges)


def itself(w: World) -> None:
    """A table joined with itself, twice over."""
    sql = (
        'SELECT "e"."id" AS "id", "m"."v" AS "mv", "n"."p" AS "np" FROM "e" '
        f'{w.rng.choice(["LEFT", "INNER"])} JOIN "m" ON "e"."x" = "m"."id" LEFT JOIN "n" ON "m"."y" = "n"."id"'
    )
    edges = [edge("e", "x", "m", "id"), edge("m", "y", "n", "id")]
    columns = [("id", INT), ("mv", INT), ("np", w.type(A))]
    w.stateful("out", sql, columns, ["id"], [Root("e", ("id",))], ["id"], {"e": A, "m": A, "n": A}, edges)


def exists(w: World) -> None:
    """EXISTS and NOT EXISTS, one inside the other."""
    outer, nested = w.rng.choice(["", "NOT "]), w.rng.choice(["", "NOT "])
    sql = (
        f'SELECT "a"."id" AS "id", "a"."p" AS "p" FROM "a" WHERE {outer}EXISTS (SELECT 1 FROM "b" WHERE "b"."x" = "a"."id" AND "b"."v" > 1 '
        f'AND {nested}EXISTS (SELECT 1 FROM "c" WHERE "c"."id" = "b"."y" AND "c"."v" < 4))'
    )
    edges = [edge("a", "id", "b", "x"), edge("b", "y", "c", "id")]
    w.stateful("out", sql, [("id", INT), ("p", w.type(A))], ["id"], [Root("a", ("id",))], ["id"], {"a": A, "b": B, "c": C}, edges)


def group(w: World) -> None:
    """By an expression of a joined table, HAVING."""
    sql = (
        'SELECT coalesce("b"."g", -1) AS "g", count(*) AS "n", sum("a"."v")::BIGINT AS "total", max("b"."t") AS "t" FROM "b" '
        'JOIN "a" ON "a"."x" = "b"."id" GROUP BY coalesce("b"."g", -1) HAVING count(*) > 1'
    )
    columns = [("g", INT), ("n", INT), ("total", INT), ("t", TEXT)]
    computed = (Computed(B, "__ms_g", 'coalesce("g", -1)', INT),)
    edges = [edge("b", "id", "a", "x")]
    w.stateful("out", sql, columns, ["g"], [Root("b", ("__ms_g",))], ["g"], {"b": B, "a": A}, edges, computed=computed)


def two_groups(w: World) -> None:
    """By two columns, one of them an expression; nothing joined."""
    sql = (
        'SELECT coalesce("c"."t", \'?\') AS "t", "c"."s" AS "s", count("c"."v") AS "n", bool_or("c"."v" > 2) AS "any" '
        'FROM "c" GROUP BY coalesce("c"."t", \'?\'), "c"."s"'
    )
    columns = [("t", TEXT), ("s", TEXT), ("n", INT), ("any", Type("boolean"))]
    computed = (Computed(C, "__ms_t", "coalesce(\"t\", '?')", TEXT),)
    w.stateful("out", sql, columns, ["t", "s"], [Root("c", ("__ms_t", "s"))], ["t", "s"], {"c": C}, computed=computed)


NESTED = (
    'SELECT "b"."id" AS "id", "b"."p" AS "p", coalesce("l"."items", []) AS "items", coalesce("l"."n", 0) AS "n" FROM "b" LEFT JOIN '
    '(SELECT "a"."x" AS "k", list({"id": "a"."id", "p": "a"."p", "subs": coalesce("q"."subs", [])} ORDER BY "a"."v", "a"."id") AS "items", '
    'count(*) AS "n" FROM "a" LEFT JOIN (SELECT "c"."x" AS "k", list({"id": "c"."id", "s": "c"."s", "p": "c"."p"} '
    'ORDER BY "c"."id", "c"."s") AS "subs" FROM "c" WHERE "c"."v" IS NOT NULL GROUP BY "c"."x") AS "q" ON "q"."k" = "a"."id" '
    'WHERE "a"."t" = \'u\' GROUP BY "a"."x") AS "l" ON "l"."k" = "b"."id"'
)


def nested(w: World, **given: Any) -> None:
    """Lists in lists."""
    subs = list_of(record_of(("id", INT), ("s", TEXT), ("p", w.type(C))))
    items = list_of(record_of(("id", INT), ("p", w.type(A)), ("subs", subs)))
    columns = [("id", INT), ("p", w.type(B)), ("items", items), ("n", INT)] + ([("_seen", Type("json"))] if given else [])
    edges = [edge("b", "id", "a", "x"), edge("a", "id", "c", "x")]
    w.stateful("out", NESTED, columns, ["id"], [Root("b", ("id",))], ["id"], {"b": B, "a": A, "c": C}, edges, **given)


def documents(w: World) -> None:
    """Of which only a hash is kept, stamped."""
    nested(w, keeps="hash", stamp="_seen")


def hashed_pairs(w: World) -> None:
    pair(w, keeps="hash")


def top(w: World) -> None:
    """The best two of each part."""
    sql = (
        'SELECT coalesce("a"."g", -1) AS "g", "a"."id" AS "id", "a"."p" AS "p", "b"."v" AS "bv" '
        'FROM "a" LEFT JOIN "b" ON "b"."id" = "a"."x" WHERE "b"."v" IS NULL OR "b"."v" > 0 '
        'QUALIFY row_number() OVER (PARTITION BY coalesce("a"."g", -1) ORDER BY "a"."v" DESC NULLS LAST, "a"."id") <= 2'
    )
    columns = [("g", INT), ("id", INT), ("p", w.type(A)), ("bv", INT)]
    computed = (Computed(A, "__ms_g", 'coalesce("g", -1)', INT),)
    edges = [edge("a", "x", "b", "id")]
    w.stateful("out", sql, columns, ["g", "id"], [Root("a", ("__ms_g",))], ["g"], {"a": A, "b": B}, edges, computed=computed)


def pair(w: World, **given: Any) -> None:
    """A key of two tables' keys."""
    sql = 'SELECT "a"."id" AS "a", "c"."id" AS "c", "c"."s" AS "s", "a"."p" AS "ap", "c"."v" AS "cv" FROM "a" JOIN "c" ON "c"."g" = "a"."g"'
    columns = [("a", INT), ("c", INT), ("s", TEXT), ("ap", w.type(A)), ("cv", INT)]
    w.stateful("out", sql, columns, ["a", "c", "s"], [Root("a", ("id",))], ["a"], {"a": A, "c": C}, [edge("a", "g", "c", "g")], **given)


def union(w: World) -> None:
    """A joined branch and a plain one."""
    columns = [("kind", TEXT), ("id", INT), ("v", INT)]
    sql = 'SELECT \'j\' AS "kind", "a"."id" AS "id", "b"."v" AS "v" FROM "a" JOIN "b" ON "a"."x" = "b"."id"'
    # the unit holds the literal's column not: it is no column of the root
    joined = w.stateful("out#1", sql, columns, ["kind", "id"], [Root("a", ("id",))], ["id"], {"a": A, "b": B}, [edge("a", "x", "b", "id")])
    projections = (Projection("kind", "'p'"), Projection("id", '"id"'), Projection("v", '"v"'))
    w.nodes.append(Stateless("out#2", B, '"v" > 1', projections, joined.schema))
    w.nodes.append(Union("out", ("out#1", "out#2"), joined.schema))


def full(w: World) -> None:
    """USING, with a table that hangs on one side."""
    sql = (
        'SELECT coalesce("a"."id", "b"."id") AS "id", "a"."p" AS "ap", "b"."p" AS "bp", "c"."v" AS "cv" '
        'FROM "a" FULL JOIN "b" ON "a"."id" = "b"."id" '
        f'LEFT JOIN "c" ON {ON_C.format("b")}'
    )
    columns = [("id", INT), ("ap", w.type(A)), ("bp", w.type(B)), ("cv", INT)]
    roots = [Root("a", ("id",)), Root("b", ("id",))]
    w.stateful("out", sql, columns, ["id"], roots, ["id"], {"a": A, "b": B, "c": C}, [edge("b", "y t", "c", "id s")])


def chain(w: World) -> None:
    """Steps over steps, with a plain one between and one at the end; the middle one is published too."""
    w.nodes.append(
        Stateless(
            "out#small",
            A,
            '"v" < 4 OR "v" IS NULL',
            tuple(Projection(n, f'"{n}"') for n in ("id", "x", "v")),
            RowSchema((Field("id", INT, 1), Field("x", INT, 2), Field("v", INT, 3)), ("id",)),
        )
    )
    sql = 'SELECT coalesce("s"."x", -1) AS "x", count(*) AS "n", min("s"."v") AS "least" FROM "s" GROUP BY coalesce("s"."x", -1)'
    columns = [("x", INT), ("n", INT), ("least", INT)]
    computed = (Computed("out#small", "__ms_x", 'coalesce("x", -1)', INT),)
    w.stateful("counts", sql, columns, ["x"], [Root("s", ("__ms_x",))], ["x"], {"s": "out#small"}, computed=computed)
    sql = (
        'SELECT "b"."id" AS "id", "n"."n" AS "n", "m"."n" AS "m" FROM "b" LEFT JOIN "n" ON "n"."x" = "b"."id" JOIN "m" ON "m"."x" = "b"."y"'
    )
    edges = [edge("b", "id", "n", "x"), edge("b", "y", "m", "x")]
    columns = [("id", INT), ("n", INT), ("m", INT)]
    last = w.stateful("out#last", sql, columns, ["id"], [Root("b", ("id",))], ["id"], {"b": B, "n": "counts", "m": "counts"}, edges)
    w.nodes.append(
        Stateless("out", "out#last", '"n" IS NULL OR "n" > 1', tuple(Projection(n, f'"{n}"') for n in ("id", "n", "m")), last.schema)
    )
    w.published.append("counts")


def top_of_groups(w: World) -> None:
    """A top-n over a group's output."""
    sql = 'SELECT coalesce("a"."x", -1) AS "x", min(coalesce("a"."g", 9)) AS "g", count(*) AS "n" FROM "a" GROUP BY coalesce("a"."x", -1)'
    computed = (Computed(A, "__ms_x", 'coalesce("x", -1)', INT),)
    columns = [("x", INT), ("g", INT), ("n", INT)]
    w.stateful("out#n", sql, columns, ["x"], [Root("a", ("__ms_x",))], ["x"], {"a": A}, computed=computed)
    sql = (
        'SELECT "t"."g" AS "g", "t"."x" AS "x", "t"."n" AS "n" FROM "t" '
        'QUALIFY row_number() OVER (PARTITION BY "t"."g" ORDER BY "t"."n" DESC, "t"."x") = 1'
    )
    w.stateful("out", sql, [("g", INT), ("x", INT), ("n", INT)], ["g", "x"], [Root("t", ("g",))], ["g"], {"t": "out#n"})


CONSTRUCTS: dict[str, Callable[[World], None]] = {
    f.__name__: f
    for f in (inner, left, itself, exists, group, two_groups, nested, documents, hashed_pairs, top, pair, union, full, chain, top_of_groups)
}


def make_world(construct: str, seed: int) -> World:
    world = World(random.Random(f"{construct} {seed}"))
    CONSTRUCTS[construct](world)
    world.published.append("out")
    return world
