"""Events as rows of an Iceberg table, one snapshot a write; the position is in that snapshot and its table property.

Rendering is `render.py`'s, the table's columns `columns.py`'s, the catalogue and the commit `transport.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException

from millstream.errors import Retryable
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.faultpoints import reached
from millstream.sinks.iceberg.columns import assigned, evolve, first_schema, names_of, refuse_untakable
from millstream.sinks.iceberg.options import Options
from millstream.sinks.iceberg.render import rows
from millstream.sinks.iceberg.transport import LakeTable
from millstream.sinks.position import Held, fresh, refuse_older, taken_over

ATTEMPTS = 5
"""How often a commit that others overtook is made again on top of theirs, before the runner's own waiting begins."""


class IcebergSink:
    """A `contract.Sink`."""

    def __init__(self, name: str, options: Options, place: Path) -> None:
        self._name, self._options, self._place = name, options, place
        self._lake: LakeTable | None = None
        self._fence = 0

    def open(self, fence: int) -> None:
        self.close()
        lake = LakeTable(self._options, self._place)
        try:
            lake.load(first_schema())
            self._contend(lake, lambda: self._take_over(lake, fence))
        except BaseException:
            lake.close()
            raise
        self._lake, self._fence = lake, fence

    def _take_over(self, lake: LakeTable, fence: int) -> None:
        """A snapshot of no rows carries the fence: whoever commits against an older one has lost from here on."""
        held = taken_over(lake.held(self._name), self._name, fence, lake.where)
        lake.commit(held, _append([]))

    def accept(self, schema: RowSchema) -> None:
        lake = self._opened()
        refuse_untakable(schema, lake.where)
        lake.refresh()  # a person may have changed its columns so that it takes the schema
        self._contend(lake, lambda: self._evolve(lake, schema))

    def _evolve(self, lake: LakeTable, schema: RowSchema) -> None:
        refuse_older(self._held(lake), self._fence, lake.where)
        lake.change(lambda transaction: evolve(transaction, schema, self._name, lake.where))

    def resume_after(self) -> Mapping[str, int]:
        lake = self._opened()
        lake.refresh()
        return dict(self._held(lake).positions)

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        lake = self._opened()
        self._contend(lake, lambda: self._write(lake, batches, up_to))

    def _write(self, lake: LakeTable, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        """Commit against the table as last loaded, and with what that very state of it lacks."""
        held = self._held(lake)
        refuse_older(held, self._fence, lake.where)
        after = held.advanced(up_to)
        if after == held:
            return
        table = lake.table.schema()
        names = names_of(table, assigned(lake.table.metadata.properties, self._name))
        types = {f.name: f.type for f in table.as_arrow()}
        rendered = [rows(b, names, types) for b in fresh(batches, held, up_to)]
        reached("sink.iceberg.rendered")
        lake.commit(after, _append(rendered))

    def _contend(self, lake: LakeTable, act: Callable[[], None]) -> None:
        """Act; where another commit came first, look at what the table holds now and act again."""
        for _ in range(ATTEMPTS):
            try:
                return act()
            except CommitFailedException:
                lake.refresh()
        raise Retryable(
            f"{ATTEMPTS} commits in a row were overtaken by other writers of the table",
            code="commit_contended",
            where=lake.where,
            cure="it is tried again; if it goes on, run the table's other writers less often",
        )

    def _held(self, lake: LakeTable) -> Held:
        return lake.held(self._name) or Held(self._name)

    def close(self) -> None:
        if self._lake is not None:
            self._lake.close()
            self._lake = None

    def _opened(self) -> LakeTable:
        if self._lake is None:
            raise ValueError(f"sink {self._name} is not open")
        return self._lake


def _append(tables: Sequence[pa.Table]) -> Callable[[Any, dict[str, str]], None]:
    def stage(transaction: Any, summary: dict[str, str]) -> None:
        empty = transaction.table_metadata.schema().as_arrow().empty_table()
        # A batch of an older schema version lacks the newer columns, which are null then.
        joined = pa.concat_tables(tables, promote_options="default") if tables else empty
        transaction.append(joined, snapshot_properties=summary)

    return stage


def open_sink(name: str, options: Options, place: Path) -> IcebergSink:
    return IcebergSink(name, options, place)
