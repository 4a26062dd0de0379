"""What a change of a schema would do to a small mesh: who ignores it, who takes it over, who pauses, who waits behind them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.pipelines.compile import compile_all, readable
from millstream.pipelines.definitions import Project
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.explain import explain
from millstream.pipelines.generations import compile_product
from millstream.pipelines.impact import Consumer, Impact, consumer, impact, rule
from millstream.pipelines.lineage import Ref, lineage
from millstream.pipelines.plan import Input, Plan, outputs_of
from millstream.pipelines.project import load
from millstream.pipelines.verdicts import Use
from millstream.schemas.rules import Violation

from .conftest import SINKS, SOURCES, TOPICS
from .sql import queries

MOVIE = "studio.public.movie"
MESH = {
    "pipelines/good.yaml": """
pipeline: good
owner: ratings
steps:
  - name: movies
    sql: SELECT id, title, year FROM studio.public.movie WHERE rating > 7
sinks:
  - {from: movies, jsonl: {file: movies.jsonl}}
""",
    "pipelines/everything.yaml": """
pipeline: everything
owner: archive
evolve: follow
steps:
  - name: all
    sql: SELECT * FROM studio.public.movie
  - name: cheap
    sql: SELECT * FROM all WHERE price < 5
sinks:
  - {from: cheap, jsonl: {file: cheap.jsonl}}
""",
    "pipelines/copy.yaml": """
pipeline: copy
owner: copiers
evolve: follow
steps:
  - name: of
    sql: SELECT * FROM everything.cheap
  - name: years
    sql: SELECT id, year FROM everything.cheap
sinks:
  - {from: studio.public.movie, jsonl: {file: movie.jsonl}}
""",
    "pipelines/behind.yaml": """
pipeline: behind
owner: numbers
steps:
  - name: years
    sql: SELECT year, count(*) AS movies FROM good.movies WHERE year IS NOT NULL GROUP BY year
""",
    "products/film.yaml": """
product: film
owner: films
root: {from: studio.public.movie, fields: [id, title]}
sink: {search: {file: films}}
""",
}


@pytest.fixture
def mesh(project: Callable[[Mapping[str, str]], Path], known: dict[str, Input]) -> list[Consumer]:
    return consumers(load(project(MESH), {}, SOURCES, SINKS), known)


def consumers(project: Project, known: Mapping[str, Input]) -> list[Consumer]:
    plans = compile_all(project, known)
    definitions = {p.name: p for p in project.pipelines}
    topics = readable(project, plans, known)
    found = [consumer(p, definitions[p.pipeline], topics, lambda topic: (), ["film"]) for p in plans]
    return found + [consumer(compile_product(p, 1, topics), p, topics, lambda topic: (), ["film"]) for p in project.products]


NOW = TOPICS[MOVIE]


def with_fields(change: Callable[[Field], Field | None], *more: Field) -> RowSchema:
    fields = [g for f in NOW.fields if (g := change(f)) is not None]
    return RowSchema((*fields, *more), NOW.key)


def without(name: str) -> RowSchema:
    return with_fields(lambda f: None if f.name == name else f)


def changed(column: str, **changes: object) -> RowSchema:
    return with_fields(lambda f: replace(f, **changes) if f.name == column else f)  # type: ignore[arg-type]


def said(found: Impact) -> dict[str, str]:
    return {f"{a.pipeline}.{a.part} < {a.topic}": a.verdict.kind for a in found.affected}


EVERYBODY = {
    f"good.movies < {MOVIE}", f"everything.all < {MOVIE}", f"copy.sink copy.{MOVIE}.jsonl < {MOVIE}", f"film@1.film < {MOVIE}",
}  # fmt: skip


def test_a_column_that_nobody_names(mesh: list[Consumer]) -> None:
    found = impact(mesh, MOVIE, NOW, without("made"))
    assert not found.pauses
    assert said(found) == {
        f"good.movies < {MOVIE}": "ignore",
        f"everything.all < {MOVIE}": "propagate",
        f"copy.sink copy.{MOVIE}.jsonl < {MOVIE}": "propagate",
        "everything.sink everything.cheap.jsonl < everything.cheap": "propagate",
        "copy.of < everything.cheap": "propagate",
        "copy.years < everything.cheap": "ignore",
        f"film@1.film < {MOVIE}": "ignore",
    }
    assert {t: [str(o) for o in ops] for t, ops in found.topics.items()} == {
        MOVIE: ["dropped made"],
        "everything.cheap": ["dropped made"],
        "copy.of": ["dropped made"],
    }
    assert found.waiting == {}


def test_a_column_that_is_named_stops_those_who_name_it(mesh: list[Consumer]) -> None:
    found = impact(mesh, MOVIE, NOW, without("year"))
    assert found.pauses
    paused = {k for k, kind in said(found).items() if kind == "pause"}
    assert paused - {"copy.of < everything.cheap"} == {f"good.movies < {MOVIE}", "copy.years < everything.cheap"}
    assert said(found)[f"everything.all < {MOVIE}"] == "propagate"
    assert found.waiting == {"behind": "good"}
    (reason,) = next(a for a in found.affected if a.pipeline == "good").verdict.reasons
    assert reason.where == f"{MOVIE}.year"
    assert "edit good" in reason.cure
    assert "millstream resume good" in reason.cure


def test_a_column_that_is_new(mesh: list[Consumer]) -> None:
    note = Field("note", Type("text"), 99, fill=Constant("x"))
    found = impact(mesh, MOVIE, NOW, with_fields(lambda f: f, note))
    assert not found.pauses
    assert {k for k, kind in said(found).items() if kind == "ignore"} == {
        f"good.movies < {MOVIE}", f"film@1.film < {MOVIE}", "copy.years < everything.cheap",
    }  # fmt: skip
    assert next(str(o) for o in found.topics["copy.of"]).startswith("added note (text")


def test_a_wider_type(mesh: list[Consumer]) -> None:
    found = impact(mesh, MOVIE, NOW, changed("year", type=Type("int64")))
    assert said(found)[f"good.movies < {MOVIE}"] == "pause", "it is pinned"
    assert said(found)["copy.years < everything.cheap"] == "propagate"
    assert [str(o) for o in found.topics["copy.years"]] == ["widened year (int32 is now int64)"]
    assert said(found)[f"film@1.film < {MOVIE}"] == "ignore"


def test_another_name_stops_nobody(mesh: list[Consumer]) -> None:
    """Who names it reads on by its id; what a `*` makes of it is the same column under the new name, to those behind too."""
    found = impact(mesh, MOVIE, NOW, changed("year", name="made_in"))
    assert not found.pauses
    assert {k: kind for k, kind in said(found).items() if k.endswith(f"< {MOVIE}")} == {
        f"good.movies < {MOVIE}": "ignore",
        f"everything.all < {MOVIE}": "propagate",
        f"copy.sink copy.{MOVIE}.jsonl < {MOVIE}": "propagate",
        f"film@1.film < {MOVIE}": "ignore",
    }
    assert [str(o) for o in found.topics["everything.cheap"]] == ["renamed year (now made_in)"]


def test_another_key_stops_all(mesh: list[Consumer]) -> None:
    found = impact(mesh, MOVIE, NOW, RowSchema(NOW.fields, ("id", "year")))
    assert {k for k, kind in said(found).items() if kind == "pause"} == EVERYBODY
    assert found.waiting == {"behind": "good", "copy": "everything"}


def test_what_would_not_compile_pauses_with_its_mistakes(project: Callable[[Mapping[str, str]], Path], known: dict[str, Input]) -> None:
    """Each step would take the wider type, and then the join does not hold."""
    joined = """
pipeline: joined
owner: joiners
evolve: follow
steps:
  - name: pairs
    sql: SELECT m.id, p.name FROM studio.public.movie m JOIN hr.public.person p ON p.small = m.year
"""
    mesh = consumers(
        load(project({"pipelines/joined.yaml": joined.replace("m.id, p.name", "m.id, p.id AS p, p.name")}), {}, SOURCES, SINKS), known
    )
    (found,) = impact(mesh, MOVIE, NOW, changed("year", type=Type("int64"))).affected
    assert found.verdict.kind == "pause"
    assert "join keys of different types" in found.verdict.reasons[0].what
    assert "millstream resume joined" in found.verdict.reasons[0].cure


TWINS = """
pipeline: twins
owner: team
evolve: follow
steps:
  - name: all
    sql: WITH q AS (SELECT * FROM studio.public.sequel) SELECT id, year FROM q
  - name: every
    sql: SELECT * FROM studio.public.sequel
  - name: late
    sql: |
      SELECT m.id FROM studio.public.movie m WHERE EXISTS (SELECT 1 FROM studio.public.sequel s WHERE s.movie_id = m.id AND {price} > 5)
"""


@pytest.mark.parametrize(("price", "verdict"), [("s.price", "pause"), ("price", "pause"), ("m.price", "propagate")])
def test_a_name_that_would_mean_another_tables_column_is_named(
    project: Callable[[Mapping[str, str]], Path], known: dict[str, Input], price: str, verdict: str
) -> None:
    """`price` is the sequel's as long as it has one; then it would be the movie's, which compiles, and asks something else."""
    sequel = RowSchema(
        (*(Field(n, Type("int64"), i) for i, n in enumerate(("id", "movie_id", "year"), 1)), Field("price", Type("int64"), 4)), ("id",)
    )
    topics = {**known, "studio.public.sequel": Input("studio.public.sequel", sequel, 9, "whole")}
    mesh = consumers(load(project({"pipelines/twins.yaml": TWINS.format(price=price)}), {}, SOURCES, SINKS), topics)
    left = RowSchema(sequel.fields[:3], ("id",))
    found = impact(mesh, "studio.public.sequel", sequel, left)
    assert found.pauses == (verdict == "pause")
    if verdict == "propagate":
        assert set(found.topics) == {"studio.public.sequel", "twins.every"}


def test_rules_are_asked_at_every_hop(mesh: list[Consumer]) -> None:
    def no_dates(use: Use, old: RowSchema, new: RowSchema) -> Iterable[Violation]:
        return [Violation("no date may go", f"{use.topic}.made", "they are counted", "keep it")] if use.pipeline == "copy" else []

    found = impact(mesh, MOVIE, NOW, without("made"), [no_dates])
    assert {k for k, kind in said(found).items() if kind == "pause"} == {
        "copy.of < everything.cheap", "copy.years < everything.cheap", f"copy.sink copy.{MOVIE}.jsonl < {MOVIE}",
    }  # fmt: skip
    assert "copy.of" not in found.topics


def test_no_change_concerns_nobody(mesh: list[Consumer]) -> None:
    found = impact(mesh, MOVIE, NOW, NOW)
    assert (found.affected, found.pauses, found.topics) == ((), False, {MOVIE: ()})


@pytest.mark.parametrize("construct", queries.CONSTRUCTS)
def test_who_is_pinned_pauses_exactly_where_lineage_says_that_it_uses_the_column(
    construct: str, project: Callable[[Mapping[str, str]], Path]
) -> None:
    """Of random queries: who uses a column, and who would pause without it, are one answer."""
    known = {name: Input(name, schema, 1, "whole") for name, schema in queries.TABLES.items()}
    seen: Counter[bool] = Counter()
    for seed in range(4):
        sql = queries.plain(queries.write(construct, random.Random(f"{construct} {seed}")))
        text = f"pipeline: p\nowner: team\nsteps: [{{name: out, sql: {json.dumps(sql)}}}]\n"
        try:
            mesh = consumers(load(project({"pipelines/p.yaml": text}), {}, SOURCES, SINKS), known)
        except InvalidProject:  # a key that the generator leaves out
            continue
        graph = lineage([c.plan for c in mesh], queries.TABLES)
        for table, schema in queries.TABLES.items():
            for f in (f for f in schema.fields if f.name not in schema.key):
                left = RowSchema(tuple(g for g in schema.fields if g != f), schema.key)
                used = bool(graph.used_by(Ref(table, (f.name,))))
                assert impact(mesh, table, schema, left).pauses == used, f"{table}.{f.name}\n{sql}"
                seen[used] += 1
    assert min(seen[True], seen[False]) > 1, seen


BY_STEP = {
    "pipelines/mixed.yaml": """
pipeline: mixed
owner: mixed
steps:
  - name: still
    sql: SELECT * FROM studio.public.movie WHERE id > 0
  - name: after
    sql: SELECT * FROM still
  - name: moving
    evolve: follow
    sql: SELECT * FROM studio.public.movie
sinks:
  - {from: after, jsonl: {file: after.jsonl}}
  - {from: moving, jsonl: {file: moving.jsonl}}
""",
}
NOTE, MOOD = Field("note", Type("text"), 91), Field("mood", Type("text"), 92)


def columns_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {n.name: tuple(n.schema.names) for n in plan.nodes}


def mixed(project: Callable[[Mapping[str, str]], Path], known: Mapping[str, Input], files: Mapping[str, str] = BY_STEP) -> Consumer:
    (made,) = consumers(load(project(files), {}, SOURCES, SINKS), known)
    return made


def test_a_step_that_follows_takes_what_its_pinned_sibling_goes_on_without(project, known) -> None:
    made = mixed(project, known)
    assert said(impact([made], MOVIE, NOW, with_fields(lambda f: f, NOTE))) == {
        f"mixed.still < {MOVIE}": "ignore",
        f"mixed.moving < {MOVIE}": "propagate",
        "mixed.sink mixed.moving.jsonl < mixed.moving": "propagate",
    }
    plan, seen = made.plan, tuple(NOW.names)
    for number, more in enumerate([[NOTE], [NOTE, MOOD], [MOOD]], 1):  # the second goes again, which no pinned step has ever seen
        ruling = rule(plan, made.compiles, MOVIE, with_fields(lambda f: f, *more), number, made.evolving)
        assert ruling.following is not None, ruling
        plan = ruling.following
        assert columns_of(plan) == {"still": seen, "after": seen, "moving": (*seen, *(f.name for f in more))}
        (given,) = plan.inputs
        assert [(h.step, h.schema, h.schema_id) for h in given.held] == [("still", NOW, known[MOVIE].schema_id)]
        assert made.compiles({MOVIE: given}, outputs_of(plan)) == plan  # as a restart does
        assert "sees the columns of schema" in explain(plan)
    gone = rule(plan, made.compiles, MOVIE, replace_field(plan.inputs[0].schema, "title", None), 9, made.evolving)
    assert {u.part: v.kind for u, v in gone.steps} == {"still": "pause", "moving": "propagate"}
    accepted = made.compiles({MOVIE: replace(plan.inputs[0], held=())}, outputs_of(plan))  # as a resume does
    assert columns_of(accepted)["after"] == (*seen, "mood")


def replace_field(schema: RowSchema, name: str, by: Field | None) -> RowSchema:
    fields = [by if f.name == name else f for f in schema.fields]
    return RowSchema(tuple(f for f in fields if f is not None), schema.key)


def test_a_pinned_step_is_not_taken_along_to_another_name_of_a_column(project, known) -> None:
    made = mixed(project, known)
    renamed = with_fields(lambda f: replace(f, name="called") if f.name == "title" else f)
    ruling = rule(made.plan, made.compiles, MOVIE, renamed, 1, made.evolving)
    assert ruling.verdict.kind == "pause"
    (reason,) = ruling.verdict.reasons
    assert reason.where == "mixed.still" and "step still is pinned" in reason.why and "name the columns in step still" in reason.cure


def test_a_step_may_be_pinned_in_a_pipeline_that_follows(project, known) -> None:
    pinned = BY_STEP["pipelines/mixed.yaml"].replace("    evolve: follow\n", "").replace("owner: mixed", "owner: mixed\nevolve: follow")
    for name in ("still", "after"):
        pinned = pinned.replace(f"- name: {name}", f"- name: {name}\n    evolve: pinned")
    made, other = mixed(project, known, {"pipelines/mixed.yaml": pinned}), mixed(project, known)
    new = with_fields(lambda f: f, NOTE)
    assert said(impact([made], MOVIE, NOW, new)) == said(impact([other], MOVIE, NOW, new))


AFTER = "  - name: after\n    sql: SELECT * FROM moving\n"
PINNED_LATE = BY_STEP["pipelines/mixed.yaml"].replace("FROM still", "FROM moving").replace(AFTER, "").replace("sinks:", f"{AFTER}sinks:")


def test_a_pinned_step_cannot_read_one_of_its_pipeline_that_follows(project, known) -> None:
    with pytest.raises(InvalidProject) as refused:
        mixed(project, known, {"pipelines/mixed.yaml": PINNED_LATE})
    (found,) = refused.value.diagnostics
    assert (found.code, found.line, found.column) == ("pinned_reads_following", 11, 24)
    assert "evolve: pinned at moving" in found.cure and "mixed.moving" in found.cure
    with pytest.raises(InvalidProject) as odd:
        load(project({"pipelines/mixed.yaml": PINNED_LATE.replace("evolve: follow", "evolve: folow")}), {}, SOURCES, SINKS)
    assert [(d.code, d.path, d.line) for d in odd.value.diagnostics] == [("bad_value", "pipelines.mixed.steps[1].evolve", 8)]


MOVING = """
pipeline: mixed
owner: mixed
steps:
  - name: moving
    evolve: follow
    sql: SELECT * FROM studio.public.movie
"""


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(s, marks=pytest.mark.long) for s in range(4, 40))])
def test_a_pinned_step_keeps_its_columns_whatever_comes_and_its_sibling_follows(project, known, seed) -> None:
    """Chains of random changes: at every version that is taken, pinned steps have what they had, in each type, and the other what it
    would have in a pipeline of its own, which gives the same verdict but where a pinned step has lost something."""
    rng = random.Random(seed)
    made, one = mixed(project, known), mixed(project, known, {"pipelines/mixed.yaml": MOVING})
    plan, single, schema = made.plan, one.plan, RowSchema((*NOW.fields, Field("c0", Type("int32"), 90)), NOW.key)
    pinned = {n.name: n.schema for n in plan.nodes if n.name != "moving"}
    for number in range(100, 108):
        ruling = rule(plan, made.compiles, MOVIE, schema, number, made.evolving)
        beside = rule(single, one.compiles, MOVIE, schema, number, one.evolving)
        lost = [f.name for f in NOW.fields if f.name not in schema.names or schema[f.name] != f]
        assert ruling.verdict.kind == ("pause" if lost else beside.verdict.kind)
        if lost:
            break
        plan, single = ruling.following or plan, beside.following or single
        assert {n.name: n.schema for n in plan.nodes if n.name != "moving"} == pinned
        assert [n for n in plan.nodes if n.name == "moving"] == list(single.nodes)
        schema = changed_at_random(schema, number, rng)


def changed_at_random(schema: RowSchema, number: int, rng: random.Random) -> RowSchema:
    free = [f for f in schema.fields if f.name not in NOW.names]
    old = [f for f in schema.fields if f.name in NOW.names and f.name not in NOW.key]
    target = rng.choice(free) if free and rng.random() < 0.85 else rng.choice(old)
    roll = rng.random()
    if roll < 0.4:
        return RowSchema((*schema.fields, Field(f"c{number}", Type("int32"), number)), schema.key)
    if roll < 0.7 or target.type != Type("int32"):
        return replace_field(schema, target.name, None)
    return replace_field(schema, target.name, replace(target, type=Type("int64")))
