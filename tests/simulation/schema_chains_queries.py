"""Random pipelines and products over topics that change, as files, and what they mean: their own SQL, run by DuckDB over whole tables."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from millstream.events.types import RowSchema
from millstream.testing.scripted_source import Row

MOVIE, PERSON, CREDIT = "src.public.movie", "src.public.person", "src.public.credit"
TABLES = (MOVIE, PERSON, CREDIT)
KINDS = ("named", "star", "join", "join_star", "group", "behind", "behind_star", "behind_group", "two", "product")

Schemas = Mapping[str, RowSchema]


@dataclass(frozen=True)
class Made:
    """A pipeline or product as its owner wrote it. `steps`: name → SQL, in order. `published` are those that are topics; `key` of each.
    `generation`: of a product, the one that was applied last."""

    name: str
    kind: str
    evolve: str
    steps: Mapping[str, str]
    published: tuple[str, ...]
    reads: tuple[str, ...]
    text: str
    sunk: bool
    generation: int = 1

    @property
    def pipeline(self) -> str:
        return f"{self.name}@{self.generation}" if self.kind == "product" else self.name

    @property
    def file(self) -> str:
        return f"{'products' if self.kind == 'product' else 'pipelines'}/{self.name}.yaml"

    def topic(self, step: str) -> str:
        return f"{self.pipeline}.{step}"


def make(name: str, kind: str, evolve: str, over: str, schemas: Schemas, rng: random.Random, sunk: bool) -> Made:
    """Written against the schemas as they are. `over`: the topic that it reads first."""
    if kind == "product":
        return _product(name, evolve, schemas, rng)
    schema, step = schemas[over], "out"
    columns = _some(schema, rng)
    condition = _condition(schema, rng)
    steps: dict[str, str] = {}
    reads = [over]
    match kind:
        case "star" | "behind_star":
            steps[step] = f"SELECT * FROM {over}{condition}"
        case "join" | "join_star" if joined := _join(over, schemas):
            on, other = joined
            theirs = rng.choice(_free(schemas[other]))
            mine = "l.*" if kind == "join_star" else ", ".join(f"l.{c} AS {c}" for c in [*schema.key, *columns])
            steps[step] = f"SELECT {mine}, r.{theirs} AS their_{theirs} FROM {over} AS l LEFT JOIN {other} AS r ON {on}"
            reads.append(other)
        case "group" | "behind_group" if groups := _groups(schema):
            by = f"coalesce(CAST({rng.choice(groups)} AS text), '?')"
            most = rng.choice(_free(schema))
            steps[step] = f"SELECT {by} AS part, count(*) AS many, max({most}) AS most FROM {over} GROUP BY {by}"
        case "two":
            steps["first"] = f"SELECT * FROM {over}{condition}"
            steps[step] = f"SELECT {', '.join([*schema.key, *columns])} FROM first"
        case _:
            steps[step] = f"SELECT {', '.join([*schema.key, *columns])} FROM {over}{condition}"
    written = "".join(f"  - name: {n}\n    sql: {sql}\n" for n, sql in steps.items())
    sink = f"sinks:\n  - {{from: {step}, jsonl: {{file: {name}.jsonl}}}}\n" if sunk else ""
    text = f"pipeline: {name}\nowner: team-{name}\nevolve: {evolve}\nsteps:\n{written}{sink}"
    return Made(name, kind, evolve, steps, (step,), tuple(reads), text, sunk)


def again(made: Made, schemas: Schemas, rng: random.Random) -> Made:
    """The owner's edit: written anew against the schemas as they are."""
    return make(made.name, made.kind, made.evolve, made.reads[0], schemas, rng, made.sunk)


def _free(schema: RowSchema) -> list[str]:
    return [n for n in schema.names if n not in schema.key]


def _some(schema: RowSchema, rng: random.Random) -> list[str]:
    free = _free(schema)
    return rng.sample(free, rng.randint(1, min(3, len(free))))


def _condition(schema: RowSchema, rng: random.Random) -> str:
    numbers = [n for n in _free(schema) if schema[n].type.kind in ("int32", "int64")]
    return f" WHERE {rng.choice(numbers)} >= 2" if numbers and rng.random() < 0.4 else ""


def _groups(schema: RowSchema) -> list[str]:
    return [n for n in _free(schema) if schema[n].type.kind in ("int32", "int64", "text")]


def _join(over: str, schemas: Schemas) -> tuple[str, str] | None:
    """Along a number of `over` to the key of another table."""
    numbers = [n for n in _free(schemas[over]) if schemas[over][n].type.kind == "int64"]
    other = PERSON if over != PERSON else MOVIE
    return (f"r.id = l.{numbers[-1]}", other) if numbers else None


def _product(name: str, evolve: str, schemas: Schemas, rng: random.Random) -> Made:
    """Documents of movies, with the director and the list of credits where the columns to find them by are there."""
    movie, person, credit = (schemas[t] for t in TABLES)
    fields, joins, nests = _some(movie, rng), "", ""
    chosen = [f"m.{c} AS {c}" for c in ["id", *fields]]
    sql = f" FROM {MOVIE} AS m"
    reads = [MOVIE]
    listed = ", ".join(["id", *fields])
    if on := [n for n in _free(movie) if movie[n].type.kind == "int64"]:
        theirs = rng.choice(_free(person))
        joins = f"  join: {{their: {{from: {PERSON}, on: their.id = movie.{on[0]}}}}}\n"
        listed += f", who: their.{theirs}"
        chosen.append(f"p.{theirs} AS who")
        sql += f" LEFT JOIN {PERSON} AS p ON p.id = m.{on[0]}"
        reads.append(PERSON)
    if on := [n for n in _free(credit) if credit[n].type.kind == "int64"]:
        told = rng.choice(_free(credit))
        each = f"each: {{id: credit.id, told: credit.{told}}}, order: credit.id"
        nests = f"nest:\n  cast: {{from: {CREDIT}, on: credit.{on[0]} = movie.id, {each}}}\n"
        many = f"SELECT list({{id: c.id, told: c.{told}}} ORDER BY c.id) FROM {CREDIT} AS c WHERE c.{on[0]} = m.id"
        chosen.append(f"coalesce(({many}), []) AS cast")
        reads.append(CREDIT)
    root = f"root:\n  from: {MOVIE}\n{joins}  fields: {{{listed}}}\n"
    text = f"product: {name}\nowner: team-{name}\nevolve: {evolve}\n{root}{nests}sinks: []\n"
    return Made(name, "product", evolve, {name: f"SELECT {', '.join(chosen)}{sql}"}, (name,), tuple(reads), text, False)


def evaluated(made: Made, given: Mapping[str, tuple[RowSchema, list[Row]]]) -> dict[str, list[Row]]:
    """Each step's rows, by its own SQL over these rows."""
    with duckdb.connect() as db:
        for topic, (schema, rows) in given.items():
            catalogue, *path = topic.split(".")
            if len(path) == 2:
                db.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {catalogue}")
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {catalogue}.{path[0]}")
            else:
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {catalogue}")
            db.register("given", pa.Table.from_pylist(rows, pa.schema([(f.name, f.type.arrow) for f in schema.fields])))
            db.execute(f"CREATE TABLE {topic} AS SELECT * FROM given")
        found: dict[str, list[Row]] = {}
        for step, sql in made.steps.items():
            db.execute(f"CREATE TEMP TABLE {step} AS {sql}")
            got = db.execute(f"SELECT * FROM {step}")
            names = [d[0] for d in got.description or ()]
            found[step] = [dict(zip(names, row, strict=True)) for row in got.fetchall()]
        return found
