"""`schemas diff` and `schemas check`: what turns one version into another, and what stands against a next one."""

from __future__ import annotations

import json

import pytest

from millstream.events.envelope import value_schema
from millstream.events.types import Constant, Field, RowSchema, Type
from millstream.schemas.sql import SqlRegistry, sqlite_engine

from .conftest import ORDERS, PIPELINE, SOURCE

TOPIC = "shop.public.orders"
SECOND = RowSchema((*ORDERS.fields, Field("kind", Type("text"), 4, fill=Constant("plain"))), ("id",))
THIRD = RowSchema((ORDERS.fields[0], Field("amount", Type("int64"), 2), SECOND.fields[3]), ("id",))


def register(shop, *schemas: RowSchema) -> None:
    engine = sqlite_engine(shop.home / "mesh.db")
    for schema in schemas:
        SqlRegistry(engine).register(f"{TOPIC}-value", value_schema(TOPIC, schema))
    engine.dispose()


@pytest.fixture
def applied(shop):
    assert shop("apply").code == 0
    register(shop, SECOND, THIRD)
    return shop


def test_the_newest_version_is_compared_with_the_one_before(applied) -> None:
    found = applied("schemas", "diff", TOPIC, "--json").json
    assert (found["topic"], found["from"], found["to"]) == (TOPIC, 2, 3)
    assert [(o["kind"], o["path"], o["text"], o["adds"], o["destroys"]) for o in found["operations"]] == [
        ("drop", ["note"], "dropped note", False, True),
        ("widen", ["amount"], "widened amount (int32 is now int64)", True, False),
    ]
    assert found["operations"][0]["was"]["type"] == "text" and found["operations"][0]["now"] is None
    said = applied("schemas", "diff", TOPIC).out
    assert "version 2 to 3" in said and "widened amount (int32 is now int64)" in said


def test_any_two_versions_may_be_compared(applied) -> None:
    assert [o["kind"] for o in applied("schemas", "diff", TOPIC, "--from", "1", "--to", "3", "--json").json["operations"]] == [
        "drop", "widen", "add",
    ]  # fmt: skip
    (back,) = applied("schemas", "diff", f"{TOPIC}-value", "--from", "2", "--to", "1", "--json").json["operations"]
    assert (back["kind"], back["was"]["fill"]) == ("drop", {"constant": "plain"})
    assert "no difference" in applied("schemas", "diff", TOPIC, "--from", "2", "--to", "2").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("shop.public.order",), "did you mean shop.public.orders?"),
        ((f"{TOPIC}-key",), "not the schema of a topic's rows"),
        ((TOPIC, "--to", "1"), "no version before 1"),
        ((TOPIC, "--from", "9"), "its versions are 1, 2, 3"),
    ],
)
def test_what_is_not_there_is_refused_with_a_way_out(applied, arguments: tuple[str, ...], says: str) -> None:
    answer = applied("schemas", "diff", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err


# ---- check

SAME = [{"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "int"]}, {"name": "note", "type": ["null", "string"]}]
LONGER = [{"name": "id", "type": "long"}, {"name": "amount", "type": ["null", "long"]}, {"name": "note", "type": ["null", "string"]}]
RULE = """from millstream.schemas.rules import rule, Violation

@rule(scope="source:shop")
def no_widening(change):
    for o in change.operations:
        if o.kind == "widen":
            yield Violation(str(o), f"{change.topic}.{o.column}", "ledgers count in 32 bits", "split the amount")
"""


def file(shop, columns: list[dict]) -> str:
    path = shop.folder / "orders.avsc"
    path.write_text(json.dumps({"type": "record", "name": "Orders", "fields": columns}))
    return str(path)


def test_a_schema_that_nothing_stands_against(shop) -> None:
    assert shop("apply").code == 0
    answer = shop("schemas", "check", TOPIC, file(shop, [*SAME, {"name": "kind", "type": ["null", "string"]}]), "--mode", "FULL")
    assert answer.code == 0, answer.out + answer.err
    assert "nothing stands against it" in answer.out and "added kind (text)" in answer.out
    assert [v["version"] for v in shop("schemas", "list", "--json").json if v["subject"] == f"{TOPIC}-value"] == [
        1
    ]  # nothing is registered


def test_a_mode_of_the_files_and_a_rule_each_say_what_where_why_and_the_cure(shop) -> None:
    shop.write("rules/own.py", RULE)
    shop.write("sources/shop.yaml", SOURCE + "compatibility: FULL\n")
    assert shop("apply").code == 0
    answer = shop("schemas", "check", TOPIC, file(shop, LONGER), "--json")
    assert answer.code == 1
    mode, own, used = answer.json["violations"]
    assert (mode["what"], mode["where"]) == ("not FULL: the writer's long is none of the union of null, int", f"{TOPIC}.amount")
    assert mode["why"] == "the new schema cannot be read by version 1" and mode["cure"]
    assert own == {
        "what": "widened amount (int32 is now int64)", "where": f"{TOPIC}.amount", "why": "ledgers count in 32 bits",
        "cure": "split the amount", "rule": "no_widening", "consumer": "", "owner": "",
    }  # fmt: skip
    said = shop("schemas", "check", TOPIC, file(shop, LONGER)).out
    assert used["consumer"] == "large.large" and "pinned" in used["why"]
    assert "cure: split the amount" in said and "3 violations" in said
    assert shop("schemas", "check", TOPIC, file(shop, LONGER), "--mode", "NONE", "--json").json["violations"] == [own, used]


def test_who_uses_what_goes_stands_against_it_wherever_he_reads(shop) -> None:
    down = "pipeline: down\nowner: team-down\nsteps:\n  - {name: got, sql: SELECT * FROM large.large}\n"
    shop.write("pipelines/down.yaml", down)
    assert shop("apply").code == 0
    answer = shop("schemas", "check", TOPIC, file(shop, [*LONGER[:1], {"name": "amount", "type": ["null", "int"]}]), "--json")
    assert answer.code == 1
    (found,) = answer.json["violations"]
    assert (found["consumer"], found["owner"], found["where"], found["what"]) == (
        "large.large", "team-shop", f"{TOPIC}.note", "dropped note",
    )  # fmt: skip
    assert "uses it" in found["why"] and "edit large" in found["cure"]
    said = shop("schemas", "check", TOPIC, file(shop, LONGER[:2])).out
    assert "large.large, of team-shop" in said
    # Who follows takes the wider amount over, and who reads that, and is pinned, would not.
    shop.write("pipelines/large.yaml", PIPELINE.replace("owner: team-shop", "owner: team-shop\nevolve: follow"))
    (found,) = shop("schemas", "check", TOPIC, file(shop, LONGER), "--json").json["violations"]
    assert (found["consumer"], found["where"]) == ("down.got", "large.large.amount")


def test_a_subject_that_is_no_topics_is_held_to_avro_alone(shop) -> None:
    assert shop("apply").code == 0
    subject = f"{TOPIC}-key"
    key = shop("schemas", "show", subject, "--json").json["schema"]
    path = shop.folder / "key.avsc"
    path.write_text(json.dumps(key))
    assert shop("schemas", "check", subject, str(path)).code == 0
    key["fields"].append({"name": "year", "type": "int"})
    path.write_text(json.dumps(key))
    answer = shop("schemas", "check", subject, str(path), "--json")
    assert (answer.code, answer.json["mode"], len(answer.json["violations"])) == (1, "BACKWARD", 1)
    assert answer.json["violations"][0]["where"] == f"{subject}.year"
    assert shop("schemas", "check", subject, str(path), "--mode", "FORWARD").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("shop.public.order", "orders.avsc"), "did you mean shop.public.orders?"),
        ((TOPIC, "nowhere.avsc"), "the file cannot be read"),
        ((TOPIC, "mesh.yaml"), "not the schema of rows"),
        ((TOPIC, "orders.avsc", "--mode", "backward"), "there is no mode backward"),
    ],
)
def test_what_cannot_be_checked_is_refused(shop, monkeypatch, arguments: tuple[str, ...], says: str) -> None:
    assert shop("apply").code == 0
    file(shop, LONGER)
    monkeypatch.chdir(shop.folder)
    answer = shop("schemas", "check", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert says in answer.err


# ---- a wider type


SUMS = """\
pipeline: sums
owner: team
steps:
  - name: all
    sql: "SELECT id, {amount} AS amount, {record} AS said FROM shop.public.orders"
sinks:
  - {{from: all, jsonl: {{file: sums.jsonl}}}}
---
pipeline: down
owner: team
steps:
  - name: got
    sql: SELECT id, amount, said FROM sums.all
sinks:
  - {{from: got, jsonl: {{file: down.jsonl}}}}
"""


def test_a_wider_type_and_a_new_member_reach_every_reader_without_a_topic_begun_anew(shop) -> None:
    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (shop.folder / f"{name}.jsonl").read_text().splitlines()]

    (shop.folder / "pipelines/large.yaml").unlink()
    shop.write("pipelines/sums.yaml", SUMS.format(amount="amount", record="{a: note}"))
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    before = {name: len(lines(name)) for name in ("sums", "down")}

    shop.write("pipelines/sums.yaml", SUMS.format(amount="CAST(amount AS BIGINT) * 10000000", record="{a: note, b: amount}"))
    planned = [s["kind"] for s in shop("plan", "--json").json["steps"]]
    assert "register_schema" in planned and "raise_incarnation" not in planned
    assert shop("apply").code == 0
    shop.order(4, 400, "tea")
    assert shop("run", "--until-caught-up").code == 0
    for name in ("sums", "down"):
        fresh = lines(name)[before[name] :]
        assert sorted((e["op"], e["after"]["id"], e["after"]["amount"], e["after"]["said"]["b"]) for e in fresh) == [
            ("c", 4, 4_000_000_000, 400),
            ("u", 1, 500_000_000, 50),
            ("u", 2, 1_500_000_000, 150),
            ("u", 3, 2_500_000_000, 250),
        ]
