"""Messages to events, against a model that goes message by message: any transactions, in any pieces."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Irrecoverable
from millstream.events.batch import Batch
from millstream.events.types import Field, RowSchema, Type
from millstream.sources.contract import Truncate
from millstream.sources.names import TableName
from millstream.sources.postgres import messages as m
from millstream.sources.postgres.decode import Messages
from millstream.sources.postgres.translate import Part, Shape, Translator

Row = tuple[str | None, ...]
KEPT = "\0unchanged"  # in a row: an unchanged value that is stored out of line

# oid → name and columns; the first is the key. Table 3 is published, and not in the definition.
TABLES = {1: ("a", ("id", "v", "w")), 2: ("b", ("id", "n")), 3: ("other", ("id",))}


# ---- the bytes


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def relation(oid: int, columns: Iterable[str], identity: str = "f", name: str | None = None) -> bytes:
    columns = tuple(columns)
    parts = [b"R", struct.pack(">I", oid), text("public"), text(name or TABLES[oid][0]), identity.encode(), struct.pack(">H", len(columns))]
    for column in columns:
        oid_of_type = 1700 if column == "n" else 25
        parts += [b"\1", text(column), struct.pack(">Ii", oid_of_type, (6 << 16 | 2) + 4 if column == "n" else -1)]
    return b"".join(parts)


def tuple_(row: Row) -> bytes:
    def cell(value: str | None) -> bytes:
        if value is None:
            return b"n"
        return b"u" if value == KEPT else b"t" + struct.pack(">I", len(value.encode())) + value.encode()

    return struct.pack(">H", len(row)) + b"".join(map(cell, row))


def insert(oid: int, new: Row) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + tuple_(new)


def update(oid: int, old: Row, new: Row, mark: bytes = b"O") -> bytes:
    return b"U" + struct.pack(">I", oid) + mark + tuple_(old) + b"N" + tuple_(new)


def delete(oid: int, old: Row, mark: bytes = b"O") -> bytes:
    return b"D" + struct.pack(">I", oid) + mark + tuple_(old)


def begin(lsn: int, ts: int, xid: int) -> bytes:
    return b"B" + struct.pack(">QqI", lsn, ts, xid)


def commit(lsn: int, ts: int) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, lsn, lsn + 8, ts)


def message(prefix: str, content: bytes, lsn: int, transactional: bool = False) -> bytes:
    return b"M" + struct.pack(">BQ", transactional, lsn) + text(prefix) + struct.pack(">I", len(content)) + content


def truncate(*oids: int) -> bytes:
    return b"T" + struct.pack(">IB", len(oids), 0) + struct.pack(f">{len(oids)}I", *oids)


# ---- the code under test, flattened


def resolve(relation: m.Relation) -> Shape | None:
    if relation.name == "other":
        return None
    if relation.name == "refused":
        raise Irrecoverable("refused", code="refused")
    fields = tuple(Field(c.name, Type("decimal", 6, 2) if c.name == "n" else Type("text"), i) for i, c in enumerate(relation.columns, 1))
    return Shape(TableName.parse(relation.name), RowSchema(fields, ("id",)))


def events_of(batch: Batch) -> list[tuple[Any, ...]]:
    columns = ["op", "before", "after", "major", "minor", "ts_us", "tx_id", "tx_order", "tx_table_order", "position"]
    return [(batch.topic, *row.values()) for row in batch.rows.select(columns).to_pylist()]


def told(
    translator: Translator, messages: list[bytes], pieces: Iterable[int]
) -> tuple[dict[str, list[Any]], list[tuple[str, tuple[int, int]]], Any]:
    """Events per table, marks with their places, and the error if there was one."""
    events: dict[str, list[Any]] = {}
    marks: list[tuple[str, tuple[int, int]]] = []
    places = [0, *sorted(pieces), len(messages)]
    try:
        for start, end in pairwise(places):
            for part in translator.translate(Messages.of(messages[start:end])):
                assert isinstance(part, Part)
                for batch in part.batches:
                    events.setdefault(batch.topic, []).extend(events_of(batch))
                if part.mark is not None:
                    marks.append((part.mark, part.position))
    except Irrecoverable as error:
        return events, marks, error
    return events, marks, None


# ---- the model


class Model:
    """The same, one message at a time, from what the messages were made of."""

    def __init__(self) -> None:
        self.events: dict[str, list[Any]] = {}
        self.marks: list[tuple[str, tuple[int, int]]] = []
        self.position = (0, 0)

    def transaction(self, lsn: int, ts: int, xid: int, changes: list[tuple[str, int, Row, Row]]) -> list[bytes]:
        out = [begin(lsn, ts, xid)]
        by_table: dict[int, int] = {}
        for minor, (op, oid, old, new) in enumerate(changes, 1):
            out.append({"I": insert(oid, new), "U": update(oid, old, new), "D": delete(oid, old)}[op])
            by_table[oid] = by_table.get(oid, 0) + 1
            self._event(lsn, ts, xid, minor, by_table[oid], op, oid, old, new)
        self.position = (lsn + 8, 0)
        return [*out, commit(lsn, ts)]

    def _event(self, lsn: int, ts: int, xid: int, minor: int, table_order: int, op: str, oid: int, old: Row, new: Row) -> None:
        name, columns = TABLES[oid]
        if name == "other":
            return
        if op == "U":
            new = tuple(o if n == KEPT else n for o, n in zip(old, new, strict=True))
        before = dict(zip(columns, old, strict=True)) if op != "I" else None
        after = dict(zip(columns, new, strict=True)) if op != "D" else None
        moved = op == "U" and old[0] != new[0]
        said = [("d", before, None), ("c", None, after)] if moved else [({"I": "c", "U": "u", "D": "d"}[op], before, after)]
        version = (lsn, minor, ts + m.POSTGRES_EPOCH_US, str(xid), minor, table_order, f"{lsn:016x}.{minor:08x}")
        self.events.setdefault(name, []).extend((name, *images, *version) for images in said)

    def mark(self, lsn: int, content: str) -> list[bytes]:
        self.marks.append((content, (lsn, 0)))
        self.position = (lsn, 0)
        return [message(m.MARK_PREFIX, content.encode(), lsn)]


VALUE = st.none() | st.text("xé✓\0"[:3], max_size=20)
KEY = st.text("abc", min_size=1, max_size=2)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, int, Row, Row]:
    oid = draw(st.sampled_from([1, 1, 1, 3]))
    width = len(TABLES[oid][1])
    row = st.tuples(KEY, *[VALUE] * (width - 1))
    op = draw(st.sampled_from("IIUUD"))
    old, new = draw(row), draw(row)
    if op == "U" and draw(st.booleans()):
        new = (old[0], *new[1:])
    if op == "U" and width > 2 and old[2] is not None and draw(st.booleans()):
        new = (*new[:2], KEPT)
    return op, oid, () if op == "I" else old, () if op == "D" else new


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(changes(), max_size=6) | st.text("m", min_size=1, max_size=3), min_size=1, max_size=6),
    st.data(),
)
def test_any_pieces_of_a_stream_give_what_was_done(script: list[Any], data: st.DataObject) -> None:
    model = Model()
    stream = [relation(1, TABLES[1][1]), relation(3, TABLES[3][1])]
    for i, step in enumerate(script, 1):
        stream += (
            model.mark(i * 100, step) if isinstance(step, str) else model.transaction(i * 100, i * 7, 2**32 - 3 + i if i < 3 else i, step)
        )
    pieces = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    translator = Translator(resolve, (0, 0), "source s")
    events, marks, error = told(translator, stream, pieces)
    assert error is None
    assert events == model.events
    assert marks == model.marks
    assert translator.position == model.position


def test_every_single_split_gives_the_same() -> None:
    model = Model()
    stream = [relation(1, TABLES[1][1]), relation(2, TABLES[2][1])]
    stream += model.transaction(
        100, 1, 9, [("I", 1, (), ("k", "v", None)), ("I", 2, (), ("k", None)), ("U", 1, ("k", "v", None), ("l", "v", "w"))]
    )
    stream += model.mark(150, "here")
    stream += model.transaction(200, 2, 10, [("D", 1, ("l", "v", "w"), ()), ("U", 2, ("k", None), ("k", None))])
    for place in range(len(stream) + 1):
        translator = Translator(resolve, (0, 0), "s")
        assert told(translator, stream, [place]) == (model.events, model.marks, None)
        assert translator.position == (208, 0)


def test_the_position_lies_inside_an_open_transaction() -> None:
    stream = [
        relation(3, ["id"]),
        relation(1, TABLES[1][1]),
        begin(100, 0, 9),
        insert(1, ("k", None, None)),
        insert(3, ("x",)),
        insert(1, ("l", None, None)),
    ]
    translator = Translator(resolve, (50, 0), "s")
    parts = list(translator.translate(Messages.of(stream)))
    assert parts[-1].position == (100, 3)
    assert parts[-1].xids == {9}
    assert not translator.between_transactions
    assert [p.position for p in translator.translate(Messages.of([commit(100, 0)]))] == [(108, 0)]
    assert translator.between_transactions


def test_a_changed_relation_starts_a_new_batch_and_the_same_one_does_not() -> None:
    stream = [
        relation(1, ["id"]),
        begin(100, 0, 9),
        insert(1, ("a",)),
        relation(1, ["id"]),
        insert(1, ("b",)),
        relation(1, ["id", "v"]),
        insert(1, ("c", "x")),
    ]
    batches = [b for p in Translator(resolve, (0, 0), "s").translate(Messages.of(stream)) for b in p.batches]
    assert [(b.schema.names, len(b)) for b in batches] == [(("id",), 2), (("id", "v"), 1)]
    assert [e for b in batches for e in b.column("minor").to_pylist()] == [1, 2, 3]


def test_values_that_fit_no_column_are_holes_of_their_image() -> None:
    stream = [relation(2, ["id", "n"]), begin(1, 0, 9)]
    stream += [
        update(2, ("k", "NaN"), ("k", "1.00")),
        update(2, ("k", "1.00"), ("l", "Infinity")),
        update(2, ("l", "NaN"), ("m", "NaN")),
        insert(2, ("z", "2.50")),
    ]
    (part,) = [p for p in Translator(resolve, (0, 0), "s").translate(Messages.of(stream)) if p.batches]
    rows = part.batches[0].rows.select(["op", "holes"]).to_pylist()

    def hole(image: str, why: str) -> list[dict[str, str]]:
        return [{"image": image, "field": "n", "why": why}]

    assert [(r["op"], r["holes"]) for r in rows] == [
        ("u", hole("before", "nan")),
        ("d", None),
        ("c", hole("after", "infinity")),
        ("d", hole("before", "nan")),
        ("c", hole("after", "nan")),
        ("c", None),
    ]


OPENING = [relation(1, TABLES[1][1]), relation(3, ["id"]), begin(100, 0, 9), insert(1, ("a", "x", None)), insert(3, ("y",))]
STOPS = [
    pytest.param(update(1, ("a", "x", KEPT), ("a", "y", KEPT)), "toast_unavailable", id="unavailable in both images"),
    pytest.param(update(1, ("a", None, None), ("b", None, None), b"K"), "replica_identity", id="only the key before"),
    pytest.param(delete(1, ("a", None, None), b"K"), "replica_identity", id="delete with only the key"),
    pytest.param(relation(4, ["id"], name="refused"), "refused", id="a relation that is refused"),
    pytest.param(insert(7, ("a",)), "bad_message", id="a relation that was never sent"),
    pytest.param(insert(1, ("a",)), "bad_message", id="another width"),
]


@pytest.mark.parametrize(("bad", "code"), STOPS)
def test_what_cannot_be_told_stops_after_what_can(bad: bytes, code: str) -> None:
    stream = [*OPENING, insert(1, ("b", None, None)), bad, insert(1, ("c", None, None)), commit(100, 0)]
    for pieces in ([], [6], [7]):
        translator = Translator(resolve, (0, 0), "source s")
        events, _, error = told(translator, stream, pieces)
        assert isinstance(error, Irrecoverable)
        assert error.code == code
        if code != "bad_message":
            assert [(e[3]["id"], e[5]) for e in events["a"]] == [("a", 1), ("b", 3)]
            assert translator.position == (100, 3)


@pytest.mark.parametrize("pieces", [[], [6], [7], [5, 6, 7]])
def test_a_truncate_of_ours_has_its_place(pieces: list[int]) -> None:
    """Its number is that of the message; what stands before it is given before it, what follows after it."""
    stream = [*OPENING, insert(1, ("b", None, None)), truncate(3, 1, 1), insert(1, ("c", None, None)), commit(100, 0)]
    translator = Translator(resolve, (0, 0), "s")
    seen: list[object] = []
    for start, end in pairwise([0, *pieces, len(stream)]):
        for part in translator.translate(Messages.of(stream[start:end])):
            seen += [row["after"]["id"] for b in part.batches for row in b.rows.to_pylist()]
            seen += [(part.truncate, part.position)] if part.truncate is not None else []
    assert seen == ["a", "b", (Truncate(("a",), m.POSTGRES_EPOCH_US, "9"), (100, 4)), "c"]


def test_a_truncate_of_others_is_counted_and_passed() -> None:
    stream = [*OPENING, truncate(3), insert(1, ("b", None, None)), commit(100, 0)]
    events, _, error = told(Translator(resolve, (0, 0), "s"), stream, [])
    assert error is None
    assert [e[5] for e in events["a"]] == [1, 4]


def test_two_faults_at_once_stop_at_the_first() -> None:
    # The tables are read one after the other, so the second table's fault, which comes first, is found last.
    stream = [relation(1, TABLES[1][1]), relation(2, TABLES[2][1]), begin(100, 0, 9), insert(1, ("a", None, None))]
    stream += [delete(2, ("k", None), b"K"), update(1, ("a", "x", KEPT), ("a", "y", KEPT))]
    events, _, error = told(Translator(resolve, (0, 0), "s"), stream, [])
    assert error.code == "replica_identity"
    assert len(events["a"]) == 1


def test_a_key_that_no_event_can_carry_stops() -> None:
    def keyed_by_number(relation: m.Relation) -> Shape:
        return Shape(TableName.parse("b"), RowSchema((Field("n", Type("decimal", 6, 2), 1),), ("n",)))

    stream = [relation(2, ["n"]), begin(1, 0, 9), insert(2, ("1.00",)), insert(2, ("NaN",))]
    events, _, error = told(Translator(keyed_by_number, (0, 0), "s"), stream, [])
    assert (error.code, error.where) == ("unfit_key", "s b.n")
    assert len(events["b"]) == 1


def test_a_message_that_is_cut_short_is_named() -> None:
    whole = [relation(1, TABLES[1][1]), begin(100, 0, 9), insert(1, ("key", "value", "more"))]
    for cut in range(1, len(whole[2]) - 1):
        _, _, error = told(Translator(resolve, (0, 0), "s"), [*whole[:2], whole[2][:cut]], [])
        assert isinstance(error, Irrecoverable), cut
        assert error.code == "bad_message"
