"""What parts tell of themselves: rates over the last moments, and how old events were when they were written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millstream.cli.status import in_words
from millstream.engine.figures import FRESHNESS_WINDOW_S, SAMPLES_MAX, WRITES_MAX, Freshness, Rate, Work


def test_a_rate_is_that_of_the_last_moments() -> None:
    rate = Rate()
    assert rate.per_second == 0
    for second in range(100):
        rate.note(second, 10 * second)
    assert rate.per_second == 10
    for second in range(100, 120):
        rate.note(second, 990 + 500 * (second - 99))
    assert rate.per_second == 500
    for i in range(10 * WRITES_MAX):
        rate.note(119 + i / 1e6, 10_490)
    assert len(rate._seen) <= WRITES_MAX


def test_freshness_is_from_the_commit_to_the_write() -> None:
    fresh = Freshness()
    assert fresh.figures(0) == {}
    fresh.note(1000.0, np.array([999_900_000] * 98 + [990_000_000] * 2))
    assert fresh.figures(1000.0) == {"freshness_p50_ms": 100.0, "freshness_p99_ms": 10_000.0}
    assert fresh.figures(1001 + FRESHNESS_WINDOW_S) == {}, "what was written long ago says nothing of now"


def test_a_large_write_counts_in_even_parts() -> None:
    fresh = Freshness()
    fresh.note(10.0, np.arange(0, 10_000_000, 10))
    assert abs(fresh.figures(10.0)["freshness_p50_ms"] - 5_000) < 50
    assert sum(len(ages) for _, ages in fresh._writes) <= SAMPLES_MAX


@dataclass
class Counter:
    triggers: int = 0
    documents: int = 0


def test_documents_for_triggers_are_counted_over_restarts_as_committed() -> None:
    first, work = Counter(), Work(1000.0)
    assert work.figures(first) == {"triggers": 0, "documents": 0, "counted_since": 1000.0}
    first.triggers, first.documents = 8, 6
    committed = work.state(first)
    first.triggers, first.documents = 20, 9  # of a round that came to nothing
    work.restore(committed, first)
    assert work.figures(first) == {"triggers": 8, "documents": 6, "documents_per_trigger": 0.75, "counted_since": 1000.0}
    first.triggers, first.documents = 22, 11
    later, work = Counter(), Work(2000.0)
    work.restore(committed, later)
    later.triggers, later.documents = 2, 2
    assert work.figures(later) == {"triggers": 10, "documents": 8, "documents_per_trigger": 0.8, "counted_since": 1000.0}


def test_what_is_said_to_people() -> None:
    assert in_words({}) == ""
    assert in_words({"pending": 0, "triggers": 7}) == ""
    waiting = {"pending": 480_000, "pending_rate": 60_000.0, "pending_left_s": 8.0}
    assert in_words(waiting) == "480,000 keys wait to be refreshed, 60,000/s, 8 s left"
    assert in_words({"freshness_p50_ms": 81.2, "freshness_p99_ms": 1234.5}) == "written 81 ms after the commit (99 of 100: 1,234 ms)"
    work = {"triggers": 1_000, "documents": 981, "documents_per_trigger": 0.981, "counted_since": 0.0}
    assert in_words(work) == "0.98 rows written for each of 1,000 keys that changes touched since 1970-01-01T00:00:00Z"
    assert in_words({"sources": {"shop": "reads the replica"}}) == "source shop reads the replica"
