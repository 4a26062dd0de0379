"""Lists and records on their way through the engine: kept in state, made by a step's SQL, read in an earlier version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millstream.engine.images import conform, structs
from millstream.engine.sql import Sql
from millstream.engine.stateless import run
from millstream.engine.store import Store
from millstream.events import envelope
from millstream.events.batch import Batch, batch
from millstream.events.origin import Origin
from millstream.events.types import Field, RowSchema, Type, list_of
from millstream.pipelines.plan import Projection, Stateless
from millstream.testing import sink_events as given

ORIGIN = Origin("scripted", "s", "db", None, "t")


def test_state_gives_back_what_it_was_given(tmp_path: Path) -> None:
    schema, images = given.NESTED, given.nested().column("after").drop_null()
    rows = pa.Table.from_struct_array(images)
    rows = rows.filter(pa.array([i not in (1, 4) for i in range(len(rows))])).combine_chunks()  # one row a key
    store = Store(tmp_path / "state.db")
    with store.transaction():
        store.create("kept", schema.fields, schema.key)
        store.insert("kept", rows)
    found = conform(store.lookup("kept", ("id",), rows.select(["id"]), schema.names), schema)
    store.close()
    assert found.schema.types == [f.type.arrow for f in schema.fields]
    assert sorted(found.to_pylist(), key=lambda r: r["id"]) == sorted(rows.to_pylist(), key=lambda r: r["id"])
    # And from there into events, some of them without a row.
    image = structs(found.sort_by("id"), np.array([2, -1, 0]), schema)
    expected = sorted(rows.to_pylist(), key=lambda r: r["id"])
    assert image.to_pylist() == [expected[2], None, expected[0]]


CREDIT = Type("record", fields=(Field("the name", Type("text"), 1), Field("rank", Type("int32"), 2)))
IN = RowSchema((Field("id", Type("int64"), 1), Field("t", Type("text"), 2)), ("id",))
OUT = RowSchema((Field("id", Type("int64"), 1), Field("cast", list_of(CREDIT), 2), Field("one", CREDIT, 3)), ("id",))


def source(rows: list[dict[str, Any]]) -> Batch:
    count = len(rows)
    columns = {
        "op": ["c"] * count,
        "after": pa.array(rows, IN.arrow),
        "incarnation": np.ones(count, np.uint32),
        "major": np.arange(count, dtype=np.uint64),
        "minor": np.zeros(count, np.uint32),
        "ts_us": np.zeros(count, np.int64),
        "position": ["p"] * count,
    }
    return replace(batch("in", IN, columns), offsets=np.arange(count, dtype=np.int64))


@pytest.mark.parametrize("start", [0, 2])
def test_a_step_makes_lists_and_records_that_travel(start: int) -> None:
    member = "{'rank': \"id\" + 1, 'the name': \"t\"}"  # another order and wider than the schema says
    one = f'CASE WHEN "t" IS NULL THEN NULL ELSE {member} END'
    items = f'CASE WHEN "id" = 2 THEN NULL WHEN "t" IS NULL THEN [] ELSE [{member}, NULL] END'
    step = Stateless("s", "in", None, (Projection("id", '"id"'), Projection("cast", items), Projection("one", one)), OUT)
    rows = [{"id": 0, "t": "a"}, {"id": 1, "t": None}, {"id": 2, "t": "c"}, {"id": 3, "t": "d"}]
    sql = Sql()
    out = run(step, source(rows), sql)
    sql.close()
    made = [{"the name": r["t"], "rank": r["id"] + 1} for r in rows]
    expected = [
        {"id": 0, "cast": [made[0], None], "one": made[0]},
        {"id": 1, "cast": [], "one": None},
        {"id": 2, "cast": None, "one": made[2]},
        {"id": 3, "cast": [made[3], None], "one": made[3]},
    ]
    part = out.slice(start).with_schema_id(7)
    text = envelope.value_schema("in", OUT)
    datums = envelope.encode_values(part, ORIGIN, "1")
    back = envelope.decode_values("in", text, 7, envelope.row_schema(text, ("id",)), datums.data, datums.starts, datums.ends)
    assert back.schema == OUT
    assert back.column("after").to_pylist() == expected[start:]
