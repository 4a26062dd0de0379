"""The server's text as typed columns: what fits, and what becomes a hole."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import Irrecoverable
from millstream.events.types import Type
from millstream.sources.octets import PADDING, Cells, Octets
from millstream.sources.postgres.columns import type_of
from millstream.sources.postgres.values import convert
from millstream.sources.values import Converted


def converted(texts: list[str | None], kind: Type) -> Converted:
    raw = [(t or "").encode() for t in texts]
    length = np.array([len(r) for r in raw], np.int64)
    null = np.array([t is None for t in texts])
    cells = Cells(np.where(null, 0, np.cumsum(length) - length), length, null)
    return convert(Octets(b"".join(raw) + PADDING), cells, kind)


UTC = dt.UTC
FITS = [
    ("boolean", ["t", "f", None], [True, False, None]),
    ("int32", ["-2147483648", "0", None], [-2147483648, 0, None]),
    ("int64", ["9223372036854775807", "-1"], [9223372036854775807, -1]),
    ("float32", ["1.5", "Infinity", None], [1.5, float("inf"), None]),
    ("float64", ["5e-324", "-Infinity"], [5e-324, float("-inf")]),
    ("text", ["", "é✓ longer than twelve bytes", None, "exactly12byt"], ["", "é✓ longer than twelve bytes", None, "exactly12byt"]),
    ("bytes", ["\\x", "\\x00ff5c", None, "\\x" + "ab" * 40], [b"", b"\x00\xff\\", None, b"\xab" * 40]),
    ("date", ["0001-01-01", "9999-12-31"], [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    ("time", ["00:00:00", "23:59:59.999999", "12:00:00.5"], [dt.time(0), dt.time(23, 59, 59, 999999), dt.time(12, 0, 0, 500000)]),
    ("timestamp", ["2024-02-29 12:00:00.1", None], [dt.datetime(2024, 2, 29, 12, 0, 0, 100000), None]),
    ("timestamptz", ["1969-12-31 23:59:59.999999+00"], [dt.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)]),
    ("uuid", ["0190e1a2-0000-7000-8000-000000000000"], ["0190e1a2-0000-7000-8000-000000000000"]),
    ("json", ['{"a": "\\""}', "null"], ['{"a": "\\""}', "null"]),
    ("numeric", ["NaN", "1e5", "0.10", None], ["NaN", "1e5", "0.10", None]),
]


@pytest.mark.parametrize(("kind", "texts", "values"), FITS, ids=[f[0] for f in FITS])
def test_what_fits(kind: str, texts: list[str | None], values: list[object]) -> None:
    found = converted(texts, Type(kind))
    assert found.array.to_pylist() == values
    assert found.array.type == Type(kind).arrow
    assert found.holes == {}


BEYOND = "out_of_range"
HOLES: list[tuple[Type, list[str | None], list[object], dict[int, str]]] = [
    (Type("decimal", 6, 2), ["1.50", "NaN", "Infinity", None], [Decimal("1.50"), None, None, None], {1: "nan", 2: "infinity"}),
    (Type("decimal", 76, 2), ["-Infinity", "-0.01"], [None, Decimal("-0.01")], {0: "-infinity"}),
    (Type("date"), ["2024-01-02", "infinity", "10000-01-01"], [dt.date(2024, 1, 2), None, None], {1: "infinity", 2: BEYOND}),
    (Type("date"), ["0044-03-15 BC"], [None], {0: BEYOND}),
    (Type("time"), ["24:00:00", "01:02:03"], [None, dt.time(1, 2, 3)], {0: BEYOND}),
    (Type("timestamp"), ["-infinity", "2024-01-02 03:04:05"], [None, dt.datetime(2024, 1, 2, 3, 4, 5)], {0: "-infinity"}),
    (Type("timestamptz"), ["294276-12-31 23:59:59+00", None], [None, None], {0: BEYOND}),
]


@pytest.mark.parametrize(("kind", "texts", "values", "holes"), HOLES, ids=[f"{h[0]} {h[1][0]}" for h in HOLES])
def test_what_no_column_holds_becomes_null_with_its_reason(
    kind: Type, texts: list[str | None], values: list[object], holes: dict[int, str]
) -> None:
    found = converted(texts, kind)
    assert found.array.to_pylist() == values
    assert found.array.type == kind.arrow
    assert found.holes == holes


@pytest.mark.parametrize(("kind", "text"), [("int32", "2147483648"), ("int64", "x"), ("float64", "one"), ("date", "2024-13-01")])
def test_text_that_is_no_value_is_never_made_null(kind: str, text: str) -> None:
    with pytest.raises(Irrecoverable, match="bad_value"):
        converted(["1" if "int" in kind or "float" in kind else "2024-01-01", text], Type(kind))


@given(st.lists(st.none() | st.binary(max_size=40), min_size=1))
def test_any_bytes(values: list[bytes | None]) -> None:
    assert converted([None if v is None else "\\x" + v.hex() for v in values], Type("bytes")).array.to_pylist() == values


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1))
def test_any_text(values: list[str | None]) -> None:
    assert converted(values, Type("text")).array.to_pylist() == values


def numeric(precision: int, scale: int) -> int:
    return ((precision << 16) | (scale & 0x7FF)) + 4


@pytest.mark.parametrize(
    ("oid", "typmod", "kind"),
    [
        (1700, numeric(12, 2), "decimal(12,2)"),
        (1700, numeric(76, 0), "decimal(76,0)"),
        (1700, numeric(77, 0), "numeric"),
        (1700, -1, "numeric"),
        (1700, numeric(3, -2), "decimal(5,0)"),
        (1700, numeric(3, 5), "decimal(5,5)"),
        (21, -1, "int32"),
        (26, -1, "int64"),
        (1042, 14, "text"),
        (99999, -1, "text"),
    ],
)
def test_which_type_a_column_has(oid: int, typmod: int, kind: str) -> None:
    assert str(type_of(oid, typmod)) == kind
