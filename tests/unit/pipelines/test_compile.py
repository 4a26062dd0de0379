"""Definitions become plans: keys, join trees, ids that stay, order among pipelines, and SQL that DuckDB runs."""

from __future__ import annotations

import json
from dataclasses import replace

import duckdb
import pytest

from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type
from millstream.pipelines.compile import compile_all, compile_pipeline
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.plan import Edge, Input, Occurrence, Output, Root, Stateful, Stateless
from millstream.pipelines.project import load
from millstream.pipelines.reads import fingerprint
from millstream.pipelines.sql.types import duckdb_name

from .conftest import SINKS, SOURCES, schema

M, P, C = "studio.public.movie", "hr.public.person", "studio.public.credit"


def pipeline(name: str, *steps: str, sinks: str = "") -> str:
    """`steps`: "name: SQL" or "name [key]: SQL"."""
    text = f"pipeline: {name}\nowner: team\nsteps:\n"
    for step in steps:
        head, _, sql = step.partition(": ")
        called, _, key = head.partition(" ")
        text += f"- name: {called}\n  sql: {json.dumps(sql)}\n" + (f"  key: {key}\n" if key else "")
    return text + (f"sinks: {sinks}\n" if sinks else "")


@pytest.fixture
def plans(project, known):
    def compiled(*pipelines: str, inputs=known, history=None):
        root = project({"pipelines/all.yaml": "---\n".join(pipelines)})
        return compile_all(load(root, {}, SOURCES, SINKS), inputs, history)

    return compiled


def refused(plans, *pipelines: str, **options):
    with pytest.raises(InvalidProject) as error:
        plans(*pipelines, **options)
    return error.value.diagnostics


def test_a_filter(plans) -> None:
    (plan,) = plans(pipeline("p", f"s: SELECT id AS movie, title FROM {M} WHERE year >= 2000"))
    (step,) = plan.nodes
    assert isinstance(step, Stateless)
    assert (step.input, step.where, step.schema.key) == (M, '("year" >= CAST(2000 AS INTEGER))', ("movie",))
    assert [(p.name, p.sql) for p in step.projections] == [("movie", '"id"'), ("title", '"title"')]
    assert step.schema.fields == (Field("movie", Type("int64"), 1), Field("title", Type("text"), 2))
    assert plan.outputs == (Output("s", "p.s", "whole"),)
    assert [i.topic for i in plan.inputs] == [M]
    assert not plan.stateful


def test_the_join_tree_goes_from_the_root_outwards_and_edges_take_one_parent(plans) -> None:
    sql = f"""SELECT c.movie_id AS m, c.number AS n, movie.title, person.name, boss.name AS boss
        FROM {C} c JOIN {M} ON c.movie_id = movie.id
        LEFT JOIN {P} ON person.id = c.person_id AND person.id = movie.director_id AND person.name LIKE 'a%'
        LEFT JOIN {P} boss ON person.boss = boss.id WHERE boss.id IS NULL OR movie.year > 1990""".replace("\n", " ")
    (plan,) = plans(pipeline("p", f"s [n, m]: {sql}"))
    (step,) = plan.nodes
    assert isinstance(step, Stateful)
    assert step.roots == (Root("c", ("number", "movie_id")),)
    assert (step.unit, step.schema.key) == (("n", "m"), ("n", "m"))
    assert step.occurrences == (Occurrence("c", C), Occurrence("__ms_movie", M), Occurrence("__ms_person", P), Occurrence("boss", P))
    assert step.edges == (
        Edge("c", "__ms_movie", ("movie_id",), ("id",)),
        Edge("c", "__ms_person", ("person_id",), ("id",)),
        Edge("__ms_person", "boss", ("boss",), ("id",)),
    )
    assert '"__ms_person"."id" = "__ms_movie"."director_id"' in step.sql  # what the walk leaves out stays in the query


def test_an_edge_follows_equalities_through_and_prefers_the_table_with_most(plans) -> None:
    sql = f"""SELECT m.id, c.role, d.role AS other FROM {M} m JOIN {P} p ON p.id = m.director_id
        LEFT JOIN {C} c ON c.movie_id = p.id AND c.number = m.year
        LEFT JOIN {C} d ON d.movie_id = p.boss AND d.number = c.number""".replace("\n", " ")
    (plan,) = plans(pipeline("p", f"s: {sql}"))
    assert plan.nodes[0].edges == (
        Edge("m", "p", ("director_id",), ("id",)),
        Edge("m", "c", ("director_id", "year"), ("movie_id", "number")),  # c.movie_id = p.id = m.director_id
        Edge("m", "d", ("year",), ("number",)),
    )


def test_a_part_of_a_key_may_be_a_constant(plans) -> None:
    (plan,) = plans(pipeline("p", f"s: SELECT m.id, c.role FROM {M} m LEFT JOIN {C} c ON c.movie_id = m.id AND c.number = 1"))
    assert plan.nodes[0].edges == (Edge("m", "c", ("id",), ("movie_id",)),)
    # 1e0 is a float: many int64 are the same float, so it fixes no row
    (found,) = refused(plans, pipeline("p", f"s: SELECT m.id FROM {M} m JOIN {C} c ON c.movie_id = m.id AND c.number = 1e0"))
    assert found.code == "many_rows_per_key"


@pytest.mark.parametrize("expression", ["year", "coalesce(year, 0)"])
def test_what_is_grouped_by_twice_is_in_the_key_once(plans, expression) -> None:
    rows = f"FROM {M} WHERE year IS NOT NULL"
    grouped = f"s: SELECT {expression} AS a, {expression} AS b, count(*) AS n {rows} GROUP BY 1, 2"
    window = f"QUALIFY row_number() OVER (PARTITION BY {expression}, {expression} ORDER BY id) <= 1"
    (groups,), (top,) = plans(pipeline("p", grouped)), plans(pipeline("q", f"s: SELECT {expression} AS a, id {rows} {window}"))
    assert (groups.nodes[0].schema.key, groups.nodes[0].unit) == (("a",), ("a",))
    assert (top.nodes[0].schema.key, top.nodes[0].unit) == (("a", "id"), ("a",))


def test_a_grouped_expression_keeps_its_literals(plans) -> None:
    sql = f"""SELECT coalesce(m.title, '"m".') AS title, count(*) AS n FROM {M} m GROUP BY 1"""
    (plan,) = plans(pipeline("p", f"s: {sql}"))
    assert [c.sql for c in plan.nodes[0].computed] == ["""coalesce("title", '"m".')"""]


def test_a_longer_key_needs_columns_that_are_never_null(plans) -> None:
    for where in ("title IS NOT NULL", "title > 'a' AND year = 2", "title LIKE 'a%'", "title IN ('a', 'b')", "(year = 1 AND title <> '')"):
        (plan,) = plans(pipeline("p", f"s [title, id]: SELECT id, title FROM {M} WHERE {where}"))
        assert plan.nodes[0].schema.key == ("title", "id")
    (plan,) = plans(pipeline("p", f"s [id, t]: SELECT id, coalesce(title, '') AS t FROM {M}"))
    assert plan.nodes[0].schema.key == ("id", "t")
    for where in ("title = 'a' OR year = 2", "title IS NULL", "NOT (title IS NULL AND year = 1)", "title IS NOT DISTINCT FROM 'a'"):
        (found,) = refused(plans, pipeline("p", f"s [title, id]: SELECT id, title FROM {M} WHERE {where}"))
        assert found.code == "nullable_key"


def test_steps_read_steps_and_only_what_leaves_is_published(plans) -> None:
    (plan,) = plans(
        pipeline(
            "p",
            f"a: SELECT id, title, director_id FROM {M}",
            f"b: SELECT a.id, a.title, p.name FROM a LEFT JOIN {P} p ON p.id = a.director_id",
            "c: SELECT id, upper(name) AS name FROM b WHERE name IS NOT NULL",
            "d: SELECT c.id, c.name, b.title FROM c JOIN b ON b.id = c.id",
            sinks="[{from: b, jsonl: {file: x}}, {from: b, jsonl: {file: y}}, {from: studio.public.movie, search: {file: z}}]",
        )
    )
    assert [type(n) for n in plan.nodes] == [Stateless, Stateful, Stateless, Stateful]
    assert [o.topic for o in plan.outputs] == ["p.b", "p.d"]
    assert [(s.name, s.topic) for s in plan.sinks] == [
        ("p.b.jsonl", "p.b"), ("p.b.jsonl.2", "p.b"), ("p.studio.public.movie.search", M),
    ]  # fmt: skip
    assert [i.topic for i in plan.inputs] == [P, M]


def test_pipelines_are_compiled_after_those_they_read(plans, known) -> None:
    reader = pipeline("a", "s: SELECT id, t FROM z.part WHERE t > ''", sinks="[{from: z.last, jsonl: {file: x}}]")
    writer = pipeline("z", f"part: SELECT id, title AS t FROM {M}", "last: SELECT id FROM part")
    first, second = plans(reader, writer)
    assert (first.pipeline, second.pipeline) == ("z", "a")
    assert [o.topic for o in first.outputs] == ["z.part", "z.last"]  # part is a topic because another pipeline reads it
    assert second.inputs == (Input("z.part", first.nodes[0].schema, 0, "whole"),)
    registered = {**known, "z.part": Input("z.part", first.nodes[0].schema, 44, "whole")}
    assert plans(reader, writer, inputs=registered)[1].inputs[0].schema_id == 44
    stale = {**known, "z.part": Input("z.part", schema("id", "id int64; gone text"), 44, "whole")}
    assert plans(reader, writer, inputs=stale)[1].inputs[0] == second.inputs[0]


def test_a_cycle_is_named(plans) -> None:
    (found,) = refused(
        plans, pipeline("a", "s: SELECT id FROM b.s"), pipeline("b", "s: SELECT id FROM c.s"), pipeline("c", "s: SELECT id FROM a.s"),
        pipeline("d", "s: SELECT id FROM a.s"),
    )  # fmt: skip
    assert found.code == "cycle"
    assert "a → b → c → a" in found.message
    assert found.path == "pipelines.a.steps[0].sql"


@pytest.mark.parametrize(
    ("code", "steps", "broken"),
    [
        ("step_later", ["a: SELECT id FROM b", f"b: SELECT id FROM {M}"], "a"),
        ("reads_itself", ["a: SELECT id FROM a"], "a"),
        ("own_topic", [f"a: SELECT id FROM {M}", "b: SELECT id FROM p.a"], "b"),
        ("unknown_table", ["a: SELECT id FROM q.nosuch"], "a"),
    ],
)
def test_a_mistake_is_told_once_and_not_again_of_what_reads_it(plans, code, steps, broken) -> None:
    reader = pipeline("r", f"t: SELECT y FROM p.{broken}", sinks=f"[{{from: p.{broken}, jsonl: {{file: x}}}}]")
    others = pipeline("q", f"s: SELECT id FROM {M}")
    sinks = f"[{{from: {broken}, jsonl: {{file: x}}}}]"
    (found,) = refused(plans, pipeline("p", *steps, f"z: SELECT nosuch FROM {broken}", sinks=sinks), others, reader)
    assert found.code == code


def test_an_unknown_sink_input_is_refused_with_its_place(plans) -> None:
    (found,) = refused(plans, pipeline("p", f"rated: SELECT id FROM {M}", sinks="[{from: ratd, jsonl: {file: x}}]"))
    assert (found.line, found.path, found.code, found.cure) == (6, "pipelines.p.sinks[0].from", "unknown_input", "did you mean rated?")


def test_a_filter_without_whole_images_keeps_the_key_and_a_join_has_its_own(plans, known) -> None:
    inputs = {**known, M: replace(known[M], grade="key")}
    (plan,) = plans(pipeline("p", f"s: SELECT id AS movie, title FROM {M} WHERE year > 1", "t: SELECT movie FROM s WHERE title > ''",
                             f"u: SELECT 'm' AS kind, id FROM {M} UNION ALL SELECT 'p' AS kind, id FROM {P}"), inputs=inputs)  # fmt: skip
    assert {n.name: n.whole for n in plan.nodes if isinstance(n, Stateless)} == {"s": False, "t": False, "u#1": False, "u#2": True}
    assert {o.topic: o.grade for o in plan.outputs} == {"p.t": "none", "p.u": "none"}
    (found,) = refused(plans, pipeline("p", f"s [id, title]: SELECT id, title FROM {M} WHERE title > ''"), inputs=inputs)
    assert (found.code, "REPLICA IDENTITY FULL" in found.cure, "key column title" in found.message) == ("before_not_whole", True, True)
    (found,) = refused(
        plans, pipeline("p", f"s: SELECT id, title FROM {M}", "t [id, title]: SELECT id, title FROM s WHERE title > ''"), inputs=inputs
    )
    assert (found.code, "s has before images of grade none" in found.message) == ("before_not_whole", True)
    (plan,) = plans(pipeline("p", f"s: SELECT m.id, p.name FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id"), inputs=inputs)
    assert (plan.inputs[1].grade, plan.outputs[0].grade) == ("key", "whole")


def test_columns_keep_their_ids_by_name_and_no_id_is_used_again(project, known) -> None:
    root = project({"pipelines/p.yaml": pipeline("p", f"s: SELECT title, id, year AS fresh, made AS again FROM {M}")})
    (definition,) = load(root, {}, SOURCES, SINKS).pipelines
    text = Type("text")
    first = RowSchema((Field("id", Type("int64"), 1), Field("gone", text, 2), Field("again", text, 3)), ("id",))
    second = RowSchema((Field("id", Type("int64"), 1), Field("title", text, 4)), ("id",))
    plan = compile_pipeline(definition, known, {"p.s": [first, second]})
    assert {f.name: f.id for f in plan.nodes[0].schema.fields} == {"title": 4, "id": 1, "fresh": 5, "again": 6}
    assert compile_pipeline(definition, known).nodes[0].schema.fields[0] == Field("title", text, 1)


def test_names_that_need_quotes_come_through(plans, known) -> None:
    odd = RowSchema((Field('a "b"', Type("int64"), 1), Field("select", Type("text"), 2), Field("É", Type("text"), 3)), ('a "b"',))
    inputs = {**known, "studio.My Schema.t.u": Input("studio.My Schema.t.u", odd, 9, "whole")}
    sql = 'SELECT "a ""b""", "select", É FROM studio."My Schema"."t.u" WHERE "select" > ""'.replace('> ""', "> '%'")
    (plan,) = plans(pipeline("p", f"s: {sql}"), inputs=inputs)
    assert [p.sql for p in plan.nodes[0].projections] == ['"a ""b"""', '"select"', '"É"']
    assert plan.nodes[0].schema.key == ('a "b"',)


def test_the_text_of_every_plan_runs_in_duckdb_with_the_types_it_promises(plans, known) -> None:
    sql = f"""SELECT m.*, p.name AS director, p.code = '6f9619ff-8b86-d011-b42d-00cf4fc964ff' AS same, m.price * 2 AS twice
        FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id AND p.small BETWEEN 1 AND 5 WHERE m.year IN (1, 2, 3) OR p.name IS NULL"""
    (plan,) = plans(pipeline("p", f"s: {' '.join(sql.split())}", "t: SELECT id, lower(director) AS d, made + 1 AS next FROM s WHERE same"))
    con = duckdb.connect()
    joined, filtered = plan.nodes
    assert isinstance(joined, Stateful)
    assert isinstance(filtered, Stateless)
    for o in joined.occurrences:
        columns = ", ".join(f'"{f.name}" {duckdb_name(f.type)}' for f in known[o.input].schema.fields)
        con.execute(f'CREATE TABLE "{o.alias}"({columns})')
    con.execute(f"CREATE TABLE s AS {joined.sql}")
    assert [r[1] for r in con.execute("DESCRIBE s").fetchall()] == [duckdb_name(f.type) for f in joined.schema.fields]
    select = ", ".join(f'{p.sql} AS "{p.name}"' for p in filtered.projections)
    described = con.execute(f"DESCRIBE SELECT {select} FROM s WHERE {filtered.where}").fetchall()
    assert [(r[0], r[1]) for r in described] == [(f.name, duckdb_name(f.type)) for f in filtered.schema.fields]


SAME = "JOIN {M} n ON n.id = c.movie_id AND n.director_id = m.director_id"
NESTED_JOINS = [
    ("JOIN {P} p ON p.boss = c.person_id AND p.id > m.director_id " + SAME, False),
    ("LEFT JOIN {M} o ON o.id = m.director_id " + SAME, False),
    ("JOIN {P} p ON p.boss = c.person_id AND p.id > m.director_id " + SAME + " AND c.person_id = m.director_id", True),
]


@pytest.mark.parametrize(("joins", "sound"), NESTED_JOINS)
def test_a_nested_join_names_an_outer_column_by_one_of_a_table_that_is_joined_already(plans, known, joins, sound) -> None:
    inner = f"FROM {C} c {joins.format(M=M, P=P)} WHERE c.movie_id = m.id"
    sql = f"s: SELECT m.id, (SELECT count(*) {inner}) AS n FROM {M} m"
    if not sound:
        assert {d.code for d in refused(plans, pipeline("p", sql))} == {"not_in_subset"}
        return
    (plan,) = plans(pipeline("p", sql))
    con = duckdb.connect()
    for o in plan.nodes[0].occurrences:
        columns = ", ".join(f'"{f.name}" {duckdb_name(f.type)}' for f in known[o.input].schema.fields)
        con.execute(f'CREATE TABLE "{o.alias}"({columns})')
    assert con.execute(plan.nodes[0].sql).fetchall() == []


@pytest.mark.parametrize("deep", [
    " + ".join(["year"] * 3000), "- " * 3000 + "year", "upper(" * 3000 + "title" + ")" * 3000, " || ".join(["title"] * 3000),
    "CASE WHEN year > 1 THEN 1 ELSE " * 1000 + "2" + " END" * 1000,
    "(SELECT count(*) FROM studio.public.credit c WHERE c.movie_id = movie.id AND EXISTS " * 300 + ")" * 300,
], ids=lambda deep: deep[:12])  # fmt: skip
def test_what_is_nested_too_deeply_is_refused_and_no_more(plans, deep) -> None:
    (found,) = refused(plans, pipeline("p", f"s: SELECT id, {deep} AS x FROM {M}"))
    assert found.code in ("sql_too_deep", "sql_unreadable")
    within = " + ".join(["year"] * 90)
    (plan,) = plans(
        pipeline(
            "p",
            f"s: SELECT id, {within} AS x FROM {M}",
            f"t: SELECT m.id, {within} AS x FROM {M} m WHERE EXISTS (SELECT 1 FROM {M} n WHERE n.id = m.id)",
        )
    )
    con = duckdb.connect()
    con.execute("CREATE TABLE m AS SELECT 1::BIGINT AS id, 1::INTEGER AS year; CREATE TABLE __ms_n AS FROM m; CREATE TABLE n AS FROM m")
    assert con.execute(f"SELECT {plan.nodes[0].projections[1].sql} FROM m").fetchall() == [(90,)]
    assert con.execute(plan.nodes[1].sql).fetchall() == [(1, 90)]


def test_a_long_condition_is_no_deep_one(plans) -> None:
    sql = f"SELECT id FROM {M} WHERE " + " AND ".join(f"year <> {i}" for i in range(3000))
    (plan,) = plans(pipeline("p", f"s: {sql}"))
    assert plan.nodes[0].where.count("<>") == 3000


def test_an_edge_names_each_column_once(plans) -> None:
    (plan,) = plans(
        pipeline("p", f"s: SELECT m.id, c.role FROM {M} m LEFT JOIN {C} c ON c.movie_id = m.id AND c.person_id = m.id AND c.number = 1")
    )
    assert plan.nodes[0].edges == (Edge("m", "c", ("id",), ("movie_id",)),)


def test_a_fingerprint_is_what_it_was_and_only_what_changes_rows_changes_it(plans, known) -> None:
    """The text is the one that states on disk bear: another would rebuild every pipeline at the next start."""
    files = [
        pipeline("p", f"s: SELECT id, title, year FROM {M} WHERE year >= 2000"),
        pipeline("q", f"t: SELECT m.id, m.title, p.name FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id"),
    ]

    def fingerprints(name: str = "", **attributes: object) -> list[str]:
        inputs = {
            t: replace(i, schema=RowSchema(tuple(replace(f, **attributes) if f.name == name else f for f in i.schema.fields), i.schema.key))
            for t, i in known.items()
        }
        return [fingerprint(plan) for plan in plans(*files, inputs=inputs)]

    were = fingerprints()
    assert were == ["ba4841a9b519e284727941803fd43e2c", "8ea623682abf0e5fdf67c219d1d35df1"]
    for attributes in ({"nullable": False}, {"doc": "said"}, {"tags": ("pii",)}, {"fill": UNKNOWN}):
        assert fingerprints("title", **attributes) == were
    assert fingerprints("price", fill=Constant("1.00")) == were  # nobody reads it
    was, now = fingerprints("year", fill=Constant("1999")), fingerprints("year", fill=Constant("2001"))
    assert was[0] != were[0] and was[0] != now[0]  # old rows have another year: what the first makes of them is other
    assert was[1] == now[1] == were[1]
