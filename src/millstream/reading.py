"""`millstream.read`: a topic in Arrow columns, for notebooks and models, beside a process that writes it.

Everything is imported when it is asked for, so that `import millstream` stays light. What a topic holds is the topics' to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from millstream.engine.reader import TopicReader
    from millstream.engine.store import Store
    from millstream.events.batch import Batch

READ_BYTES = 16 << 20


def read(topic: str, project: str | Path = ".", *, events: bool = False) -> Reader:
    """The topic's rows as they are now, or (`events`) every event that it holds, up to where it ends at this moment.

    `project` is the folder with mesh.yaml. Raises Refused: "invalid_project", "no_topics" where nothing ran yet,
    "topic_unknown".
    """
    reader = Reader(topic, Path(project), events)
    with reader._opened() as (opened, end):
        reader._end = end
        reader.schema = reader._schema_of(opened)
    return reader


class Reader:
    """Gives record batches of `schema`, from the start each time it is iterated; nothing is open in between.

    Rows: one of each key, in the order of their last changes. Events: `offset`, then the columns of `events.batch.columns`:
    op, before, after, the version, times, position. Events of earlier schema versions are mapped to the newest.
    """

    schema: pa.Schema
    _end: int

    def __init__(self, topic: str, project: Path, events: bool) -> None:
        self.topic, self._project, self._events = topic, project, events

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with self._opened() as (reader, _):
            yield from self._every_event(reader) if self._events else self._rows(reader)

    def to_arrow(self) -> pa.Table:
        """All of it in memory."""
        import pyarrow as pa

        return pa.Table.from_batches(list(self), self.schema)

    def __repr__(self) -> str:
        return f"<{'events' if self._events else 'rows'} of {self.topic}>"

    def _every_event(self, reader: TopicReader) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in _batches(reader, self._end):
            yield pa.RecordBatch.from_arrays([pa.array(batch.offsets), *batch.rows.columns], schema=self.schema)

    def _rows(self, reader: TopicReader) -> Iterator[pa.RecordBatch]:
        """Twice through the topic: which event of each key is the last (that table lies on disk), then their rows."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        last = self._last_offsets(reader)
        reader.offset = 0
        for batch in _batches(reader, self._end):
            assert batch.offsets is not None
            after = batch.column("after")
            chosen = np.isin(batch.offsets, last, assume_unique=True) & np.asarray(pc.is_valid(after))
            if chosen.any():
                yield pa.RecordBatch.from_arrays(after.filter(pa.array(chosen)).flatten(), schema=self.schema)

    def _last_offsets(self, reader: TopicReader) -> Any:
        import numpy as np
        import pyarrow as pa

        from millstream.sinks.jsontext import lists

        with _scratch() as store:
            store.execute("CREATE TABLE seen (key VARCHAR, place BIGINT)")
            for batch in _batches(reader, self._end):
                texts = lists(batch.keys(), batch.schema.key_fields)  # no two keys have one text
                store.insert("seen", pa.table({"key": texts, "place": pa.array(batch.offsets)}))
            places = store.table("SELECT max(place) AS place FROM seen GROUP BY key").column("place")
            return np.sort(places.to_numpy())

    def _schema_of(self, reader: TopicReader) -> pa.Schema:
        import pyarrow as pa

        from millstream.events.batch import columns

        if self._events:
            return pa.schema([pa.field("offset", pa.int64(), nullable=False), *columns(reader.schema)])
        return pa.schema(list(reader.schema.arrow))

    @contextmanager
    def _opened(self) -> Iterator[tuple[TopicReader, int]]:
        """A reader of the topic at its start, in the newest version of its schema; and where the topic ends."""
        import os

        from millstream.cli.mesh import Place
        from millstream.engine.reader import TopicReader
        from millstream.errors import Refused
        from millstream.events import envelope
        from millstream.pipelines.project import load_mesh
        from millstream.pipelines.sql.mistakes import suggestion
        from millstream.schemas.kinds import REGISTRY
        from millstream.schemas.sql import SqlRegistry, sqlite_engine
        from millstream.topics.local import LocalTopics

        mesh = load_mesh(self._project, os.environ)
        place = Place(self._project / mesh.state)
        if not place.topics.is_file():
            raise Refused(
                "this project has no topics yet",
                code="no_topics",
                where=str(self._project),
                cure="`millstream apply` makes them, `millstream run` fills them; or name the project: millstream.read(topic, project=…)",
            )
        with ExitStack() as stack:
            engine = sqlite_engine(place.catalogue)
            stack.callback(engine.dispose)
            asked = REGISTRY.options.model_validate(dict(mesh.registry))
            registry = stack.enter_context(closing(REGISTRY.open(asked))) if mesh.registry.get("url") else SqlRegistry(engine)
            topics = LocalTopics(place.topics, registry)
            stack.callback(topics.close)
            known, versions = topics.topic(self.topic), registry.versions(f"{self.topic}-value")
            if known is None or not versions:
                names = [t.name for t in topics.topics()]
                raise Refused(f"there is no topic {self.topic}", code="topic_unknown", cure=suggestion(self.topic, names, "topics"))
            schema = envelope.row_schema(versions[-1].text, known.key)
            yield TopicReader(topics, registry, self.topic, schema, versions[-1].id, 0), topics.end(self.topic)


def _batches(reader: TopicReader, end: int) -> Iterator[Batch]:
    """The reader's events below `end`."""
    import numpy as np

    while reader.offset < end:
        for batch in reader.read(READ_BYTES):
            assert batch.offsets is not None
            yield batch.slice(0, int(np.searchsorted(batch.offsets, end)))


@contextmanager
def _scratch() -> Iterator[Store]:
    """A store that is gone afterwards."""
    from tempfile import TemporaryDirectory

    from millstream.engine.store import Store

    with TemporaryDirectory(prefix="millstream-") as folder:
        store = Store(Path(folder) / "keys.duckdb")
        try:
            yield store
        finally:
            store.close()
