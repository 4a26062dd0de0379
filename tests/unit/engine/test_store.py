"""The store: what lookups find, whatever the key is made of, before and after the file is opened anew."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.engine.state import copy_table
from millstream.engine.store import Store
from millstream.errors import Irrecoverable
from millstream.events.types import Field, Type, list_of

INT, SMALL, TEXT = Type("int64"), Type("int32"), Type("text")
FIELDS = [Field("a", INT, 1), Field("k1", TEXT, 2), Field("c", SMALL, 3), Field("k", TEXT, 4), Field("k0", list_of(INT), 5)]
Row = dict[str, Any]


def table(rows: Sequence[Row], names: Sequence[str]) -> pa.Table:
    types = {f.name: f.type.arrow for f in FIELDS}
    return pa.table({n: pa.array([r[n] for r in rows], types[n]) for n in names})


def as_rows(found: pa.Table) -> list[str]:
    return sorted(map(str, found.to_pylist()))


@pytest.mark.parametrize("key", [("a",), ("a", "k1"), ("a", "k1", "c")])
def test_it_is_a_table_by_key(key: tuple[str, ...], tmp_path: Path) -> None:
    """Random puts, deletes and lookups by one and by several columns, against a dict; the file is opened anew in between.
    Columns may be called as what the store writes into its own SQL might be."""
    rng = random.Random(len(key))
    names = [f.name for f in FIELDS]
    lookups = [("k",), ("c", "k"), ("k", "k1")]
    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        store.create("t", FIELDS, key, lookups)
    with store.transaction():
        for columns in lookups:
            store.index("t", columns)
    truth: dict[tuple[Any, ...], Row] = {}

    def row() -> Row:
        c, d = rng.choice([None, 1, 2]), rng.choice([None, "u", "v'"])
        return {"a": rng.randrange(4), "k1": rng.choice("xy"), "c": rng.randrange(2) if "c" in key else c, "k": d, "k0": [1, None]}

    for turn in range(40):
        fresh = {tuple(r[k] for k in key): r for r in (row() for _ in range(rng.randint(0, 4)))}
        gone = [row() for _ in range(rng.randint(0, 2))]
        with store.transaction():
            store.delete("t", key, table(gone, key))
            for r in gone:
                truth.pop(tuple(r[k] for k in key), None)
            store.put("t", key, table(list(fresh.values()), names))
            truth |= fresh
        for columns in [*lookups, key, ("a",)]:
            keys = [row() for _ in range(3)]
            wanted = [r for r in truth.values() if any(all(r[c] is not None and r[c] == k[c] for c in columns) for k in keys)]
            found = store.lookup("t", columns, table(keys, columns), names)
            assert as_rows(found) == as_rows(table(wanted, names)), f"turn {turn}, by {columns}"
        if turn % 20 == 10:
            store.close()
            store = Store(tmp_path / "s.duckdb")
    store.close()


@pytest.mark.parametrize("columns", [("c",), ("c", "a")])
def test_a_wider_integer_finds_what_equals_it_and_nothing_else(columns: tuple[str, ...], tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        store.create("t", FIELDS[:3], ("a",), [columns])
        store.put("t", ("a",), pa.table({"a": [1, 2], "k1": ["x", "y"], "c": pa.array([7, 8], pa.int32())}))
    keys = pa.table({"k": pa.array([7, 8 + (1 << 40)], pa.int64()), "l": pa.array([1, 2], pa.int32())}).select(["k", "l"][: len(columns)])
    assert store.lookup("t", columns, keys, ["a"]).to_pylist() == [{"a": 1}]
    store.close()


def test_what_an_error_leaves_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    with store.transaction():
        store.create("t", FIELDS[:2], ("a",))
    with pytest.raises(RuntimeError), store.transaction():
        store.put("t", ("a",), pa.table({"a": [1], "k1": ["x"]}))
        raise RuntimeError
    assert store.count("t") == 0
    store.close()


def test_topics_that_differ_in_case_have_copies_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    names = [copy_table("step", f"src.public.{table}") for table in ("movie", "Movie", "mOvie", "^movie", "^Movie", "^^movie")]
    with store.transaction():
        for name in names:
            store.create(name, FIELDS[:2], ("a",))
    assert store.tables() == set(names)
    store.close()


def test_an_index_that_fits_its_memory_no_more_when_it_is_committed_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    """Rows go to the disk as they come; the index of their key is merged by COMMIT alone."""
    store = Store(tmp_path / "s.duckdb", memory_mib=64)
    with store.transaction():
        store.create("t", [Field("k", Type("string"), 1)], ["k"])
    inserted = False
    with pytest.raises(Irrecoverable) as refused, store.transaction():
        store.insert_from("t", ["k"], "(SELECT md5(i::VARCHAR) AS k FROM range(700000) r(i))")
        inserted = True
    assert inserted, "the rows alone did not fit: this shows nothing of COMMIT"
    assert refused.value.code == "state_memory"
    with store.transaction():
        assert store.insert_from("t", ["k"], "(SELECT md5(i::VARCHAR) AS k FROM range(10) r(i))") == 10
    assert store.rows("SELECT count(*) FROM t") == [(10,)]
    store.close()
