"""The lines file: its position cannot be lost or contradicted without being told; one process writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from millstream.errors import Irrecoverable, Refused
from millstream.sinks.jsonl.options import Options
from millstream.sinks.jsonl.render import lines
from millstream.sinks.jsonl.sink import JsonlSink, open_sink
from millstream.testing.sink_events import TOPIC, changes, movie, workload


@pytest.fixture
def sink(tmp_path: Path) -> JsonlSink:
    return open_sink("s", Options(file="f.jsonl"), tmp_path / ".millstream")


def filled(sink: JsonlSink) -> None:
    sink.open(1)
    sink.write([workload(0, 10)], {TOPIC: 12})
    sink.close()


def test_relative_paths_lie_under_the_project_and_absolute_ones_where_they_say(tmp_path: Path, sink: JsonlSink) -> None:
    filled(sink)
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == 10
    filled(open_sink("s", Options(file=str(tmp_path / "x" / "g.jsonl")), tmp_path / "elsewhere" / ".millstream"))
    assert (tmp_path / "x" / "g.jsonl").exists()


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_what_lies_past_the_position_is_cut_off_wherever_it_tore(cut: int, tmp_path: Path, sink: JsonlSink) -> None:
    filled(sink)
    path = tmp_path / "f.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + lines(workload(10, 20))[:cut])
    sink.open(2)
    assert path.read_bytes() == whole
    assert sink.resume_after() == {TOPIC: 12}
    sink.close()


def test_a_file_cut_by_someone_is_not_written_on(tmp_path: Path, sink: JsonlSink) -> None:
    filled(sink)
    os.truncate(tmp_path / "f.jsonl", 100)
    with pytest.raises(Irrecoverable) as caught:
        sink.open(2)
    assert caught.value.code == "target_changed"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"sink": "s"}'])
def test_a_file_without_its_position_is_not_written_on(content: bytes | None, tmp_path: Path, sink: JsonlSink) -> None:
    filled(sink)
    position = tmp_path / "f.jsonl.position"
    position.unlink() if content is None else position.write_bytes(content)
    with pytest.raises(Irrecoverable) as caught:
        sink.open(2)
    assert caught.value.code == "position_lost"
    assert (tmp_path / "f.jsonl").stat().st_size > 0


def test_another_sink_may_not_write_there(tmp_path: Path, sink: JsonlSink) -> None:
    filled(sink)
    with pytest.raises(Refused) as caught:
        open_sink("t", Options(file="f.jsonl"), tmp_path / ".millstream").open(9)
    assert caught.value.code == "target_taken"


def test_the_refusal_names_the_process(tmp_path: Path, sink: JsonlSink) -> None:
    sink.open(1)
    with pytest.raises(Refused, match=f"process {os.getpid()} is writing"):
        open_sink("s", Options(file="f.jsonl"), tmp_path / ".millstream").open(2)
    sink.close()


def test_holes_are_in_the_line() -> None:
    batch = changes(0, [("c", None, movie(1, 1)), ("c", None, movie(2, 2))])
    hole = [{"image": "after", "field": "price", "why": 'NaN "x"'}]
    import pyarrow as pa

    from millstream.events.batch import HOLES

    rows = batch.rows.set_column(batch.rows.schema.get_field_index("holes"), "holes", pa.array([hole, None], HOLES))
    from dataclasses import replace

    shown = [json.loads(line) for line in lines(replace(batch, rows=rows)).splitlines()]
    assert shown[0]["holes"] == hole
    assert "holes" not in shown[1]
