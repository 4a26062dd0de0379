"""Several processes and threads on the same topics; processes that are killed in mid-write."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from topics_mesh import Mesh, expected, flat, opened, read_all
from topics_worker import commit_parts

from millstream.errors import Retryable
from millstream.schemas.registry import SchemaVersion

WORKER = Path(__file__).with_name("topics_worker.py")
TOPICS = ("movie", "credit")


@contextmanager
def worker(implementation: str, folder: Path, *args: str, fault: str | None = None) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | ({"MILLSTREAM_FAULT": fault} if fault else {})
    command = [sys.executable, "-W", "error", str(WORKER), implementation, str(folder), *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def check_whole(mesh: Mesh, writers: list[str]) -> None:
    """Every commit up to each writer's published sequence is there, whole, once, in order; and nothing else is."""
    wanted: dict[tuple[str, int], list] = {}
    for writer in writers:
        for sequence in range(1, mesh.topics.producer_record(writer).sequence + 1):
            for b in commit_parts(mesh, writer, sequence):
                wanted[b.topic, b.rows["major"][0].as_py()] = b.rows.to_pylist()
    for topic in TOPICS:
        found = defaultdict(list)
        order = []
        for _, _, row in flat(read_all(mesh.topics, topic)):
            found[topic, row["major"]].append(row)
            order.append(row["major"])
        assert found == {place: rows for place, rows in wanted.items() if place[0] == topic}
        for writer in {major // 1_000_000 for major in order}:
            own = [major for major in order if major // 1_000_000 == writer]
            assert own == sorted(own)
        for writer in writers:
            record = mesh.topics.producer_record(writer)
            assert record.state.get("n", 0) == record.sequence
            assert record.ends.get(topic, 0) <= mesh.topics.end(topic)


def test_two_processes_write_and_a_third_reads_along(implementation: str, tmp_path: Path) -> None:
    commits = 25
    with opened(implementation, tmp_path) as mesh:
        until = sum(
            len(b) + row_deletes(b)
            for w in ("w1", "w2")
            for n in range(1, commits + 1)
            for b in commit_parts(mesh, w, n)
            if b.topic == "movie"
        )
        with (
            worker(implementation, tmp_path, "read", "movie", str(until)) as reader,
            worker(implementation, tmp_path, "write", "w1", str(commits)) as one,
            worker(implementation, tmp_path, "write", "w2", str(commits)) as two,
        ):
            outputs = [process.communicate(timeout=120)[0] for process in (reader, one, two)]
            assert [p.returncode for p in (reader, one, two)] == [0, 0, 0]
        check_whole(mesh, ["w1", "w2"])
        seen = [tuple(json.loads(line)) for line in outputs[0].splitlines()]
        assert seen == flat(read_all(mesh.topics, "movie"))


def row_deletes(b: object) -> int:
    return b.rows["op"].to_pylist().count("d")


def test_a_wait_sees_another_process_commit(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(mesh.topics.wait, {"movie": 0}, 60)
        with worker(implementation, tmp_path, "write", "w1", "1") as process:
            assert waiting.result(60)
            assert process.wait(60) == 0


def test_an_opening_in_another_process_fences(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh:
        mine = mesh.topics.open_producer("w1")
        mesh.commit(mine, *commit_parts(mesh, "w1", 1))
        with worker(implementation, tmp_path, "write", "w1", "3") as process:
            assert process.communicate(timeout=60)[0].split() == ["2", "3"]
        with pytest.raises(Exception, match="fence") as caught:
            mine.commit([], {}, sequence=2)
        assert caught.value.code == "fenced"
        check_whole(mesh, ["w1"])


@pytest.mark.parametrize("moment", ["topics.appended", "topics.committed"])
def test_killed_at_a_named_moment_a_commit_is_whole_or_absent(implementation: str, tmp_path: Path, moment: str) -> None:
    with opened(implementation, tmp_path) as mesh:
        with worker(implementation, tmp_path, "write", "w1", "9", fault=f"{moment}:4:KILL") as process:
            said = process.communicate(timeout=60)[0].split()
            assert process.returncode == -signal.SIGKILL
        assert said == ["1", "2", "3"]
        assert mesh.topics.producer_record("w1").sequence == (4 if moment == "topics.committed" else 3)
        check_whole(mesh, ["w1"])
        with worker(implementation, tmp_path, "write", "w1", "9") as process:
            assert process.wait(60) == 0
        check_whole(mesh, ["w1"])
        assert mesh.topics.producer_record("w1").sequence == 9


def test_killed_at_random_moments_every_commit_is_whole_or_absent(implementation: str, tmp_path: Path) -> None:
    """Two writers at once, one of them killed after some commits and a chance delay; what it said was durable must be there."""
    chance = random.Random(20240817)
    with opened(implementation, tmp_path) as mesh, worker(implementation, tmp_path, "write", "w2", "150"):
        for _ in range(5):
            with worker(implementation, tmp_path, "write", "w1", "100000") as process:
                said = [int(process.stdout.readline()) for _ in range(chance.randrange(1, 12))]
                threading.Event().wait(chance.random() * 0.01)  # not to await anything: to hit any point of a commit
                process.send_signal(signal.SIGKILL)
                said += [int(line) for line in process.stdout.read().split()]
                process.wait()
            published = mesh.topics.producer_record("w1").sequence
            assert published in (said[-1], said[-1] + 1)
        with worker(implementation, tmp_path, "write", "w1", str(published + 3)) as process:
            assert process.wait(60) == 0
    with opened(implementation, tmp_path) as mesh:
        check_whole(mesh, ["w1", "w2"])


def test_a_stopped_writer_is_waited_for_and_then_said_to_be_busy(implementation: str, tmp_path: Path) -> None:
    with (
        opened(implementation, tmp_path, busy_timeout_s=0.05) as mesh,
        worker(implementation, tmp_path, "write", "w1", "3", fault="topics.appended:2:STOP") as process,
    ):
        other = mesh.topics.open_producer("w2")
        os.waitpid(process.pid, os.WUNTRACED)
        with pytest.raises(Retryable) as caught:
            mesh.commit(other, *commit_parts(mesh, "w2", 1))
        assert caught.value.code == "topics_busy"
        assert flat(read_all(mesh.topics, "movie"))  # reading goes on
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0
        mesh.commit(other, *commit_parts(mesh, "w2", 1))
        check_whole(mesh, ["w1", "w2"])


def test_a_writer_that_was_stopped_while_another_took_over_writes_nothing_more(implementation: str, tmp_path: Path) -> None:
    with opened(implementation, tmp_path) as mesh:
        with worker(implementation, tmp_path, "write", "w1", "9", fault="topics.committed:3:STOP") as zombie:
            os.waitpid(zombie.pid, os.WUNTRACED)
            mine = mesh.topics.open_producer("w1")
            assert mine.record.sequence == 3
            mesh.commit(mine, *commit_parts(mesh, "w1", 4))
            zombie.send_signal(signal.SIGCONT)
            assert zombie.wait(60) != 0
            assert "fenced" in zombie.stderr.read()
        check_whole(mesh, ["w1"])
        assert mesh.topics.producer_record("w1").sequence == 4


def test_threads_write_and_read_the_same_topics(mesh: Mesh) -> None:
    writers, commits = ["w1", "w2", "w3"], 15
    done = threading.Event()

    def write(writer: str) -> None:
        producer = mesh.topics.open_producer(writer)
        for sequence in range(1, commits + 1):
            mesh.commit(producer, *commit_parts(mesh, writer, sequence), tail=sequence % 2 == 0, state={"n": sequence})

    def read(topic: str) -> list:
        offset, seen = 0, []
        while not (done.is_set() and offset == mesh.topics.end(topic)):
            if mesh.topics.wait({topic: offset}, 0.05):
                found = mesh.topics.read(topic, offset, bytes_max=4000)
                seen += flat(found)
                offset = mesh.topics.read_end(found)
                mesh.topics.note_reader(f"reader-{topic}", {topic: offset})
        return seen

    with ThreadPoolExecutor(8) as pool:
        readings = {topic: pool.submit(read, topic) for topic in TOPICS}
        writings = [pool.submit(write, writer) for writer in writers]
        try:
            for writing in writings:
                writing.result(60)
        finally:
            done.set()
        for topic, reading in readings.items():
            assert reading.result(60) == flat(read_all(mesh.topics, topic))
            assert mesh.topics.readers()[f"reader-{topic}"] == {topic: mesh.topics.end(topic)}
    check_whole(mesh, writers)


def test_a_commit_wakes_a_waiting_thread_and_a_close_ends_its_wait(implementation: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        with opened(implementation, tmp_path) as mesh:
            waiting = pool.submit(mesh.topics.wait, {"movie": 0}, 60)
            mesh.commit(mesh.topics.open_producer("w1"), mesh.batch("movie", "c"))
            assert waiting.result(60)
            waiting = pool.submit(mesh.topics.wait, {"movie": 1}, 60)
        assert waiting.result(10) is False


def test_one_text_has_one_id_whoever_registers_it(implementation: str, tmp_path: Path) -> None:
    with (
        worker(implementation, tmp_path, "register", "1") as one,
        worker(implementation, tmp_path, "register", "2") as two,
        worker(implementation, tmp_path, "register", "3") as three,
    ):
        said = [line for process in (one, two, three) for line in process.communicate(timeout=120)[0].splitlines()]
        assert [p.returncode for p in (one, two, three)] == [0, 0, 0]
    given = {SchemaVersion(**{**json.loads(line), "references": ()}) for line in said}
    assert len(said) == 90
    assert len({(v.text, v.id) for v in given}) == len({v.text for v in given}) == len({v.id for v in given}) == 30
    with opened(implementation, tmp_path) as mesh:
        for subject in ("subject-0", "subject-1", "subject-2"):
            found = mesh.registry.versions(subject)
            assert [v.version for v in found] == list(range(1, len(found) + 1))
            assert set(found) == {v for v in given if v.subject == subject}
            assert max(Counter(v.id for v in found).values()) == 1


def test_expected_is_an_oracle_that_can_tell(mesh: Mesh) -> None:
    a, b = mesh.batch("movie", "cd", seed=1), mesh.batch("movie", "cd", seed=2)
    assert expected([a]) != expected([b])
    assert [event[0] for event in expected([a, b])] == [0, 1, 3, 4]
