"""Which defaults are one value, and which value."""

from __future__ import annotations

import pytest

from millstream.events.types import Constant
from millstream.sources.cockroach.defaults import constant


@pytest.mark.parametrize(
    ("default", "sql_type", "text"),
    [
        ("'dflt'", "STRING", "dflt"),
        ("'dflt':::STRING", "STRING", "dflt"),
        ("'it''s'::STRING", "VARCHAR(10)", "it's"),
        ("e'a\\nb\\\\c\\'d':::STRING", "STRING", "a\nb\\c'd"),
        ("7", "INT8", "7"),
        ("7:::INT8", "INT8", "7"),
        ("(-7)", "INT4", "-7"),
        ("1.50:::DECIMAL", "DECIMAL(10,2)", "1.50"),
        ("true", "BOOL", "true"),
        ("'2024-02-29':::DATE", "DATE", "2024-02-29"),
        ("'2024-02-29 01:02:03+00':::TIMESTAMPTZ", "TIMESTAMPTZ", "2024-02-29 01:02:03+00"),
        ("b'\\x00\\xff'", "BYTES", "\\x00ff"),
        ("'\\x00ff':::BYTES", "BYTES", "\\x00ff"),
        ("'00000000-0000-0000-0000-00000000abcd':::UUID", "UUID", "00000000-0000-0000-0000-00000000abcd"),
    ],
)
def test_one_value(default: str, sql_type: str, text: str) -> None:
    assert constant(default, sql_type) == Constant(text)


@pytest.mark.parametrize(
    ("default", "sql_type"),
    [
        (None, "STRING"),
        ("NULL", "STRING"),
        ("now():::TIMESTAMPTZ", "TIMESTAMPTZ"),
        ("gen_random_uuid()", "UUID"),
        ("unique_rowid()", "INT8"),
        ("1 + 2", "INT8"),
        ("(1) + (2)", "INT8"),
        ("'a' || 'b'", "STRING"),
        ("'24:00:00':::INTERVAL", "INTERVAL"),  # which the feed may write as another text
        ("'{\"a\":1}':::JSONB", "JSONB"),
        ("'infinity':::DATE", "DATE"),
        ("ARRAY[1,2]:::INT8[]", "INT8[]"),
        ("'NaN':::DECIMAL", "DECIMAL(10,2)"),
    ],
)
def test_not_surely_one_value(default: str | None, sql_type: str) -> None:
    assert constant(default, sql_type) is None
