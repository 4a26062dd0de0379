"""What old rows have: every way in which Postgres and JSON lines write a value is read, and no other."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest

from millstream.events.fills import fill_value, filled
from millstream.events.types import UNKNOWN, Constant, Field, Type, list_of, record_of

PAIR = record_of(("a", Type("int32")), ("at", Type("date")))


@pytest.mark.parametrize(
    ("type_", "texts", "value"),
    [
        (Type("boolean"), ("t", "true"), True),
        (Type("boolean"), ("f", "false"), False),
        (Type("int32"), ("-7",), -7),
        (Type("int64"), ("9223372036854775807",), 2**63 - 1),
        (Type("float32"), ("1.5",), 1.5),
        (Type("float64"), ("Infinity",), float("inf")),
        (Type("text"), ("", "it's"), None),
        (Type("bytes"), (r"\xdeadbeef", "3q2+7w=="), bytes.fromhex("deadbeef")),
        (Type("decimal", 6, 2), ("1.5", "1.50"), Decimal("1.50")),
        (Type("date"), ("2026-11-25",), date(2026, 11, 25)),
        (Type("time"), ("14:30:00.5", "14:30:00.500000"), time(14, 30, 0, 500_000)),
        (Type("timestamp"), ("2026-11-25 14:30:00", "2026-11-25T14:30:00"), datetime(2026, 11, 25, 14, 30)),
        (Type("timestamptz"), ("2026-11-25 14:30:00+00", "2026-11-25T14:30:00Z"), datetime(2026, 11, 25, 14, 30, tzinfo=UTC)),
        (Type("uuid"), ("9f1b1f0e-5f3b-4c7e-8a53-0d5c2f7a1e11",), None),
        (Type("json"), ('{"a": 1}',), None),
        (Type("numeric"), ("12345678901234567890.5",), None),
        (list_of(Type("int64")), ("[1, null, 3]",), [1, None, 3]),
        (list_of(PAIR), ('[{"a": 1, "at": "2026-11-25"}, {}]',), [{"a": 1, "at": date(2026, 11, 25)}, {"a": None, "at": None}]),
    ],
    ids=str,
)
def test_a_value_as_it_is_written(type_: Type, texts: tuple[str, ...], value: object) -> None:
    for text in texts:
        found = fill_value(type_, text)
        assert found.type == type_.arrow
        assert found.as_py() == (text if value is None else value)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (Type("boolean"), "1"),
        (Type("int32"), "2147483648"),
        (Type("decimal", 4, 2), "100.00"),
        (Type("decimal", 4, 2), "0.001"),
        (Type("bytes"), r"\xdg"),
        (Type("timestamp"), "2026-11-25T14:30:00Z"),
        (Type("timestamptz"), "2026-11-25 14:30:00"),
        (list_of(Type("int32")), "7"),
        (PAIR, '{"b": 1}'),
        (PAIR, "[]"),
    ],
    ids=str,
)
def test_another_text_is_refused(type_: Type, text: str) -> None:
    with pytest.raises(ValueError, match="is no "):
        fill_value(type_, text)


def test_a_column_of_old_rows() -> None:
    assert filled(Field("n", Type("int32"), 1, fill=Constant("7")), 3).to_pylist() == [7, 7, 7]
    for fill in (None, UNKNOWN):
        assert filled(Field("n", Type("int32"), 1, fill=fill), 2).to_pylist() == [None, None]
