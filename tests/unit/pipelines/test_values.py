"""Values and types as people write them: read by the column's type, and every type's own text read back."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events.types import Type, list_of, record_of
from millstream.pipelines import typetext, values
from millstream.pipelines.yaml import Node, documents

SCALARS = st.sampled_from([Type(k) for k in typetext.PLAIN] + [Type("decimal", 10, 2), Type("decimal", 76, 0)])  # type: ignore[arg-type]
TYPES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        inner.map(list_of),
        st.lists(inner, min_size=1, max_size=3).map(lambda types: record_of(*((f"m{i}", t) for i, t in enumerate(types)))),
    ),
    max_leaves=5,
)


@given(TYPES)
def test_a_types_text_is_read_back(type_: Type) -> None:
    assert typetext.parse(str(type_)) == type_


@pytest.mark.parametrize(
    "text",
    ["", "int", "decimal", "decimal(5)", "decimal(0,0)", "decimal(3,4)", "list()", "record(a)", "record(a text, a text)", "list(text"],
)
def test_what_is_no_type_is_none(text: str) -> None:
    assert typetext.parse(text) is None


UUID = "9f1b1f0e-5f3b-4c7e-8a53-0d5c2f7a1e11"
RECORDS = list_of(record_of(("n", Type("text")), ("k", Type("int32"))))


def node(text: str) -> Node:
    (section,) = documents("f", f"v: {text}\n", [])
    return section.entries["v"]


@pytest.mark.parametrize(
    ("text", "type_", "value", "shown"),
    [
        ("true", Type("boolean"), True, "true"),
        ("12", Type("int32"), 12, "12"),
        ("1.50", Type("decimal", 6, 2), Decimal("1.50"), "1.50"),
        ("1.5", Type("float64"), 1.5, "1.5"),
        ("007", Type("text"), "007", '"007"'),
        ("12", Type("text"), "12", '"12"'),
        ("3q2+7w==", Type("bytes"), b"\xde\xad\xbe\xef", "3q2+7w=="),
        ("2026-11-25", Type("date"), date(2026, 11, 25), "2026-11-25"),
        ("14:30:00", Type("time"), time(14, 30), "14:30:00"),
        ("2026-11-25T14:30:00", Type("timestamp"), datetime(2026, 11, 25, 14, 30), "2026-11-25T14:30:00"),
        ("2026-11-25T14:30:00+02:00", Type("timestamptz"), datetime(2026, 11, 25, 12, 30, tzinfo=UTC), "2026-11-25T12:30:00Z"),
        ("9F1B1F0E-5f3b-4c7e-8a53-0d5c2f7a1e11", Type("uuid"), UUID, f'"{UUID}"'),
        ("{a: [1, x]}", Type("json"), '{"a": [1, "x"]}', r'"{\"a\": [1, \"x\"]}"'),
        ("[a, null]", list_of(Type("text")), ["a", None], '["a", null]'),
        ("[{n: a, k: 2}, {n: b}]", RECORDS, [{"n": "a", "k": 2}, {"n": "b", "k": None}],
         '[{n: "a", k: 2}, {n: "b", k: null}]'),
        ("null", Type("int64"), None, "null"),
    ],
)  # fmt: skip
def test_a_value_is_read_and_shown(text: str, type_: Type, value: Any, shown: str) -> None:
    read = values.read(node(text), type_)
    assert read == value
    assert values.shown(read) == shown
    assert values.equal(read, value, type_)


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("yes", Type("boolean")),
        ("3000000000", Type("int32")),
        ("12345.678", Type("decimal", 6, 2)),
        ("abc", Type("bytes")),
        ("25.11.2026", Type("date")),
        ("2026-11-25T14:30:00", Type("timestamptz")),
        ("2026-11-25T14:30:00Z", Type("timestamp")),
        ("nothing", Type("uuid")),
        ("a", list_of(Type("text"))),
        ("{x: 1}", record_of(("n", Type("text")))),
        ("[1]", Type("int32")),
    ],
)
def test_what_is_no_value_of_the_type_is_said_so(text: str, type_: Type) -> None:
    with pytest.raises(ValueError, match="is no"):
        values.read(node(text), type_)


@pytest.mark.parametrize(
    ("left", "right", "type_", "equal"),
    [
        (float("nan"), float("nan"), Type("float64"), True),
        (1.0, float("nan"), Type("float64"), False),
        ('{"a":1,"b":2}', '{"b": 2, "a": 1}', Type("json"), True),
        (["a"], ["a", "b"], list_of(Type("text")), False),
        ([float("nan")], [float("nan")], list_of(Type("float64")), True),
        (None, 0, Type("int32"), False),
        ({"n": 1}, {"n": 2}, record_of(("n", Type("int32"))), False),
    ],
)
def test_equal_values(left: Any, right: Any, type_: Type, equal: bool) -> None:
    assert values.equal(left, right, type_) is equal
