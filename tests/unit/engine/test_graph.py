"""A plan's nodes put together: what cannot be run is refused before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from millstream.engine.graph import Graph
from millstream.engine.sql import Sql
from millstream.engine.state import State
from millstream.engine.store import Store
from millstream.errors import Refused
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.plan import Input, Occurrence, Plan, Projection, Root, Stateful, Stateless


def test_documents_are_not_read_by_a_node_beside_them(tmp_path: Path) -> None:
    schema = RowSchema((Field("id", Type("int64"), 1),), ("id",))
    sql = 'SELECT "m"."id" AS "id" FROM "m"'
    documents = Stateful("doc", sql, (Root("m", ("id",)),), ("id",), (Occurrence("m", "src.m"),), (), schema, keeps="hash")
    reader = Stateless("after", "doc", None, (Projection("id", '"id"'),), schema)
    plan = Plan("p", "team", (Input("src.m", schema, 1, "whole"),), (documents, reader), (), ())
    state, duckdb = State(Store(tmp_path / "s.duckdb")), Sql()
    with pytest.raises(Refused) as error:
        Graph(plan, duckdb, state)
    assert (error.value.code, error.value.cure) == ("reads_documents", "let after read what doc is made of")
    state.store.close()
    duckdb.close()
