"""What an Iceberg table becomes when its topic's schema changes: columns by the ids of fields, what stays, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from sink_targets import IcebergTarget

from millstream.errors import Irrecoverable, Refused
from millstream.events.types import Field, RowSchema, Type, list_of, record_of
from millstream.sinks.iceberg.render import META
from millstream.testing.sink_conformance import opened, refused, up_to
from millstream.testing.sink_events import MOVIE, changes

ID, TITLE, YEAR, PRICE, SEEN = MOVIE.fields


@pytest.fixture
def target(tmp_path: Path) -> IcebergTarget:
    return IcebergTarget(tmp_path)


def of(*fields: Field) -> RowSchema:
    return RowSchema(fields, ("id",))


def written(target: IcebergTarget, *steps: tuple[RowSchema, dict]) -> list[dict]:
    """Each row inserted after its schema was accepted by the one running sink; the table's rows, META left out."""
    with opened(target, 1, steps[0][0]) as sink:
        for offset, (schema, row) in enumerate(steps):
            sink.accept(schema)
            batch = changes(offset, [("c", None, row)], schema)
            sink.write([batch], up_to([batch]))
    rows = sorted(target.table().scan().to_arrow().to_pylist(), key=lambda r: r["_offset"])
    return [{name: value for name, value in row.items() if name not in META} for row in rows]


def test_a_dropped_column_stays_and_is_null_from_then_on(target) -> None:
    found = written(target, (of(ID, YEAR), {"id": 1, "year": 1999}), (of(ID), {"id": 2}))
    assert found == [{"id": 1, "year": 1999}, {"id": 2, "year": None}]


def test_a_name_given_to_another_field_is_another_column(target) -> None:
    """Dropped and added again, of another type: what the old one said is kept under a name of its own."""
    again = Field("year", Type("text"), 9)
    found = written(target, (of(ID, YEAR), {"id": 1, "year": 1999}), (of(ID, again), {"id": 2, "year": "MCMXCIX"}))
    assert found == [{"id": 1, "year": None, "year_dropped": 1999}, {"id": 2, "year": "MCMXCIX", "year_dropped": None}]
    third = of(ID, Field("year", Type("int32"), 10))
    with opened(target, 2, third):
        pass
    assert {"year", "year_dropped", "year_dropped_2"} < set(target.table().schema().column_names)


def test_a_name_that_moves_on_to_another_column(target) -> None:
    """title becomes name, and a new title appears, in one change."""
    after = of(ID, Field("name", Type("text"), 2), Field("title", Type("int32"), 9))
    found = written(target, (of(ID, TITLE), {"id": 1, "title": "Alien"}), (after, {"id": 2, "name": "Brazil", "title": 3}))
    assert found == [{"id": 1, "name": "Alien", "title": None}, {"id": 2, "name": "Brazil", "title": 3}]


def test_two_names_that_change_places(target) -> None:
    swapped = of(ID, replace(TITLE, name="note"), Field("title", Type("text"), 7))
    found = written(
        target, (of(ID, TITLE, Field("note", Type("text"), 7)), {"id": 1, "title": "t", "note": "n"}), (swapped, {"id": 2, "note": "t"})
    )
    assert found == [{"id": 1, "note": "t", "title": "n"}, {"id": 2, "note": "t", "title": None}]


def test_a_field_that_comes_back_has_its_column_again(target) -> None:
    again = of(ID, replace(YEAR, name="made"))
    found = written(target, (of(ID, YEAR), {"id": 1, "year": 1}), (of(ID), {"id": 2}), (again, {"id": 3, "made": 3}))
    assert found == [{"id": 1, "made": 1}, {"id": 2, "made": None}, {"id": 3, "made": 3}]


def test_columns_stand_in_the_order_of_the_schema(target) -> None:
    rating = Field("rating", Type("float64"), 9)
    with opened(target, 1) as sink:
        sink.accept(of(SEEN, rating, TITLE, ID))
    names = [n for n in target.table().schema().column_names if n not in ("year", "price")]
    assert names == ["seen", "rating", "title", "id", *META]


def test_descriptions_are_the_columns_own(target) -> None:
    """One that a person wrote there stays while the field has none; a change of descriptions alone is taken by the running sink."""
    code, inner = Field("code", Type("uuid"), 9, doc=""), Field("part", Type("text"), 1, doc="as written")
    with opened(target, 1, of(ID, replace(TITLE, doc="the film's title"), code, member(inner))) as sink:
        with target.table().update_schema() as update:
            update.update_column("id", doc="by hand")
        sink.accept(of(ID, replace(TITLE, doc="as in cinemas"), code, member(replace(inner, doc="as spoken"))))
        batch = changes(0, [("c", None, {"id": 1})], of(ID))
        sink.write([batch], up_to([batch]))
    schema = target.table().schema()
    docs = {name: schema.find_field(name).doc for name in ("id", "title", "code", "cast.element.part")}
    assert docs == {"id": "by hand", "title": "as in cinemas", "code": "a UUID, as text", "cast.element.part": "as spoken"}


def member(*fields: Field) -> Field:
    return Field("cast", list_of(Type("record", fields=fields)), 8)


def test_members_are_dropped_named_anew_and_reordered(target) -> None:
    name, role = Field("name", Type("text"), 1), Field("role", Type("text"), 2)
    other = Field("name", Type("int32"), 3)
    found = written(
        target,
        (of(ID, member(name, role)), {"id": 1, "cast": [{"name": "Ann", "role": "x"}]}),
        (of(ID, member(replace(role, name="part"), other)), {"id": 2, "cast": [{"part": "y", "name": 7}, None]}),
    )
    assert [list(f["cast"][0].items()) for f in found] == [
        [("name_dropped", "Ann"), ("part", "x"), ("name", None)],
        [("name_dropped", None), ("part", "y"), ("name", 7)],
    ]


def test_a_schema_taken_twice_is_nothing(target) -> None:
    schema = of(SEEN, Field("name", Type("text"), 2), ID, Field("year", Type("int64"), 3), member(Field("x", Type("date"), 1)))
    with opened(target, 1, schema) as sink:
        before = target.table().metadata_location
        sink.accept(schema)
        assert target.table().metadata_location == before
    with opened(target, 2) as sink:
        sink.accept(schema)
        sink.accept(schema)
    assert len(target.table().metadata.schemas) < 12


def test_a_writer_that_was_fenced_off_changes_no_column(target, monkeypatch) -> None:
    older, newer = target.sink(), target.sink()
    older.open(1)
    older.accept(MOVIE)
    newer.open(2)
    newer.accept(of(ID, replace(TITLE, name="name")))
    with refused(Irrecoverable, "fenced"):
        older.accept(MOVIE)
    assert "name" in target.table().schema().column_names
    older.close()
    newer.close()


def test_a_fence_raised_while_a_change_is_on_its_way_stops_it(target, monkeypatch) -> None:
    """The newer one has changed no column: only its snapshot tells."""
    older, newer = target.sink(), target.sink()
    older.open(1)
    real = SqlCatalog.commit_table

    def commit_table(self, *arguments):
        monkeypatch.setattr(SqlCatalog, "commit_table", real)
        newer.open(2)
        return real(self, *arguments)

    monkeypatch.setattr(SqlCatalog, "commit_table", commit_table)
    with refused(Irrecoverable, "fenced"):
        older.accept(MOVIE)
    assert target.table().schema().column_names == list(META)
    older.close()
    newer.close()


def test_a_change_whose_answer_was_lost_is_made_once(target, monkeypatch) -> None:
    real, errors = SqlCatalog.commit_table, [CommitFailedException("lost")]

    def commit_table(self, *arguments):
        answer = real(self, *arguments)
        if errors:
            raise errors.pop()
        return answer

    with opened(target, 1) as sink:
        monkeypatch.setattr(SqlCatalog, "commit_table", commit_table)
        sink.accept(of(*MOVIE.fields, Field("rating", Type("float64"), 9)))
        assert not errors
        batch = changes(0, [("c", None, {"id": 1, "rating": 0.5})], of(*MOVIE.fields, Field("rating", Type("float64"), 9)))
        sink.write([batch], up_to([batch]))
    assert target.table().scan().to_arrow()["rating"].to_pylist() == [0.5]


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (Type("int64"), Type("text"), "'x' is long .* string"),
        (Type("decimal", 8, 2), Type("decimal", 9, 3), r"'x' is decimal\(8, 2\) .* decimal\(9, 3\)"),
        (Type("float64"), Type("int64"), "'x' is double .* long"),
        (record_of(("a", Type("text"))), record_of(("a", Type("int32"))), "'x.a' is string .* int"),
        (list_of(Type("date")), Type("date"), "'x' is list<date> .* date"),
    ],
    ids=str,
)
def test_what_cannot_be_promoted_is_refused_by_field_reason_and_cure(was: Type, now: Type, said: str, target) -> None:
    with opened(target, 1, of(ID, Field("x", was, 2))) as sink:
        before = target.table().metadata_location
        with pytest.raises(Refused, match=said) as caught:
            sink.accept(of(ID, Field("x", now, 2), YEAR))
        assert (caught.value.code, target.table().metadata_location) == ("column_type_changed", before)
        assert "drop the table's column" in caught.value.cure
        table = target.table()
        with table.update_schema(allow_incompatible_changes=True) as update:
            update.delete_column(("x", "a") if "x.a" in said else "x")
        sink.accept(of(ID, Field("x", now, 2), YEAR))


@pytest.mark.parametrize(
    ("was", "now"),
    [(Type("int64"), Type("int32")), (Type("float64"), Type("float32")), (Type("decimal", 9, 2), Type("decimal", 5, 2))],
    ids=str,
)
def test_a_narrower_type_goes_into_the_wide_column(was: Type, now: Type, target) -> None:
    with opened(target, 1, of(ID, Field("x", was, 2))) as sink:
        before = target.table().schema()
        sink.accept(schema := of(ID, Field("x", now, 2)))
        batch = changes(0, [("c", None, {"id": 1})], schema)
        sink.write([batch], up_to([batch]))
    assert target.table().schema() == before
