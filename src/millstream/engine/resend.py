"""Resend: a pipeline's present rows appended again as marked reads, for a reader that has lost them. Design §5.7.

No database and no input is read. Rows come from the last output that the state keeps; where it keeps none, or hashes, from the output
topic, read once into a file beside the state and kept current with what the pipeline publishes meanwhile. They go out in order
of their key, a slice a commit, with the place reached in the same commit (invariant 3): so a kill repeats and misses none, and since
one thread computes and resends, no row goes out that is older than what it has published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from millstream.engine.build import Tick
from millstream.engine.images import conform, last_per_key, structs
from millstream.engine.preview import without
from millstream.engine.publisher import Publisher
from millstream.engine.querytext import understood
from millstream.engine.requests import Request, Requests
from millstream.engine.sql import Sql, first_line, literal, quoted
from millstream.engine.state import State, last_table
from millstream.engine.store import Store, duckdb_type
from millstream.errors import Refused
from millstream.events.batch import DELETE, READ, Batch, batch
from millstream.events.types import RowSchema
from millstream.pipelines import values
from millstream.pipelines.plan import Output, Plan, Stateful
from millstream.topics.contract import Topics

PAGE_KEYS = 200_000
SLICE_ROWS_FIRST, SLICE_ROWS_MAX, SLICE_BYTES = 1_000, 20_000, 8 << 20
SLICES_MAX = 32
LOOK_EVERY_S = 1.0
MEMORY_MIB = 512


@dataclass(frozen=True)
class Place:
    """How far a request is: its output (a number), the last key of it that went out (as texts), and how many rows did. Plain JSON."""

    name: str
    output: int = 0
    after: tuple[str, ...] | None = None
    rows: int = 0
    done: bool = False

    @classmethod
    def of(cls, document: Mapping[str, Any] | None) -> Place | None:
        if document is None:
            return None
        after = document["after"]
        return cls(**{**document, "after": None if after is None else tuple(after)})

    def json(self) -> dict[str, Any]:
        return {**vars(self), "after": None if self.after is None else list(self.after)}


class Present:
    """The present rows of one output, by key."""

    def __init__(self, store: Store, table: str, schema: RowSchema) -> None:
        self.store, self._table, self.schema = store, table, schema
        self._names = list(schema.key)

    def count(self) -> int:
        return self.store.count(self._table)

    def keys_after(self, after: tuple[str, ...] | None) -> pa.Table:
        """The next keys in order, a page of them; with their texts, by which the order is taken up again."""
        columns = ", ".join(map(quoted, self._names))
        texts = ", ".join(f"CAST({quoted(n)} AS VARCHAR) AS {quoted('text ' + n)}" for n in self._names)
        beyond = ""
        if after is not None:
            given = ", ".join(f"CAST({literal(t)} AS {duckdb_type(f.type)})" for t, f in zip(after, self.schema.key_fields, strict=True))
            beyond = f" WHERE ({columns}) > ({given})"
        return self.store.table(f"SELECT {columns}, {texts} FROM {quoted(self._table)}{beyond} ORDER BY {columns} LIMIT {PAGE_KEYS}")

    def rows(self, keys: pa.Table) -> pa.Table:
        return conform(self.store.lookup(self._table, self._names, keys.select(self._names), self.schema.names), self.schema)


class Resends:
    """The requests of one pipeline, one after the other. `copy` is where an output topic's rows are put while they are needed."""

    def __init__(self, plan: Plan, topics: Topics, requests: Requests | None, copy: Path, clock: Callable[[], float], tick: Tick) -> None:
        self._plan, self._topics, self._requests, self._copy, self._clock, self._tick = plan, topics, requests, copy, clock, tick
        self._nodes = {n.name: n for n in plan.nodes}
        self._request: Request | None = None
        self._place: Place | None = None
        self._looked_at = self._told_at = 0.0
        self.idle = requests is None  # the last look found nothing to do; read by other threads
        self._copies: tuple[Store, dict[str, Present]] | None = None
        self._page: pa.Table | None = None
        self._slice_rows = SLICE_ROWS_FIRST
        self._total = 0

    # ---- what stands in the pipeline's published state

    def state(self) -> dict[str, Any]:
        return {} if self._place is None else {"resend": self._place.json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was published counts; everything else is found again."""
        self.let_go()
        self._place = Place.of(state.get("resend"))
        self._request, self._looked_at, self.idle = None, 0.0, self._requests is None

    def follow(self, plan: Plan) -> None:
        """The pipeline has its next plan: rows are said again as that has them, from the place that was reached."""
        state = self.state()
        self._plan, self._nodes = plan, {n.name: n for n in plan.nodes}
        self.restore(state)

    def let_go(self) -> None:
        """The file beside the state is not needed any more."""
        self._page = None
        if self._copies is not None:
            self._copies[0].close()
            self._copies = None
        for path in self._copy.parent.glob(f"{self._copy.name}*"):
            path.unlink() if path.is_file() else None

    # ---- the work

    def wanted(self) -> Request | None:
        """The request to work on now; None where there is none. Looks for a new one once a second."""
        if self._request is not None or self._requests is None:
            return self._request
        if self._clock() - self._looked_at < LOOK_EVERY_S:
            return None
        self._looked_at = self._clock()
        request = self._requests.next(self._plan.pipeline)
        self.idle = request is None
        if request is None:
            return None
        if self._place is not None and self._place.name == request.name and self._place.done:
            self._requests.tell(request.name, "done", self._place.rows, self._place.rows)  # ended before that could be said
            self._looked_at = 0.0
            return None
        if self._place is None or self._place.name != request.name:
            self._place = Place(request.name)
        self._request = request
        self._requests.tell(request.name, "running", self._place.rows, 0)
        return request

    def slice(self, state: State | None, publisher: Publisher, sql: Sql) -> list[Batch]:
        """The next rows as events of one output, and `state()` moved behind them; none where many in a row do not fit the condition, or
        where the request is done, which `state()` then says. Part of the transaction that they are committed in.

        Raises Refused where the request cannot be done."""
        assert self._request is not None and self._place is not None
        outputs = self._outputs(self._request)
        for _ in range(SLICES_MAX):
            if self._place.output >= len(outputs):
                self._place = replace(self._place, done=True)
                return []
            output = outputs[self._place.output]
            made = self._of(output, state, publisher, sql)
            if made is not None and len(made):
                return [made]
            if made is None:
                self._place, self._page = replace(self._place, output=self._place.output + 1, after=None), None
        return []

    def fail(self, error: Refused) -> None:
        """The request cannot be done: the person is told, and the pipeline runs on."""
        assert self._request is not None and self._place is not None and self._requests is not None
        self._requests.tell(self._request.name, "failed", self._place.rows, self._total, f"{error.message} [{error.code}]")
        self._request, self._place = None, replace(self._place, done=True)
        self.let_go()

    def rebuilt(self) -> None:
        """Everything was made anew: what asked for that is done."""
        if self._request is not None and self._request.kind == "rebuild" and self._place is not None:
            self._place = replace(self._place, done=True)

    def committed(self, published: Sequence[Batch]) -> None:
        """After each commit: the rows that it published are the present ones; the person is told how far the request is."""
        if self._copies is not None:
            store, present = self._copies
            for b in published:
                if b.topic in present:
                    with store.transaction():
                        _apply(store, b, present[b.topic].schema)
        if self._request is None or self._place is None or self._requests is None:
            return
        if self._place.done:
            self._requests.tell(self._request.name, "done", self._place.rows, self._place.rows)
            self._request, self._looked_at = None, 0.0
            self.let_go()
        elif self._clock() - self._told_at >= LOOK_EVERY_S:
            self._told_at = self._clock()
            self._requests.tell(self._request.name, "running", self._place.rows, max(self._total, self._place.rows))
            now = self._requests.next(self._plan.pipeline)
            if now is None or now.name != self._request.name:  # it was cancelled
                self._request = None
                self.let_go()

    # ---- one output

    def _outputs(self, request: Request) -> list[Output]:
        return [o for o in self._plan.outputs if not request.steps or o.node in request.steps]

    def _of(self, output: Output, state: State | None, publisher: Publisher, sql: Sql) -> Batch | None:
        """The next slice of an output, which may be empty; None where nothing of it is left."""
        assert self._request is not None and self._place is not None
        present = self._present(output, state, publisher)
        if self._page is None:
            self._page = self._given_keys(present.schema) if self._request.keys is not None else present.keys_after(self._place.after)
            self._total = max(self._total, self._place.rows + (self._page.num_rows if self._request.keys is not None else present.count()))
        keys = self._page.slice(0, self._slice_rows)
        if not keys.num_rows:
            return None
        self._page = self._page.slice(keys.num_rows)
        if not self._page.num_rows and self._request.keys is None:
            self._page = None  # there may be a further page
        rows = self._where(present.rows(keys), present.schema, sql)
        made = self._events(output, present.schema, rows, keys)
        last = tuple(str(keys.column(f"text {n}")[-1].as_py()) for n in present.schema.key)
        self._place = replace(self._place, after=last, rows=self._place.rows + len(made))
        fitting = keys.num_rows * SLICE_BYTES // max(rows.nbytes, 1)
        self._slice_rows = max(1, min(SLICE_ROWS_MAX, fitting, self._slice_rows * 2))
        return made

    def _given_keys(self, schema: RowSchema) -> pa.Table:
        """The keys that were asked for, each once, as far as they are not done: in the order in which they were asked."""
        assert self._request is not None and self._request.keys is not None and self._place is not None
        asked = list(dict.fromkeys(self._request.keys))
        after = self._place.after
        todo = asked[asked.index(after) + 1 :] if after is not None else asked
        try:
            typed = [[values.of_text(t, f.type) for t, f in zip(key, schema.key_fields, strict=True)] for key in todo]
        except ValueError as e:
            raise Refused(f"a key cannot be read: {e}", code="bad_key", cure="write the key's values in the order of its columns") from None
        columns = {f.name: pa.array([key[i] for key in typed], f.type.arrow) for i, f in enumerate(schema.key_fields)}
        texts = {f"text {f.name}": pa.array([key[i] for key in todo], pa.string()) for i, f in enumerate(schema.key_fields)}
        return pa.table({**columns, **texts})

    def _where(self, rows: pa.Table, schema: RowSchema, sql: Sql) -> pa.Table:
        assert self._request is not None
        if self._request.where is None:
            return rows
        try:
            return conform(sql.select(f"SELECT * FROM __ms_rows WHERE {self._request.where}", {"__ms_rows": rows}), schema)
        except duckdb.Error as e:
            raise Refused(f"--where fails: {first_line(e)}", code="where_failed", cure="mend the condition and ask again") from None

    def _events(self, output: Output, schema: RowSchema, rows: pa.Table, keys: pa.Table) -> Batch:
        assert self._request is not None
        names = list(schema.key)
        gone = without(keys.select(names), rows.select(names)) if self._request.gone else keys.slice(0, 0).select(names)
        count, absent = rows.num_rows, gone.num_rows
        nothing = {f.name: gone.column(f.name) if f.name in names else pa.nulls(absent, f.type.arrow) for f in schema.fields}
        here, there = np.arange(count, dtype=np.int64), np.arange(absent, dtype=np.int64)
        before = [structs(rows, np.full(count, -1, np.int64), schema), structs(conform(pa.table(nothing), schema), there, schema)]
        after = [structs(rows, here, schema), pa.nulls(absent, schema.arrow)]
        total = count + absent
        return batch(
            output.topic,
            schema,
            {
                "op": pa.array([READ] * count + [DELETE] * absent, pa.string()),
                "before": pa.concat_arrays(before),
                "after": pa.concat_arrays(after),
                "incarnation": np.zeros(total, np.uint32),
                "major": np.zeros(total, np.uint64),
                "minor": np.zeros(total, np.uint32),
                "ts_us": np.full(total, int(self._clock() * 1e6), np.int64),
                "position": pa.repeat("", total),
                "backfill": pa.repeat(self._request.name, total),
                "cause": pa.repeat("resend", total),
            },
        )

    # ---- where the rows are

    def _present(self, output: Output, state: State | None, publisher: Publisher) -> Present:
        node = self._nodes[output.node]
        if state is not None and isinstance(node, Stateful) and node.keeps == "rows":
            return Present(state.store, last_table(output.node), node.schema)
        if self._copies is None:
            self.let_go()
            self._copies = (Store(self._copy, memory_mib=MEMORY_MIB), {})
        store, present = self._copies
        if output.topic not in present:
            with store.transaction():
                store.create(output.topic, node.schema.fields, node.schema.key)
            reader = publisher.reader(output.topic)
            end = self._topics.end(output.topic)
            while reader.offset < end:
                self._tick(f"reading {output.topic}", reader.offset, end)
                for b in reader.read(SLICE_BYTES):
                    if len(b):
                        with store.transaction():
                            _apply(store, b, node.schema)
            present[output.topic] = Present(store, output.topic, node.schema)
        return present[output.topic]


def condition(text: str, schema: RowSchema) -> str:
    """A person's condition over a step's columns, read and tried on no row. Raises Refused with what is wrong with it."""
    where = understood(f"SELECT * FROM step WHERE ({text})", ("step",)).reads[0].where
    if where is None:
        raise Refused("--where compares columns of the step's own rows", code="where_failed", cure="write it without SELECT")
    sql = Sql()
    try:
        sql.select(f"SELECT * FROM __ms_rows WHERE {where}", {"__ms_rows": pa.schema(list(schema.arrow)).empty_table()})
    except duckdb.Error as e:
        cure = f"the step's columns: {', '.join(schema.names)}"
        raise Refused(f"--where cannot be: {first_line(e)}", code="where_failed", cure=cure) from None
    finally:
        sql.close()
    return where


def _apply(store: Store, published: Batch, schema: RowSchema) -> None:
    changed, live = last_per_key([published])
    store.delete(published.topic, schema.key, changed)
    store.insert(published.topic, live)
