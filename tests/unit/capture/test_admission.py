"""Admission by one committed position."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.capture.admission import LogAdmission
from millstream.events.batch import Batch, batch
from millstream.events.progress import Position
from millstream.events.types import Field, RowSchema, Type

SCHEMA = RowSchema((Field("id", Type("int64"), 1),), ("id",))


def events(*versions: tuple[int, int]) -> Batch:
    count = len(versions)
    return batch(
        "t",
        SCHEMA,
        {
            "op": ["c"] * count,
            "after": pa.array([{"id": i} for i in range(count)], SCHEMA.arrow),
            "incarnation": np.ones(count, np.uint32),
            "major": np.array([v[0] for v in versions], np.uint64),
            "minor": np.array([v[1] for v in versions], np.uint32),
            "ts_us": np.zeros(count, np.int64),
            "position": [""] * count,
        },
    )


def versions(b: Batch) -> list[tuple[int, int]]:
    return list(zip(b.column("major").to_pylist(), b.column("minor").to_pylist(), strict=True))


def test_a_transaction_said_again_is_admitted_from_where_it_was_cut() -> None:
    admission = LogAdmission(Position(10, 2))
    assert versions(admission.admit("t", events((9, 7), (10, 1), (10, 2), (10, 3), (11, 1)))) == [(10, 3), (11, 1)]


def test_after_a_commit_it_admits_only_what_lies_above() -> None:
    admission = LogAdmission(Position(0, 0))
    everything = events((5, 1), (5, 2))
    assert admission.admit("t", everything) is everything
    admission.committed(Position(6, 0))
    assert versions(admission.admit("t", events((5, 1), (6, 1)))) == [(6, 1)]


def test_majors_beyond_63_bits_compare_unsigned() -> None:
    admission = LogAdmission(Position(2**63 + 1, 0))
    assert versions(admission.admit("t", events((2**63, 1), (2**63 + 1, 1)))) == [(2**63 + 1, 1)]


def test_an_empty_batch_stays_empty() -> None:
    assert len(LogAdmission(Position(1, 1)).admit("t", events())) == 0
