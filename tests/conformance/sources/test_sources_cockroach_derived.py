"""Derived tables: filtered by the server or here, the topics are the same; what they cost; how they end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from cockroach_rig import CockroachRig, told_once
from sources_rig import Seen, read, read_to_head

from millstream.errors import Irrecoverable, Refused
from millstream.events.progress import Position
from millstream.sources.cockroach.check import OLDEST_VERSION
from millstream.sources.cockroach.derived import OUTBOX, OUTSIDE, QUERIES_FROM, Derived
from millstream.sources.cockroach.hlc import Hlc
from millstream.sources.cockroach.session import Session
from millstream.sources.contract import Delivery, Scope, Source
from millstream.testing.cockroach import server
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.targets import open_feed

pytestmark = pytest.mark.servers

RATED = {"table": "public.movie", "as": "rated", "select": ["title", "rating"], "where": "rating > 5"}
SHARED = "public.movie"


@pytest.fixture
def movies(roach: CockroachRig) -> CockroachRig:
    roach.run("CREATE TABLE movie (id INT8 PRIMARY KEY, title STRING, rating DECIMAL(4,2), note STRING, meta JSONB)")
    return roach


def started(source: Source, resume: Position | None = None) -> Iterator[Delivery]:
    stream = source.stream(resume)
    next(stream)
    return stream


def ops(events: list[dict[str, Any]], table: str = "rated") -> list[tuple[str, Any, Any]]:
    return [(e["op"], e["before"], e["after"]) for e in events if e["table"] == table]


def row(id_: int, title: str, rating: str | None) -> dict[str, Any]:
    return {"id": id_, "title": title, "rating": None if rating is None else Decimal(rating)}


def received(source: Source) -> int:
    return sum(f.received for f in source._stream._feeds)  # type: ignore[attr-defined]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What makes sources filter here from then on."""
    yield lambda: monkeypatch.setattr(Derived, "pushes", lambda *_: "the test says so")


def test_a_row_that_enters_is_a_create_and_one_that_leaves_a_delete(movies: CockroachRig) -> None:
    source = movies.source(tables=[RATED])
    (table,) = source.tables()
    assert (table.name, table.schema.names, table.schema.key, table.origin.table) == ("rated", ("id", "title", "rating"), ("id",), "movie")
    source.check()
    stream = started(source)
    movies.run(
        "INSERT INTO movie VALUES (1, 'Heat', 8), (2, 'Flop', 2), (3, 'New', NULL)",
        "UPDATE movie SET rating = 9 WHERE id = 1",
        "UPDATE movie SET rating = 6 WHERE id = 2",
        "UPDATE movie SET rating = NULL WHERE id = 1",
        "UPDATE movie SET note = 'unselected' WHERE id = 2",
        "DELETE FROM movie",
    )
    told = sorted(ops(told_once(read_to_head(source, stream).events)), key=lambda o: (o[1] or o[2])["id"])
    assert told == [
        ("c", None, row(1, "Heat", "8.00")),
        ("u", row(1, "Heat", "8.00"), row(1, "Heat", "9.00")),
        ("d", row(1, "Heat", "9.00"), None),
        ("c", None, row(2, "Flop", "6.00")),
        ("u", row(2, "Flop", "6.00"), row(2, "Flop", "6.00")),
        ("d", row(2, "Flop", "6.00"), None),
    ]


CONDITIONS = [
    "rating > 5",
    "rating BETWEEN 2.5 AND 7 OR title IN ('a', 'b')",
    "NOT (rating <= 5 AND title <> 'c')",
    "rating IS NULL OR NOT (title = 'a')",
    "id < 12 AND note IS NOT NULL",
]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_whoever_filters_the_topics_are_the_same(movies: CockroachRig, here: Any, seed: int) -> None:
    chance = random.Random(seed)
    tables = [
        SHARED,
        *({"table": "movie", "as": f"d{i}", "where": c} | ({"select": ["title"]} if i % 2 else {}) for i, c in enumerate(CONDITIONS)),
    ]
    asked = movies.source(tables=tables)
    asked_stream = started(asked)
    pushed = [f.query for f in asked._stream._feeds if f.query]  # type: ignore[attr-defined]
    assert len(pushed) == (0 if movies.is_old else len(CONDITIONS))
    here()
    own = movies.source(tables=tables)
    own_stream = started(own)
    assert len(own._stream._feeds) == 1  # type: ignore[attr-defined]
    for step in range(60):
        id_, title = chance.randrange(20), chance.choice("abcd")
        rating, note = chance.choice(["NULL", "1", "5", "5.01", "7", "NULL"]), chance.choice(["NULL", "'n'"])
        movies.run(
            chance.choice(
                [
                    f"UPSERT INTO movie VALUES ({id_}, '{title}', {rating}, {note}, 'null')",
                    f"UPDATE movie SET rating = {rating}, title = '{title}' WHERE id = {id_}",
                    f"UPDATE movie SET note = {note} WHERE id % 3 = {id_ % 3}",
                    f"UPDATE movie SET id = {100 + step} WHERE id = {id_}",
                    f"DELETE FROM movie WHERE id = {id_}",
                ]
            )
        )
    one, other = read_to_head(asked, asked_stream), read_to_head(own, own_stream)
    for i in range(len(CONDITIONS)):
        told = [told_once(of(seen, f"d{i}")) for seen in (one, other)]
        assert by_version(told[0]) == by_version(told[1])
        assert told[0]
    # From its topic anyone can make what the table's rows are.
    for i, condition in enumerate(CONDITIONS):
        left: dict[int, Any] = {}
        for e in sorted(told_once(of(one, f"d{i}")), key=lambda e: (e["major"], e["minor"])):
            left.pop((e["before"] or e["after"])["id"], None)
            if e["after"] is not None:
                left[e["after"]["id"]] = e["after"]["title"]
        assert left == dict(movies.rows(f"SELECT id, title FROM movie WHERE {condition}")), condition


def of(seen: Seen, table: str) -> list[dict[str, Any]]:
    return seen.of(table)


def by_version(events: list[dict[str, Any]]) -> list[Any]:
    wanted = ("op", "before", "after", "major", "minor", "holes", "cause")
    return sorted(([e[n] for n in wanted] for e in events), key=repr)


@pytest.mark.long  # the stand-in holds feeds up for as long as servers do
def test_schema_changes_tell_the_same_whoever_filters(movies: CockroachRig, here: Any) -> None:
    movies.run("INSERT INTO movie VALUES (1, 'Heat', 8), (2, 'Flop', 2)")
    tables = [RATED, {"table": "movie", "as": "whole", "where": "rating > 5"}]
    asked = movies.source(tables=tables)
    asked_stream = started(asked)
    here()
    own = movies.source(tables=tables)
    own_stream = started(own)
    movies.run(
        "ALTER TABLE movie ADD COLUMN stars INT8 NOT NULL DEFAULT 5",
        "UPSERT INTO movie (id, title, rating) VALUES (2, 'Flop', 6)",
        "ALTER TABLE movie ADD COLUMN size INT8 AS (length(title)) STORED",
        "UPDATE movie SET rating = 7",
    )
    one, other = read_to_head(asked, asked_stream), read_to_head(own, own_stream)
    for table in ("rated", "whole"):
        assert by_version(told_once(one.of(table))) == by_version(told_once(other.of(table)))
    assert [e["cause"] for e in told_once(one.of("rated"))] == [None] * 3
    assert sorted((e["after"]["size"], e["cause"]) for e in told_once(one.of("whole")) if e["op"] == "r") == [(4, "schema")] * 2


def test_what_the_server_leaves_out_is_not_received(movies: CockroachRig, here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if movies.is_old:
        return
    sizes = []
    for filtered in ("there", "here"):
        if filtered == "here":
            here()
        source = movies.source(tables=[RATED])
        stream = started(source)
        movies.run(
            "DELETE FROM movie",
            "INSERT INTO movie SELECT g, 'title', CASE WHEN g % 20 = 0 THEN 8 ELSE 2 END, repeat('x', 500) "
            "FROM generate_series(1, 400) AS s(g)",
        )
        seen = read_to_head(source, stream)
        assert len(told_once(seen.of("rated"))) >= 20
        sizes.append(received(source))
        source.close()
        movies.run("DELETE FROM movie")
    with capsys.disabled():
        print(f"\nbytes of the feed, 1 of 20 rows in the filter: {sizes[0]:,} pushed down, {sizes[1]:,} filtered here")
    assert sizes[0] * 10 < sizes[1]


def test_chunks_and_deleted_rows_are_read_through_the_filter(movies: CockroachRig, here: Any) -> None:
    movies.run("INSERT INTO movie SELECT g, 'title', g % 10, 'n' FROM generate_series(1, 40) AS s(g)")
    tables = [RATED, {"table": "movie", "as": "some", "where": "meta IS NULL AND rating = 7", "select": ["id"]}]
    source = movies.source(tables=tables)
    stream = started(source)
    read_to_head(source, stream)
    found: list[int] = []
    after, done = None, False
    while not done:
        chunk = source.chunk("rated", after, 7)
        assert chunk is not None and chunk.schema.names == ("id", "title", "rating")
        found += chunk.rows.column(0).to_pylist()
        after, done = chunk.last_key, chunk.done
        read(stream, lambda s, mark=chunk.mark: s.deliveries[-1].mark == mark)
    assert found == [i for i in range(1, 41) if i % 10 > 5]
    whole = source.chunk("rated", None, 1000, Scope(where="rating < 8"))
    assert whole is not None and [i % 10 for i in whole.rows.column(0).to_pylist()] == [6, 7] * 4
    part = source.chunk("some", None, 1000)
    assert part is not None and part.rows.column(0).to_pylist() == [7, 17, 27, 37]
    with pytest.raises(Refused, match="no column note"):
        source.admits("rated", Scope(where="note = 'n'"))
    movies.run("UPDATE movie SET rating = 1 WHERE id = 6", "DELETE FROM movie WHERE id = 7")
    read_to_head(source, stream)
    gone = source.absent("rated", whole.schema, whole.rows, Scope())
    assert gone is not None and gone.rows.column(0).to_pylist() == [6, 7]


@pytest.mark.parametrize("filtered", ["by the server", "here"])
def test_a_dropped_column_stops_only_what_names_it(movies: CockroachRig, here: Any, filtered: str) -> None:
    if filtered == "here":
        here()
    source = movies.source(tables=[SHARED, RATED, {"table": "movie", "as": "noted", "where": "note = 'n'"}])
    stream = started(source)
    movies.run("INSERT INTO movie VALUES (1, 'Heat', 8, 'n')")
    seen = read_to_head(source, stream)
    first = seen.position
    assert sorted({e["table"] for e in seen.events}) == ["noted", SHARED, "rated"]
    movies.run("SET sql_safe_updates = false", "ALTER TABLE movie DROP COLUMN note")
    seen = read(stream, lambda s: any(d.aside for d in s.deliveries))
    ((name, why),) = [a for d in seen.deliveries for a in d.aside]
    assert (name, why.code) == ("noted", "derived_table")
    assert isinstance(why, Irrecoverable) and "as" in why.cure
    movies.run("UPDATE movie SET rating = 9")
    seen = read_to_head(source, stream)
    assert {e["table"] for e in seen.events if e["op"] == "u"} == {SHARED, "rated"}
    position = Position.of(seen.position.holding(first).json())  # as a connector keeps it: with the places of all that ever were
    source.close()
    again = movies.source(tables=[SHARED, RATED, {"table": "movie", "as": "noted", "where": "note = 'n'"}])
    movies.run("UPDATE movie SET rating = 10")
    assert {e["table"] for e in read_to_head(again, again.stream(position)).events} == {SHARED, "rated"}


@pytest.mark.parametrize("change", ["note SET DATA TYPE BYTES", "rating SET DATA TYPE STRING", "rating SET DATA TYPE DECIMAL(10,4)"])
def test_another_type_of_a_compared_column_stops_the_table(movies: CockroachRig, change: str) -> None:
    where = "note = 'n'" if change.startswith("note") else "rating > 5"
    source = movies.source(tables=[{"table": "movie", "as": "noted", "where": where}, SHARED])
    stream = started(source)
    movies.run("INSERT INTO movie VALUES (1, 'Heat', 8, '7')")
    read_to_head(source, stream)
    movies.run("SET enable_experimental_alter_column_type_general = true", f"ALTER TABLE movie ALTER COLUMN {change}")
    seen = read(stream, lambda s: any(d.aside for d in s.deliveries))
    assert [name for d in seen.deliveries for name, _ in d.aside] == ["noted"]


@pytest.mark.parametrize("taken_out", [False, True])
def test_another_type_stops_the_table_also_where_it_was_passed_unsaid(movies: CockroachRig, taken_out: bool) -> None:
    rated = RATED | {"select": ["title"]}
    source = movies.source(tables=[rated, SHARED])
    position = read_to_head(source, started(source)).position
    source.close()
    assert position.detail["compared"] == {"rated": {"rating": "decimal(4,2)"}}
    movies.run(
        "SET enable_experimental_alter_column_type_general = true", "ALTER TABLE movie ALTER COLUMN rating SET DATA TYPE DECIMAL(10,4)"
    )
    passed = Hlc.parse(str(movies.rows("SELECT cluster_logical_timestamp()::STRING")[0][0]))
    if taken_out:
        rest = movies.source(tables=[SHARED])
        went_on = read_to_head(rest, rest.stream(Position.of(position.json()))).position
        position = Position.of(went_on.holding(position).json())
        rest.close()
    # A kill comes between a place behind the change and what would have been said of it.
    position = replace(position, tables={**position.tables, "rated": tuple(passed)})
    again = movies.source(tables=[rated, SHARED])
    seen = read(again.stream(Position.of(position.json())), lambda s: any(d.aside for d in s.deliveries))
    ((name, why),) = [a for d in seen.deliveries for a in d.aside]
    assert name == "rated" and "rating, which its condition reads, has another type now" in why.message


def test_a_changed_definition_needs_another_name(movies: CockroachRig) -> None:
    source = movies.source(tables=[RATED])
    position = read_to_head(source, started(source)).position
    source.close()
    for changed in (RATED | {"where": "rating > 6"}, RATED | {"select": ["title"]}, {"table": "movie", "as": "rated"}):
        with pytest.raises(Refused) as refused:
            next(movies.source(tables=[changed]).stream(position))
        assert refused.value.code == "derived_changed"
    next(movies.source(tables=[RATED | {"outbox": True}, RATED | {"as": "rated6", "where": "rating > 6"}]).stream(position))


@pytest.mark.parametrize("is_older", [False, True], ids=["as stored now", "as stored before"])
def test_another_table_under_the_same_name_is_refused(movies: CockroachRig, is_older: bool) -> None:
    movies.run("CREATE TABLE film (id INT8 PRIMARY KEY, title STRING)")
    source = movies.source(tables=[{"table": "public.movie", "as": "whole"}, SHARED])
    position = read_to_head(source, started(source)).position
    assert set(position.detail["derived"]) == {"whole"}
    source.close()
    if is_older:  # nothing was said of tables without `select` and `where`
        position = replace(position, detail={k: v for k, v in position.detail.items() if k != "derived"})
    with pytest.raises(Refused, match=r"whole has another `table`") as refused:
        next(movies.source(tables=[{"table": "public.film", "as": "whole"}, SHARED]).stream(position))
    assert refused.value.code == "derived_changed"
    again = movies.source(tables=[{"table": "public.movie", "as": "whole"}, SHARED])
    assert set(next(again.stream(position)).position.detail["derived"]) == {"whole"}
    again.close()
    # What follows a rename in the database reads the same table; the definition is another all the same, where it is known.
    movies.run("ALTER TABLE movie RENAME TO cinema")
    follows = movies.source(tables=[{"table": "public.cinema", "as": "whole"}])
    if is_older:
        assert set(next(follows.stream(position)).position.detail["derived"]) == {"whole"}
        return
    with pytest.raises(Refused, match=r"whole has another `table` \('public.cinema', not 'public.movie'\) than"):
        next(follows.stream(position))


def test_a_changed_definition_says_what_has_changed(movies: CockroachRig) -> None:
    source = movies.source(tables=[RATED, SHARED, {"table": "public.a", "as": "public.movies"}])
    position = read_to_head(source, started(source)).position
    source.close()
    for tables, said in (
        ([RATED | {"select": ["title"]}], "rated has another `select` than"),
        ([RATED | {"where": "id = 1", "table": "movie"}], "rated has another `table` ('movie', not 'public.movie'), `where` than"),
        ([{"table": "public.movie", "as": "rated"}], "rated has another `select`, `where` than"),
        ([{"table": SHARED, "where": "id = 1"}], "public.movie has another `where` than"),
        ([{"table": "public.a", "as": SHARED}], "public.movie has another `table` than"),
    ):
        with pytest.raises(Refused) as refused:
            next(movies.source(tables=tables).stream(position))
        assert refused.value.message.startswith(said)
    next(movies.source(tables=[{"table": SHARED, "as": SHARED, "outbox": True}]).stream(position))


def test_an_outbox_tells_no_deletes_and_counts_them(movies: CockroachRig) -> None:
    source = movies.source(tables=[{"table": "movie", "as": "out", "outbox": True, "select": ["title"]}])
    stream = started(source)
    movies.run("INSERT INTO movie VALUES (1, 'sent')", "DELETE FROM movie WHERE id = 1")
    movies.transaction("INSERT INTO movie VALUES (2, 'never seen')", "DELETE FROM movie WHERE id = 2")
    seen = read_to_head(source, stream)
    assert ops(told_once(seen.events), "out") == [("c", None, {"id": 1, "title": "sent"})]
    assert sum(d.dropped.get(OUTBOX, 0) for d in seen.deliveries) >= 1
    (topic,) = [b for d in seen.deliveries for b in d.batches][:1]
    rows = topic.column("after")
    given = pa.RecordBatch.from_arrays([*rows.flatten()], schema=pa.schema(list(topic.schema.arrow)))
    gone = source.absent("out", topic.schema, given, Scope())
    assert gone is not None and gone.rows.num_rows == 0


def test_who_filters_and_why_is_told(movies: CockroachRig) -> None:
    movies.run("CREATE TABLE odd (id INT8 PRIMARY KEY, f FLOAT8, j JSONB, c STRING COLLATE en, n INT8, i INTERVAL)")
    wanted = {
        "f < 1": "f is FLOAT8",
        "j IS NULL": "j is JSONB",
        "c = 'x'": "c is STRING COLLATE en",
        "n = 1 AND f IS NULL": None,
        # As of all types that are not known here: of a row of NULLs the server says that it is NULL.
        "i IS NOT NULL": "i is INTERVAL, of which",
    }
    tables = [{"table": "odd", "as": f"t{i}", "where": where} for i, where in enumerate(wanted)]
    found = movies.source(tables=[SHARED, *tables]).readings()  # type: ignore[attr-defined]
    assert [d.table for d in found.derived] == [f"t{i}" for i in range(len(wanted))] and {d.of for d in found.derived} == {"public.odd"}
    if movies.is_old:
        assert OLDEST_VERSION < QUERIES_FROM
        assert found.feeds == 1 and all(d.here.startswith("the server is 22.1") for d in found.derived)
        return
    assert found.feeds == 2
    for derived, why in zip(found.derived, wanted.values(), strict=True):
        assert derived.here is None if why is None else derived.here.startswith(why)


def test_what_the_server_will_not_take_is_filtered_here(movies: CockroachRig, monkeypatch: pytest.MonkeyPatch) -> None:
    if movies.is_old:
        return
    monkeypatch.setattr(Derived, "query", lambda self, name, shape: f"SELECT random() FROM {name.quoted}")
    source = movies.source(tables=[RATED])
    stream = started(source)
    movies.run("INSERT INTO movie VALUES (1, 'Heat', 8), (2, 'Flop', 2)")
    seen = read_to_head(source, stream)
    assert ops(told_once(seen.events)) == [("c", None, row(1, "Heat", "8.00"))]
    assert sum(d.dropped.get(OUTSIDE, 0) for d in seen.deliveries) >= 1
    assert [f.query for f in source._stream._feeds] == [None]  # type: ignore[attr-defined]


def test_a_server_without_a_licence_for_queries_is_filtered_here(
    movies: CockroachRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if movies.standin.version == "22.1":
        return

    def unlicensed(store: Any, asked: Any, *rest: Any) -> Any:
        if asked.query is not None:
            raise SqlError("XXC02", "use of AS SELECT requires an enterprise license. see https://cockroachlabs.com/pricing")
        return open_feed(store, asked, *rest)

    monkeypatch.setattr(server, "open_feed", unlicensed)
    source = movies.source(tables=[RATED, SHARED])
    stream = started(source)
    movies.run("INSERT INTO movie VALUES (1, 'Heat', 8), (2, 'Flop', 2)")
    seen = read_to_head(source, stream)
    assert ops(told_once(seen.events)) == [("c", None, row(1, "Heat", "8.00"))]
    assert len(told_once(seen.of(SHARED))) == 2
    assert "rated is filtered here, not by the server" in caplog.text and "requires an enterprise license" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"select": ["nope"]}, "nope is no column"),
        ({"where": "title > 5"}, "title is text, and 5 is not a 'string'"),
        ({"where": "meta = '{}'"}, "meta is json, which is only asked IS"),
        ({"where": '"Rating" > 5'}, "Rating is no column"),
    ],
)
def test_what_cannot_be_read_so_is_refused(movies: CockroachRig, changed: dict[str, Any], said: str) -> None:
    source = movies.source(tables=[RATED | changed, SHARED])
    for ask in (source.check, source.tables):
        with pytest.raises(Refused, match=said) as refused:
            ask()
        assert refused.value.code == "derived_table" and refused.value.cure


@pytest.mark.parametrize("version", [(22, 1), (24, 1), (24, 2)])
def test_null_of_json_is_asked_only_of_servers_that_tell_it(
    movies: CockroachRig, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    movies.standin  # noqa: B018 — skips a cluster
    monkeypatch.setattr(Session, "version", property(lambda _: version))
    tables = [RATED, SHARED, {"table": "movie", "as": "bare", "where": "NOT (meta IS NULL) AND rating > 5 AND note IS NULL"}]
    source = movies.source(tables=tables)
    if version >= (24, 2):
        source.check()
        return
    with pytest.raises(
        Refused, match=r"bare: feeds of .* tell the JSON value null as NULL, reads do not: IS NULL of meta would"
    ) as refused:
        source.check()
    assert refused.value.code == "derived_table" and "leave meta out of `where`" in refused.value.cure
