"""`millstream reconcile`: planted damage in topic, state and index is found with both values, and put right; nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import tantivy

from millstream.events import envelope
from millstream.events.batch import batch
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.sinks.search.layout import schema as layout
from millstream.topics.local import LocalTopics

JOINED = """\
pipeline: paired
owner: team-shop
steps:
  - name: paired
    sql: SELECT o.id, o.amount, n.note AS other FROM shop.public.orders o LEFT JOIN shop.public.orders n ON n.id = o.id
    key: [id]
sinks:
  - {from: paired, search: {index: pairs}}
"""


@pytest.fixture
def ran(shop):
    shop.write("pipelines/paired.yaml", JOINED)
    assert shop("apply").code == 0
    assert shop("run", "--until-caught-up").code == 0
    return shop


def vandal(shop, topic: str, key: int, row: dict[str, object] | None) -> None:
    """An event of a row that nobody computed; the pipeline's next commit stands behind it."""
    engine = sqlite_engine(shop.home / "mesh.db")
    registry = SqlRegistry(engine)
    with closing(LocalTopics(shop.home / "topics.db", registry)) as topics:
        known, version = topics.topic(topic), registry.versions(f"{topic}-value")[-1]
        assert known is not None
        columns = envelope.row_schema(version.text, known.key)
        blank = dict.fromkeys(columns.names)
        made = batch(
            topic,
            columns,
            {
                "op": ["d" if row is None else "u"],
                "before": pa.array([{**blank, "id": key}], columns.arrow),
                "after": pa.array([None if row is None else {**blank, **row}], columns.arrow),
                "incarnation": np.ones(1, np.uint32),
                "major": np.ones(1, np.uint64),
                "minor": np.ones(1, np.uint32),
                "ts_us": np.zeros(1, np.int64),
                "position": [""],
            },
            version.id,
        )
        topics.open_producer("vandal").commit([topics.encode(made)], {}, sequence=1)
    engine.dispose()
    shop.order(500, 900, "later")
    assert shop("run", "--until-caught-up").code == 0


def lost(shop) -> None:
    vandal(shop, "paired.paired", 2, None)


def changed(shop) -> None:
    vandal(shop, "paired.paired", 3, {"id": 3, "amount": 1, "other": "x"})


def invented(shop) -> None:
    vandal(shop, "paired.paired", 77, {"id": 77, "amount": 1, "other": "x"})


def copy_changed(shop) -> None:
    with duckdb.connect(str(shop.home / "state" / "paired.duckdb")) as state:
        state.execute("""UPDATE "copy paired shop.public.orders" SET note = 'never' WHERE id = 2""")


def last_lost(shop) -> None:
    with duckdb.connect(str(shop.home / "state" / "paired.duckdb")) as state:
        state.execute('DELETE FROM "last paired" WHERE id = 2')


def document(shop, key: int, row: dict[str, object] | None) -> None:
    index = tantivy.Index(layout(), path=str(shop.home / "search" / "pairs"))
    writer = index.writer(15_000_000, 1)
    writer.delete_documents_by_query(tantivy.Query.term_query(index.schema, "_key", json.dumps([key])))
    if row is not None:
        made = tantivy.Document()
        made.add_text("_key", json.dumps([key]))
        made.add_bytes("_document", json.dumps(row).encode())
        writer.add_document(made)
    writer.commit()
    writer.wait_merging_threads()


def document_changed(shop) -> None:
    document(shop, 2, {"id": 2, "amount": 150, "other": "coffee"})


def document_lost(shop) -> None:
    document(shop, 3, None)


def document_invented(shop) -> None:
    document(shop, 99, {"id": 99, "amount": 1, "other": "ghost"})


def differing(answer) -> dict[str, int]:
    return {c["what"]: c["differing"] for c in answer.json["compared"] if c["differing"]}


def test_nothing_differs_where_nothing_was_damaged(ran) -> None:
    for how in (("--all",), ("--sample", "2")):
        for name in ("paired", "large"):
            said = ran("reconcile", name, *how, "--json")
            assert (said.code, differing(said)) == (0, {}), said.out + said.err
    compared = {c["what"]: c["compared"] for c in ran("reconcile", "paired", "--all", "--json").json["compared"]}
    assert compared == {"paired.paired": 3, "state copy paired shop.public.orders": 3, "state last paired": 3, "index pairs": 3}
    assert "no difference" in ran("reconcile", "paired", "--all").out


@pytest.mark.parametrize(
    ("damage", "where", "expected", "got"),
    [
        (lost, "paired.paired", {"id": 2, "amount": 150, "other": "green tea"}, None),
        (changed, "paired.paired", {"id": 3, "amount": 250, "other": "black tea"}, {"id": 3, "amount": 1, "other": "x"}),
        (invented, "paired.paired", None, {"id": 77, "amount": 1, "other": "x"}),
        (copy_changed, "state copy paired shop.public.orders", None, None),
        (last_lost, "state last paired", None, None),
        (document_changed, "index pairs", {"id": 2, "amount": 150, "other": "green tea"}, {"id": 2, "amount": 150, "other": "coffee"}),
        (document_lost, "index pairs", {"id": 3, "amount": 250, "other": "black tea"}, None),
        (document_invented, "index pairs", None, {"id": 99, "amount": 1, "other": "ghost"}),
    ],
)
def test_damage_is_found_with_both_values_and_put_right(ran, damage: Callable[[object], None], where: str, expected, got) -> None:
    damage(ran)
    said = ran("reconcile", "paired", "--all", "--json")
    assert said.code == 1, said.out + said.err
    assert differing(said)[where] == 1
    if not where.startswith("state"):
        (first,) = next(c["first"] for c in said.json["compared"] if c["what"] == where)
        assert (first["expected"], first["got"]) == (expected, got)
        assert "expected" in ran("reconcile", "paired", "--all").out
    assert ran("reconcile", "paired", "--sample", "50").code == (0 if damage in (last_lost, document_invented) else 1)
    asked = ran("reconcile", "paired", "--all", "--repair", "--json")
    assert asked.code == 0
    assert asked.json["asked"]
    assert ran("run", "--until-caught-up").code == 0
    after = ran("reconcile", "paired", "--all", "--json")
    assert (after.code, differing(after)) == (0, {}), after.out
    assert {r["state"] for r in ran("resend", "list", "--json").json} == {"done"}


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [(("paired",), "--sample N or --all"), (("paired", "--all", "--sample", "3"), "--all"), (("pared", "--all"), "did you mean paired?")],
)
def test_what_cannot_be_asked_is_refused(ran, arguments: tuple[str, ...], cure: str) -> None:
    said = ran("reconcile", *arguments)
    assert said.code == 2
    assert cure in said.err


def test_what_was_never_caught_up_cannot_be_held_to_anything(shop) -> None:
    assert shop("apply").code == 0
    assert "catch up" in shop("reconcile", "large", "--all").err
