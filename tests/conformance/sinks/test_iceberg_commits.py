"""What only an Iceberg table can do to its sink: lost answers, other writers, a rollback, columns that change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ServiceUnavailableError, UnauthorizedError
from sink_targets import IcebergTarget

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.events.types import Field, RowSchema, Type, list_of, record_of
from millstream.sinks.iceberg.options import Options
from millstream.sinks.iceberg.read import current_rows, current_rows_sql, table
from millstream.sinks.iceberg.sink import ATTEMPTS, open_sink
from millstream.testing.sink_conformance import check, opened, up_to
from millstream.testing.sink_events import MOVIE, TOPIC, changes, latest, nested, with_more_members, workload


@pytest.fixture
def target(tmp_path: Path) -> IcebergTarget:
    return IcebergTarget(tmp_path)


def breaking(monkeypatch, commits: bool, errors: list[Exception]) -> None:
    """The next commits do happen, or not, and end in these errors."""
    real = SqlCatalog.commit_table

    def commit_table(self, *arguments):
        if not errors:
            return real(self, *arguments)
        if commits:
            real(self, *arguments)
        raise errors.pop(0)

    monkeypatch.setattr(SqlCatalog, "commit_table", commit_table)


@pytest.mark.parametrize(
    "error", [CommitFailedException("lost"), CommitStateUnknownException("timeout"), ConnectionError("reset")], ids=repr
)
def test_a_commit_whose_answer_was_lost_is_not_made_twice(error, target, monkeypatch) -> None:
    first, second = workload(0, 20), workload(20, 40)
    with opened(target, 1) as sink:
        breaking(monkeypatch, True, [error])
        sink.write([first], up_to([first]))
        sink.write([second], up_to([second]))
    check(target, MOVIE, [first, second])
    assert len(target.table().snapshots()) == 3, "the opening and two writes"


def test_a_commit_that_failed_is_made_again(target, monkeypatch) -> None:
    first = workload(0, 20)
    with opened(target, 1) as sink:
        breaking(monkeypatch, False, [CommitFailedException("a race")] * (ATTEMPTS - 1))
        sink.write([first], up_to([first]))
    check(target, MOVIE, [first])


def test_endless_races_are_left_to_the_runner(target, monkeypatch) -> None:
    first = workload(0, 20)
    with opened(target, 1) as sink:
        breaking(monkeypatch, False, [CommitFailedException("a race")] * ATTEMPTS)
        with pytest.raises(Retryable, match="overtaken"):
            sink.write([first], up_to([first]))
        assert sink.resume_after() == {}
        sink.write([first], up_to([first]))
    check(target, MOVIE, [first])


def test_an_unreachable_catalogue_is_retryable_and_nothing_was_done(target, monkeypatch) -> None:
    first = workload(0, 20)
    with opened(target, 1) as sink:
        breaking(monkeypatch, False, [ConnectionError("reset")])
        with pytest.raises(Retryable, match="reset"):
            sink.write([first], up_to([first]))
        assert sink.resume_after() == {}
        sink.write([first], up_to([first]))
    check(target, MOVIE, [first])


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ValueError("no such thing"), Irrecoverable, "iceberg_failed"),
        (UnauthorizedError("token expired"), Refused, "iceberg_denied"),
        (ServiceUnavailableError("busy"), Retryable, "target_unavailable"),
        (OSError(28, "No space left on device"), Irrecoverable, "disk_full"),
    ],
    ids=repr,
)
def test_a_failure_says_whether_trying_again_can_help(error, kind, code, target, monkeypatch) -> None:
    first = workload(0, 20)
    with opened(target, 1) as sink:
        breaking(monkeypatch, False, [error])
        with pytest.raises(kind) as caught:
            sink.write([first], up_to([first]))
        assert caught.value.code == code
        assert sink.resume_after() == {}


def test_another_writer_of_the_table_costs_nothing(target) -> None:
    first, second = workload(0, 20), workload(20, 40)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        other = table(target.place, "lake.films")
        other.append(other.schema().as_arrow().empty_table())
        sink.write([second], up_to([second]))
    check(target, MOVIE, [first, second])


def test_two_sinks_of_one_table_keep_two_positions(target) -> None:
    first, second = workload(0, 20), workload(20, 40)
    other = open_sink("other.0", Options(table="lake.films"), target.place)
    other.open(9)
    other.accept(MOVIE)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        assert other.resume_after() == {}
        other.write([second], up_to([second]))
        assert sink.resume_after() == up_to([first])
    other.close()
    check(target, MOVIE, [first, second])


def test_a_table_rolled_back_gets_the_later_events_again(target) -> None:
    first, second = workload(0, 20), workload(20, 40)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        sink.write([second], up_to([second]))
    found = table(target.place, "lake.films")
    found.manage_snapshots().rollback_to_snapshot(found.current_snapshot().parent_snapshot_id).commit()
    with opened(target, 2) as sink:
        assert sink.resume_after() == up_to([first])
        sink.write([first, second], up_to([second]))
    check(target, MOVIE, [first, second])


def test_the_property_speaks_where_no_snapshot_does(target) -> None:
    first = workload(0, 20)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
        found = table(target.place, "lake.films")
        for _ in range(2):
            found.append(found.schema().as_arrow().empty_table())
        ours = [s.snapshot_id for s in found.snapshots() if "millstream.sink" in s.summary.additional_properties]
        found.maintenance.expire_snapshots().by_ids(ours).commit()
        assert sink.resume_after() == up_to([first])
        sink.write([first], up_to([first]))
    check(target, MOVIE, [first])


def retyped(name: str, new: Field) -> RowSchema:
    return RowSchema(tuple(new if f.name == name else f for f in MOVIE.fields), MOVIE.key)


def test_a_renamed_column_keeps_its_past(target) -> None:
    first = workload(0, 20)
    schema = retyped("title", Field("name", Type("text"), 2))
    second = changes(24, [("c", None, {"id": 1, "name": "new"})], schema)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
    with opened(target, 2, schema) as sink:
        sink.write([second], up_to([second]))
        older = workload(40, 45)  # events of the version before the rename go to the same column
        sink.write([older], up_to([older]))
    rows = sorted(target.table().scan().to_arrow().to_pylist(), key=lambda r: r["_offset"])
    assert "title" not in rows[0]
    assert [r["name"] for r in rows[: len(first)]] == [e["title"] for e in images(first)]
    assert [r["name"] for r in rows[len(first) + 1 :]] == [e["title"] for e in images(older)]


def images(batch) -> list[dict]:
    return [e["after"] or e["before"] for e in batch.rows.to_pylist()]


def test_types_are_promoted_where_iceberg_can(target) -> None:
    first = workload(0, 20)
    schema = retyped("year", Field("year", Type("int64"), 3))
    second = changes(24, [("c", None, {"id": 1, "year": 2**40})], schema)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
    with opened(target, 2, schema) as sink:
        sink.write([second], up_to([second]))
        older = workload(40, 45)
        sink.write([older], up_to([older]))
    assert 2**40 in [r["year"] for r in target.table().scan().to_arrow().to_pylist()]


def test_the_files_themselves_hold_null_lists_as_null(target) -> None:
    """Read without pyiceberg, whose own projection shows them as empty."""
    batch = nested()
    with opened(target, 1, batch.schema) as sink:
        sink.write([batch], up_to([batch]))
    files = [task.file.file_path for task in target.table().scan().plan_files()]
    rows = duckdb.sql('SELECT id, "cast" IS NULL, everything IS NULL, len("cast") FROM read_parquet($1) ORDER BY _offset', params=[files])
    assert rows.fetchall() == [
        (e["id"], e["cast"] is None, e["everything"] is None, None if e["cast"] is None else len(e["cast"])) for e in images(batch)
    ]


def test_members_appear_are_renamed_and_widened_and_ids_stay(target) -> None:
    first = nested()
    later = with_more_members(100)
    with opened(target, 1, first.schema) as sink:
        sink.write([first], up_to([first]))
    before = {name: target.table().schema().find_field(name).field_id for name in ("cast.element.person.first name", "maker.born", "grid")}
    with opened(target, 2, later.schema) as sink:
        sink.write([later], up_to([later]))
        older = replace(first, offsets=first.offsets + 200)  # events of the version before go to the same members
        sink.write([older, replace(later, offsets=later.offsets + 300)], {TOPIC: 500})
    schema = target.table().schema()
    assert schema.find_field("cast.element.person.name").field_id == before["cast.element.person.first name"]
    assert (schema.find_field("maker.born").field_id, schema.find_field("grid").field_id) == (before["maker.born"], before["grid"])
    rows = sorted(target.table().scan().to_arrow().to_pylist(), key=lambda r: r["_offset"])
    count = len(first)
    for past, sent in ((rows[:count], first), (rows[count + 2 : 2 * count + 2], first)):
        for row, image in zip(past, images(sent), strict=True):
            assert row["grid"] == image["grid"]
            assert row["everything"] == image["everything"]
            maker = image["maker"]
            assert row["maker"] == (maker and {"name": maker["first name"], "born": maker["born"], "died": None})
            assert [c and c["pay"] for c in row["cast"] or ()] == [c and c["pay"] for c in image["cast"] or ()]
            assert [c and c["order"] for c in row["cast"] or ()] == [None for _ in image["cast"] or ()]
    for now, image in zip(rows[count : count + 2], images(later), strict=True):
        assert {name: now[name] for name in ("id", "maker", "grid")} == {name: image[name] for name in ("id", "maker", "grid")}
        assert [c and dict(sorted(c.items())) for c in now["cast"] or ()] == [c and dict(sorted(c.items())) for c in image["cast"] or ()]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        (Field("year", list_of(Type("int32")), 3), "column_type_changed"),
        (Field("more", list_of(record_of(("x", Type("decimal", 39, 2)))), 9), "type_not_taken"),
        (Field("more", Type("record"), 9), "type_not_taken"),
        (Field("year", Type("text"), 3), "column_type_changed"),
        (Field("year", Type("decimal", 39, 2), 3), "type_not_taken"),
        (Field("_op", Type("text"), 3), "column_name_taken"),
    ],
    ids=str,
)
def test_what_iceberg_cannot_take_is_refused_and_changes_nothing(field: Field, code: str, target) -> None:
    with opened(target, 1):
        pass
    before = target.table().schema()
    schema = retyped("year", field) if field.id == 3 else RowSchema((*MOVIE.fields, field), MOVIE.key)
    with pytest.raises(Refused) as caught, opened(target, 2, schema):
        pass
    assert caught.value.code == code
    assert caught.value.cure
    assert target.table().schema() == before


def test_a_column_and_a_member_of_one_path_are_refused(target) -> None:
    schema = RowSchema((*MOVIE.fields, Field("a", record_of(("b", Type("text"))), 8), Field("a.b", Type("text"), 9)), MOVIE.key)
    with pytest.raises(Refused, match=r"'a\.b' is the name of a column and the path of a member") as caught, opened(target, 1, schema):
        pass
    assert caught.value.code == "column_name_taken"


def test_the_columns_of_the_row_come_first(target) -> None:
    with opened(target, 1):
        pass
    assert target.table().schema().column_names == [*MOVIE.names, "_op", "_version", "_topic", "_offset", "_ts", "_backfill"]


def test_current_rows_by_arrow_and_by_sql_are_the_oracles(target) -> None:

    batch = workload(0, 300)
    with opened(target, 1) as sink:
        sink.write([batch], up_to([batch]))
    oracle = latest(target.events(MOVIE), MOVIE)
    changelog = table(target.place, "lake.films").scan().to_arrow()
    by_arrow = current_rows(changelog, ["id"])
    by_sql = duckdb.sql(current_rows_sql("changelog", ["id"])).to_arrow_table()
    for found in (by_arrow, by_sql.select(by_arrow.column_names)):
        assert {r["id"]: (r["title"], r["year"], r["price"]) for r in found.to_pylist()} == {
            r["id"]: (r["title"], r["year"], r["price"]) for r in oracle.values()
        }


def test_a_catalogue_that_does_not_answer_is_said_without_its_secrets(tmp_path: Path) -> None:
    given = {"type": "sql", "uri": "sqlite:////nowhere/at/all/catalog.db", "warehouse": "/nowhere", "s3.secret-access-key": "sesame"}
    with pytest.raises(MillstreamError) as caught:
        open_sink("x", Options(table="lake.films", catalog=given), tmp_path / ".millstream").open(1)
    assert "catalogue" in str(caught.value)
    assert "sesame" not in repr(caught.value) + str(caught.value) + repr(Options(table="lake.films", catalog=given))


def test_a_namespace_that_another_sink_makes_at_once_is_no_failure(target, monkeypatch) -> None:
    real = SqlCatalog.create_namespace_if_not_exists

    def made_twice(self, name):
        real(self, name)
        raise ConnectionError("UNIQUE constraint failed")

    monkeypatch.setattr(SqlCatalog, "create_namespace_if_not_exists", made_twice)
    first = workload(0, 20)
    with opened(target, 1) as sink:
        sink.write([first], up_to([first]))
    check(target, MOVIE, [first])


def test_an_own_catalogue_may_be_named(tmp_path: Path) -> None:
    given = {"type": "sql", "uri": f"sqlite:///{tmp_path}/mine.db", "warehouse": f"file://{tmp_path}/house"}
    batch = workload(0, 20)
    sink = open_sink("x", Options(table="a.b.films", catalog=given), tmp_path / ".millstream")
    sink.open(1)
    sink.accept(MOVIE)
    sink.write([batch], up_to([batch]))
    assert sink.resume_after() == {TOPIC: up_to([batch])[TOPIC]}
    sink.close()
    assert list((tmp_path / "house").rglob("*.parquet"))
