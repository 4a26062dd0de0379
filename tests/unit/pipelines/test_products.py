"""A product's file becomes a definition and a plan; every mistake is at its line and field, those that the SQL compiler finds too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.pipelines.definitions import ProductDefinition
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.generations import compile_product
from millstream.pipelines.plan import Input, Stateful, Stateless
from millstream.pipelines.productfiles import read_product
from millstream.pipelines.products import reads, step_of
from millstream.pipelines.productsinks import of_generation
from millstream.pipelines.project import load
from millstream.sinks.kinds import KINDS

from .conftest import SOURCES, TOPICS, schema

DESIGN = """\
product: movie
owner: team-catalogue
root: {from: studio.public.movie, key: [id]}
nest:
  cast: {from: studio.public.credit, on: "credit.movie_id = movie.id", each: {name: person.name, role: credit.role},
         join: {person: {from: hr.public.person, on: "person.id = credit.person_id"}}}
sink: {search: {index: movie}}
"""
FLAT = """\
product: movie
owner: team
root:
  from: studio.public.movie
  join:
    director: {from: hr.public.person, on: director.id = movie.director_id}
  where: year > 1900
  fields:
    id:
    heading: upper(title)
    director: director.name
"""
Write = Callable[[Mapping[str, str]], Path]


def product(project: Write, text: str) -> ProductDefinition:
    (found,) = load(project({"products/movie.yaml": text}), {"FOLDER": "/data"}, SOURCES, KINDS).products
    return found


def mistakes(project: Write, text: str) -> list[tuple[int, int, str, str]]:
    with pytest.raises(InvalidProject) as refused:
        step_of(product(project, text), TOPICS)
    return [(d.line, d.column, d.path.removeprefix("products.movie."), d.code) for d in refused.value.diagnostics]


def test_the_example_of_the_documentation_is_read_as_written(project: Write) -> None:
    found = product(project, DESIGN)
    assert (found.name, found.owner, found.read, found.key) == ("movie", "team-catalogue", "copies", ("id",))
    assert [(s.kind, dict(s.options)) for s in found.sinks] == [("search", {"index": "movie"})]
    assert [t for t, _ in reads(found)] == ["studio.public.movie", "studio.public.credit", "hr.public.person"]
    (cast,) = found.root.nest
    assert (cast.makes, [m.name.text for m in cast.members]) == ("each", ["name", "role"])


def test_the_kept_text_reads_back_as_the_same_definition(project: Write) -> None:
    text = DESIGN.replace("sink: {search: {index: movie}}", "sinks: [{jsonl: {file: '${FOLDER}/m-{generation}.jsonl'}}, search: ]").replace(
        "each: {name: person.name",
        "limit: 3, order: [role desc, '1.50', 1.50], where: 'person.small in (1, 2.0)', each: {name: person.name",
    )
    found = product(project, text)
    assert "/data" not in found.text
    again = read_product(found.text, "the catalogue", {"FOLDER": "/data"}, KINDS)
    assert again == found
    assert again.text == found.text
    assert step_of(again, TOPICS).sql == step_of(found, TOPICS).sql
    assert [(s.kind, dict(of_generation(s, 3).options)) for s in again.sinks] == [
        ("jsonl", {"file": "/data/m-3.jsonl"}),
        ("search", {"index": "movie@3"}),
    ]


def test_an_index_is_there_without_being_asked_for_and_none_where_none_is_wanted(project: Write) -> None:
    bare = "product: movie\nowner: t\nroot: {from: studio.public.movie}\n"
    assert [(s.kind, dict(s.options)) for s in product(project, bare).sinks] == [("search", {"index": "movie"})]
    assert product(project, bare + "sinks: []\n").sinks == ()


def test_a_broken_file_lists_all_its_mistakes_at_their_places(project: Write) -> None:
    text = """\
product: movie
owner: team
read: cache
root: {from: studio.public.movie, feilds: [id]}
nest:
  a: {from: studio.public.credit, on: x = 1}
  b: {from: studio.public.credit, on: x = 1, each: [], one: [id]}
  c: {from: studio.public.credit, each: role, nest: {d: {from: hr.public.person, on: y = 2, value: [id]}}}
  e: {from: hr.public.person, on: person.id = movie.director_id, one: [name], order: name, limit: 0}
  f: word
  g: {from: hr.public.person, as: the one, on: "", each: {1st: x}, join: [person]}
sinks:
  - {search: {index: movie}}
  - {jsonl: {file: movie.jsonl}}
"""
    with pytest.raises(InvalidProject) as refused:
        product(project, text)
    seen = [(d.line, d.column, d.path.removeprefix("products.movie."), d.code) for d in refused.value.diagnostics]
    assert seen == [
        (3, 7, "read", "bad_value"),
        (4, 35, "root.feilds", "unknown_key"),
        (6, 3, "nest.a", "makes_one_thing"),
        (7, 3, "nest.b", "makes_one_thing"),
        (8, 6, "nest.c.on", "missing"),
        (8, 47, "nest.c.nest", "nothing_to_nest_in"),
        (8, 100, "nest.c.nest.d.value", "bad_value"),
        (9, 79, "nest.e.order", "not_a_list"),
        (9, 92, "nest.e.limit", "not_a_list"),
        (9, 99, "nest.e.limit", "bad_value"),
        (10, 6, "nest.f", "bad_value"),
        (11, 35, "nest.g.as", "bad_name"),
        (11, 48, "nest.g.on", "bad_value"),
        (11, 59, "nest.g.each.1st", "bad_name"),
        (11, 74, "nest.g.join", "bad_value"),
        (14, 13, "sinks[1].jsonl", "target_shared"),
    ]
    assert all(d.cure for d in refused.value.diagnostics)


def test_names_that_would_be_read_two_ways_are_refused(project: Write) -> None:
    text = """\
product: movie
owner: team
root: {from: studio.public.movie, fields: [id, title, title: upper(title), _seen: id]}
nest:
  title: {from: studio.public.movie, on: movie.id = movie.director_id, one: [id]}
  cast:
    {from: studio.public.credit, on: credit.movie_id = movie.id, each: [role], join: {credit: {from: hr.public.person, on: credit.id = 1}}}
"""
    with pytest.raises(InvalidProject) as refused:
        product(project, text)
    assert [(d.line, d.column, d.code) for d in refused.value.diagnostics] == [
        (3, 55, "name_twice"),
        (3, 76, "name_twice"),
        (5, 3, "name_twice"),
    ]
    with pytest.raises(InvalidProject) as refused:
        product(project, text.replace(", title: upper(title), _seen: id", "").replace("  title:", "  other:"))
    assert [(d.line, d.column, d.code) for d in refused.value.diagnostics] == [(5, 17, "alias_twice"), (7, 87, "alias_twice")]


def test_an_index_belongs_to_one_product(project: Write) -> None:
    text = DESIGN + "---\n" + DESIGN.replace("product: movie", "product: film")
    text += "---\n" + DESIGN.replace("product: movie", "product: show").replace("{index: movie}", "{index: show@2}")
    reader = "pipeline: p\nowner: o\nsinks: [{from: studio.public.movie, search: {index: other}}]\n"
    text += "---\n" + DESIGN.replace("product: movie", "product: other").replace("sink: {search: {index: movie}}", "")
    with pytest.raises(InvalidProject) as refused:
        load(project({"products/movie.yaml": text, "pipelines/p.yaml": reader}), {}, SOURCES, KINDS)
    assert [(d.line, d.path, d.code) for d in refused.value.diagnostics] == [
        (15, "products.film.sink.search.index", "index_twice"),
        (23, "products.show.sink.search.index", "bad_option"),
        (25, "products.other.sink.search.index", "index_twice"),
    ]


def test_what_no_sql_can_be_made_of_is_said_at_its_place(project: Write) -> None:
    text = """\
product: movie
owner: team
root: {from: studio.public.movie, fields: [title, y: "year + 1 AS y", label: "upper(title"]}
nest:
  cast: {from: studio.public.credits, on: a = b, each: {x: "role, number"}, order: "role LIMIT 3"}
"""
    assert mistakes(project, text) == [
        (3, 44, "root.fields", "key_missing"),
        (3, 55, "root.fields[1].y", "not_an_expression"),
        (3, 85, "root.fields[2].label", "sql_unreadable"),
        (5, 16, "nest.cast.from", "unknown_table"),
        (5, 61, "nest.cast.each.x", "not_an_expression"),
        (5, 85, "nest.cast.order", "not_an_expression"),
    ]


def test_what_the_compiler_finds_is_at_the_line_and_field(project: Write, known: dict[str, Input]) -> None:
    def found(text: str) -> list[tuple[int, int, str, str]]:
        with pytest.raises(InvalidProject) as refused:
            compile_product(product(project, text), 1, known)
        return [(d.line, d.column, d.path.removeprefix("products.movie."), d.code) for d in refused.value.diagnostics]

    assert found(FLAT.replace("upper(title)", "uper(title)")) == [(10, 14, "root.fields.heading", "unknown_function")]
    assert found(FLAT.replace("director.name", "director.nam")) == [(11, 15, "root.fields.director", "unknown_column")]
    assert found(FLAT.replace("year > 1900", "1 = 1 AND yeer > 1900")) == [(7, 20, "root.where", "unknown_column")]
    assert found(FLAT.replace("on: director.id =", "on: director.boss =")) == [(6, 22, "root.join.director.from", "many_rows_per_key")]
    assert found(FLAT.replace("    id:\n", "    id:\n    wrong: id + title\n")) == [(10, 12, "root.fields.wrong", "type_clash")]


def test_a_plan_keeps_hashes_and_stamps_its_documents(project: Write, known: dict[str, Input]) -> None:
    askable = {name: replace(i, askable=True) for name, i in known.items()}
    plan = compile_product(product(project, FLAT.replace("owner: team\n", "owner: team\nread: source\n")), 3, askable)
    assert plan.pipeline == "movie@3"
    (node,) = plan.nodes
    assert isinstance(node, Stateful)
    assert (node.keeps, node.stamp, node.read) == ("hash", "_seen", "source")
    assert [(f.name, str(f.type)) for f in node.schema.fields][-1] == ("_seen", "json")
    assert [(o.topic, o.grade) for o in plan.outputs] == [("movie@3.movie", "none")]
    assert [(s.name, s.topic, s.options["index"]) for s in plan.sinks] == [("movie@3.movie.search", "movie@3.movie", "movie@3")]


def test_a_product_of_one_table_keeps_nothing(project: Write, known: dict[str, Input]) -> None:
    plan = compile_product(product(project, "product: movie\nowner: t\nroot: {from: studio.public.movie}\n"), 1, known)
    (node,) = plan.nodes
    assert isinstance(node, Stateless)
    assert plan.outputs[0].grade == "whole"


def test_the_stamp_keeps_its_id(project: Write, known: dict[str, Input]) -> None:
    first = compile_product(product(project, FLAT), 1, known).nodes[-1].schema
    text = FLAT.replace("    heading", "    more: year\n    heading")
    again = compile_product(product(project, text), 1, known, {"movie@1.movie": [first]}).nodes[-1].schema
    assert again["_seen"].id == first["_seen"].id
    assert len({f.id for f in again.fields}) == len(again.fields)


HOW_TO = {
    "studio.public.movie": "id int64; title text; year int32; status text; director_id int64; writer_id int64; remade_from int64",
    "studio.public.credit": "id int64; movie_id int64; person_id int64; role text; position int32",
    "studio.public.review": "id int64; movie_id int64; stars int32; body text; written_at timestamptz",
    "studio.public.movie_genre": "id int64; movie_id int64; genre_id int64",
    "studio.public.genre": "id int64; name text",
    "hr.public.person": "id int64; name text; born int32; agency_id int64",
    "hr.public.agency": "id int64; name text",
}
DOCS = Path(__file__).parents[3] / "docs"


def yaml_blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def test_what_the_pages_show_compiles(project: Write) -> None:
    topics = {name: Input(name, schema("id", columns), 1, "whole") for name, columns in HOW_TO.items()}
    shown = yaml_blocks("how-to/build-a-product.md")
    first = shown[0]
    texts = [first, *(first + block for block in shown[1:]), *(b for b in yaml_blocks("reference/files.md") if b.startswith("product:"))]
    assert len(texts) == 9
    for text in texts:
        plan = compile_product(product(project, text), 1, topics)
        assert plan.nodes[-1].schema.key == ("id",), text
