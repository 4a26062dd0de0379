"""The registry in SQL: ids never change meaning, whoever registers and in whatever order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import Irrecoverable, Retryable
from millstream.schemas import tables
from millstream.schemas.registry import SchemaVersion
from millstream.schemas.sql import SqlRegistry, sqlite_engine
from millstream.schemas.texts import Texts


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    made = sqlite_engine(tmp_path / "deep" / "registry.db")
    yield made
    made.dispose()


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["{}", "[]", '"x"', "é" * 3000])), max_size=15))
def test_versions_count_up_and_a_text_has_one_id(asked: list[tuple[str, str]]) -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    registry = SqlRegistry(engine)
    model: dict[str, list[str]] = {}
    ids: dict[str, int] = {}
    for subject, text in asked:
        found = registry.register(subject, text)
        known = model.setdefault(subject, [])
        if text not in known:
            known.append(text)
        assert ids.setdefault(text, found.id) == found.id
        assert found == SchemaVersion(subject, known.index(text) + 1, found.id, text)
    assert len(set(ids.values())) == len(ids)
    assert registry.subjects() == sorted(model)
    for subject, texts in model.items():
        assert registry.versions(subject) == [SchemaVersion(subject, n, ids[t], t) for n, t in enumerate(texts, 1)]
    again = SqlRegistry(engine)
    assert {text: again.by_id(number) for text, number in ids.items()} == {text: text for text in ids}
    engine.dispose()


def test_what_is_unknown(engine: sa.Engine) -> None:
    registry = SqlRegistry(engine)
    assert registry.subjects() == []
    assert registry.versions("none") == []
    with pytest.raises(Retryable) as caught:
        registry.by_id(7)
    assert caught.value.code == "schema_unknown"
    assert caught.value.cure


def test_an_id_is_looked_up_once(engine: sa.Engine) -> None:
    writer, reader = SqlRegistry(engine), SqlRegistry(engine)
    number = writer.register("a", "{}").id
    asked = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    assert [reader.by_id(number) for _ in range(5)] == ["{}"] * 5
    assert len(asked) == 1


def test_the_memory_of_texts_is_bounded(engine: sa.Engine) -> None:
    registry = SqlRegistry(engine)
    registry._texts = Texts(100)
    ids = [registry.register("a", f"{n:030}").id for n in range(10)]
    for _ in range(2):
        assert [int(registry.by_id(number)) for number in ids] == list(range(10))
        assert len(registry._texts) == 3


def test_threads_that_register_at_once_agree(engine: sa.Engine) -> None:
    registries = [SqlRegistry(engine) for _ in range(2)]
    asked = [(f"subject-{n % 3}", f"text-{n % 7}") for n in range(80)]
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda job: registries[job[0] % 2].register(*job[1]), enumerate(asked)))
    assert len({(v.text, v.id) for v in found}) == 7
    for subject in ("subject-0", "subject-1", "subject-2"):
        versions = registries[0].versions(subject)
        assert set(versions) == {v for v in found if v.subject == subject}
        assert [v.version for v in versions] == list(range(1, len(versions) + 1))


def test_a_lost_race_gives_the_winners_row(engine: sa.Engine) -> None:
    """Another writer takes the version, then the text, between our look and our transaction."""
    registry, theirs = SqlRegistry(engine), sqlite_engine(Path(engine.url.database))
    rival = SqlRegistry(theirs)
    jobs = [("s", "theirs"), ("s", "ours")]

    def interfere(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        while statement == "BEGIN IMMEDIATE" and jobs:
            rival.register(*jobs.pop(0))

    # The rival writes before our transaction begins, after we looked.
    sa.event.listen(engine, "before_cursor_execute", interfere)
    ours = registry.register("s", "ours")
    sa.event.remove(engine, "before_cursor_execute", interfere)
    assert [v.text for v in registry.versions("s")] == ["theirs", "ours"]
    assert ours == registry.versions("s")[1]
    assert not jobs
    theirs.dispose()


def test_a_file_that_another_holds_is_busy_and_a_full_one_is_said(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "r.db", busy_timeout_s=0.01)
    registry = SqlRegistry(engine)
    holder = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Retryable) as busy:
        registry.register("a", "{}")
    assert busy.value.code == "registry_busy"
    holder.execute("ROLLBACK")
    holder.close()

    @sa.event.listens_for(engine, "checkout")
    def small(connection: sqlite3.Connection, *_rest: object) -> None:
        connection.execute("PRAGMA max_page_count=1")

    with pytest.raises(Irrecoverable) as full:
        registry.register("a", "x" * 100_000)
    assert full.value.code == "disk_full"
    assert registry.subjects() == []
    engine.dispose()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_text("something else " * 500)
    with pytest.raises(Irrecoverable) as caught:
        sqlite_engine(tmp_path / "r.db")
    assert caught.value.code == "registry_unusable"


def test_the_file_is_crash_safe(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]


def test_a_file_of_before_subjects_could_be_deleted_is_upgraded(tmp_path: Path) -> None:
    spaced, tight, other = '{"type": "string"}', '"string"', '{"type": "long"}'
    with closing(sqlite3.connect(tmp_path / "r.db")) as old:
        old.execute("CREATE TABLE registry_schemas (id INTEGER PRIMARY KEY AUTOINCREMENT, digest VARCHAR(64) UNIQUE, text TEXT)")
        old.execute(
            "CREATE TABLE registry_versions (subject VARCHAR(512), version INTEGER, schema_id INTEGER, "
            "PRIMARY KEY (subject, version), UNIQUE (subject, schema_id))"
        )
        for number, text in enumerate([spaced, tight, other], 1):
            old.execute("INSERT INTO registry_schemas VALUES (?, ?, ?)", [number, sha256(text.encode()).hexdigest(), text])
            old.execute("INSERT INTO registry_versions VALUES ('s', ?, ?)", [number, number])
        old.commit()
    engine = sqlite_engine(tmp_path / "r.db")
    with ThreadPoolExecutor(2) as pool:
        registry, _ = pool.map(SqlRegistry, [engine, engine])
    assert [(v.version, v.id, v.text) for v in registry.versions("s")] == [(1, 1, spaced), (2, 2, tight), (3, 3, other)]
    assert registry.register("s", spaced).id == 1
    assert registry.register("s", tight).id == 2
    assert registry.register("s", '"long"').id == 3
    assert registry.register("new", '{"type": "int"}').id == 4
    engine.dispose()


def test_a_schema_has_one_id_however_it_is_written(engine: sa.Engine) -> None:
    registry = SqlRegistry(engine)
    one = registry.register("a", '{"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "int"}}]}')
    two = registry.register("b", '{"fields":[{"type":"int","name":"x"}],"name":"R","type":"record"}')
    assert (two.id, two.version, two.text) == (one.id, 1, one.text)
    assert registry.register("a", '{"type": "record", "name": "R", "fields": [{"name": "x", "type": "int", "doc": "d"}]}').id != one.id


def test_the_tables_are_made_of_what_postgres_has_too() -> None:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    for table in (tables.SCHEMAS, tables.VERSIONS, tables.SETTINGS):
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
