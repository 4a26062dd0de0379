"""`millstream schemas impact`: asked of a small project, before and after it is applied."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from millstream.cli.asked import asked
from millstream.cli.schemadiff import operation_document
from millstream.events import envelope
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type, list_of, record_of
from millstream.schemas.operations import operations

from .conftest import ORDERS, Shop

TOPIC = "shop.public.orders"
EVERYTHING = """\
pipeline: everything
owner: team-archive
evolve: follow
steps:
  - {name: all, sql: SELECT * FROM shop.public.orders}
sinks:
  - {from: all, jsonl: {file: all.jsonl}}
"""
PRODUCT = """\
product: order
owner: team-docs
root: {from: shop.public.orders, fields: [id, note]}
"""


@pytest.fixture(params=["before the first apply", "applied"])
def mesh(request: pytest.FixtureRequest, shop: Shop) -> Shop:
    shop.write("pipelines/everything.yaml", EVERYTHING)
    shop.write("products/order.yaml", PRODUCT)
    if request.param == "applied":
        assert shop("apply").code == 0
    return shop


def verdicts(mesh: Shop, change: str) -> dict[str, str]:
    answer = mesh("--json", "schemas", "impact", TOPIC, change)
    assert answer.err == ""
    assert answer.code == (4 if answer.json["pauses"] else 0)
    return {f"{a['pipeline']}.{a['part']}": a["verdict"] for a in answer.json["affected"]}


def test_who_would_pause_and_who_would_not(mesh: Shop) -> None:
    assert verdicts(mesh, "ALTER TABLE orders DROP COLUMN note") == {
        "large.large": "pause",
        "everything.all": "propagate",
        "everything.sink everything.all.jsonl": "propagate",
        "order@1.order": "pause",
    }
    assert verdicts(mesh, "ALTER TABLE orders ADD COLUMN gift bool NOT NULL DEFAULT false") == {
        "large.large": "ignore",
        "everything.all": "propagate",
        "everything.sink everything.all.jsonl": "propagate",
        "order@1.order": "ignore",
    }
    assert verdicts(mesh, "ALTER TABLE public.orders ALTER amount TYPE bigint")["large.large"] == "pause"
    assert set(verdicts(mesh, "ALTER TABLE orders RENAME amount TO sum").values()) == {"ignore", "propagate"}
    assert verdicts(mesh, "ALTER TABLE orders ALTER note SET DEFAULT 'x'") == {}


def test_people_are_told_why_and_what_to_do(mesh: Shop) -> None:
    answer = mesh("schemas", "impact", TOPIC, "ALTER TABLE orders DROP COLUMN note")
    assert answer.code == 4
    out = answer.out
    assert out.splitlines()[0] == f"{TOPIC}: dropped note"
    assert "everything.all: dropped note" in out
    assert f"large.large would pause: {TOPIC}.note: dropped note: step large uses it" in out
    assert "product order, generation 1" in out
    assert "`millstream resume large`" in out
    assert "2 pipelines would pause: ask team-docs, team-shop first" in out
    quiet = mesh("schemas", "impact", TOPIC, "ALTER TABLE orders ADD COLUMN gift bool")
    assert (quiet.code, "nobody would pause" in quiet.out) == (0, True)
    none = mesh("schemas", "impact", TOPIC, "ALTER TABLE orders ALTER note SET DEFAULT 'x'")
    assert (none.code, none.out.strip()) == (0, f"{TOPIC} stays as it is: nothing that rows have would change")


def test_a_change_may_stand_in_a_file(mesh: Shop) -> None:
    asked = "ALTER TABLE orders DROP COLUMN note"
    mesh.write("0042.sql", f"-- no more notes\n{asked};\n")
    less = RowSchema(tuple(replace(f) for f in ORDERS.fields if f.name != "note"), ORDERS.key)
    mesh.write("orders.avsc", envelope.value_schema(TOPIC, less))
    fields = [{"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "int"]}]
    mesh.write("mine.avsc", json.dumps({"type": "record", "name": "Order", "fields": fields}))
    for file in ("0042.sql", "orders.avsc", "mine.avsc"):
        assert verdicts(mesh, file) == verdicts(mesh, asked), file


def test_a_topic_of_a_pipeline_can_be_asked_of_too(mesh: Shop) -> None:
    mesh.write(
        "pipelines/notes.yaml",
        "pipeline: notes\nowner: t\nsteps: [{name: n, sql: 'SELECT id, note FROM everything.all'}]\nevolve: pinned\n",
    )
    wider = RowSchema((*ORDERS.fields[:2], Field("note", Type("bytes"), 3)), ORDERS.key)
    mesh.write("all.avsc", envelope.value_schema("everything.all", wider))
    answer = mesh("--json", "schemas", "impact", "everything.all", "all.avsc")
    assert {f"{a['pipeline']}.{a['part']}": a["verdict"] for a in answer.json["affected"]} == {
        "everything.sink everything.all.jsonl": "pause",
        "notes.n": "pause",
    }


def random_type(rng: random.Random, depth: int = 2) -> Type:
    if depth and rng.random() < 0.3:
        inside = random_type(rng, depth - 1)
        return list_of(inside) if rng.random() < 0.5 else record_of(*((n, random_type(rng, depth - 1)) for n in rng.sample("xyz", 2)))
    return rng.choice([Type("int32"), Type("int64"), Type("text"), Type("decimal", 10, 2)])


@pytest.mark.parametrize("seed", range(60))
def test_what_diff_gives_can_be_asked_of(seed: int, tmp_path: Path) -> None:
    """From one random schema to another and back over its differences as JSON: the same, but for the ids of what is new."""
    rng = random.Random(seed)

    def fields(had: tuple[Field, ...]) -> tuple[Field, ...]:
        kept = [replace(f, name=rng.choice([f.name, f.name + "2"]), nullable=rng.random() < 0.5) for f in had if rng.random() < 0.7]
        kept = [replace(f, type=random_type(rng)) if rng.random() < 0.3 else f for f in kept]
        free = max((f.id for f in had), default=0) + 1
        new = [
            Field(f"n{i}", random_type(rng), i, fill=rng.choice([None, UNKNOWN, Constant("1")]))
            for i in range(free, free + rng.randint(0, 2))
        ]
        return tuple(rng.sample([*kept, *new], len(kept) + len(new)))

    old = RowSchema(fields(tuple(Field(n, random_type(rng), i) for i, n in enumerate("abcd", 1))) or ORDERS.fields, ())
    new = RowSchema(fields(old.fields) or ORDERS.fields, ())
    (tmp_path / "diff.json").write_text(json.dumps({"operations": [operation_document(o) for o in operations(old, new)]}))
    made = asked("diff.json", TOPIC, old, [], tmp_path)
    assert sorted(map(str, operations(old, made))) == sorted(map(str, operations(old, new)))
    assert {f.name: str(f.type) for f in made.fields} == {f.name: str(f.type) for f in new.fields}


@pytest.mark.parametrize(
    ("topic", "change", "code"),
    [
        (TOPIC, "ALTER TABLE orders DROP COLUMN nope", "bad_alter"),
        (TOPIC, "ALTER TABLE customers DROP COLUMN note", "bad_alter"),
        (TOPIC, "no such file", "bad_alter"),
        (TOPIC, '{"type": "string"}', "schema_file"),
        (TOPIC, '{"operations": [{"kind": "drop", "path": ["nope"], "now": null}]}', "bad_diff"),
        (TOPIC, '{"operations": [{"kind": "drop"}]}', "bad_diff"),
        ("shop.public.order", "ALTER TABLE orders DROP COLUMN note", "unknown_topic"),
    ],
)
def test_what_is_not_understood_is_refused(mesh: Shop, topic: str, change: str, code: str) -> None:
    answer = mesh("--json", "schemas", "impact", topic, change)
    assert answer.code == 2
    assert json.loads(answer.err)["error"]["code"] == code


def test_a_rule_of_the_projects_own_is_asked(mesh: Shop) -> None:
    mesh.write(
        "rules/gifts.py",
        "from millstream.schemas.rules import Violation, rule\n\n\n"
        '@rule(scope="step:large.*")\n'
        "def no_gifts(change):\n"
        '    return [Violation("gift", change.topic, "we take none", "leave it out") for o in change.operations if o.column == "gift"]\n',
    )
    assert verdicts(mesh, "ALTER TABLE orders ADD COLUMN gift bool")["large.large"] == "pause"
    assert verdicts(mesh, "ALTER TABLE orders ADD COLUMN other bool")["large.large"] == "ignore"
