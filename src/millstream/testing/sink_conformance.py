"""What every sink must do, as cases that run against a target of yours. Invariant 4.

Give each case of `CASES` a fresh `Target`; it raises AssertionError where the sink breaks its contract. `history` does the
same for a run of writes, replays and crashes that you draw. `killed_at` and `killed_at_random` kill real processes: they
need `Target.command`, a program that calls `write_steadily` on the same target.

    @pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
    def test_my_sink(case, tmp_path): case(MyTarget(tmp_path))

The events are `millstream.testing.sink_events`'; an oracle, a dict, says what the target must show.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from millstream.errors import Irrecoverable, MillstreamError, Refused
from millstream.events.batch import Batch
from millstream.events.types import RowSchema
from millstream.sinks.contract import Sink
from millstream.testing import sink_events as given
from millstream.testing.sink_events import TOPIC, Event, Key, Row


class Target(Protocol):
    """One target, in a place of its own, and how to look into it.

    `exclusive`: a second process is refused while one has it open (else the higher fence takes it over). `keeps_events`:
    the target shows every event (else only the rows as they are). `folder` is where it lies, or None where that is
    no folder of this machine. `moments` are the names that its code gives to `millstream.faultpoints.reached`.
    `follows`: when a column gets another name or place, it does so in what is there already (else each event stays as it was
    said). `fills`: rows that are there have the constant of a column that is added.
    """

    exclusive: bool
    keeps_events: bool
    follows: bool
    fills: bool
    folder: Path | None
    moments: Sequence[str]

    def sink(self) -> Sink:
        """Another sink of the same name on the same target, not open."""

    def events(self, schema: RowSchema, start: int = 0, end: int | None = None) -> list[Event]:
        """Everything the target holds of these offsets, in its order. Called only where `keeps_events`."""

    def rows(self, schema: RowSchema) -> dict[Key, Row]:
        """The rows as they are: every column of `schema`, values as Arrow's to_pylist gives them, None where there is none."""

    def command(self) -> list[str]:
        """A program that opens this very target and calls `write_steadily(target, int(argv[-1]))` with a fence appended here; where
        that is FENCE:SEED, `sink_schemas.follow_steadily(target, FENCE, SEED)`."""


def check(target: Target, schema: RowSchema, batches: Sequence[Batch], below: int | None = None) -> None:
    """The target shows exactly these events (those with offsets under `below`), once each and in order."""
    wanted = [e for b in batches for e in given.events(b, schema) if below is None or e.offset < below]
    if target.keeps_events:
        shown = target.events(schema)
        assert [e.offset for e in shown] == [e.offset for e in wanted], "the offsets in the target"
        for a, b in zip(shown, wanted, strict=True):
            assert a == b, f"the target has {a}, the topic {b}"
    rows = target.rows(schema)
    oracle = given.latest(wanted, schema)
    assert rows.keys() == oracle.keys(), f"keys only in the target or only in the topic: {rows.keys() ^ oracle.keys()}"
    for key, row in oracle.items():
        assert rows[key] == row, f"{key}: the target has {rows[key]}, the topic {row}"


@contextmanager
def opened(target: Target, fence: int, schema: RowSchema = given.MOVIE) -> Iterator[Sink]:
    sink = target.sink()
    sink.open(fence)
    try:
        sink.accept(schema)
        yield sink
    finally:
        sink.close()


@contextmanager
def refused(kind: type[MillstreamError], code: str) -> Iterator[None]:
    """The block raises this error, and the error says where and how to mend it."""
    try:
        yield
    except kind as error:
        assert error.code == code, f"code {error.code}, not {code}: {error}"
        assert error.where and error.cure, f"an error without place or cure: {error!r}"
        return
    raise AssertionError(f"nothing was raised; {kind.__name__}({code!r}) was due")


def up_to(batches: Sequence[Batch]) -> dict[str, int]:
    """The position after these batches: past the tombstone of a last delete."""
    last = batches[-1]
    assert last.offsets is not None
    return {TOPIC: int(last.offsets[-1]) + (2 if last.column("op")[-1].as_py() == "d" else 1)}


def starts_empty(target: Target) -> None:
    with opened(target, 1) as sink:
        assert sink.resume_after() == {}
    check(target, given.MOVIE, [])


def resumes_where_it_stopped(target: Target) -> None:
    first, second = given.workload(0, 40), given.workload(40, 70)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        assert sink.resume_after() == up_to([first])
    with opened(target, 2) as sink:
        assert sink.resume_after() == up_to([first])
        sink.write([second], up_to([second]))
    check(target, given.MOVIE, [first, second])


def several_batches_in_one_write(target: Target) -> None:
    parts = [given.workload(0, 10), given.workload(10, 11), given.workload(11, 50)]
    with opened(target, 1) as sink:
        sink.write(parts, up_to(parts))
        assert sink.resume_after() == up_to(parts)
    check(target, given.MOVIE, parts)


def replay_changesnothing(target: Target) -> None:
    batches = [given.workload(0, 30), given.workload(30, 60)]
    with opened(target, 1) as sink:
        sink.write(batches, up_to(batches))
        sink.write(batches, up_to(batches))
        sink.write(batches[:1], up_to(batches[:1]))
        assert sink.resume_after() == up_to(batches), "the position went back"
    with opened(target, 2) as sink:
        sink.write(batches, up_to(batches))
    check(target, given.MOVIE, batches)


def overlapping_replay_adds_the_rest(target: Target) -> None:
    whole = given.workload(0, 60)
    with opened(target, 1) as sink:
        sink.write([whole.slice(0, 25)], up_to([whole.slice(0, 25)]))
        sink.write([whole.slice(10)], up_to([whole]))
    check(target, given.MOVIE, [whole])


def position_moves_without_events(target: Target) -> None:
    with opened(target, 1) as sink:
        sink.write([], {TOPIC: 7})
        assert sink.resume_after() == {TOPIC: 7}
    with opened(target, 2) as sink:
        assert sink.resume_after() == {TOPIC: 7}
    check(target, given.MOVIE, [])


def older_fence_is_refused(target: Target) -> None:
    first = given.workload(0, 20)
    with opened(target, 5) as sink:
        sink.write([first], up_to([first]))
    with refused(Irrecoverable, "fenced"):
        target.sink().open(4)
    with opened(target, 6) as sink:
        assert sink.resume_after() == up_to([first])
    with refused(Irrecoverable, "fenced"):
        target.sink().open(5)
    check(target, given.MOVIE, [first])


def two_writers_never_both(target: Target) -> None:
    """The older writer is fenced off, or the newer is told who has the target; either way each event is there once."""
    first, second = given.workload(0, 20), given.workload(20, 40)
    older, newer = target.sink(), target.sink()
    older.open(1)
    older.accept(given.MOVIE)
    older.write([first], up_to([first]))
    if target.exclusive:
        with refused(Refused, "target_in_use"):
            newer.open(2)
        older.write([second], up_to([second]))
    else:
        newer.open(2)
        newer.accept(given.MOVIE)
        with refused(Irrecoverable, "fenced"):
            older.write([second], up_to([second]))
        assert newer.resume_after() == up_to([first])
        newer.write([second], up_to([second]))
        with refused(Irrecoverable, "fenced"):
            older.write([second], up_to([second]))
    older.close()
    newer.close()
    check(target, given.MOVIE, [first, second])


def every_type_is_kept(target: Target) -> None:
    batch = given.every_type()
    with opened(target, 1, batch.schema) as sink:
        sink.write([batch], up_to([batch]))
    check(target, batch.schema, [batch])


def lists_and_records_are_kept(target: Target) -> None:
    batch = given.nested()
    with opened(target, 1, batch.schema) as sink:
        sink.write([batch.slice(0, 3)], up_to([batch.slice(0, 3)]))
        sink.write([batch.slice(2)], up_to([batch]))
    check(target, batch.schema, [batch])


def keys_never_meet(target: Target) -> None:
    """Composite keys whose parts would run into each other, and parts with quotes, commas, brackets, nothing."""
    batch = given.awkward_keys()
    with opened(target, 1, batch.schema) as sink:
        sink.write([batch], up_to([batch]))
        sink.write([last := given.awkward_deletes(batch)], up_to([last]))
    check(target, batch.schema, [batch, last])


def deletes_of_rows_never_seen(target: Target) -> None:
    batch = given.changes(0, [("d", {"id": 404}, None), ("r", None, given.movie(1, 0)), ("d", {"id": 1}, None), ("d", {"id": 1}, None)])
    with opened(target, 1) as sink:
        sink.write([batch], up_to([batch]))
    check(target, given.MOVIE, [batch])


def a_new_column_appears(target: Target) -> None:
    first, second = given.workload(0, 30), given.with_rating(given.workload(30, 60))
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
    with opened(target, 2, given.RATED) as sink:
        sink.write([second], up_to([second]))
    check(target, given.RATED, [first, second])


def older_versions_after_a_new_column(target: Target) -> None:
    """The topic still holds events of the earlier version when the later one is accepted."""
    first, second = given.workload(0, 30), given.with_rating(given.workload(30, 60))
    with opened(target, 1, given.RATED) as sink:
        sink.write([first, second], up_to([second]))
    check(target, given.RATED, [first, second])


def a_full_disk_is_said_and_survived(target: Target) -> None:
    if target.folder is None:
        return
    first, large = given.workload(0, 20), given.large(20, 3_000_000)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        with files_at_most(200_000), refused(Irrecoverable, "disk_full"):
            sink.write([large], up_to([large]))
        assert sink.resume_after() == up_to([first])
        check(target, given.MOVIE, [first])
    with opened(target, 2) as sink:
        assert sink.resume_after() == up_to([first])
        sink.write([large], up_to([large]))
    check(target, given.MOVIE, [first, large])


def goes_on_after_a_full_disk(target: Target) -> None:
    """The same opening writes on when there is room again."""
    if target.folder is None:
        return
    large, after = given.large(0, 3_000_000), given.workload(40, 60)
    with opened(target, 1) as sink:
        with files_at_most(200_000), refused(Irrecoverable, "disk_full"):
            sink.write([large], up_to([large]))
        assert sink.resume_after() == {}
        sink.write([large], up_to([large]))
        sink.write([after], up_to([after]))
    check(target, given.MOVIE, [large, after])


def an_unusable_folder_is_said(target: Target) -> None:
    if target.folder is None:
        return
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    target.folder.write_text("a file, not a folder")
    with refused(Refused, "target_unwritable"):
        target.sink().open(1)
    target.folder.unlink()
    with opened(target, 1) as sink:
        assert sink.resume_after() == {}


CASES: tuple[Callable[[Target], None], ...] = (
    starts_empty,
    resumes_where_it_stopped,
    several_batches_in_one_write,
    replay_changesnothing,
    overlapping_replay_adds_the_rest,
    position_moves_without_events,
    older_fence_is_refused,
    two_writers_never_both,
    every_type_is_kept,
    lists_and_records_are_kept,
    keys_never_meet,
    deletes_of_rows_never_seen,
    a_new_column_appears,
    older_versions_after_a_new_column,
    a_full_disk_is_said_and_survived,
    goes_on_after_a_full_disk,
    an_unusable_folder_is_said,
)


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file of this process can grow past `size` bytes: to a program, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# A history: how many events each write has; negative, so many of the last are given again first; None, the sink object
# is dropped without a close, as a thread that died leaves it, and another one opens.
def history(target: Target, steps: Sequence[int | None]) -> None:
    """Any run of writes, replays and crashes ends in what the oracle says, at every crash and at the end."""
    sink, fence, position, end = target.sink(), 1, 0, 0
    sink.open(fence)
    sink.accept(given.MOVIE)
    for step in steps:
        if step is None:
            del sink
            check(target, given.MOVIE, [given.workload(0, end)], position)
            sink, fence = target.sink(), fence + 1
            sink.open(fence)
            sink.accept(given.MOVIE)
            assert sink.resume_after().get(TOPIC, 0) == position
            continue
        start, end = (max(0, end + step), end) if step < 0 else (end, end + step)
        batch = given.workload(start, end)
        if len(batch):
            position = max(position, up_to([batch])[TOPIC])
            cut = len(batch) // 2
            sink.write([batch.slice(0, cut), batch.slice(cut)], up_to([batch]))
    assert sink.resume_after().get(TOPIC, 0) == position
    sink.close()
    check(target, given.MOVIE, [given.workload(0, end)])


def write_steadily(target: Target, fence: int, end: int = given.STEADY_END) -> None:
    """The killed program: writes the workload from where the target says, a few events at a time, and says each position
    once its write has returned. Sizes come from the fence, so that each run cuts elsewhere."""
    sizes = random.Random(fence)  # noqa: S311 - sizes, not secrets
    with opened(target, fence) as sink:
        whole = given.workload(0, end)
        assert whole.offsets is not None
        position = sink.resume_after().get(TOPIC, 0)
        at = int(np.searchsorted(whole.offsets, position))
        print(position, flush=True)
        while at < len(whole):
            part = whole.slice(at, sizes.randint(1, 200))
            sink.write([part], up_to([part]))
            print(up_to([part])[TOPIC], flush=True)
            at += len(part)


def killed_at(target: Target, moment: str, count: int) -> None:
    """SIGKILL at the `count`-th time of a named moment, then the rest by another process: nothing lost, nothing twice."""
    said = run_program(target, "1", {"MILLSTREAM_FAULT": f"{moment}:{count}:KILL"}, nothing, -signal.SIGKILL)
    _check_after_kill(target, 2, said)


def killed_at_random(target: Target, kills: int, seed: int) -> None:
    """SIGKILL from outside, over and over, a short random time after some write has returned."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    said = 0
    for fence in range(1, 2 * kills, 2):
        said = max(said, run_program(target, str(fence), {}, partial(_strike, chance.randint(1, 4), chance.uniform(0, 0.03)), None))
        _check_after_kill(target, fence + 1, said, rest=False)
    _check_after_kill(target, 2 * kills + 1, said)


def _strike(lines: int, delay_s: float, process: subprocess.Popen[str]) -> list[str]:
    """Kill the program a while after its n-th line. The delay waits for nothing: it makes the moment any moment."""
    assert process.stdout is not None
    heard = [process.stdout.readline() for _ in range(lines)]
    time.sleep(delay_s)
    process.kill()
    return heard


def run_program(
    target: Target,
    argument: str,
    environment: Mapping[str, str],
    meanwhile: Callable[[subprocess.Popen[str]], list[str]],
    expected: int | None,
) -> int:
    """The last position that the program said, started with this argument. `expected`: how it must end; None: killed, or done
    before that."""
    process = subprocess.Popen(
        [*target.command(), argument], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    heard = meanwhile(process)
    out, error = process.communicate(timeout=120)
    assert process.returncode in ((0, -signal.SIGKILL) if expected is None else (expected,)), (
        f"it ended with {process.returncode}:\n{error}"
    )
    return max((int(line) for line in [*heard, *out.splitlines()] if line.strip()), default=0)


def nothing(_: subprocess.Popen[str]) -> list[str]:
    return []


def _check_after_kill(target: Target, fence: int, said: int, rest: bool = True) -> None:
    with opened(target, fence) as sink:
        position = sink.resume_after().get(TOPIC, 0)
        assert position >= said, f"position {said} was durable, the target now says {position}"
        check(target, given.MOVIE, [given.workload(0, given.STEADY_END)], position)
    if rest:
        write_steadily(target, fence + 1)
        check(target, given.MOVIE, [given.workload(0, given.STEADY_END)])


__all__ = ["CASES", "Target", "check", "files_at_most", "history", "killed_at", "killed_at_random", "opened", "refused", "write_steadily"]
