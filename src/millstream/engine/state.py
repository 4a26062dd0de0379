"""The state of one pipeline: what its tables mean, and the commit that keeps them, its positions and its outbox together.

Tables: `meta` (one row: the sequence, the state as published, the plan's fingerprint, whether it is whole); `outbox`; for
each stateful step `copy <step> <input>`, `last <step>` (the last output), `pending <step>` and `groups <step>` (keys to refresh).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from millstream.engine.store import Store
from millstream.topics.contract import Block

_META, _OUTBOX = "meta", "outbox"
_COLUMNS = {
    _META: "sequence BIGINT, state VARCHAR, fingerprint VARCHAR, hashes VARCHAR",
    _OUTBOX: "sequence BIGINT, place INTEGER, topic VARCHAR, schema_id INTEGER, records INTEGER, events INTEGER, "
    "keys BLOB, key_ends BLOB, vals BLOB, value_ends BLOB",
}


@dataclass(frozen=True)
class Meta:
    """`sequence` is the last one computed here (it may not be published yet: see the outbox); `state` goes out with it."""

    sequence: int
    state: Mapping[str, Any]
    fingerprint: str


class State:
    """Invariant 3: copies, pending keys, last outputs, positions and outbox change together or not at all."""

    def __init__(self, store: Store) -> None:
        self.store = store
        if _META not in store.tables():
            with store.transaction():
                self._create()
        elif any(self._columns(table) != columns for table, columns in _COLUMNS.items()):
            self.wipe()  # another version's: as good as lost, and so rebuilt

    def _create(self) -> None:
        for table, columns in _COLUMNS.items():
            self.store.execute(f"CREATE TABLE {table} ({columns})")

    def _columns(self, table: str) -> str:
        """As they stand in the file."""
        found = self.store.rows("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table])
        return ", ".join(f"{name} {type_}" for name, type_ in found)

    def meta(self) -> Meta | None:
        """None while no whole state was ever committed: new, a rebuild was cut off, or by a DuckDB that may hash otherwise."""
        rows = self.store.rows(f"SELECT sequence, state, fingerprint FROM {_META} WHERE hashes = ?", [duckdb.__version__])
        return Meta(rows[0][0], json.loads(rows[0][1]), rows[0][2]) if rows else None

    def set_meta(self, meta: Meta) -> None:
        """Part of the caller's transaction."""
        self.store.execute(f"DELETE FROM {_META}")
        self.store.rows(
            f"INSERT INTO {_META} VALUES (?, ?, ?, ?)", [meta.sequence, json.dumps(meta.state), meta.fingerprint, duckdb.__version__]
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self.store.transaction():
            yield

    def wipe(self) -> None:
        """Throw everything away, durably, before a rebuild: a state cut off in the middle of one is no state."""
        with self.store.transaction():
            for table in self.store.tables():
                self.store.drop(table)
            self._create()

    # ---- outbox

    def put_out(self, sequence: int, blocks: Sequence[Block]) -> None:
        """Part of the caller's transaction."""
        if not blocks:
            return
        rows = {
            "sequence": [sequence] * len(blocks),
            "place": list(range(len(blocks))),
            "topic": [b.topic for b in blocks],
            "schema_id": [b.schema_id for b in blocks],
            "records": [b.records for b in blocks],
            "events": [b.events for b in blocks],
            "keys": [b.keys for b in blocks],
            "key_ends": [b.key_ends for b in blocks],
            "vals": [b.values for b in blocks],
            "value_ends": [b.value_ends for b in blocks],
        }
        self.store.insert(_OUTBOX, pa.table(rows))

    def outbox(self, after: int) -> dict[int, tuple[Block, ...]]:
        """Sequence → blocks, of what lies above `after`, in order."""
        rows = self.store.rows(
            f"SELECT sequence, topic, schema_id, records, events, keys, key_ends, vals, value_ends FROM {_OUTBOX} "
            "WHERE sequence > ? ORDER BY sequence, place",
            [after],
        )
        found: dict[int, tuple[Block, ...]] = {}
        for sequence, *block in rows:
            found[sequence] = (*found.get(sequence, ()), Block(*block))
        return found

    def trim_outbox(self, up_to: int) -> None:
        self.store.rows(f"DELETE FROM {_OUTBOX} WHERE sequence <= ?", [up_to])


@contextmanager
def passing(path: Path, memory_mib: int) -> Iterator[State]:
    """A state that is needed for this alone: its file goes with it, unless what it was for fails."""
    state = State(Store(path, memory_mib=memory_mib))
    try:
        yield state
    finally:
        state.store.close()
    path.unlink()


def copy_table(step: str, source: str) -> str:
    """DuckDB does not tell tables by case; topics are."""
    return f"copy {step} " + re.sub(r"([A-Z^])", r"^\1", source)


def last_table(step: str) -> str:
    return f"last {step}"
