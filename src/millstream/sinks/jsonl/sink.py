"""Events as lines of JSON in a file: every event once, in the topic's order, deletes too.

Rendering is `render.py`'s, the file and its position `transport.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.sinks.files import project_path
from millstream.sinks.jsonl.options import Options
from millstream.sinks.jsonl.render import lines
from millstream.sinks.jsonl.transport import LineFile
from millstream.sinks.position import Held, fresh, taken_over

# Lines are rendered a slice at a time: before and after image together are several times the slice's own bytes.
SLICE_ROWS = 16_384


class JsonlSink:
    """A `contract.Sink`."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._file: LineFile | None = None

    def open(self, fence: int) -> None:
        self.close()
        file = LineFile(self._path)
        try:
            held = taken_over(file.held, self._name, fence, str(self._path))
            file.append((), held)
        except BaseException:
            file.close()
            raise
        self._file = file

    def accept(self, schema: RowSchema) -> None:
        """A line says its columns itself: every schema can be written."""

    def resume_after(self) -> Mapping[str, int]:
        file = self._opened()
        file.settle()
        return dict(file.held.positions) if file.held else {}

    def write(self, batches: Sequence[Batch], up_to: Mapping[str, int]) -> None:
        file = self._opened()
        held = file.held or Held(self._name)
        after = held.advanced(up_to)
        if after == held:
            return
        slices = (b.slice(s, SLICE_ROWS) for b in fresh(batches, held, up_to) for s in range(0, len(b), SLICE_ROWS))
        file.append((lines(s) for s in slices), after)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> LineFile:
        if self._file is None:
            raise ValueError(f"sink {self._name} is not open")
        return self._file


def open_sink(name: str, options: Options, place: Path) -> JsonlSink:
    return JsonlSink(name, project_path(place, options.file))
