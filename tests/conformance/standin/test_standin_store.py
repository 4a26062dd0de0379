"""The stand-in's rows at every time: what a feed is told folds to what is read, transactions are whole, schema changes have their times."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.testing.cockroach import jsontext
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store


def made(*sql: str, version: str = "26.1") -> Store:
    store = Store(version)  # type: ignore[arg-type]
    session = store.session()
    for text in sql:
        session.execute(text)
    return store


def test_times_rise_also_where_the_clock_stands_still_or_goes_back() -> None:
    clock = iter([5, 5, 4, 9, 9])
    store = Store(clock=lambda: next(clock))
    assert [store.now() for _ in range(5)] == [(5, 0), (5, 1), (5, 2), (9, 0), (9, 1)]
    assert str(Hlc(7, 12)) == "7.0000000012"
    assert Hlc.parse("7.0000000012?") == Hlc(7, 12) == Hlc(7, 13).prev()
    assert Hlc(7, 0).prev() == (6, 2147483647) and Hlc(6, 2147483647).next() == (7, 0)


WRITES = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete", "move", "both"]), st.integers(0, 4), st.integers(0, 4), st.integers(0, 99)), max_size=25
)


@settings(max_examples=40, deadline=None)
@given(WRITES, st.data())
def test_changes_fold_to_what_is_read_at_every_time(writes: list[tuple[str, int, int, int]], data: st.DataObject) -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    session, table = store.session(), store.table("t", store.now())
    assert table is not None
    seen: list[tuple[Hlc, dict[int, int]]] = [(store.now(), {})]
    for kind, a, b, n in writes:
        if kind == "upsert":
            session.execute(f"UPSERT INTO t VALUES ({a}, {n})")
        elif kind == "delete":
            session.execute(f"DELETE FROM t WHERE id = {a}")
        elif kind == "move":
            session.execute(f"DELETE FROM t WHERE id = {b} AND id <> {a}; UPDATE t SET id = {b}, n = {n} WHERE id = {a}")
        else:
            session.execute(
                f"BEGIN; UPSERT INTO t VALUES ({a}, {n}), ({b}, {n}); DELETE FROM t WHERE id = {a}; COMMIT" if a != b else "SELECT 1"
            )
        now = {int(i or 0): int(v or 0) for i, v in session.execute("SELECT id, n FROM t").rows}
        seen.append((store.now(), now))
    threshold = data.draw(st.integers(0, len(seen) - 1))
    if data.draw(st.booleans()):
        store.threshold = seen[threshold][0]
        store.tables[table.id].forget(store.threshold)
    else:
        threshold = 0
    for at, expected in seen[threshold:]:
        assert {row[0]: row[1] for _, row, _ in store.rows(table.id, at)} == expected
        assert session.execute(f"SELECT id, n FROM t AS OF SYSTEM TIME '{at}'").rows == [
            (str(i), str(n)) for i, n in sorted(expected.items())
        ]
    folded, last = dict(seen[threshold][1]), dict[Any, Hlc]()
    for change in store.changes(table.id, seen[threshold][0], store.now()):
        before = change.before[1] if change.before is not None else None
        assert folded.get(change.key[0]) == before
        assert change.hlc == change.mvcc > last.get(change.key, seen[threshold][0])
        last[change.key] = change.hlc
        folded.pop(change.key[0], None)
        if change.after is not None:
            folded[change.key[0]] = change.after[1]
    assert folded == seen[-1][1]
    if threshold:
        with pytest.raises(SqlError, match="must be after replica GC threshold"):
            store.changes(table.id, seen[0][0], store.now())


def test_a_transaction_has_one_time_and_the_last_state_of_each_key() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, a STRING)")
    start, session, other = store.now(), store.session(), store.session()
    session.execute("BEGIN")
    session.execute("INSERT INTO t VALUES (1, 'x'), (2, 'gone')")
    session.execute("UPDATE t SET a = 'y' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert session.execute("SELECT * FROM t").rows == [("1", "y")]
    assert other.execute("SELECT * FROM t").rows == []
    session.execute("COMMIT")
    told = store.changes(104 + 1, start, store.now())
    assert [(c.key, c.before, c.after) for c in told] == [((1,), None, (1, "y")), ((2,), None, None)]
    assert len({c.hlc for c in told}) == 1


def test_a_transaction_that_fails_or_is_rolled_back_leaves_nothing() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY)")
    session = store.session()
    session.execute("BEGIN; INSERT INTO t VALUES (1); ROLLBACK")
    session.execute("BEGIN; INSERT INTO t VALUES (1)")
    with pytest.raises(SqlError, match="23505"):
        session.execute("INSERT INTO t VALUES (1)")
    assert session.status == "E"
    with pytest.raises(SqlError, match="25P02"):
        session.execute("SELECT 1")
    assert session.execute("COMMIT").tag == "ROLLBACK"
    with pytest.raises(SqlError, match="23505"):
        session.execute("INSERT INTO t VALUES (2); INSERT INTO t VALUES (2)")
    assert (session.status, session.execute("SELECT * FROM t").rows) == ("I", [])


def test_a_savepoint_is_come_back_to_also_after_an_error() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, a STRING UNIQUE)")
    session = store.session()
    session.execute("BEGIN; INSERT INTO t VALUES (1, 'x'); SAVEPOINT s; INSERT INTO t VALUES (2, 'y')")
    with pytest.raises(SqlError, match="23505"):
        session.execute("INSERT INTO t VALUES (3, 'y')")
    with pytest.raises(SqlError, match="25P02"):
        session.execute("SAVEPOINT other")
    assert session.execute("ROLLBACK TO SAVEPOINT s").tag == "ROLLBACK"
    session.execute("INSERT INTO t VALUES (3, 'y'); SAVEPOINT u; DELETE FROM t; ROLLBACK TO u; RELEASE SAVEPOINT s")
    with pytest.raises(SqlError, match="3B001"):
        session.execute("ROLLBACK TO u")
    session.execute("ROLLBACK; BEGIN; INSERT INTO t VALUES (5, 'z'); SAVEPOINT s; RELEASE s; COMMIT")
    assert session.execute("SELECT id FROM t").rows == [("5",)]


def test_writers_wait_for_one_another_and_lose_nothing() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, n INT)", "INSERT INTO t VALUES (1, 0), (2, 0)")

    def add() -> None:
        session = store.session()
        for n in range(40):
            if n % 2:
                session.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            else:
                session.execute("BEGIN; SELECT n FROM t WHERE id = 1 FOR UPDATE; UPDATE t SET n = n + 1; COMMIT")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.session().execute("SELECT * FROM t").rows == [("1", "160"), ("2", "80")]


def test_a_write_upon_what_changed_since_it_was_read_is_refused() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, n INT)", "INSERT INTO t VALUES (1, 0)")
    session = store.session()
    session.execute("BEGIN; SELECT n FROM t")
    store.session().execute("UPDATE t SET n = 5")
    with pytest.raises(SqlError, match="40001"):
        session.execute("UPDATE t SET n = n + 1")
    session.execute("ROLLBACK")


def test_who_waits_is_woken_by_what_is_written() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY)")
    after, woken = store.now(), threading.Event()
    thread = threading.Thread(target=lambda: (store.wait(after, 30), woken.set()))
    thread.start()
    store.session().execute("INSERT INTO t VALUES (1)")
    assert woken.wait(30)
    thread.join()
    store.wait(store.now(), 0.001)


def shape(store: Store, at: Hlc) -> list[tuple[str, str, bool]] | None:
    found = store.table("t", at)
    return None if found is None else [(c.name, c.type, c.nullable) for c in found.columns]


def test_each_schema_change_has_its_time() -> None:
    store = made("CREATE TYPE mood AS ENUM ('a', 'b')", "CREATE TABLE t (id INT PRIMARY KEY, n INT4)", "INSERT INTO t VALUES (1, 5)")
    session, at = store.session(), [store.now()]
    for sql in (
        "ALTER TABLE t ADD COLUMN d DECIMAL(4,2) NOT NULL DEFAULT 1.5",
        "ALTER TABLE t RENAME COLUMN n TO m",
        "ALTER TABLE t ALTER COLUMN m TYPE STRING, ALTER COLUMN m SET NOT NULL",
        "ALTER TABLE t DROP COLUMN d, ADD COLUMN k mood",
        "ALTER TYPE mood ADD VALUE 'c'",
        "ALTER TABLE t RENAME TO u",
    ):
        session.execute(sql)
        at.append(store.now())
    assert [shape(store, t) for t in at] == [
        [("id", "INT8", False), ("n", "INT4", True)],
        [("id", "INT8", False), ("n", "INT4", True), ("d", "DECIMAL(4,2)", False)],
        [("id", "INT8", False), ("m", "INT4", True), ("d", "DECIMAL(4,2)", False)],
        [("id", "INT8", False), ("m", "STRING", False), ("d", "DECIMAL(4,2)", False)],
        [("id", "INT8", False), ("m", "STRING", False), ("k", "public.mood", True)],
        [("id", "INT8", False), ("m", "STRING", False), ("k", "public.mood", True)],
        None,
    ]
    rows = [session.execute(f"SELECT * FROM t AS OF SYSTEM TIME '{t}'").rows for t in at[:-1]]
    assert rows == [[("1", "5")], [("1", "5", "1.50")], [("1", "5", "1.50")], [("1", "5", "1.50")], [("1", "5", None)], [("1", "5", None)]]
    table = store.table("u", store.now())
    assert table is not None
    history = store.descriptors(table.id)
    assert [d.made_by for d in history] == [
        "create", "add column", "rename column", "alter type", "alter column", "drop column", "add column", "alter type", "rename table",
    ]  # fmt: skip
    assert [c.id for c in table.columns] == [1, 2, 4]
    assert [d.version for d in history] == list(range(1, 10))


def test_a_schema_change_that_fails_half_way_leaves_nothing() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, a STRING)", "INSERT INTO t VALUES (1, 'x')")
    session, at = store.session(), store.now()
    with pytest.raises(SqlError, match="42703"):
        session.execute("ALTER TABLE t ADD COLUMN n INT DEFAULT 5, ALTER COLUMN a TYPE BYTES, DROP COLUMN id2, RENAME TO u")
    table = store.table("t", store.now())
    assert table is not None and table == store.table("t", at) and store.descriptors(table.id) == [table]
    assert store.changes(table.id, at, store.now()) == []
    session.execute("UPDATE t SET a = a || 'y'")
    assert [(c.before, c.after) for c in store.changes(table.id, at, store.now())] == [((1, "x"), (1, "xy"))]


def test_a_mistake_of_the_stand_in_ends_the_statement_and_nothing_else() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, a STRING)", "INSERT INTO t VALUES (1, 'x')")
    session = store.session()
    with pytest.raises(SqlError, match="XX000"):
        session.execute("UPDATE t SET a = abs(a)::STRING")
    store.session().execute("UPDATE t SET a = 'y'")
    assert session.execute("SELECT * FROM t").rows == [("1", "y")]


def test_a_new_key_a_truncate_and_a_drop() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY, g STRING NOT NULL)", "INSERT INTO t VALUES (1, 'b'), (2, 'a')")
    session, start = store.session(), store.now()
    session.execute("ALTER TABLE t ALTER PRIMARY KEY USING COLUMNS (g, id)")
    table = store.table("t", store.now())
    assert table is not None and table.key == ("g", "id")
    assert [key for key, _, _ in store.rows(table.id, store.now())] == [("a", 2), ("b", 1)]
    assert [key for key, _, _ in store.rows(table.id, start)] == [(1,), (2,)]
    with pytest.raises(SqlError, match="23505"):
        session.execute("INSERT INTO t VALUES (1, 'c')")
    session.execute("TRUNCATE t")
    assert session.execute("SELECT * FROM t").rows == []
    assert len(session.execute(f"SELECT * FROM t AS OF SYSTEM TIME '{start}'").rows) == 2
    session.execute("DROP TABLE t")
    assert store.table("t", store.now()) is None
    assert [d.made_by for d in store.descriptors(table.id)] == ["create", "primary key", "truncate", "drop"]
    assert store.changes(table.id, start, store.now()) == []


@pytest.mark.parametrize(("version", "told"), [("26.1", [False, False]), ("22.1", [True, True, False, False])])
def test_a_schema_change_tells_rows_as_its_version_does(version: str, told: list[bool]) -> None:
    """`told`: of each change, was the row written then? 22.1 writes rows in place, which is told too."""
    store = made("CREATE TABLE t (id INT PRIMARY KEY, n INT)", "INSERT INTO t VALUES (1, 1), (2, 2)", version=version)
    table = store.table("t", start := store.now())
    assert table is not None
    store.session().execute("ALTER TABLE t ADD COLUMN c INT AS (n * 2) STORED")
    changes = store.changes(table.id, start, store.now())
    assert [c.mvcc == c.hlc for c in changes] == told and {c.cause for c in changes} == {"schema"}
    last, now = changes[-1], store.table("t", store.now())
    assert now is not None and last.before is not None and last.after is not None
    assert jsontext.row(now, last.after, version) == '{"c": 4, "id": 2, "n": 2}'
    assert jsontext.row(table, last.before, version) == '{"id": 2, "n": 2}'
    store.session().execute("ALTER TABLE t ADD COLUMN e INT")
    store.session().execute("CREATE INDEX ON t (n)")
    assert store.changes(table.id, changes[-1].hlc, store.now()) == []


def test_the_shards_and_hidden_keys_are_no_part_of_a_row_but_of_its_key() -> None:
    store = made(
        "CREATE TABLE h (id INT PRIMARY KEY USING HASH WITH (bucket_count=4), v STRING)",
        "CREATE TABLE t (v STRING)",
        "INSERT INTO h VALUES (1, 'x'), (5, 'y')",
        "INSERT INTO t VALUES ('x')",
    )
    hashed, plain = store.table("h", store.now()), store.table("t", store.now())
    assert hashed is not None and plain is not None
    shown = [(jsontext.key(hashed, k), jsontext.row(hashed, r)) for k, r, _ in store.rows(hashed.id, store.now())]
    assert shown == [("[3, 1]", '{"id": 1, "v": "x"}'), ("[3, 5]", '{"id": 5, "v": "y"}')]
    ((key, row, _),) = store.rows(plain.id, store.now())
    assert jsontext.row(plain, row) == f'{{"rowid": {key[0]}, "v": "x"}}'
    assert store.session().execute("SELECT * FROM t").rows == [("x",)]
    assert store.session().execute("SELECT v FROM h WHERE id = 5").rows == [("y",)]


def test_who_may_read_and_write() -> None:
    store = made("CREATE TABLE t (id INT PRIMARY KEY)", "CREATE USER someone")
    session = store.session("someone")
    for sql in ("SELECT * FROM t", "INSERT INTO t VALUES (1)", "DROP TABLE t", "SET CLUSTER SETTING kv.rangefeed.enabled = false"):
        with pytest.raises(SqlError, match="42501"):
            session.execute(sql)
    store.session().execute("GRANT SELECT, INSERT ON t TO someone")
    session.execute("INSERT INTO t VALUES (1)")
    assert session.execute("SELECT * FROM t").rows == [("1",)]
    store.session().execute("REVOKE SELECT ON t FROM someone")
    with pytest.raises(SqlError, match="42501: user someone does not have SELECT privilege on relation t"):
        session.execute("SELECT * FROM t")
    with pytest.raises(SqlError, match="28000"):
        store.session("nobody")


def test_names_in_schemas_and_databases() -> None:
    store = made(
        "CREATE DATABASE d", "CREATE SCHEMA d.s", 'CREATE TABLE d.s."T t" (id INT PRIMARY KEY)', "CREATE TABLE d.t (id INT PRIMARY KEY)"
    )
    assert store.table('d.s."T t"', store.now()) == store.table('s."T t"', store.now(), database="d")
    assert store.table("t", store.now()) is None
    session = store.session(database="d")
    session.execute('INSERT INTO s."T t" VALUES (1)')
    assert store.session().execute('SELECT * FROM d.s."T t"').rows == [("1",)]
    assert [d.full_name for d in store.all_descriptors(store.now())] == ["d.s.T t", "d.public.t"]
    session.execute("USE defaultdb")
    with pytest.raises(SqlError, match="42P01"):
        session.execute("SELECT * FROM t")
    session.execute("DROP DATABASE d CASCADE")
    assert store.all_descriptors(store.now()) == []


def test_show_create_table_can_be_run_again() -> None:
    sql = (
        "CREATE TABLE t (id INT, \"B\" STRING DEFAULT 'x', n INT AS (id + 1) STORED, h INT NOT VISIBLE, PRIMARY KEY (id DESC), "
        'UNIQUE INDEX b ("B"), FAMILY f (id), FAMILY g ("B", n, h), CONSTRAINT c CHECK (id > 0))'
    )
    store = made(sql)
    ((_, text),) = store.session().execute("SHOW CREATE TABLE t").rows
    again = made(text or "")
    one, other = store.table("t", store.now()), again.table("t", again.now())
    assert one is not None and other is not None
    for name in ("columns", "key", "descending", "families", "indexes", "checks", "key_name"):
        assert getattr(one, name) == getattr(other, name), name


def test_what_is_old_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.testing.cockroach.store.GC_EVERY", 100)
    wall = iter(range(10**9, 10**15, 10**9))
    store = Store(clock=lambda: next(wall), gc_ttl_s=20)
    session = store.session()
    session.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    for n in range(500):
        session.execute(f"UPSERT INTO t VALUES ({n % 7}, {n})")
    table = store.find(("t",))
    assert table is not None and len(table.log) < 130 and store.threshold > Hlc(0)
    assert len(session.execute("SELECT * FROM t").rows) == 7
