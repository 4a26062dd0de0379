"""Messages made of any rows give these rows again; and what the decoder does where a row, a shape or a key is out of the way.

The recordings of real servers are in tests/golden/cockroach; here is what they do not hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Irrecoverable
from millstream.events.types import Constant
from millstream.sources.cockroach.decode import COVERED, NOTHING, Decoder, Messages, Scan, Told
from millstream.sources.cockroach.described import Column, Described
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.types import type_of

Row = dict[str, Any]


# ---- the messages, as CockroachDB writes them


class Raw(str):
    """JSON as it is to stand in the message."""


def written(value: Any, ascii_: bool = False) -> str:
    match value:
        case Raw():
            return str(value)
        case dict():
            members = sorted(value.items(), key=lambda m: m[0].encode())
            return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=ascii_)}: {written(v, ascii_)}" for k, v in members) + "}"
        case list():
            return "[" + ", ".join(written(v, ascii_) for v in value) + "]"
        case Decimal() | int() if not isinstance(value, bool):
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=ascii_)


def message(after: Row | None, before: Row | None, wall: int, mvcc: int | None = None, ascii_: bool = False) -> bytes:
    parts = [("after", written(after, ascii_)), ("before", written(before, ascii_))]
    parts += [("mvcc_timestamp", f'"{mvcc or wall}.{0:010d}"'), ("updated", f'"{wall}.{0:010d}"')]
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in parts) + "}").encode()


def piece(values: Sequence[bytes], keys: Sequence[str] | None = None, topic: str = "t") -> Messages:
    return Messages([topic] * len(values), [(keys[i] if keys else "[1]").encode() for i in range(len(values))], values)


def table(columns: dict[str, str], key: Sequence[str] = ("id",), at: int = 0, ids: Sequence[int] = (), **more: Any) -> Described:
    numbers = ids or range(1, len(columns) + 1)
    made = tuple(Column(i, name, type_of(sql_type)) for i, (name, sql_type) in zip(numbers, columns.items(), strict=True))
    return Described("t", made, tuple(c.id for name in key for c in made if c.name == name), len(key), Hlc(at, 0), **more)


def never(topic: str, at: Hlc) -> Described:
    raise AssertionError(f"{topic} was asked for at {at}")


def decoder(*known: Described, describe: Callable[[str, Hlc], Described] = never, **more: Any) -> Decoder:
    made = Decoder(describe, "test", **more)
    for described in known:
        made.know("t", described)
    return made


def events(told: Told) -> list[dict[str, Any]]:
    return [event for batch in told.batches for event in batch.rows.to_pylist()]


# ---- any rows


@dataclass(frozen=True)
class Kind:
    """A SQL type, its values, and how one is put into a row's JSON."""

    sql_type: str
    values: st.SearchStrategy[Any]
    said: Callable[[Any], Any] = lambda v: v


def _float(value: float) -> Any:
    if math.isnan(value):
        return "NaN"
    return ("Infinity" if value > 0 else "-Infinity") if math.isinf(value) else Raw(repr(value).upper())


def _zoneless(value: datetime) -> str:
    text = value.isoformat()
    return text.rstrip("0") if "." in text else text


# A lone surrogate is in no text of CockroachDB's.
LETTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(LETTERS, max_size=20) | st.sampled_from(["", '"', "\\", "\\\\", '\\"', "a\\", "😀", "\u2028", "{", "}, "])
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS | st.just(Raw("1E+3")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
KINDS = [
    Kind("STRING", TEXTS),
    Kind("INT8", st.integers(-(2**63), 2**63 - 1)),
    Kind("INT2", st.integers(-(2**15), 2**15 - 1)),
    Kind("BOOL", st.booleans()),
    Kind("FLOAT8", st.floats(), _float),
    Kind("DECIMAL(38,4)", st.decimals(-(10**20), 10**20, places=4)),
    Kind("DECIMAL(10,2)", st.decimals(-(10**8) + 1, 10**8 - 1, places=2)),
    Kind("DECIMAL(5)", st.integers(-99_999, 99_999).map(Decimal)),
    Kind("BYTES", st.binary(max_size=9), lambda v: "\\x" + v.hex()),
    Kind("DATE", st.dates(), lambda v: v.isoformat()),
    Kind("TIME", st.times(), lambda v: v.isoformat()),
    Kind("TIMESTAMP", MOMENTS, _zoneless),
    Kind("TIMESTAMPTZ", MOMENTS.map(lambda v: v.replace(tzinfo=UTC)), lambda v: _zoneless(v.replace(tzinfo=None)) + "Z"),
    Kind("INT8[]", st.lists(st.none() | st.integers(-9, 9), max_size=4)),
    Kind("STRING[]", st.lists(st.none() | TEXTS, max_size=4)),
    Kind("JSONB", JSONS),
]
NAMES = st.text(LETTERS, min_size=1, max_size=12) | st.sampled_from(["a b", '"q"', "\\", "{", "}", ", ", "after", "ключ"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Kind], list[tuple[Row | None, Row | None, bool]]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    columns = {"id": KINDS[1]} | {name: draw(st.sampled_from(KINDS)) for name in names if name != "id"}
    row = st.fixed_dictionaries({n: (k.values if n == "id" else st.none() | k.values) for n, k in columns.items()})
    rows = draw(st.lists(st.tuples(st.none() | row, st.none() | row, st.booleans()), min_size=1, max_size=12))
    return columns, rows


def expected(columns: dict[str, Kind], row: Row | None, ascii_: bool) -> Row | None:
    if row is None:
        return None

    def value(kind: Kind, given: Any) -> Any:
        # A JSON value is told by its text; JSON null cannot be told from SQL NULL.
        return written(given, ascii_) if kind.sql_type == "JSONB" and given is not None else given

    return {n: value(k, row[n]) for n, k in columns.items()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


@settings(deadline=None, max_examples=100)
@given(tables(), st.integers(1, 12))
def test_any_rows_are_told_as_they_are(made: tuple[dict[str, Kind], list[tuple[Row | None, Row | None, bool]]], size: int) -> None:
    columns, rows = made
    values = []
    for i, (after, before, ascii_) in enumerate(rows):
        images = [None if r is None else {n: None if r[n] is None else k.said(r[n]) for n, k in columns.items()} for r in (after, before)]
        values.append(message(*images, wall=1000 + i, ascii_=ascii_))
    ours = decoder(table({n: k.sql_type for n, k in columns.items()}))
    told = [ours.decode(piece(values[i : i + size])) for i in range(0, len(values), size)]
    wanted = []
    for i, (after, before, ascii_) in enumerate(rows):
        if after is None and before is None:
            continue
        a, b = expected(columns, after, ascii_), expected(columns, before, ascii_)
        if a is not None and b is not None and a["id"] != b["id"]:  # two rows, which these messages could not be of
            wanted += [("d", b, None, 1000 + i), ("c", None, a, 1000 + i)]
        else:
            wanted.append(("c" if b is None else "d" if a is None else "u", b, a, 1000 + i))
    got = [(e["op"], e["before"], e["after"], e["major"]) for t in told for e in events(t)]
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert same({"e": list(one)[1], "a": one[2]}, {"e": other[1], "a": other[2]}) and (one[0], one[3]) == (other[0], other[3])
    assert sum(t.dropped.get(NOTHING, 0) for t in told) == sum(a is None and b is None for a, b, _ in rows)


TEXT = {"id": "INT8", "v": "STRING"}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_garbled_messages_are_refused_or_told_never_worse(data: st.DataObject) -> None:
    whole = message({"id": 1, "v": 'a"b'}, {"id": 1, "v": None}, 5)
    at = data.draw(st.integers(0, len(whole) - 1))
    garbled = whole[:at] + data.draw(st.sampled_from([b"", b'"', b"{", b"}", b",", b"\\", b" ", b"x", b"["])) + whole[at + 1 :]
    ours = decoder(table(TEXT), describe=lambda _, at: table(TEXT))
    try:
        told = ours.decode(piece([whole, garbled, whole]))
    except Irrecoverable as error:
        assert error.code in ("bad_message", "bad_value")
        assert error.cure
    else:
        assert len(events(told)) == 3


# ---- by which schema


def test_the_table_is_asked_for_at_the_events_own_time_once_for_each_new_shape() -> None:
    asked: list[Hlc] = []
    wider = table({"id": "INT8", "v": "STRING", "w": "INT8"})

    def describe(topic: str, at: Hlc) -> Described:
        asked.append(at)
        return replace(wider, at=at)

    ours = decoder(table(TEXT), describe=describe)
    rows: list[Row] = [{"id": 1, "v": "a"}, {"id": 1, "v": "b", "w": 1}, {"id": 1, "v": "c", "w": 2}]
    told = ours.decode(piece([message(r, None, 10 + i) for i, r in enumerate(rows)]))
    assert [e["after"] for e in events(told)] == rows
    assert [b.schema.names for b in told.batches] == [("id", "v"), ("id", "v", "w")]
    assert asked == [Hlc(11, 0)]
    ours.decode(piece([message(rows[2], None, 20)]))
    assert asked == [Hlc(11, 0)]


def test_a_row_of_an_older_shape_is_told_in_the_newer_schema_by_ids() -> None:
    """A repeat, or another key's event, after the first of the new schema: nobody is asked to go back."""
    old = table({"id": "INT8", "a": "STRING", "gone": "INT8"}, ids=[1, 2, 3])
    new = Described(
        "t",
        (Column(1, "id", type_of("INT8")), Column(2, "b", type_of("STRING")), Column(4, "d", type_of("STRING"), fill=Constant("x"))),
        (1,),
        1,
        Hlc(50, 0),
    )
    ours = decoder(old, new)
    ours.decode(piece([message({"id": 1, "b": "new", "d": "y"}, None, 60)]))
    told = ours.decode(piece([message({"id": 2, "a": "old", "gone": 7}, None, 40), message({"id": 3, "b": "new", "d": "z"}, None, 61)]))
    assert [b.schema.names for b in told.batches] == [("id", "b", "d")]
    assert [e["after"] for e in events(told)] == [{"id": 2, "b": "old", "d": "x"}, {"id": 3, "b": "new", "d": "z"}]


def test_a_column_that_is_gone_again_is_in_no_row_after_that_whatever_the_rows_looked_like_before_it_came() -> None:
    """The table looks as it once did. An event of that look is of then, or of now: its time tells."""
    plain = table(TEXT)
    filled = replace(
        table({"id": "INT8", "v": "STRING", "n": "INT8"}, at=50),
        columns=(*plain.columns, Column(3, "n", type_of("INT8"), fill=Constant("5"))),
    )
    asked: list[Hlc] = []

    def describe(topic: str, at: Hlc) -> Described:
        asked.append(at)
        return replace(plain, at=at)

    ours = decoder(plain, filled, describe=describe)
    ours.decode(piece([message({"id": 1, "v": "a", "n": 7}, None, 60)]))
    told = ours.decode(piece([message({"id": 2, "v": "late"}, None, 40)]))
    assert events(told)[0]["after"] == {"id": 2, "v": "late", "n": 5}
    told = ours.decode(piece([message({"id": 3, "v": "late"}, None, 41), message({"id": 1, "v": "b"}, {"id": 1, "v": "a"}, 70)]))
    assert [e["after"] for e in events(told)] == [{"id": 3, "v": "late"}, {"id": 1, "v": "b"}]
    assert [b.schema.names for b in told.batches] == [("id", "v")]
    assert asked == [Hlc(70, 0)]


def test_older_schemas_come_first_within_a_piece() -> None:
    old, new = table(TEXT), table({"id": "INT8", "v": "STRING", "w": "INT8"}, at=50)
    told = decoder(old, new).decode(piece([message({"id": 1, "v": "b", "w": 1}, None, 60), message({"id": 2, "v": "a"}, None, 40)]))
    assert [(e["after"]["id"], e["major"]) for e in events(told)] == [(2, 40), (1, 60)]


def test_a_type_that_changed_shows_in_its_values() -> None:
    after = table({"id": "INT8", "v": "INT8"}, ids=[1, 3])
    ours = decoder(table(TEXT), describe=lambda _, at: replace(after, at=at))
    told = ours.decode(piece([message({"id": 1, "v": "7"}, None, 10), message({"id": 1, "v": 8}, {"id": 1, "v": 7}, 20)]))
    assert [e["after"]["v"] for e in events(told)] == ["7", 8]
    assert [str(b.schema["v"].type) for b in told.batches] == ["text", "int64"]


@pytest.mark.parametrize(
    ("sql_type", "wider", "value"),
    [
        ("INT4", "INT8", 3_000_000_000),
        ("DECIMAL(4,2)", "DECIMAL(6,3)", Decimal("100.125")),
        ("TIMESTAMP", "TIMESTAMPTZ", "2026-01-02T03:04:05Z"),
    ],
)
def test_a_value_beyond_its_type_means_that_the_type_changed(sql_type: str, wider: str, value: Any) -> None:
    ours = decoder(table({"id": "INT8", "v": sql_type}), describe=lambda _, at: table({"id": "INT8", "v": wider}, at=at.wall))
    (batch,) = ours.decode(piece([message({"id": 1, "v": value}, None, 10)])).batches
    assert batch.schema["v"].type == type_of(wider)
    assert batch.rows.to_pylist()[0]["holes"] is None


@pytest.mark.parametrize(
    ("sql_type", "said"),
    [
        ("INT8", "7"),
        ("INT8", Raw("1.5")),
        ("STRING", 7),
        ("BOOL", "true"),
        ("BYTES", "abc"),
        ("BYTES", "\\x0"),
        ("DATE", "tomorrow"),
        ("TIMESTAMPTZ", "2026-01-02T03:04:05"),
        ("INT8[]", 1),
        ("INT8[]", ["a"]),
        ("DECIMAL(4,2)", "much"),
        ("DECIMAL(18,4)", Raw("1844674407370956.0000")),  # as a whole number of ten-thousandths it is beyond 64 bits
        ("STRING", Raw('"\\ud800"')),
    ],
)
def test_what_is_no_value_of_the_type_even_at_its_own_time_is_never_told(sql_type: str, said: Any) -> None:
    described = table({"id": "INT8", "v": sql_type})
    ours = decoder(described, describe=lambda _, at: replace(described, at=at))
    with pytest.raises(Irrecoverable) as error:
        ours.decode(piece([message({"id": 1, "v": said}, None, 10)]))
    assert error.value.code == "bad_value"
    assert error.value.where == "test t.v"


def test_a_shape_that_the_table_never_had_is_refused() -> None:
    ours = decoder(table(TEXT), describe=lambda _, at: table(TEXT, at=at.wall))
    with pytest.raises(Irrecoverable, match="its members are id, w") as error:
        ours.decode(piece([message({"id": 1, "w": "a"}, None, 10)]))
    assert error.value.code == "bad_message"


# ---- what is told again


def retold(described: Described, id_: int) -> Described:
    return replace(described, columns=tuple(replace(c, retold=c.id == id_) for c in described.columns))


def test_rows_told_again_for_a_computed_column_are_marked() -> None:
    new = retold(table({"id": "INT8", "v": "STRING", "c": "INT8"}, at=50), 3)
    told = decoder(table(TEXT), new).decode(piece([message({"id": 1, "v": "a", "c": 4}, {"id": 1, "v": "a"}, 60, mvcc=40)]))
    (event,) = events(told)
    assert (event["op"], event["before"], event["after"]) == ("r", None, {"id": 1, "v": "a", "c": 4})
    assert (event["cause"], event["backfill"], event["snapshot"]) == ("schema", "schema-60.0000000000", "incremental")
    assert told.mvcc[0] is not None and told.mvcc[0].one(0) == Hlc(40, 0)


def test_rows_told_again_for_what_readers_know_are_dropped_and_counted() -> None:
    new = table({"id": "INT8", "v": "STRING", "d": "INT8"}, at=50)
    ours = decoder(table(TEXT), new)
    told = ours.decode(
        piece(
            [
                message({"id": 1, "v": "a", "d": 4}, {"id": 1, "v": "a"}, 60, mvcc=40),
                message({"id": 1, "v": "b", "d": 4}, {"id": 1, "v": "a", "d": 4}, 70),
            ]
        )
    )
    assert [e["op"] for e in events(told)] == ["u"]
    assert told.dropped == {COVERED: 1}


@pytest.mark.parametrize("running", [True, False])
def test_a_fresh_write_of_the_same_row_is_covered_only_while_the_schema_changes(running: bool) -> None:
    asked: list[tuple[str, Hlc]] = []

    def changing(topic: str, at: Hlc) -> bool:
        asked.append((topic, at))
        return running

    row = {"id": 1, "v": "a"}
    values = [message(row, row, 60), message({"id": 2, "v": "a"}, {"id": 2, "v": "a"}, 60), message(row, {"id": 1, "v": "b"}, 61)]
    told = decoder(table(TEXT), changing=changing).decode(piece(values))
    assert [e["major"] for e in events(told)] == ([61] if running else [60, 60, 61])
    assert told.dropped == ({COVERED: 2} if running else {})
    assert asked == [("t", Hlc(60, 0))]


def test_a_scan_without_times_has_the_time_that_it_is_given() -> None:
    ours = decoder(table(TEXT), scan=Scan("b7", "incremental", Hlc(9, 1)))
    told = ours.decode(piece([b'{"after": {"id": 1, "v": null}}', b'{"after": {"id": 2, "v": "x"}}']))
    assert [(e["op"], e["major"], e["minor"], e["backfill"], e["cause"], e["after"]["id"]) for e in events(told)] == [
        ("r", 9, 1, "b7", "backfill", 1),
        ("r", 9, 1, "b7", "backfill", 2),
    ]
    assert told.mvcc == (None,)


# ---- keys


@pytest.mark.parametrize(
    ("sql_type", "one", "other"),
    [
        ("DECIMAL", Raw("1.50"), Raw("1.5")),
        ("DECIMAL", Raw("1E+2"), Raw("100.00")),
        ("DECIMAL", Raw("0"), Raw("-0.00")),
        ("DECIMAL", Raw("10"), Raw("1E+1")),
        ("DECIMAL(10,2)", Raw("1.5"), Raw("1.50")),
        ("FLOAT8", Raw("0"), Raw("-0")),
    ],
)
def test_keys_that_are_equal_in_the_database_are_the_same_key(sql_type: str, one: Raw, other: Raw) -> None:
    ours = decoder(table({"id": sql_type}))
    told = ours.decode(piece([message({"id": one}, None, 1), message({"id": other}, {"id": one}, 2), message(None, {"id": other}, 3)]))
    assert [e["op"] for e in events(told)] == ["c", "u", "d"]
    keys = told.batches[0].keys().to_pylist()
    assert keys[0] == keys[1] == keys[2]
    assert str(keys[0]) == str(keys[2])


def test_the_digits_of_a_key_stay() -> None:
    told = decoder(table({"id": "DECIMAL"})).decode(
        piece([message({"id": Raw(n)}, None, 1) for n in ("100", "1.05", "-20.0", "0.10", "1E-7")])
    )
    assert [e["after"]["id"] for e in events(told)] == ["100", "1.05", "-20", "0.1", "0.0000001"]


def test_a_key_that_its_collation_holds_for_equal_is_another_row_here() -> None:
    ours = decoder(table({"id": "CITEXT", "v": "INT8"}))
    told = ours.decode(piece([message({"id": "Ab", "v": 2}, {"id": "ab", "v": 1}, 5)]))
    assert [(e["op"], e["before"], e["after"], e["major"]) for e in events(told)] == [
        ("d", {"id": "ab", "v": 1}, None, 5),
        ("c", None, {"id": "Ab", "v": 2}, 5),
    ]
    assert told.mvcc[0] is not None and len(told.mvcc[0]) == 2


def test_another_width_of_the_key_shows_that_it_changed() -> None:
    wider = table({"id": "INT8", "v": "STRING"}, ("id", "v"))
    ours = decoder(table(TEXT), describe=lambda _, at: replace(wider, at=at))
    told = ours.decode(piece([message({"id": 1, "v": "a,b"}, None, 1), message({"id": 1, "v": "a,b"}, None, 2)], ["[1]", '[1, "a,b"]']))
    assert [b.schema.key for b in told.batches] == [("id",), ("id", "v")]


def test_a_key_that_no_event_can_carry_sets_its_table_aside_and_no_other() -> None:
    ours = decoder(table({"id": "DATE", "v": "INT8"}))
    ours.know("u", replace(table(TEXT), name="u"))
    values = [message({"id": d, "v": 1}, None, i) for i, d in enumerate(["2026-01-01", "infinity", "2026-01-02"], 1)]
    mixed = Messages(["t", "t", "t", "u"], [b"[1]"] * 4, [*values, message({"id": 1, "v": "x"}, None, 4)])
    told = ours.decode(mixed)
    assert [(b.topic, len(b)) for b in told.batches] == [("t", 1), ("u", 1)]
    ((name, error),) = told.aside
    assert (name, error.code) == ("t", "unfit_key")
    again = ours.decode(mixed)
    assert [b.topic for b in again.batches] == ["u"]
    assert again.aside == ()


def test_a_projection_takes_its_columns_out_of_the_whole_row_before() -> None:
    described = table({"id": "INT8", "v": "STRING"}, projected=True)
    told = decoder(described).decode(piece([message({"id": 1, "v": "b"}, {"a": [1], "id": 1, "v": "a", "z": None}, 5)]))
    assert events(told)[0]["before"] == {"id": 1, "v": "a"}


def test_json_null_is_told_apart_where_the_feed_does() -> None:
    rows: list[Row] = [{"id": 1, "v": None}, {"id": 2, "v": {"__crdb_json_null__": True}}, {"id": 3, "v": {"a": None}}]
    told = decoder(table({"id": "INT8", "v": "JSONB"})).decode(piece([message(r, None, 1) for r in rows]))
    assert [e["after"]["v"] for e in events(told)] == [None, "null", '{"a": null}']


def test_a_composite_is_its_json() -> None:
    value = {"f1": 'a"b', "f2": 1}
    told = decoder(table({"id": "INT8", "v": "pair"})).decode(piece([message({"id": 1, "v": value}, {"id": 1, "v": 'x"y'}, 1)]))
    (event,) = events(told)
    assert json.loads(event["after"]["v"]) == value
    assert event["before"]["v"] == 'x"y'


def test_the_last_resolved_time_of_a_piece_counts() -> None:
    values = [b'{"resolved":"5.0000000000"}', message({"id": 1, "v": None}, None, 7), b'{"resolved":"6.2147483647"}']
    told = decoder(table(TEXT)).decode(Messages([None, "t", None], [None, b"[1]", None], values))
    assert told.resolved == Hlc(6, 2**31 - 1)
    assert len(events(told)) == 1
    assert decoder().decode(Messages([], [], [])) == Told()


@pytest.mark.parametrize("value", [b"{}", b'{"resolved":"x"}', b'{"__crdb__":{"resolved":"5.0000000000"}}'])
def test_what_has_no_topic_is_a_resolved_time(value: bytes) -> None:
    with pytest.raises(Irrecoverable) as error:
        decoder().decode(Messages([None], [None], [value]))
    assert error.value.code == "bad_message"
