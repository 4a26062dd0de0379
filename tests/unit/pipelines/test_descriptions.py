"""What files say of topics and columns gets into schemas, every mistake has its place, and no plan is another for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.events import envelope
from millstream.events.types import Field, RowSchema, Type, list_of
from millstream.pipelines.compile import compile_all
from millstream.pipelines.definitions import Description, FieldDescription
from millstream.pipelines.descriptions import described, of_topic, of_topics, paths, undescribed
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.plan import Input
from millstream.pipelines.project import load
from millstream.pipelines.reads import fingerprint

from .conftest import SINKS, SOURCES, TOPICS

STUDIO = """source: studio
connector: postgres
url: postgres://h/studio
owner: team-studio
domain: films
tables:
  - public.movie:
      doc: |
        One row a film,
        cut or not.
      tags: [core]
      owner: team-movies
      fields:
        title: {doc: as in cinemas, tags: [public, "pii:no"]}
        year: {doc: of the premiere}
  - public.credit
"""
RATED = """pipeline: rated
owner: team-ratings
domain: ratings
doc: what critics say
steps:
  - name: recent
    doc: films since 2000
    tags: [gold]
    fields:
      title: {doc: shortened, tags: [pii]}
    sql: SELECT id, title FROM studio.public.movie WHERE year >= 2000
"""
KNOWN = {name: Input(name, schema, 0, "whole") for name, schema in TOPICS.items()}
FILES = {"sources/studio.yaml": STUDIO, "pipelines/rated.yaml": RATED}


def loaded(project, files=FILES):
    return load(project(files), {}, SOURCES, SINKS)


def test_topics_say_what_the_files_say(project) -> None:
    said = of_topics(loaded(project))
    fields = {"title": FieldDescription("as in cinemas", ("public", "pii:no")), "year": FieldDescription("of the premiere")}
    assert said["studio.public.movie"] == Description("One row a film, cut or not.", ("core",), "team-movies", "films", fields)
    assert said["studio.public.credit"] == Description(owner="team-studio", domain="films")
    recent = Description("films since 2000", ("gold",), "team-ratings", "ratings", {"title": FieldDescription("shortened", ("pii",))})
    assert said["rated.recent"] == recent
    assert of_topic("nobody.s", said) == Description()


def test_a_product_describes_the_topics_of_all_its_generations(project) -> None:
    product = "product: film\nowner: team\ndoc: one film\ndomain: films\nfields: {title: {doc: shown}}\nroot: {from: studio.public.movie}\n"
    product += "sink: {jsonl: {file: 'x_{generation}'}}\n"
    found = loaded(project, {**FILES, "products/film.yaml": product})
    assert of_topic("film@3.film", of_topics(found)) == Description("one film", (), "team", "films", {"title": FieldDescription("shown")})
    assert not {"doc", "fields", "domain"} & set(found.products[0].text.replace(":", " ").split())


def test_a_plan_carries_it_into_its_outputs_and_is_no_other_for_it(project) -> None:
    (plan,) = compile_all(loaded(project), KNOWN)
    bare = RATED.replace("      title: {doc: shortened, tags: [pii]}\n", "").replace("    fields:\n", "")
    (before,) = compile_all(loaded(project, {**FILES, "pipelines/rated.yaml": bare}), KNOWN)
    title = plan.nodes[-1].schema["title"]
    assert (title.doc, title.tags) == ("shortened", ("pii",))
    assert plan.nodes[-1].schema["id"].doc == ""
    assert fingerprint(plan) == fingerprint(before)
    assert undescribed(plan.nodes[-1].schema) == before.nodes[-1].schema


def test_members_are_described_by_their_path() -> None:
    role = Field("role", Type("text"), 1)
    schema = RowSchema((Field("id", Type("int64"), 1), Field("cast", list_of(list_of(Type("record", fields=(role,)))), 2)), ("id",))
    assert paths([schema]) == {"id", "cast", "cast.role"}
    found = described(schema, Description(fields={"cast.role": FieldDescription("as billed", ("x",)), "cast": FieldDescription("who")}))
    again = envelope.row_schema(envelope.value_schema("a.b", found), ("id",))
    assert again == found
    member = again["cast"].type.element.element.fields[0]
    assert (again["cast"].doc, member.doc, member.tags) == ("who", "as billed", ("x",))
    assert undescribed(found) == schema


def test_what_the_source_says_itself_stays_where_the_files_say_nothing() -> None:
    schema = RowSchema((Field("id", Type("int64"), 1, doc="the database's"), Field("n", Type("int64"), 2, doc="x", tags=("y",))), ("id",))
    found = described(schema, Description(fields={"n": FieldDescription("ours")}))
    assert [(f.doc, f.tags) for f in found.fields] == [("the database's", ()), ("ours", ("y",))]


@pytest.mark.parametrize(
    ("file", "was", "now", "path", "code", "place"),
    [
        ("sources/studio.yaml", "domain: films", "domain: Films", "sources.studio.domain", "bad_name", (5, 9)),
        ("sources/studio.yaml", "tags: [core]", "tags: core", "sources.studio.tables[0].tags", "bad_value", (11, 13)),
        ("sources/studio.yaml", "tags: [core]", "tags: [core, core]", "sources.studio.tables[0].tags[1]", "name_twice", (11, 20)),
        ("sources/studio.yaml", "[core]", '["a b"]', "sources.studio.tables[0].tags[0]", "bad_name", (11, 14)),
        ("sources/studio.yaml", "tags: [core]", "tag: [core]", "sources.studio.tables[0].tag", "unknown_key", (11, 7)),
        ("sources/studio.yaml", "title: {doc", "titel: {doc", "sources.studio.tables[0].fields.titel", "unknown_column", (14, 9)),
        ("sources/studio.yaml", "{doc: of the premiere}", "premiere", "sources.studio.tables[0].fields.year", "bad_value", (15, 15)),
        ("sources/studio.yaml", "{doc: of the", "{dok: of the", "sources.studio.tables[0].fields.year.dok", "unknown_key", (15, 16)),
        ("sources/studio.yaml", "- public.credit", "- {public.credit: x}", "sources.studio.tables[1]", "bad_value", (16, 5)),
        ("sources/studio.yaml", "- public.credit", "- {public.credit: {}, b: {}}", "sources.studio.tables[1]", "bad_value", (16, 5)),
        ("pipelines/rated.yaml", "doc: what critics say", "doc: [x]", "pipelines.rated.doc", "bad_value", (4, 6)),
        ("pipelines/rated.yaml", "doc: what critics say", "fields: {}", "pipelines.rated.fields", "unknown_key", (4, 1)),
        ("pipelines/rated.yaml", "doc: films", "doc: ${X}", "pipelines.rated.steps[0].doc", "variable_not_here", (7, 10)),
        ("pipelines/rated.yaml", "      title:", "      year:", "pipelines.rated.steps[0].fields.year", "unknown_column", (10, 7)),
    ],
)
def test_every_mistake_has_its_place(file, was, now, path, code, place, project) -> None:
    with pytest.raises(InvalidProject) as refused:
        compile_all(loaded(project, {**FILES, file: FILES[file].replace(was, now)}), KNOWN)
    assert [(d.path, d.code, (d.line, d.column)) for d in refused.value.diagnostics if d.file == file] == [(path, code, place)]
    assert all(d.cure for d in refused.value.diagnostics)


def test_a_column_that_was_dropped_may_stay_described(project) -> None:
    """Who writes it is not stopped by what is only said of it."""
    topic = KNOWN["studio.public.movie"]
    left = RowSchema(tuple(f for f in topic.schema.fields if f.name != "year"), topic.schema.key)
    known = {**KNOWN, topic.topic: replace(topic, schema=left)}
    sql = RATED.replace(" WHERE year >= 2000", "")
    found = loaded(project, {**FILES, "pipelines/rated.yaml": sql})
    with pytest.raises(InvalidProject, match="no column year to describe"):
        compile_all(found, known)
    compile_all(found, known, {topic.topic: [topic.schema]})
