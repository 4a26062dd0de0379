"""`millstream test`: examples pass, fail with row, column and line, or are refused with file and line; no database is asked."""

from __future__ import annotations

import json

import pytest

DECLARED = "    inputs:\n      shop.public.orders: {key: [id], columns: {id: int64, amount: int32, note: text}}\n"
LARGE = """\
pipeline: large
owner: team-shop
steps:
  - name: large
    sql: SELECT id, amount, note FROM shop.public.orders WHERE amount >= 100
examples:
  - name: small orders are left out
    inputs:
      shop.public.orders: {key: [id], columns: {id: int64, amount: int32, note: text}}
    given:
      shop.public.orders:
        - {id: 1, amount: 50}
        - {id: 2, amount: 150, note: green tea}
    expect:
      large:
        - {id: 2, note: green tea}
"""
NAMED = """\
pipeline: named
owner: team-shop
steps:
  - name: big
    sql: SELECT id, amount, customer FROM shop.public.orders WHERE amount >= 100
  - name: named
    sql: SELECT b.id, b.amount, c.name FROM big b LEFT JOIN shop.public.customers c ON c.id = b.customer
    key: [id]
"""
NAMED_TESTS = """\
inputs:
  shop.public.orders: {key: [id], columns: {id: int64, amount: "decimal(8,2)", customer: int64}}
  shop.public.customers: {key: [id], columns: {id: int64, name: text}}
---
test: named
examples:
  - name: a customer's new name reaches the orders
    given:
      - shop.public.orders: [{id: 1, amount: 100.50, customer: 7}, {id: 2, amount: 200, customer: 8}, {id: 3, amount: 300}]
        shop.public.customers: [{id: 7, name: Ada}, {id: 8, name: Bob}]
      - shop.public.customers:
          - update: {id: 7, name: Eve}
          - delete: {id: 8}
        shop.public.orders:
          - update: {id: 3, amount: 9.99}
    expect:
      big: [{id: 1}, {id: 2}]
      named:
        - {id: 1, amount: 100.5, name: Eve}
        - {id: 2, amount: 200, name: null}
    events:
      big:
        - insert: {id: 1}
        - insert: {id: 2}
        - insert: {id: 3}
        - delete: {id: 3}
"""


@pytest.fixture
def tested(shop):
    """Only pipelines with examples; the database would say so if it were asked."""
    shop.write("pipelines/large.yaml", LARGE)
    shop.down = True
    return shop


def test_examples_pass_without_any_database(tested) -> None:
    tested.write("sources/shop.yaml", "source: shop\nconnector: scripted\nurl: ${SHOP_URL}\ntables: [public.orders]\nowner: team-shop\n")
    said = tested("test")
    assert (said.code, said.err) == (0, "")
    assert "ok      large: small orders are left out" in said.out
    assert "1 example: 1 passed" in said.out
    assert tested.asked == 0


def test_a_join_over_several_batches_in_a_file_of_its_own(tested) -> None:
    tested.write("pipelines/large.yaml", NAMED)
    tested.write("tests/named.yaml", NAMED_TESTS)
    said = tested("test", "named", "--json")
    assert said.code == 0, said.out + said.err
    assert said.json["passed"] == 1


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("- {id: 2, note: green tea}", "- {id: 2, note: tea}", ("id=2", "note", '"tea"', '"green tea"', 16)),
        ("- {id: 2, note: green tea}", "- {id: 3}", ("id=3", "", "{id: 3}", "no such row", 16)),
        ("        - {id: 2, note: green tea}\n", "", ("id=2", "", "no such row", '{id: 2, amount: 150, note: "green tea"}', 15)),
        ("{id: 2, note: green tea}", "{id: 2, amount: 1}", ("id=2", "amount", "1", "150", 16)),
        ("WHERE amount >= 100", "", ("id=1", "", "no such row", "{id: 1, amount: 50, note: null}", 15)),
    ],
)
def test_a_failure_names_row_column_and_line(tested, old: str, new: str, difference) -> None:
    tested.write("pipelines/large.yaml", LARGE.replace(old, new))
    said = tested("test", "--json")
    assert said.code == 1
    (example,) = said.json["examples"]
    assert (example["file"], example["line"], example["passed"]) == ("pipelines/large.yaml", 7, False)
    assert [(d["row"], d["column"], d["expected"], d["got"], d["place"]["line"]) for d in example["differences"]][:1] == [difference]
    shown = tested("test")
    assert shown.code == 1
    assert "FAILED  large: small orders are left out" in shown.out
    assert f"pipelines/large.yaml:{difference[4]}:" in shown.out


@pytest.mark.parametrize(
    ("old", "new", "row", "expected", "got"),
    [
        ("- insert: {id: 2}\n", "- delete: {id: 2}\n", "event 2", "delete {id: 2}", "insert {id: 2, amount: 200.00, customer: 8}"),
        ("        - delete: {id: 3}\n", "", "event 4", "no such event", "delete {id: 3, amount: 300.00, customer: null}"),
        ("- delete: {id: 3}\n", "- delete: {id: 3}\n        - insert: {id: 4}\n", "event 5", "insert {id: 4}", "no such event"),
    ],
)
def test_events_are_compared_in_order(tested, old: str, new: str, row: str, expected: str, got: str) -> None:
    tested.write("pipelines/large.yaml", NAMED)
    tested.write("tests/named.yaml", NAMED_TESTS.replace(old, new, 1) if "delete: {id: 3}" not in old else NAMED_TESTS.replace(old, new))
    said = tested("test", "--json")
    assert said.code == 1
    assert [(d["row"], d["expected"], d["got"]) for d in said.json["examples"][0]["differences"]] == [(row, expected, got)]


def test_the_sql_that_fails_is_the_examples_failure(tested) -> None:
    text = LARGE.replace("SELECT id, amount, note", "SELECT id, amount, CAST(note AS int) AS note")
    tested.write(
        "pipelines/large.yaml",
        text.replace("note: green tea}\n    expect", "note: tea}\n    expect").replace(", note: green tea}\n", "}\n"),
    )
    said = tested("test", "--json")
    assert said.code == 1
    assert said.json["examples"][0]["error"]["code"] == "sql_failed"


@pytest.mark.parametrize(
    ("old", "new", "place", "code", "cure"),
    [
        ("- {id: 1, amount: 50}", "- {id: 1, amount: many}", "12:27", "bad_value", "type"),
        ("- {id: 1, amount: 50}", "- {id: 1, amont: 50}", "12:19", "unknown_column", "did you mean amount?"),
        ("- {id: 1, amount: 50}", "- {amount: 50}", "12:11", "key_missing", "add id:"),
        ("- {id: 1, amount: 50}", "- update: {id: 1, amount: 50}", "12:19", "no_such_row", "insert it before"),
        ("- {id: 1, amount: 50}", "- {id: 2, amount: 50}", "13:11", "row_twice", "update"),
        ("      large:\n", "      lage:\n", "15:7", "unknown_step", "did you mean large?"),
        ("given:\n      shop.public.orders", "given:\n      shop.public.order", "11:7", "unknown_input", "shop.public.orders?"),
        ("amount: int32", "amount: int31", "9:68", "unknown_type", "did you mean int32?"),
        ("key: [id]", "key: [ident]", "9:33", "unknown_column", "did you mean id?"),
        ("  - name: small orders are left out\n    inputs", "  - inputs", "7:5", "missing", "add name:"),
        ("    expect:", "    expects:", "14:5", "unknown_key", "did you mean expect?"),
        (DECLARED, "", "1:1", "columns_unknown", "inputs"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_example_has_its_place_and_cure(tested, old: str, new: str, place: str, code: str, cure: str) -> None:
    assert old in LARGE
    tested.write("pipelines/large.yaml", LARGE.replace(old, new))
    said = tested("test", "--json")
    assert said.code == 2, said.out
    found = {(f"{m['line']}:{m['column']}", m["code"]): m["cure"] for m in json.loads(said.err)["mistakes"]}
    assert cure in found[place, code], found


def test_validate_knows_the_mistakes_of_examples_too(tested) -> None:
    tested.down = False
    assert tested("validate").code == 0
    tested.write("pipelines/large.yaml", LARGE.replace("amount: 50", "amount: many"))
    said = tested("validate")
    assert said.code == 2
    assert "pipelines/large.yaml:12:27" in said.err


def test_a_pipeline_that_is_not_there_and_one_without_examples(tested) -> None:
    assert "did you mean large?" in tested("test", "lage").err
    tested.write("pipelines/large.yaml", NAMED)
    said = tested("test")
    assert said.code == 0
    assert "no example" in said.out
    tested.write("tests/x.yaml", "test: name\nexamples: []\n")
    assert "did you mean named?" in tested("test").err


def test_the_registered_columns_count_where_the_topic_is_applied(tested) -> None:
    tested.down = False
    assert tested("apply").code == 0
    tested.write("pipelines/large.yaml", LARGE.replace("note: text}}", "note: int32}}"))
    assert tested("test").code == 0
