"""What lineage says of small pipelines and a product, field by field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from millstream.pipelines.compile import compile_all
from millstream.pipelines.generations import product_plans
from millstream.pipelines.lineage import Lineage, Ref, lineage
from millstream.pipelines.plan import Input
from millstream.pipelines.project import load
from millstream.pipelines.sql import origins as of_text
from millstream.pipelines.sql.origins import origins

from .conftest import SINKS, SOURCES, TOPICS

MESH = {
    "pipelines/rated.yaml": """
pipeline: rated
owner: ratings
steps:
  - name: good
    sql: |
      SELECT id, title, year + 1 AS next, director_id FROM studio.public.movie WHERE rating > 7
  - name: named
    sql: |
      SELECT g.id, g.title, p.name AS director FROM good g LEFT JOIN hr.public.person p ON p.id = g.director_id
sinks:
  - {from: named, jsonl: {file: named.jsonl}}
""",
    "pipelines/counts.yaml": """
pipeline: counts
owner: numbers
steps:
  - name: by_director
    sql: |
      WITH q AS (SELECT title, director AS who, id FROM rated.named WHERE title <> '')
      SELECT q.who, count(*) AS movies, max(q.title) AS last FROM q WHERE q.who IS NOT NULL GROUP BY q.who
""",
    "products/film.yaml": """
product: film
owner: films
sink: {search: {file: films}}
root:
  from: studio.public.movie
  fields: {id: id, name: title}
nest:
  director: {from: hr.public.person, on: person.id = movie.director_id, one: [name]}
  cast:
    from: studio.public.credit
    on: credit.movie_id = movie.id
    where: credit.role <> 'x'
    order: credit.number
    each: {role: credit.role}
    nest:
      who: {from: hr.public.person, as: actor, on: actor.id = credit.person_id, one: [name]}
""",
}


@pytest.fixture
def graph(project: Callable[[Mapping[str, str]], Path], known: dict[str, Input]) -> Lineage:
    loaded = load(project(MESH), {}, SOURCES, SINKS)
    plans = compile_all(loaded, known)
    products, mistakes = product_plans(loaded, known, plans)
    assert not mistakes
    return lineage([*plans, *products], TOPICS)


def of(graph: Lineage, name: str) -> dict[str, str]:
    ref = graph.find(name)
    assert ref is not None, name
    return {str(r): kind for r, kind in graph.made_of(ref).items()}


def used(graph: Lineage, name: str) -> dict[str, str]:
    ref = graph.find(name)
    assert ref is not None, name
    return {str(r): kind for r, kind in graph.used_by(ref).items()}


MOVIE, PERSON, CREDIT = "studio.public.movie", "hr.public.person", "studio.public.credit"


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("rated.good.title", {f"{MOVIE}.title": "value"}),
        ("rated.good.next", {f"{MOVIE}.year": "derived"}),
        ("rated.good", {MOVIE: "filter", f"{MOVIE}.rating": "filter", f"{MOVIE}.id": "key"}),
        (
            "rated.named.director",
            {f"{PERSON}.name": "value", PERSON: "filter", f"{PERSON}.id": "filter", "rated.good.director_id": "filter"},
        ),
        ("rated.named", {"rated.good": "filter", "rated.good.id": "key"}),
        ("rated.named.jsonl.director", {"rated.named.director": "value"}),
        # through the WITH query, which nobody need know of
        ("counts.by_director.who", {"rated.named.director": "value"}),
        (
            "counts.by_director.movies",
            {"rated.named": "filter", "rated.named.director": "filter", "rated.named.title": "filter", "rated.named.id": "filter"},
        ),
        (
            "counts.by_director.last",
            {"rated.named": "filter", "rated.named.director": "filter", "rated.named.title": "derived", "rated.named.id": "filter"},
        ),
        ("film.film.name", {f"{MOVIE}.title": "value"}),
        (
            "film.film.director.name",
            {f"{PERSON}.name": "value", PERSON: "filter", f"{PERSON}.id": "filter", f"{MOVIE}.director_id": "filter"},
        ),
        ("film.film.cast.role", {f"{CREDIT}.role": "value"}),
        (
            "film.film.cast.who.name",
            {f"{PERSON}.name": "value", PERSON: "filter", f"{PERSON}.id": "filter", f"{CREDIT}.person_id": "filter"},
        ),
    ],
)
def test_a_field_is_made_of(graph: Lineage, field: str, made: dict[str, str]) -> None:
    assert of(graph, field) == made


def test_a_list_is_there_by_what_chooses_and_orders_its_items(graph: Lineage) -> None:
    made = graph.into[Ref("film.film", ("cast",))]
    assert made == {
        Ref(CREDIT): "filter",
        Ref(CREDIT, ("movie_id",)): "filter",
        Ref(CREDIT, ("role",)): "filter",
        Ref(CREDIT, ("number",)): "filter",
        Ref(MOVIE, ("id",)): "filter",
    }


def test_who_uses_a_column(graph: Lineage) -> None:
    assert used(graph, f"{MOVIE}.title") == {"rated.good.title": "value", "film.film.name": "value"}
    assert used(graph, f"{MOVIE}.rating") == {"rated.good": "filter"}
    assert used(graph, f"{MOVIE}.price") == {}
    assert used(graph, f"{PERSON}.extra") == {}
    # a member of a document is made of a column of the table that is nested twice over
    assert used(graph, f"{CREDIT}.role") == {"film.film.cast.role": "value", "film.film.cast": "filter"}


def test_the_way_to_the_end_takes_the_weakest_kind(graph: Lineage) -> None:
    down = {str(r): kind for r, kind in graph.downstream(Ref(MOVIE, ("title",))).items() if "#" not in r.holder}
    assert down == {
        "rated.good.title": "value",
        "rated.named.title": "value",
        "rated.named.jsonl.title": "value",
        "counts.by_director": "filter",
        "counts.by_director.movies": "filter",
        "counts.by_director.last": "derived",
        "film.film.name": "value",
        "film.film.search.name": "value",
    }
    up = {str(r): kind for r, kind in graph.upstream(Ref("counts.by_director", ("last",))).items() if "#" not in r.holder}
    assert up[f"{MOVIE}.title"] == "derived"
    assert up[f"{MOVIE}.rating"] == "filter", "it decides which rows of the first step there are to take the greatest of"
    assert up[f"{MOVIE}.id"] == "filter"
    assert f"{MOVIE}.price" not in up and f"{MOVIE}.year" not in up


def test_names_are_found_and_no_others(graph: Lineage) -> None:
    assert graph.find("film.film.cast.who.name") == Ref("film.film", ("cast", "who", "name"))
    assert graph.find(MOVIE) == Ref(MOVIE)
    assert graph.find(f"{MOVIE}.titel") is None
    assert graph.find("nowhere") is None


def test_a_column_that_is_named_without_effect_is_used(known: dict[str, Input]) -> None:
    inputs = {"a": TOPICS[MOVIE], "b": TOPICS[PERSON]}
    found = origins('SELECT "a"."id" AS "id" FROM "a" LEFT JOIN "b" ON ("b"."boss" = "a"."year")', inputs)
    assert found.rows == {("a",): "filter", ("b", "boss"): "filter", ("a", "year"): "filter"}


def test_a_text_deeper_than_the_parser_goes_is_made_of_all_that_it_names() -> None:
    """Coarse, and sound."""
    deep = f'{"(" * 3000}"id" + "year"{")" * 3000}'
    found = of_text.origins(f'SELECT {deep} AS "x" FROM "a"', {"a": TOPICS[MOVIE]})
    assert found.columns["x"].all() == {("a", "id"): "derived", ("a", "year"): "derived", ("a",): "filter"}
    assert found.rows == dict.fromkeys([("a", "id"), ("a", "year"), ("a",)], "filter")
