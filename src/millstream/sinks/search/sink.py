"""Rows as documents of an embedded search index: one document a key, kept as the topic has it.

The position goes into the commit that applies the events, as one reserved document. Rendering is `render.py`'s, the index
`transport.py`'s, reading it `query.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from millstream.errors import Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema, Type
from millstream.sinks.position import Held, fresh, taken_over
from millstream.sinks.search.generations import index_path
from millstream.sinks.search.layout import State, merged
from millstream.sinks.search.options import Options
from millstream.sinks.search.render import changes, last_per_key
from millstream.sinks.search.transport import IndexFile

# Documents are rendered a slice at a time: a row's texts are several times its own bytes.
SLICE_ROWS = 8_192


class SearchSink:
    """A `contract.Sink`."""

    def __init__(self, name: str, path: Path, options: Options) -> None:
        self._name, self._path, self._options = name, path, options
        self._file: IndexFile | None = None

    def open(self, fence: int) -> None:
        self.close()
        file = IndexFile(self._path, self._options.heap_mb * 1_000_000)
        try:
            state = file.state or State(Held(self._name), self._options.fields)
            held = taken_over(state.held, self._name, fence, str(self._path))
            self._refuse_other_fields(state)
            file.commit((), replace(state, held=held))
        except BaseException:
            file.close()
            raise
        self._file = file

    def _refuse_other_fields(self, state: State) -> None:
        if dict(state.fields) != dict(self._options.fields):
            raise Refused(
                f"the index was built with fields {dict(state.fields)}, the definition now says {dict(self._options.fields)}",
                code="search_fields_changed",
                where=str(self._path),
                cure="take the change back, or delete the index's folder and start again: it is built anew from the topic",
            )

    def accept(self, schema: RowSchema) -> None:
        """Every type can be indexed, but what was indexed as one must not go on as another that it does not compare with:
        Refused("search_type_changed"). What the columns are is noted with the next commit."""
        file = self._opened()
        state = self._state()
        columns = dict(state.columns)
        for f in schema.fields:
            type_ = merged(columns[f.name], f.type) if f.name in columns else f.type
            if type_ is None:
                raise self._type_changed(f.name, columns[f.name], f.type)
            columns[f.name] = type_
        if columns != dict(state.columns):
            file.commit((), replace(state, columns=columns))

    def _type_changed(self, name: str, old: Type, new: Type) -> Refused:
        return Refused(
            f"{name} was indexed as {old} and is now {new}: the two do not compare",
            code="search_type_changed",
            where=str(self._path),
            cure="delete the index's folder and start again: it is built anew from the topic",
        )

    def resume_after(self) -> Mapping[str, int]:
        self._opened().settle()
        return dict(self._state().held.positions)

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        file, state = self._opened(), self._state()
        after = state.held.advanced(up_to)
        if after == state.held:
            return
        todo = fresh(batches, state.held, up_to)
        slices = (
            changes(batch.slice(s, SLICE_ROWS), terms.slice(s, SLICE_ROWS), self._options.fields)
            for batch, terms in (last_per_key(todo) if todo else ())
            for s in range(0, len(batch), SLICE_ROWS)
        )
        file.commit(slices, replace(state, held=after))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> IndexFile:
        if self._file is None:
            raise ValueError(f"sink {self._name} is not open")
        return self._file

    def _state(self) -> State:
        return self._opened().state or State(Held(self._name), self._options.fields)


def open_sink(name: str, options: Options, place: Path) -> SearchSink:
    return SearchSink(name, index_path(place, options.index), options)
