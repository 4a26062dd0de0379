"""Sinkless changefeeds of the stand-in, read by psycopg: what they guarantee, what they do not, and what goes wrong on demand."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from feed_reading import OPTIONS, QUICK, Told, read, rows

from millstream.testing.cockroach.faults import RECORDED, Faults
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.server import CockroachServer


def serving(version: str = "26.1", **faults: float) -> CockroachServer:
    server = CockroachServer(version, timing=QUICK, faults=Faults(**{"repeats": 0.0, "disorder": 0.0, **faults}))
    server.execute("CREATE TABLE t (id INT8 PRIMARY KEY, a STRING)")
    return server


@pytest.fixture
def server() -> Iterator[CockroachServer]:
    with serving() as server:
        yield server


def resolved_after(n: int):
    """Until a resolved message came after n row messages."""
    return lambda told: len(rows(told)) >= n and told[-1].is_resolved


def test_a_scan_its_time_and_what_comes_after(server: CockroachServer) -> None:
    server.execute("INSERT INTO t VALUES (1, 'one'), (2, NULL)")

    def until(told: list[Told]) -> bool:
        if len(told) == 3:
            server.execute("UPDATE t SET a = 'two' WHERE id = 2")
            server.execute("DELETE FROM t WHERE id = 1")
        return len(rows(told)) == 4 and told[-1].is_resolved

    told = read(server.url(), f"CREATE CHANGEFEED FOR TABLE t WITH {OPTIONS}", until)
    scan = told[2].json["resolved"]
    written = told[0].json["mvcc_timestamp"]
    assert [t.key for t in told[:3]] == ["[1]", "[2]", None]
    assert told[0].value == f'{{"after": {{"a": "one", "id": 1}}, "before": null, "mvcc_timestamp": "{written}", "updated": "{scan}"}}'
    assert Hlc.parse(written) < Hlc.parse(scan)
    live = rows(told)[2:]
    assert sorted((t.key, t.json["after"], t.json["before"]) for t in live) == [
        ("[1]", None, {"a": "one", "id": 1}),
        ("[2]", {"a": "two", "id": 2}, {"a": None, "id": 2}),
    ]
    assert all(t.json["updated"] == t.json["mvcc_timestamp"] for t in live)
    assert told[-1].at >= max(t.at for t in live)


def test_a_cursor_sends_what_came_after_it_without_a_scan(server: CockroachServer) -> None:
    server.execute("INSERT INTO t VALUES (1, 'old')")
    cursor = server.store.now()
    server.execute("UPDATE t SET a = 'new'")
    told = read(server.url(), f"CREATE CHANGEFEED FOR TABLE t WITH {OPTIONS}, cursor='{cursor}'", resolved_after(1))
    assert [(t.json["before"]["a"], t.json["after"]["a"]) for t in rows(told)] == [("old", "new")]
    scanned = read(server.url(), f"CREATE CHANGEFEED FOR TABLE t WITH {OPTIONS}, cursor='{cursor}', initial_scan='yes'", resolved_after(2))
    assert [(t.json["after"]["a"], t.at == cursor) for t in rows(scanned)] == [("old", True), ("new", False)]


def test_only_a_scan_ends_by_itself(server: CockroachServer) -> None:
    server.execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 450) g(i)")
    told = read(server.url(), "CREATE CHANGEFEED FOR t WITH initial_scan='only'", lambda told: False)
    assert [t.value for t in told] == [f'{{"after": {{"a": "x", "id": {n}}}}}' for n in range(1, 451)]


def test_an_end_time_ends_one_step_below_it(server: CockroachServer) -> None:
    end = Hlc(server.store.now().wall + 100_000_000)
    told = read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}, end_time='{end}'", lambda told: False)
    assert told[-1].at == end.prev()


def test_the_names_of_topics(server: CockroachServer) -> None:
    server.execute("INSERT INTO t VALUES (1, 'x')")
    server.execute('CREATE TABLE "Mixed Case.t" (id INT8 PRIMARY KEY)')
    server.execute('INSERT INTO "Mixed Case.t" VALUES (7)')
    both = "CREATE CHANGEFEED FOR t, \"Mixed Case.t\" WITH initial_scan='only'"
    assert {t.topic for t in read(server.url(), both, lambda told: False)} == {"t", "Mixed Case.t"}
    full = {t.topic for t in read(server.url(), f"{both}, full_table_name", lambda told: False)}
    assert full == {"defaultdb.public.t", "defaultdb.public.Mixed Case.t"}


@pytest.mark.parametrize("version", ["26.1", "22.1"])
@pytest.mark.parametrize("changes", [{}, {80: "ADD COLUMN d STRING DEFAULT 'x'", 120: "ADD COLUMN e INT8", 180: "DROP COLUMN d"}])
def test_any_feed_keeps_the_promise_and_no_more(version: str, changes: dict[int, str]) -> None:
    """Each version of each key at least once, first sightings of a key rising, none at or below a resolved time; and stale repeats.

    Every row has the shape that its table had at its time, while the schema changes under the writes.
    """
    chance = random.Random(5)
    with serving(version, repeats=0.3, disorder=0.5) as server:
        server.execute("CREATE TABLE u (id INT8 PRIMARY KEY, a STRING)")
        cursor = server.store.now()
        written_at: list[Hlc] = []

        def write() -> None:
            for n in range(300):
                table = chance.choice("tu")
                some = chance.sample(range(12), 3)
                server.execute(f"UPSERT INTO {table} VALUES " + ", ".join(f"({i}, '{n}')" for i in some))
                if n % 7 == 0:
                    server.execute(f"DELETE FROM {table} WHERE id = {some[0]}")
                if n in (100, 200):
                    server.faults.split(table)
                if n in changes:
                    server.execute(f"ALTER TABLE t {changes[n]}")
                if n == 200:
                    server.faults.hold_resolved()  # so that something is left to be told again, however slowly this machine reads
            server.execute("INSERT INTO t VALUES (99, 'last')")
            server.faults.split()
            written_at.append(server.store.now())

        writer = threading.Thread(target=write)
        writer.start()

        def until(told: list[Told]) -> bool:
            if written_at and server.faults.resolved_held and len(told) - len(set(told)) > 100:
                server.faults.hold_resolved(False)
            return bool(written_at) and told[-1].is_resolved and told[-1].at > written_at[0]

        told = read(server.url(), f"CREATE CHANGEFEED FOR t, u WITH {OPTIONS}, cursor='{cursor}'", until)
        writer.join()
        shapes = {name: server.store.descriptors(server.store.find((name,)).now.id) for name in "tu"}
        written = [
            (name, str(list(c.key)), c.hlc)
            for name in "tu"
            for c in server.store.changes(server.store.find((name,)).now.id, cursor, server.store.now())
        ]
    seen: dict[tuple[str, str], list[Hlc]] = {}
    frontier, repeats, stale, unordered, newest = cursor, 0, 0, 0, cursor
    for one in told:
        if one.is_resolved:
            assert one.at > frontier
            frontier = one.at
            continue
        assert one.at > frontier
        unordered += one.at < newest
        shape = [d for d in shapes[one.topic] if d.since <= one.at][-1]
        assert one.json["after"] is None or set(one.json["after"]) == {c.name for c in shape.columns}
        newest = max(newest, one.at)
        versions = seen.setdefault((one.topic, one.key), [])
        if one.at in versions:
            repeats += 1
            stale += one.at < versions[-1]
        else:
            assert not versions or one.at > versions[-1]
            versions.append(one.at)
    assert sorted((topic, key, at) for (topic, key), versions in seen.items() for at in versions) == sorted(written)
    assert repeats > 20
    assert stale > 5
    assert unordered > 20


def test_disorder_alone_tells_nothing_twice() -> None:
    with serving(disorder=0.7) as server:
        cursor = server.store.now()

        def until(told: list[Told]) -> bool:
            if len(told) < 60:
                server.execute(f"UPSERT INTO t VALUES {', '.join(f'({n}, {len(told)}::STRING)' for n in range(8))}")
            return told[-1].is_resolved and told[-1].at > last(server)

        server.execute("INSERT INTO t VALUES (1, 'first')")
        told = rows(read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}, cursor='{cursor}'", until))
    assert len(told) > 60
    assert len({(t.key, t.at) for t in told}) == len(told)


def last(server: CockroachServer) -> Hlc:
    """When something was last written to t."""
    return server.store.find(("t",)).log[-1].hlc


def test_a_split_tells_again_what_came_since_the_last_resolved_time(server: CockroachServer) -> None:
    server.faults.hold_resolved()
    cursor = server.store.now()
    server.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    server.execute("UPDATE t SET a = 'c' WHERE id = 1")

    def until(told: list[Told]) -> bool:
        if len(told) == 3:
            server.faults.split("t")
        if len(told) == 6:
            server.faults.hold_resolved(False)
        return told[-1].is_resolved

    told = read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}, cursor='{cursor}'", until)
    assert len(told) == 7
    assert sorted(told[:3]) == sorted(told[3:6])
    by_key = [t.json["after"]["a"] for t in told[:-1] if t.key == "[1]"]
    assert by_key == ["a", "c", "a", "c"]
    assert server.faults.counts()["repeat"] == 3


def test_held_resolved_times_come_when_they_are_let_go(server: CockroachServer) -> None:
    server.faults.hold_resolved()
    cursor = server.store.now()

    def until(told: list[Told]) -> bool:
        server.execute("UPSERT INTO t VALUES (1, 'again')")
        if len(told) == 10:
            assert rows(told) == told
            server.faults.hold_resolved(False)
        return told[-1].is_resolved

    server.execute("UPSERT INTO t VALUES (1, 'first')")
    assert len(read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}, cursor='{cursor}'", until)) > 10


@pytest.mark.parametrize(
    ("version", "options", "apart_s", "whole"),
    [
        ("26.1", "resolved='1s', min_checkpoint_frequency='1s'", 3, True),
        ("22.1", "resolved='1s', min_checkpoint_frequency='1s'", 1, False),
        ("26.1", "resolved='1s'", 30, True),
        ("26.1", "resolved, min_checkpoint_frequency='5s'", 5, True),
    ],
)
def test_resolved_times_come_as_late_and_as_seldom_as_recorded(version: str, options: str, apart_s: float, whole: bool) -> None:
    pace = 50 if apart_s < 10 else 200
    with CockroachServer(version, timing=replace(RECORDED[version], pace=pace)) as server:
        server.execute("CREATE TABLE t (id INT8 PRIMARY KEY)")
        came: list[tuple[Hlc, Hlc]] = []

        def until(told: list[Told]) -> bool:
            came.append((told[-1].at, server.store.now()))
            return len(told) == 4

        told = read(server.url(), f"CREATE CHANGEFEED FOR t WITH {options}", until)
    assert [t.is_resolved for t in told] == [True] * 4
    assert all(at.wall - before.wall >= apart_s * 1e9 / pace / 2 for (before, _), (at, _) in itertools.pairwise(came[1:]))
    for at, now in came[1:]:
        assert now.wall - at.wall >= 3e9 / pace
        assert not whole or (at.wall % int(1e9 / pace), at.logical) == (0, 0)


# ---- CDC queries


def test_a_query_that_looks_at_both_rows_tells_who_leaves_it(server: CockroachServer) -> None:
    server.execute("CREATE TABLE m (id INT8 PRIMARY KEY, n INT8, note STRING)")
    server.execute("INSERT INTO m VALUES (1, 9, 'in'), (2, 1, 'out')")

    def until(told: list[Told]) -> bool:
        if len(told) == 2:
            server.execute("UPDATE m SET n = 2 WHERE id = 1")
            server.execute("UPDATE m SET n = 7 WHERE id = 2")
            server.execute("UPDATE m SET note = 'x' WHERE id = 1")
            server.execute("DELETE FROM m WHERE id = 2")
        return len(rows(told)) == 4 and told[-1].is_resolved

    sql = f"CREATE CHANGEFEED WITH envelope='wrapped', {OPTIONS} AS SELECT id, n FROM m WHERE n > 5 OR (cdc_prev).n > 5"
    told = rows(read(server.url(), sql, until))
    images = {(t.key, str(t.json["after"]), str(t.json["before"])) for t in told}
    whole = "{{'id': {}, 'n': {}, 'note': '{}'}}"
    assert images == {
        ("[1]", "{'id': 1, 'n': 9}", "None"),
        ("[1]", "{'id': 1, 'n': 2}", whole.format(1, 9, "in")),
        ("[2]", "{'id': 2, 'n': 7}", whole.format(2, 1, "out")),
        ("[2]", "None", whole.format(2, 7, "out")),
    }


def test_an_old_server_knows_no_queries() -> None:
    with serving("22.1") as server, pytest.raises(psycopg.errors.SyntaxError):
        read(server.url(), "CREATE CHANGEFEED WITH updated AS SELECT id FROM t", lambda told: False)


# ---- schema changes


def changed(version: str, sql: list[str], options: str = "", then: str = "UPSERT INTO t (id) VALUES (9)") -> list[Told]:
    """One row, a change of the schema while the feed is open, then a row more and a resolved time after it."""
    with serving(version) as server:
        server.execute("INSERT INTO t VALUES (1, 'one')")
        done: list[Hlc] = []

        def until(told: list[Told]) -> bool:
            if not done and told[-1].is_resolved:
                for one in sql:
                    server.execute(one)
                server.execute(then)
                done.append(server.store.now())
            return bool(done) and told[-1].is_resolved and told[-1].at > done[0]

        return read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}{options}", until)


def test_a_new_column_tells_every_row_again() -> None:
    told = changed("26.1", ["ALTER TABLE t ADD COLUMN d STRING DEFAULT 'x'"])
    again = next(t for t in rows(told) if "d" in (t.json["after"] or ()))
    place = told.index(again)
    assert again.json["after"] == {"a": "one", "d": "x", "id": 1}
    assert again.json["before"] == {"a": "one", "id": 1}
    assert Hlc.parse(again.json["mvcc_timestamp"]) < again.at
    assert told[place - 1].at == again.at.prev()
    assert told[place + 1].is_resolved
    assert told[place + 1].at == again.at
    assert rows(told)[-1].json["after"] == {"a": None, "d": "x", "id": 9}
    assert len(rows(told)) == 3


def test_an_old_server_tells_rows_twice() -> None:
    told = rows(changed("22.1", ["ALTER TABLE t ADD COLUMN d STRING DEFAULT 'x'"]))
    images = [(t.json["before"], t.json["after"]) for t in told]
    old, new = {"a": "one", "id": 1}, {"a": "one", "d": "x", "id": 1}
    assert images == [(None, old), (old, old), (old, new), (None, {"a": None, "d": "x", "id": 9})]
    assert told[1].json["mvcc_timestamp"] == told[1].json["updated"]
    assert told[2].json["mvcc_timestamp"] == told[1].json["updated"] < told[2].json["updated"]


@pytest.mark.parametrize("version", ["26.1", "22.1"])
@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("ALTER TABLE t ADD COLUMN e STRING", {"a", "e", "id"}),
        ("ALTER TABLE t RENAME COLUMN a TO b", {"b", "id"}),
        ("CREATE INDEX i ON t (a)", {"a", "id"}),
        ("COMMENT ON TABLE t IS 'x'", {"a", "id"}),
    ],
)
def test_what_changes_no_stored_row_tells_none_again(version: str, sql: str, columns: set[str]) -> None:
    told = rows(changed(version, [sql]))
    assert len(told) == 2
    assert set(told[-1].json["after"]) == columns


def test_column_changes_tell_rows_again_for_a_nullable_column_too() -> None:
    told = rows(changed("26.1", ["ALTER TABLE t ADD COLUMN e STRING"], ", schema_change_events='column_changes'"))
    assert [t.json["after"] for t in told] == [{"a": "one", "id": 1}, {"a": "one", "e": None, "id": 1}, {"a": None, "e": None, "id": 9}]


def test_a_feed_without_backfills_tells_the_border_alone() -> None:
    told = changed("26.1", ["ALTER TABLE t DROP COLUMN a"], ", schema_change_policy='nobackfill'")
    assert [t.json["after"] for t in rows(told)] == [{"a": "one", "id": 1}, {"id": 9}]
    assert any(t.is_resolved and t.at.logical == 2147483647 for t in told)


def test_a_schema_change_holds_a_feed_up_as_long_as_is_asked() -> None:
    timing = replace(QUICK, silence_s=0.4)
    with CockroachServer(timing=timing, faults=Faults(repeats=0, disorder=0)) as server:
        server.execute("CREATE TABLE t (id INT8 PRIMARY KEY, a STRING)")
        began: list[Hlc] = []

        def until(told: list[Told]) -> bool:
            if not began:
                server.execute("ALTER TABLE t DROP COLUMN a")
                began.append(server.store.now())
                server.execute("INSERT INTO t VALUES (1)")
            return len(rows(told)) == 1

        told = read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}", until)
        assert server.store.now().wall - began[0].wall >= 0.4e9
    assert told[-1].json["after"] == {"id": 1}
    assert [t.at.logical for t in told if t.is_resolved].count(2147483647) == 1


@pytest.mark.parametrize(
    ("version", "sql", "options", "sqlstate", "message"),
    [
        ("26.1", "TRUNCATE t", "", "XXUUU", '"t" was truncated'),
        ("22.1", "TRUNCATE t", "", "XXUUU", '"t" was truncated'),
        ("26.1", "DROP TABLE t", "", "XXUUU", "descriptor is being dropped"),
        ("22.1", "DROP TABLE t", "", "XXUUU", '"t" was dropped'),
        ("26.1", "ALTER TABLE t DROP COLUMN a", ", schema_change_policy='stop'", "55C01",
         'shut down due to schema change and schema_change_policy="stop": schema change occurred at '),
        ("22.1", "ALTER TABLE t DROP COLUMN a", ", schema_change_policy='stop'", "55C01", "schema change occurred at "),
    ],
)  # fmt: skip
def test_what_ends_a_feed(version: str, sql: str, options: str, sqlstate: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        changed(version, [sql], options, then="SELECT 1")
    assert caught.value.sqlstate == sqlstate
    assert caught.value.diag.message_primary.startswith(message)


def test_a_new_key_ends_an_old_servers_feed_and_not_a_new_ones() -> None:
    sql = ["ALTER TABLE t ALTER COLUMN a SET NOT NULL", "ALTER TABLE t ALTER PRIMARY KEY USING COLUMNS (id, a)"]
    then = "UPDATE t SET a = 'one' WHERE id = 1"
    assert [t.key for t in rows(changed("26.1", sql, then=then))] == ["[1]", '[1, "one"]']
    with pytest.raises(psycopg.Error) as caught:
        changed("22.1", sql, then=then)
    assert caught.value.sqlstate == "55C01"


# ---- faults


def test_a_drain_and_a_dead_server(server: CockroachServer) -> None:
    for act, sqlstate in ((lambda: server.faults.drain(), "57P01"), (lambda: server.faults.kill(), None)):

        def until(told: list[Told], act=act) -> bool:
            if len(told) == 2:
                act()
            return False

        with pytest.raises(psycopg.OperationalError) as caught:
            read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}", until)
        assert caught.value.sqlstate == sqlstate
    assert server.feeds() == 0
    server.faults.drain(down_s=60)
    with pytest.raises(psycopg.OperationalError, match="server is not accepting clients"):
        psycopg.connect(server.url())


def test_a_cursor_below_the_garbage(server: CockroachServer) -> None:
    server.execute("INSERT INTO t VALUES (1, 'x')")
    cursor = server.store.now()
    server.execute("UPDATE t SET a = 'y'")
    server.faults.gc()
    with pytest.raises(psycopg.Error, match="must be after replica GC threshold"):
        read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}, cursor='{cursor}'", lambda told: False)


def test_who_may_read(server: CockroachServer) -> None:
    server.execute("CREATE USER ann")
    server.execute("CREATE USER bob WITH PASSWORD 'irrelevant'")
    feed = "CREATE CHANGEFEED FOR t WITH initial_scan='only'"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read(server.url(user="ann"), feed, lambda told: False)
    server.execute("GRANT SELECT ON t TO ann")
    assert read(server.url(user="ann"), feed, lambda told: False) == []
    server.faults.refuse("ann")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read(server.url(user="ann"), feed, lambda told: False)


def test_statements_are_counted_and_seen(server: CockroachServer) -> None:
    def until(told: list[Told]) -> bool:
        if len(told) > 1:
            return False
        assert server.feeds() == 1
        with psycopg.connect(server.url(), autocommit=True) as other:
            query = "SELECT query_id FROM [SHOW QUERIES] WHERE query LIKE '%CHANGEFEED FOR t %' AND query NOT LIKE '%SHOW QUERIES%'"
            assert len(other.execute(query).fetchall()) == 1
            other.execute(f"CANCEL QUERIES ({query})")
        return False

    with pytest.raises(psycopg.errors.QueryCanceled, match="query execution canceled"):
        read(server.url(), f"CREATE CHANGEFEED FOR t WITH {OPTIONS}", until)
    assert server.faults.counts()["changefeed"] == 1
