"""Rows as documents of an embedded search index: one document a key, kept as the topic has it.

The position goes into the commit that applies the events, as one reserved document. Rendering is `render.py`'s, the index
`transport.py`'s, reading it `query.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from millstream.errors import Irrecoverable, Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema, Type
from millstream.sinks.jsonvalues import record
from millstream.sinks.position import Held, fresh, taken_over
from millstream.sinks.search.columns import held, merged, outdates, reshaped
from millstream.sinks.search.generations import index_path
from millstream.sinks.search.layout import State
from millstream.sinks.search.options import Options
from millstream.sinks.search.render import Changes, changes, documents_of, last_per_key
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
            mine = taken_over(state.held, self._name, fence, str(self._path))
            self._refuse_other_fields(state)
            file.commit((), replace(state, held=mine))
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
        Refused("search_type_changed"). Where documents must be made anew (`columns.py`), all of them are, in one commit with what
        the columns are from then on: as long as that takes, the index is asked as it was."""
        file, state = self._opened(), self._state()
        old = Type("record", fields=held(state.columns, state.ids, schema.fields))
        new = Type("record", fields=schema.fields)
        if (both := merged(old, new)) is None:
            raise self._type_changed(old, new)
        after = replace(state, columns={f.name: f.type for f in both.fields}, ids={f.name: f.id for f in both.fields})
        if after.data() != state.data():
            file.commit(self._anew(file, old, both) if outdates(old, new) else (), after)

    def _anew(self, file: IndexFile, old: Type, both: Type) -> Iterator[Changes]:
        """All documents with the columns that the index has from now on."""
        for keys, documents in file.documents(SLICE_ROWS):
            try:
                rows = record([reshaped(d, old, both) for d in documents], both.fields)
            except (ValueError, TypeError, AttributeError, ArithmeticError, pa.ArrowException) as error:
                raise self._unreadable(error) from error
            yield documents_of(rows, pa.array(keys, pa.string()), both.fields, self._options.fields)

    def _unreadable(self, error: Exception) -> Irrecoverable:
        return Irrecoverable(
            f"the documents cannot be made anew for the topic's new schema: {error}",
            code="index_damaged",
            where=str(self._path),
            cure="delete the index's folder and start again: it is built anew from the topic",
        )

    def _type_changed(self, old: Type, new: Type) -> Refused:
        was = {f.id: f for f in old.fields}
        name, before, after = next(
            (f.name, was[f.id].type, f.type) for f in new.fields if f.id in was and merged(was[f.id].type, f.type) is None
        )
        return Refused(
            f"{name} was indexed as {before} and is now {after}: the two do not compare",
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
