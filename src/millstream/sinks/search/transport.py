"""The index on disk: opening, one writer, one commit. What documents hold is `render.py`'s, how they lie `layout.py`'s."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import tantivy

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.faultpoints import reached
from millstream.sinks.files import Lock, explained, make_folder
from millstream.sinks.search.layout import LOCK, META, State, opened, schema, stored_state
from millstream.sinks.search.render import Changes

T = TypeVar("T")


class IndexFile:
    """One opening of one index, by the only process that writes it."""

    def __init__(self, path: Path, heap_bytes: int) -> None:
        """Raises Refused("target_in_use"), Refused("target_unwritable"), Irrecoverable("index_damaged")."""
        self.path = path
        self._heap_bytes = heap_bytes
        self._writer: Any = None
        make_folder(path)
        # Tantivy has a lock of its own, which does not say who holds it; ours does.
        self._lock = Lock(path / LOCK, str(path))
        try:
            self._index = self._guarded("open the index", self._open_index)
            self.state = self._read_state()
            self._writer = self._guarded("open the index for writing", self._open_writer)
        except BaseException:
            self.close()
            raise

    def _open_index(self) -> Any:
        if not tantivy.Index.exists(str(self.path)):
            tantivy.Index(schema(), path=str(self.path))
        return opened(str(self.path))

    def _open_writer(self) -> Any:
        """A commit that a kill cut short leaves files, one of them under the very name that the commit made again would give it."""
        writer = self._index.writer(self._heap_bytes, 1)
        writer.garbage_collect_files()
        return writer

    def _read_state(self) -> State | None:
        try:
            return stored_state(self._index)
        except (KeyError, TypeError, ValueError) as error:
            raise Irrecoverable(
                f"the index cannot be read: {error}",
                code="index_damaged",
                where=str(self.path),
                cure="delete the index's folder and start again: it is built anew from the topic",
            ) from error

    def commit(self, changes: Iterable[Changes], state: State) -> None:
        """Apply the changes and replace the state, as one. Durable on return; after an error nothing of it is left."""
        self._guarded("write to the index", lambda: self._commit(changes, state))
        self.state = state

    def _commit(self, changes: Iterable[Changes], state: State) -> None:
        if self._writer is None:
            self._writer = self._open_writer()
        writer = self._writer
        for change in changes:
            _apply(writer, change)
        writer.delete_documents_by_term("_meta", META)
        reserved = tantivy.Document()
        reserved.add_text("_meta", META)
        reserved.add_bytes("_state", state.data())
        writer.add_document(reserved)
        reached("sink.search.before_commit")
        writer.commit()
        reached("sink.search.after_commit")

    def documents(self, size: int) -> Iterator[tuple[list[str], list[Any]]]:
        """Keys and documents, as last committed, `size` at a time; while it goes on, what a commit adds is not among them."""
        self._index.reload()
        searcher, query = self._index.searcher(), tantivy.Query
        reserved = query.term_query(self._index.schema, "_meta", META)
        every = query.boolean_query([(tantivy.Occur.Must, query.all_query()), (tantivy.Occur.MustNot, reserved)])
        done, page = 0, size
        while hits := searcher.search(every, page, count=False, offset=done).hits:
            for start in range(0, len(hits), size):
                found = [searcher.doc(address) for _, address in hits[start : start + size]]
                yield [d["_key"][0] for d in found], [json.loads(bytes(d["_document"][0])) for d in found]
            done, page = done + len(hits), page * 2  # a page's cost rises with what lies before it

    def settle(self) -> None:
        """Take the state as it stands on disk."""
        self.state = self._read_state()

    def _guarded(self, what: str, act: Callable[[], T]) -> T:
        """Tantivy says everything by ValueError."""
        try:
            return act()
        except pa.ArrowException:
            self._roll_back()
            raise
        except (ValueError, OSError) as error:
            self._roll_back()
            if "LockBusy" in str(error):
                raise Refused(
                    "another program is writing to this index", code="target_in_use", where=str(self.path), cure="stop it and start again"
                ) from error
            raise self._failure(error, what) from error
        except BaseException:
            self._roll_back()
            raise

    def _failure(self, error: Exception, what: str) -> MillstreamError:
        failure = explained(error, what, str(self.path))
        if not isinstance(failure, Retryable) or isinstance(error, OSError):
            return failure
        # Neither the disk nor a right: the same documents would fail again for ever.
        return Irrecoverable(
            f"cannot {what}: {error}",
            code="index_failed",
            where=str(self.path),
            cure="see the reason; if the index is damaged, delete its folder and start again: it is built anew from the topic",
        )

    def _roll_back(self) -> None:
        """What a failed write left in memory must never reach the next commit: undone, or the writer is thrown away."""
        if self._writer is None:
            return
        try:
            self._writer.rollback()
            self._writer.garbage_collect_files()
        except (ValueError, OSError):
            self._writer = None

    def close(self) -> None:
        """Waits for merges that have begun, so that nothing works on the folder afterwards."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                self._guarded("finish merging", writer.wait_merging_threads)
        finally:
            self._lock.release()


def _apply(writer: Any, change: Changes) -> None:
    """One call a document and field is all that this library takes."""
    delete, add, document = writer.delete_documents_by_term, writer.add_document, tantivy.Document
    columns = (change.keys, change.gone, change.documents, change.words, change.exact, change.loose, change.text)
    for key, gone, row, words, exact, loose, text, begins in zip(*(c.to_pylist() for c in columns), change.begins, strict=True):
        delete("_key", key)
        if gone:
            continue
        made = document()
        made.add_text("_key", key)
        made.add_bytes("_document", row.encode())
        made.add_json("_words", words)
        made.add_json("_exact", exact)
        if loose != "{}":
            made.add_json("_loose", loose)
        made.add_text("_text", text)
        for begin in begins:
            made.add_text("_begins", begin)
        add(made)
