"""`millstream lineage`: trees, graphs and JSON of a small project, in both directions."""

from __future__ import annotations

import pytest

from .conftest import Shop

COUNTS = """\
pipeline: counts
owner: team-numbers
steps:
  - name: notes
    sql: SELECT note, count(*) AS orders, max(amount) AS most FROM large.large WHERE note IS NOT NULL GROUP BY note
sinks:
  - {from: notes, jsonl: {file: "${NOTES}.jsonl"}}
"""
PRODUCT = """\
product: order
owner: team-docs
root: {from: shop.public.orders, fields: [id]}
nest:
  same:
    {from: shop.public.orders, as: other, on: other.note = orders.note, where: other.amount > 0, each: [id, amount]}
"""


@pytest.fixture
def mesh(shop: Shop) -> Shop:
    shop.write("pipelines/counts.yaml", COUNTS)
    shop.write("products/order.yaml", PRODUCT)
    shop.env["NOTES"] = "of-a-secret-name"
    return shop


def test_who_uses_a_column_as_a_tree(mesh: Shop) -> None:
    answer = mesh("lineage", "shop.public.orders.amount")
    assert answer.code == 0, answer.err
    tree = answer.out.partition("\n\n")[0].splitlines()
    assert tree == [
        "shop.public.orders.amount",
        "├─ large.large (rows): chosen by it",
        "│  ├─ counts.notes (rows): chosen by it",
        "│  │  └─ counts.notes.jsonl (rows): chosen by it, in file ${NOTES}.jsonl",
        "│  ├─ counts.notes.most: chosen by it",
        "│  │  └─ counts.notes.jsonl.most: as it is, in file ${NOTES}.jsonl",
        "│  ├─ counts.notes.orders: chosen by it",
        "│  │  └─ counts.notes.jsonl.orders: as it is, in file ${NOTES}.jsonl",
        "│  ├─ large.large.jsonl (rows): chosen by it, in file large.jsonl",
        "│  └─ large.large.search (rows): chosen by it, in search index orders",
        "├─ large.large.amount: as it is",
        "│  ├─ counts.notes.most: computed (see above)",
        "│  ├─ large.large.jsonl.amount: as it is, in file large.jsonl",
        "│  └─ large.large.search.amount: as it is, in search index orders",
        "├─ order.order.same: chosen by it",
        "│  └─ order.order.search.same: as it is, in search index order",
        "└─ order.order.same.amount: as it is",
        "   └─ order.order.search.same.amount: as it is, in search index order",
    ]
    met = answer.out.partition("\n\n")[2]
    assert [line.split()[:2] for line in met.splitlines()[2:] if line.strip()] == [
        ["counts", "team-numbers"],
        ["large", "team-shop"],
        ["order", "team-docs"],
    ]
    assert "of-a-secret-name" not in answer.out


def test_what_a_member_of_a_document_is_made_of(mesh: Shop) -> None:
    answer = mesh("lineage", "order.same.amount", "--upstream")
    assert answer.code == 0, answer.err
    assert answer.out.partition("\n\n")[0].splitlines() == ["order.order.same.amount", "└─ shop.public.orders.amount: is it"]
    assert "team-shop" in answer.out, "the owner of the source"


def test_it_is_told_to_programs(mesh: Shop) -> None:
    said = mesh("--json", "lineage", "large.large.note").json
    assert said["name"] == "large.large.note"
    assert {"from": "large.large.note", "to": "counts.notes.note", "kind": "value"} in said["edges"]
    assert {"from": "large.large.note", "to": "counts.notes", "kind": "filter"} not in said["edges"], "it is the group: the key says more"
    assert {"from": "large.large.note", "to": "counts.notes", "kind": "key"} in said["edges"]
    assert {p["name"]: p["owner"] for p in said["parts"]} == {"counts": "team-numbers", "large": "team-shop"}
    (field,) = [f for f in said["fields"] if f["name"] == "counts.notes.jsonl.note"]
    assert (field["what"], field["topic"], field["target"]) == ("sink", "counts.notes", "file ${NOTES}.jsonl")


def test_a_table_is_told_column_by_column(mesh: Shop) -> None:
    out = mesh("lineage", "shop.public.orders").out
    (note,) = [line for line in out.splitlines() if line.startswith("note")]
    assert "large.large (as it is)" in note and "order.order (chosen by it)" in note


@pytest.mark.parametrize(
    ("kind", "first", "edge"), [("mermaid", "flowchart LR", "-->|value|"), ("dot", "digraph lineage {", '[label="value"]')]
)
def test_it_is_drawn(mesh: Shop, kind: str, first: str, edge: str) -> None:
    answer = mesh("lineage", "shop.public.orders.amount", "--format", kind)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0] == first
    assert edge in answer.out
    assert answer.out.count("subgraph") == 8


def test_a_column_that_nobody_uses(shop: Shop) -> None:
    shop.write("pipelines/large.yaml", "pipeline: large\nowner: t\nsteps: [{name: large, sql: SELECT id FROM shop.public.orders}]\n")
    assert shop("lineage", "shop.public.orders.note").out.splitlines() == ["shop.public.orders.note", "└─ nobody uses it"]


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("shop.public.orders.amont", "did you mean shop.public.orders.amount?"),
        ("shop.public.order", "did you mean shop.public.orders?"),
        ("order.same.amounts", "did you mean order.order.same.amount?"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(mesh: Shop, name: str, cure: str) -> None:
    answer = mesh("lineage", name)
    assert answer.code == 2
    assert cure in answer.err
