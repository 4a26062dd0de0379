"""The catalogue and the commit: one snapshot with its position, or nothing; and whether a commit of unknown end has landed.

What rows look like is `render.py`'s, what columns there are `columns.py`'s, what to do next `sink.py`'s.
Reference: pyiceberg 0.12.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    ForbiddenError,
    NoSuchPropertyException,
    NoSuchTableError,
    NotInstalledError,
    TableAlreadyExistsError,
    UnauthorizedError,
    ValidationError,
    ValidationException,
)
from pyiceberg.io import OutputFile
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import ancestors_of
from pyiceberg.table.update import AddSnapshotUpdate, AssertRefSnapshotId

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable, without_secrets
from millstream.faultpoints import reached
from millstream.sinks.files import explained, make_folder, sync_folder
from millstream.sinks.iceberg import null_lists
from millstream.sinks.iceberg.options import Options
from millstream.sinks.position import Held

T = TypeVar("T")

CATALOG_NAME = "millstream"
# A table that gets a snapshot every few seconds: manifests are merged, and old metadata files do not pile up.
_TIDY = {"commit.manifest-merge.enabled": "true", "write.metadata.delete-after-commit.enabled": "true"}
# What the same call would meet again: neither a network nor a busy server. Nothing retries for ever (invariant 9).
_LASTING = (
    ValueError,
    TypeError,
    LookupError,
    NotImplementedError,
    NoSuchPropertyException,
    NotInstalledError,
    ValidationError,
    ValidationException,
)
_SECRET = re.compile(r"(?i)password|secret|token|credential|key|session")


class DurableFileIO(PyArrowFileIO):  # type: ignore[misc]
    """pyiceberg's own, and files on a local disk are on the disk when they are closed: a commit must not outlive its data."""

    def new_output(self, location: str) -> OutputFile:
        made = super().new_output(location)
        scheme, _, path = self.parse_location(location, self.properties)
        return _DurableFile(made, path) if scheme == "file" else made


class _DurableFile(OutputFile):  # type: ignore[misc]
    def __init__(self, made: PyArrowFile, path: str) -> None:
        super().__init__(made.location)
        self._made, self._path = made, Path(path)

    def __len__(self) -> int:
        return len(self._made)

    def exists(self) -> bool:
        return bool(self._made.exists())

    def to_input_file(self) -> Any:
        return self._made.to_input_file()

    def create(self, overwrite: bool = False) -> Any:
        return _Synced(self._made.create(overwrite), self._path)


class _Synced:
    """A stream whose close waits for the disk."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._stream.closed:
            return
        self._stream.close()
        handle = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(self._path.parent)


class _Watched:
    """A catalogue that knows whether a commit it reported as failed has landed after all: its snapshot is there then.

    Without it a lost answer would end in the same events twice, or in a snapshot whose files were cleaned away.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        reached("sink.iceberg.staged")
        try:
            answer = self._catalog.commit_table(table, requirements, updates)
            reached("sink.iceberg.committed")
            return answer
        except Exception:
            staged = {u.snapshot.snapshot_id for u in updates if isinstance(u, AddSnapshotUpdate)}
            current = self._catalog.load_table(table.name())
            if staged and all(current.metadata.snapshot_by_id(s) is not None for s in staged):
                return CommitTableResponse(metadata=current.metadata, metadata_location=current.metadata_location)
            raise


class LakeTable:
    """One table of one catalogue. `table` is as last loaded or committed; commits are made against exactly that."""

    def __init__(self, options: Options, place: Path) -> None:
        self.where = f"iceberg table {options.table}"
        self._known = [v for k, v in (options.catalog or {}).items() if _SECRET.search(k)]
        self._identifier = options.table
        self._catalog = self.guarded("open the Iceberg catalogue", lambda: _catalog(options, place))
        self.table: Table

    def guarded(self, what: str, act: Callable[[], T]) -> T:
        """Every failure as one that says what to do, without secrets. A lost race stays CommitFailedException."""
        try:
            return act()
        except (MillstreamError, CommitFailedException):
            raise
        except Exception as error:
            # The chain would show the driver's own words, which may hold what `said` leaves out.
            raise self._failure(error, what) from None if self._known else error

    def _failure(self, error: Exception, what: str) -> MillstreamError:
        said = without_secrets(f"{type(error).__name__}: {error}", self._known)
        if isinstance(error, UnauthorizedError | ForbiddenError):
            return Refused(
                f"cannot {what}: {said}", code="iceberg_denied", where=self.where, cure="mend the catalog's credentials or rights"
            )
        failure = explained(error, what, self.where, said)
        if isinstance(failure, Retryable) and isinstance(error, _LASTING) and not isinstance(error, OSError):
            return Irrecoverable(
                f"cannot {what}: {said}", code="iceberg_failed", where=self.where, cure="see the reason; mend it and start again"
            )
        return failure

    def load(self, first_schema: Any) -> None:
        """Load the table; make it, and its namespace, if it is not there."""

        def load() -> Table:
            try:
                return self._catalog.load_table(self._identifier)
            except NoSuchTableError:
                self._make_namespace(self._identifier.rpartition(".")[0])
            try:
                return self._catalog.create_table(self._identifier, first_schema, properties=_TIDY)
            except TableAlreadyExistsError:  # made by another process in between
                return self._catalog.load_table(self._identifier)

        self.table = self.guarded("load the table", load)

    def _make_namespace(self, name: str) -> None:
        """Two that make one at once: the catalogue tells one of them by an error of its own, when it is there."""
        try:
            self._catalog.create_namespace_if_not_exists(name)
        except Exception:
            if not self._catalog.namespace_exists(name):
                raise

    def refresh(self) -> None:
        self.table = self.guarded("load the table", lambda: self._catalog.load_table(self._identifier))

    def held(self, sink: str) -> Held | None:
        """What the table holds of this sink: by the newest ancestor of the current snapshot that is its own.

        The snapshots go with the data (a table rolled back to an earlier one lacks the later events); the table property
        speaks where they have expired. The fence is the higher of the two.
        """
        noted = self.table.metadata.properties.get(_property(sink))
        by_property = Held.of(noted) if noted else None
        for snapshot in ancestors_of(self.table.current_snapshot(), self.table.metadata):
            summary = snapshot.summary.additional_properties if snapshot.summary else {}
            if summary.get("millstream.sink") == sink:
                held = Held(sink, int(summary["millstream.fence"]), json.loads(summary["millstream.position"]))
                return Held(sink, max(held.fence, by_property.fence if by_property else 0), held.positions)
        return by_property

    def commit(self, held: Held, stage: Callable[[Any, dict[str, str]], None]) -> None:
        """One snapshot and the position, as one. `stage(transaction, summary)` appends to the transaction.

        Raises CommitFailedException where another commit came first: nothing of this one is left then.
        """
        summary = {
            "millstream.sink": held.sink,
            "millstream.fence": str(held.fence),
            "millstream.position": json.dumps(dict(held.positions), sort_keys=True),
        }

        def commit() -> None:
            # pyiceberg would put a lost commit on top of the winner's: a writer that has been fenced off would write. Its
            # retries are switched off in our copy of the metadata; what the table says to others stays.
            loaded = self.table
            metadata = loaded.metadata.model_copy(update={"properties": {**loaded.metadata.properties, "commit.retry.num-retries": "0"}})
            ours = Table(loaded.name(), metadata, loaded.metadata_location, loaded.io, _Watched(self._catalog), loaded.config)
            with ours.transaction() as transaction:
                stage(transaction, summary)
                transaction.set_properties({_property(held.sink): held.text()})
            self.table = ours

        self.guarded("commit to the table", commit)

    def change(self, stage: Callable[[Any], None]) -> None:
        """A transaction without rows; nothing where nothing is staged. Raises CommitFailedException where another commit came
        first, one of rows too: among them is the snapshot by which a later opening raises the fence."""

        def change() -> None:
            with self.table.transaction() as transaction:
                stage(transaction)
                seen = self.table.metadata.current_snapshot_id
                transaction._stage((), (AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=seen),))
            reached("sink.iceberg.changed")

        self.guarded("change the table", change)

    def close(self) -> None:
        self._catalog.close()


def _property(sink: str) -> str:
    return f"millstream.sink.{sink}"


def _catalog(options: Options, place: Path) -> Catalog:
    if options.catalog is not None:
        given = dict(options.catalog)
        if given.get("warehouse", "").startswith(("/", "file:")):
            given.setdefault("py-io-impl", DURABLE_IO)
        return load_catalog(CATALOG_NAME, **given)
    return load_catalog(CATALOG_NAME, **local_properties(place))


def local_properties(place: Path) -> dict[str, str]:
    """The catalogue in a mesh's data folder, for any reader that speaks pyiceberg."""
    lake = place.absolute() / "lake"
    make_folder(lake)
    return {
        "type": "sql",
        "uri": f"sqlite:///{lake / 'catalog.db'}",
        "warehouse": f"file://{lake / 'warehouse'}",
        "py-io-impl": DURABLE_IO,
    }


null_lists.correct()
DURABLE_IO = f"{DurableFileIO.__module__}.{DurableFileIO.__name__}"
