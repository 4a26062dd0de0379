"""What `schemas impact` says beforehand is what happens: random pipelines, one after the other random changes of a table, each asked of,
then made under a running mesh."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from millstream.events import envelope
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.schemas.rules import Decision, gravest
from millstream.testing.scripted_source import Change, ScriptedDatabase

from .conftest import Shop

TABLE, TOPIC = "public.orders", "shop.public.orders"
ORDERS = RowSchema(
    (Field("id", Type("int64"), 1), Field("amount", Type("int32"), 2), Field("note", Type("text"), 3), Field("place", Type("int32"), 4)),
    ("id",),
)
STEPS = [
    "SELECT id, amount FROM {0}", "SELECT id, note, place FROM {0} WHERE amount >= 0", "SELECT * FROM {0}",
    "SELECT * FROM {0} WHERE amount >= 0", "SELECT id, place + amount AS both FROM {0}",
    "SELECT a.id, b.note FROM {0} a LEFT JOIN {0} b ON b.id = a.id",
    "SELECT a.*, b.place AS other FROM {0} a LEFT JOIN {0} b ON b.id = a.id",
    "SELECT note, count(*) AS n, max(place) AS most FROM {0} WHERE note IS NOT NULL GROUP BY note",
]  # fmt: skip
SEEDS, MORE_SEEDS, CHANGES = 2, 60, 3


def write_pipelines(shop: Shop, rng: random.Random) -> None:
    """Some over the table, some over those, some of them with a sink that reads the table itself."""
    read = [TOPIC]
    for i in range(rng.randint(2, 4)):
        sql, source = rng.choice(STEPS), rng.choice(read)
        steps = f"  - name: s\n    sql: {sql.format(source)}\n"
        if rng.random() < 0.3 and "GROUP" not in sql:
            steps += "  - name: t\n    sql: SELECT * FROM s\n"
        sinks = f"sinks:\n  - {{from: s, jsonl: {{file: p{i}.jsonl}}}}\n" if rng.random() < 0.5 else ""
        if sinks and rng.random() < 0.3:
            sinks += f"  - {{from: {TOPIC}, jsonl: {{file: raw{i}.jsonl}}}}\n"
        evolve = rng.choice(["pinned", "follow", "follow"])
        shop.write(f"pipelines/p{i}.yaml", f"pipeline: p{i}\nowner: team{i}\nevolve: {evolve}\nsteps:\n{steps}{sinks}")
        if sql in (STEPS[2], STEPS[3]) and sinks:
            read.append(f"p{i}.s")


def changed(schema: RowSchema, rng: random.Random, number: int) -> RowSchema:
    fields = list(schema.fields)
    others = [i for i, f in enumerate(fields) if f.name not in schema.key]
    free = 10 + number
    kind = rng.choice(["add", "add", "drop", "rename", "widen", "null"]) if others else "add"
    at = rng.choice(others) if others else 0
    match kind:
        case "add":
            fields.append(Field(f"new{number}", Type("text"), free, fill=rng.choice([None, Constant("x")])))
        case "drop":
            del fields[at]
        case "rename":
            fields[at] = replace(fields[at], name=f"{fields[at].name}_{number}")
        case "widen" if fields[at].type == Type("int32"):
            fields[at] = replace(fields[at], type=Type("int64"))
        case _:
            fields[at] = replace(fields[at], nullable=not fields[at].nullable)
    return RowSchema(tuple(fields), schema.key)


def said(shop: Shop, schema: RowSchema) -> tuple[int, dict[str, Decision]]:
    """The exit code, and each pipeline's and sink's verdict."""
    shop.write("next.avsc", envelope.value_schema(TOPIC, schema))
    answer = shop("--json", "schemas", "impact", TOPIC, "next.avsc")
    verdicts: dict[str, list[Decision]] = {}
    for a in answer.json["affected"]:
        part = a["part"].replace("sink ", "sink.") if a["part"].startswith("sink ") else f"pipeline.{a['pipeline']}"
        verdicts.setdefault(part, []).append(a["verdict"])
    return answer.code, {part: gravest(found) for part, found in verdicts.items()}


def happened(shop: Shop, since: int) -> tuple[int, dict[str, Decision]]:
    """How the run ended, and what was ruled since."""
    code = shop("run", "--until-caught-up").code
    with shop.catalogue() as catalogue:
        ruled = catalogue.verdicts.everything()[since:]
    verdicts: dict[str, list[Decision]] = {}
    for kept in ruled:
        verdicts.setdefault(kept.consumer, []).append(kept.verdict)  # type: ignore[arg-type]
    return code, {part: gravest(found) for part, found in verdicts.items()}


def concerned(verdicts: dict[str, Decision]) -> dict[str, Decision]:
    return {part: verdict for part, verdict in verdicts.items() if verdict != "ignore"}


def hold(shop: Shop, seed: int) -> set[str]:
    rng = random.Random(seed)
    shop.database = ScriptedDatabase({TABLE: ORDERS}, random.Random(seed))
    for change in range(3):
        shop.database.commit(Change(TABLE, None, {"id": change, "amount": change, "note": "n", "place": 1}))
    (shop.folder / "pipelines/large.yaml").unlink()
    write_pipelines(shop, rng)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    schema, seen = ORDERS, set[str]()
    for number in range(CHANGES):
        schema = changed(schema, rng, number)
        foretold = said(shop, schema)
        shop.database.alter(TABLE, schema)
        shop.database.commit(Change(TABLE, None, {f.name: 100 + number if f.type.kind != "text" else "v" for f in schema.fields}))
        with shop.catalogue() as catalogue:
            since = len(catalogue.verdicts.everything())
        came = happened(shop, since)
        shown = json.dumps([came, foretold, str(schema)])
        assert (came[0], concerned(came[1])) == (foretold[0], concerned(foretold[1])), shown
        assert set(came[1]) <= set(foretold[1]), shown  # a version that was ignored before is not ruled anew
        seen |= set(came[1].values())
        if came[0]:
            break
    return seen


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_said_beforehand_happens(shop: Shop, seed: int) -> None:
    hold(shop, seed)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(SEEDS, MORE_SEEDS))
def test_many_more(shop: Shop, seed: int) -> None:
    hold(shop, seed)
