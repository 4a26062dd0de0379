"""Compaction takes away what is outdone and nothing else, whenever it is stopped or killed; readers keep what they rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from topics_mesh import FIRST, NOTHING_OLD, SECOND, Event, Mesh, expected, flat, opened, read_all

from millstream.errors import Irrecoverable
from millstream.events.batch import Batch, batch
from millstream.events.types import RowSchema
from millstream.topics.local import compaction
from millstream.topics.local.compaction import Keep

WORKER = Path(__file__).with_name("topics_worker.py")
Change = tuple[str, int]  # op, key


def made(mesh: Mesh, changes: list[Change], commit: int, schema: RowSchema = FIRST) -> Batch:
    """Changes of a few keys, each with a row of its own."""
    rows: list[dict[str, Any]] = [{"id": key, "title": f"{commit}.{i}", "year": commit} for i, (_, key) in enumerate(changes)]
    rows = [{name: row[name] for name in schema.names} for row in rows]
    ops = [op for op, _ in changes]
    given_columns = {
        "op": ops,
        "before": [row if op in "ud" else None for op, row in zip(ops, rows, strict=True)],
        "after": [None if op == "d" else row for op, row in zip(ops, rows, strict=True)],
        "incarnation": [1] * len(ops),
        "major": [commit] * len(ops),
        "minor": list(range(len(ops))),
        "ts_us": [0] * len(ops),
        "position": [""] * len(ops),
    }
    return batch("movie", schema, given_columns).with_schema_id(mesh.schema_id("movie", schema))


def key_of(event: Event) -> int:
    return int((event[2]["after"] or event[2]["before"])["id"])


def state(events: list[Event], start: dict[int, Event] | None = None) -> dict[int, Event]:
    """The rows that these events leave, over what was there."""
    rows = dict(start or {})
    for event in events:
        if event[2]["op"] == "d":
            rows.pop(key_of(event), None)
        else:
            rows[key_of(event)] = event
    return rows


def check(mesh: Mesh, written: list[Batch]) -> None:
    """What every reader relies on, from every offset."""
    full = expected(written)
    whole_from = mesh.topics.compacted_to("movie")
    assert mesh.topics.end("movie") == (full[-1][0] + (2 if full[-1][2]["op"] == "d" else 1) if full else 0)
    newcomer = flat(read_all(mesh.topics, "movie"))
    assert state(newcomer) == state(full)
    last = {key_of(e): e for e in full}
    for offset in range(mesh.topics.end("movie") + 1):
        seen, rest = flat(read_all(mesh.topics, "movie", offset)), [e for e in full if e[0] >= offset]
        if offset >= whole_from:
            assert seen == rest
            continue
        assert [e for e in rest if e in seen] == seen, "the same events in the same order, some gone"
        # No later event is hidden: of each key the last is there, but for a delete that nothing of the key follows or precedes.
        ends = {key_of(e): e for e in seen}
        for key, event in {key_of(e): e for e in rest}.items():
            assert ends.get(key) == event or (key not in {key_of(e) for e in newcomer} and last[key][2]["op"] == "d")


CHANGES = st.lists(st.tuples(st.sampled_from("cuudr"), st.integers(0, 5)), max_size=5)
STEPS = st.lists(
    st.tuples(st.just("write"), st.lists(st.tuples(CHANGES, st.sampled_from([FIRST, SECOND])), min_size=1, max_size=3))
    | st.tuples(st.just("compact"), st.none() | st.integers(0, 4))  # stopped after so many transactions, or never
    | st.tuples(st.just("read"), st.integers(0, 2)),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, group_bytes=st.sampled_from([1, 600, 1 << 20]), keys_bytes=st.sampled_from([1, 500, 1 << 20]))
def test_any_history_compacted_anywhere_reads_to_the_same_rows(steps: list[Any], group_bytes: int, keys_bytes: int) -> None:
    """Three readers on their way, each a step of a block at a time, see exactly what they would have seen without compaction."""
    with (
        tempfile.TemporaryDirectory() as folder,
        opened("local", Path(folder), keep=NOTHING_OLD, tail_bytes_max=0) as mesh,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(compaction, "GROUP_BYTES", group_bytes)
        patch.setattr(compaction, "KEYS_BYTES_MAX", keys_bytes)
        producer, written = mesh.topics.open_producer("w"), []
        places, seen = {0: 0, 1: 0, 2: 0}, {0: [], 1: [], 2: []}
        mesh.topics.join("r1", {"movie": 0})  # the others begin when they first read
        joined = {1}
        for n, (what, how) in enumerate(steps):
            if what == "write":
                batches = [b for changes, schema in how if len(b := made(mesh, changes, n, schema))]
                if batches:
                    mesh.commit(producer, *batches, tail=False)
                    written += batches
            elif what == "compact":
                left = [10**9 if how is None else how]

                def stop(seconds: float, left: list[int] = left) -> bool:
                    left[0] -= 1
                    return left[0] < 0

                mesh.topics.compact(stop)
                check(mesh, written)
            else:
                reader = f"r{how}"
                if how not in joined:
                    mesh.topics.join(reader, {"movie": 0})
                    joined.add(how)
                    seen[how] = []
                got = mesh.topics.read("movie", places[how], bytes_max=1)
                seen[how] += flat(got)
                places[how] = mesh.topics.read_end(got) if got else places[how]
                mesh.topics.note_reader(reader, {"movie": places[how]})
                assert mesh.topics.lost(reader, {"movie": places[how]}) == []
        for how in joined:
            rest = flat(read_all(mesh.topics, "movie", places[how]))
            assert state(rest, state(seen[how])) == state(expected(written)), f"reader {how} ends with other rows"
            if how == 1:
                assert seen[how] + rest == expected(written), "nothing goes that a reader has yet to come to"


def filled(mesh: Mesh, commits: int = 12) -> list[Batch]:
    producer = mesh.topics.open_producer("w")
    written = [made(mesh, [("u", k % 7) for k in range(n, n + 5)] + [("d", n % 7)], n) for n in range(commits)]
    for b in written:
        mesh.commit(producer, b, tail=False)
    return written


def never(seconds: float) -> bool:
    return False


def test_each_key_stands_once_below_the_last_block_and_deletes_go_in_the_next_round(tmp_path: Path) -> None:
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        written = filled(mesh)
        mesh.topics.compact(never)
        whole_from = mesh.topics.compacted_to("movie")
        assert whole_from == mesh.topics.end("movie") - 7, "the last block stays"
        old = [e for e in flat(read_all(mesh.topics, "movie")) if e[0] < whole_from]
        assert sorted(map(key_of, old)) == sorted({key_of(e) for e in expected(written[:-1])})
        assert any(e[2]["op"] == "d" for e in old)
        written += [made(mesh, [("u", 100)], 50), made(mesh, [("u", 101)], 51)]
        for b in written[-2:]:
            mesh.commit(mesh.topics.open_producer("w"), b, tail=False)
        mesh.topics.compact(never)
        kept = [e for e in flat(read_all(mesh.topics, "movie")) if e[0] < whole_from]
        assert not any(e[2]["op"] == "d" for e in kept), "what the round before had left"
        check(mesh, written)


def test_what_is_younger_than_the_history_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    with opened("local", tmp_path, keep=Keep(history_s=3600, round_bytes_min=0)) as mesh:
        written = filled(mesh)
        mesh.topics.compact(never)  # from here on it is known how old the first records are at least
        first = mesh.topics.end("movie")
        now[0] += 3000
        filled_later = [made(mesh, [("u", k)], 90 + k) for k in range(7)]
        for b in filled_later:
            mesh.commit(mesh.topics.open_producer("w"), b, tail=False)
        mesh.topics.compact(never)
        assert mesh.topics.compacted_to("movie") == 0
        now[0] += 601
        mesh.topics.compact(never)
        assert mesh.topics.compacted_to("movie") == first
        check(mesh, written + filled_later)


def test_a_delete_stays_for_the_length_of_the_history_after_its_older_records_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that nobody knows, which has read a row before the round, still meets its delete."""
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def deletes() -> int:
        return sum(e[2]["op"] == "d" for e in flat(read_all(mesh.topics, "movie")))

    with opened("local", tmp_path, keep=Keep(history_s=3600, round_bytes_min=0), tail_bytes_max=0) as mesh:
        producer = mesh.topics.open_producer("w")
        mesh.commit(producer, made(mesh, [("c", 1), ("c", 2)], 0), tail=False)
        unknown = flat(mesh.topics.read("movie", 0, bytes_max=1))
        mesh.commit(producer, made(mesh, [("d", 1)], 1), tail=False)
        mesh.commit(producer, made(mesh, [("c", 3)], 2), tail=False)
        for wait_s, left in ((0, 1), (1800, 1), (1801, 1), (1900, 1), (1800, 0)):  # rounds in the last three
            now[0] += wait_s
            for n in range(4):  # enough to be worth a round, once it is old
                mesh.commit(producer, made(mesh, [("u", 3)] * 9, n), tail=False)
            mesh.topics.compact(never)
            now[0] += 1
            assert deletes() == left, (wait_s, mesh.topics.compacted_to("movie"))
            if left:
                assert 1 not in state(flat(read_all(mesh.topics, "movie", 2)), state(unknown))
        assert mesh.topics.compacted_to("movie") > 0


def test_it_stays_behind_the_slowest_reader_until_the_limit_and_says_who_has_lost_its_place(tmp_path: Path) -> None:
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        written = filled(mesh)
        mesh.topics.join("slow", {"movie": 7})
        mesh.topics.join("fast", {"movie": 70})
        mesh.topics.compact(never)
        assert mesh.topics.compacted_to("movie") == 7
        assert mesh.topics.lost("slow", {"movie": 7}) == []
        kept = mesh.topics.kept("movie")
        assert (kept.whole_from, kept.held_by, dict(kept.lost)) == (7, "slow", {})
        assert 500 < kept.held_bytes < kept.stored_bytes
    with opened("local", tmp_path, keep=Keep(0, behind_bytes_max=500, round_bytes_min=0)) as mesh:
        mesh.topics.compact(never)
        assert mesh.topics.compacted_to("movie") == 70
        assert mesh.topics.lost("slow", {"movie": 7, "credit": 0}) == ["movie"]
        assert mesh.topics.lost("fast", {"movie": 70}) == []
        before, kept = kept, mesh.topics.kept("movie")
        assert (kept.whole_from, kept.held_by, kept.held_bytes_max, dict(kept.lost)) == (70, "fast", 500, {"slow": 7})
        assert kept.held_bytes <= 500 and kept.stored_bytes < before.stored_bytes
        assert mesh.topics.lost("slow", {"movie": 70}) == [], "it was further than its note said"
        mesh.topics.note_reader("slow", {"movie": 8})
        assert mesh.topics.lost("slow", {"movie": 8}) == ["movie"], "a later note gives no place back"
        mesh.topics.join("slow", {"movie": 0})
        assert mesh.topics.lost("slow", {"movie": 20}) == [], "a newcomer reads what is left"
        # A reader that nobody knew, in the middle of what is compacted, cannot say what it has missed.
        mesh.topics.join("stranger", {"movie": 30})
        assert mesh.topics.lost("stranger", {"movie": 30}) == ["movie"]
        mesh.topics.leave("stranger")
        mesh.topics.leave("nobody")
        assert "stranger" not in mesh.topics.readers() and mesh.topics.lost("stranger", {"movie": 30}) == []
        check(mesh, written)


@pytest.mark.parametrize("moment", ["topics.compacting", "topics.compacted"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_in_the_middle_nothing_is_lost_and_the_next_run_finishes(tmp_path: Path, moment: str, nth: int) -> None:
    with opened("local", tmp_path) as mesh:
        written = filled(mesh, 20)
        producer = mesh.topics.open_producer("v")
        for n in range(4):  # as many transactions: each has half of its keys again in the next
            rows = made(mesh, [("c", 1000 + 150 * n + k) for k in range(300)], 99).rows.to_pylist()
            for row in rows:
                row["after"]["title"] = os.urandom(4000).hex()
            large = batch("movie", FIRST, {name: [r[name] for r in rows] for name in rows[0]})
            written.append(large.with_schema_id(mesh.schema_id("movie", FIRST)))
            mesh.commit(producer, written[-1], tail=False)
        written.append(made(mesh, [("u", 1)], 100))
        mesh.commit(producer, written[-1], tail=False)
        command = [sys.executable, "-W", "error", str(WORKER), "local", str(tmp_path), "compact", "1"]
        killed = subprocess.run(command, env=os.environ | {"MILLSTREAM_FAULT": f"{moment}:{nth}:KILL"}, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        full = expected(written)
        assert state(flat(read_all(mesh.topics, "movie"))) == state(full)
        assert subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout == "done\n"
        kept = [e for e in flat(read_all(mesh.topics, "movie")) if e[0] < mesh.topics.compacted_to("movie")]
        assert len({key_of(e) for e in kept}) == len(kept)
        assert state(flat(read_all(mesh.topics, "movie"))) == state(full)


def test_beside_writers_and_readers_of_other_processes(implementation: str, tmp_path: Path) -> None:
    """A reader that joined sees every event while another process compacts behind it and a third writes."""
    with opened(implementation, tmp_path) as mesh:
        mesh.topics.join("along", {"movie": 0})
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", str(WORKER), implementation, str(tmp_path), *args], stdout=subprocess.PIPE, text=True
            )
            for args in (["write", "w1", "40"], ["compact", "40"])
        ]
        seen: list[Event] = []
        offset = 0
        try:
            while processes[0].poll() is None or offset < mesh.topics.end("movie"):
                if mesh.topics.wait({"movie": offset}, 0.2):
                    found = mesh.topics.read("movie", offset, bytes_max=2000)
                    seen += flat(found)
                    offset = mesh.topics.read_end(found) if found else offset
                    mesh.topics.note_reader("along", {"movie": offset})
        finally:
            outputs = [p.communicate(timeout=60)[0] for p in processes]
        assert [p.returncode for p in processes] == [0, 0]
        assert outputs[1].count("done") == 40
        offsets = [o for o, _, _ in seen]
        assert offsets == sorted(set(offsets))
        width = [2 if row["op"] == "d" else 1 for _, _, row in seen]
        assert offsets == [sum(width[:i]) for i in range(len(width))], "every offset was seen"
        mesh.topics.note_reader("along", {"movie": offset})
        assert {k: e[2] for k, e in state(flat(read_all(mesh.topics, "movie"))).items()} == {k: e[2] for k, e in state(seen).items()}


def test_a_second_compaction_at_the_same_time_does_nothing(tmp_path: Path) -> None:
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh, opened("local", tmp_path, keep=NOTHING_OLD) as other:
        filled(mesh)
        begun, go_on = threading.Event(), threading.Event()

        def wait(seconds: float) -> bool:
            begun.set()
            return not go_on.wait(60)

        thread = threading.Thread(target=mesh.topics.compact, args=(wait,))
        thread.start()
        assert begun.wait(60)
        other.topics.compact(lambda seconds: pytest.fail("it took part"))
        go_on.set()
        thread.join(60)
        assert mesh.topics.compacted_to("movie") > 0


def test_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_FREE_PAGES_KEPT", 0)
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        producer = mesh.topics.open_producer("w")
        for n in range(30):
            mesh.commit(producer, mesh.batch("movie", "u" * 200, seed=n), tail=False)
    before = (tmp_path / "topics.db").stat().st_size
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        mesh.topics.compact(never)
        mesh.topics.compact(never)
    assert (tmp_path / "topics.db").stat().st_size < before / 2


def test_damage_to_what_is_noted_of_a_compaction_is_noticed(tmp_path: Path) -> None:
    import sqlite3

    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        filled(mesh)
        mesh.topics.compact(never)
        with sqlite3.connect(tmp_path / "topics.db", isolation_level=None) as file:
            file.execute("UPDATE compactions SET marks = replace(marks, '\"whole_from\":', '\"whole_from\":1')")
        file.close()
        with pytest.raises(Irrecoverable, match="checksum") as caught:
            mesh.topics.compacted_to("movie")
        assert caught.value.code == "topic_damaged"


def test_a_file_of_the_first_format_is_taken_over(tmp_path: Path) -> None:
    import sqlite3

    with opened("local", tmp_path) as mesh:
        written = filled(mesh)
    with sqlite3.connect(tmp_path / "topics.db", isolation_level=None) as file:
        file.executescript("DROP TABLE compactions; ALTER TABLE blocks DROP COLUMN addressee; PRAGMA user_version=1;")
    file.close()
    with opened("local", tmp_path, keep=NOTHING_OLD) as mesh:
        mesh.topics.compact(never)
        assert mesh.topics.compacted_to("movie") > 0
        check(mesh, written)


@pytest.mark.parametrize("tail", [True, False])
def test_an_addressee_is_told_while_the_topic_is_whole(tmp_path: Path, *, tail: bool) -> None:
    with opened("local", tmp_path, keep=NOTHING_OLD, tail_bytes_max=1 << 20 if tail else 0) as mesh:
        producer = mesh.topics.open_producer("w")
        written = [replace(made(mesh, [("c", n), ("u", n)], n), to=to) for n, to in enumerate(["x", None, "x", "x", "y", None])]
        mesh.commit(producer, *written, tail=tail)
        told = lambda: [(key_of(e), b.to) for b in read_all(mesh.topics, "movie") for e in flat([b])]  # noqa: E731
        whole = [(n, to) for n, to in enumerate(["x", None, "x", "x", "y", None]) for _ in "cu"]
        assert told() == whole
        if tail:
            return
        mesh.topics.compact(never)
        assert told() == [(n, None) for n in range(5)] + [(5, None), (5, None)], "what compaction wrote is addressed to nobody"


def test_another_addressee_is_damage(tmp_path: Path) -> None:
    import sqlite3

    with opened("local", tmp_path, tail_bytes_max=0) as mesh:
        mesh.commit(mesh.topics.open_producer("w"), replace(made(mesh, [("c", 1)], 1), to="x"), tail=False)
        with sqlite3.connect(tmp_path / "topics.db", isolation_level=None) as file:
            file.execute("UPDATE blocks SET addressee = 'y'")
        file.close()
        with pytest.raises(Irrecoverable, match="checksum"):
            read_all(mesh.topics, "movie")
