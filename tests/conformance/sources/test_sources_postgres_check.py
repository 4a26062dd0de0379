"""What a first start needs: every complaint, with its cure, and that the cure cures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sources_rig import PostgresRig, read_to_head

from millstream.errors import Refused, Retryable
from millstream.sources.contract import Source
from millstream.sources.postgres import slots

pytestmark = pytest.mark.servers

MakeRig = Callable[..., PostgresRig]


def refused(source: Source) -> Refused:
    with pytest.raises(Refused) as found:
        source.check()
    return found.value


def as_role(rig: PostgresRig, attributes: str = "REPLICATION", *grants: str, **options: Any) -> Source:
    """The source as a role of its own with few rights."""
    role = f"{rig.database}_role"
    rig.run(f"CREATE ROLE {role} LOGIN {attributes}", *(g.format(role=role, database=rig.database) for g in grants))
    return rig.source(url=rig.server.url(rig.database, role), **options)


OWNER = ("ALTER TABLE public.a OWNER TO {role}", "ALTER TABLE public.b OWNER TO {role}", "GRANT CREATE ON DATABASE {database} TO {role}")


def test_a_role_with_just_enough_rights_can_do_everything(rig: PostgresRig) -> None:
    source = as_role(rig, "REPLICATION", *OWNER)
    source.check()
    rig.run("INSERT INTO public.a VALUES (1, 'x')")
    stream = source.stream(None)
    assert len(read_to_head(source, stream).events) == 1
    assert source.chunk("public.a", None, 10) is not None


def test_a_table_without_a_key(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (x integer); ALTER TABLE k REPLICA IDENTITY FULL")
    error = refused(rig.source(tables=("k",)))
    assert (error.code, error.message) == ("no_key", "k has no primary key")
    assert 'ALTER TABLE "public"."k" ADD PRIMARY KEY' in error.cure


def test_a_key_that_two_rows_may_have_for_a_while(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (x integer PRIMARY KEY DEFERRABLE)", "ALTER TABLE k REPLICA IDENTITY FULL")
    assert refused(rig.source(tables=("k",))).code == "deferrable_key"


def test_a_key_of_a_generated_column(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (x integer, y integer GENERATED ALWAYS AS (x + 1) STORED PRIMARY KEY)", "ALTER TABLE k REPLICA IDENTITY FULL")
    error = refused(rig.source(tables=("k",)))
    assert error.code == "no_key"
    assert "generated" in error.message


def test_a_replica_identity_that_is_not_full(rig: PostgresRig) -> None:
    rig.run('CREATE TABLE "Odd ""name" (x integer PRIMARY KEY)')
    source = rig.source(tables=('"Odd ""name"',))
    error = refused(source)
    assert error.code == "replica_identity"
    assert error.cure == 'ALTER TABLE "public"."Odd ""name" REPLICA IDENTITY FULL'
    rig.run(error.cure)
    source.check()


def test_all_faults_come_at_once_and_nothing_is_made(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE k (x integer)", "CREATE VIEW w AS SELECT 1 AS one", "CREATE UNLOGGED TABLE u (x integer PRIMARY KEY)")
    error = refused(rig.source(tables=("k", "w", "u", "publc.a", "public.a")))
    said = str(error)
    for fault in ("k has no primary key", "REPLICA IDENTITY of k", "w is a view", "u is unlogged", "no table publc.a", "public.a"):
        assert fault in said, fault
    assert rig.rows("SELECT count(*) FROM pg_publication") == [(0,)]
    assert rig.rows("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == [(0,)]


def test_missing_rights_are_named_with_the_grant(rig: PostgresRig) -> None:
    rig.run("CREATE SCHEMA hidden", "CREATE TABLE hidden.t (x integer PRIMARY KEY)", "ALTER TABLE hidden.t REPLICA IDENTITY FULL")
    source = as_role(rig, "NOREPLICATION", tables=("public.a", "hidden.t"))
    error = refused(source)
    role = f"{rig.database}_role"
    for cure in (
        f'ALTER ROLE "{role}" REPLICATION',
        f'GRANT SELECT ON TABLE "public"."a" TO "{role}"',
        f'GRANT USAGE ON SCHEMA "hidden" TO "{role}"',
        f'GRANT SELECT ON TABLE "hidden"."t" TO "{role}"',
        'CREATE PUBLICATION "millstream_rig" FOR TABLE "public"."a", "hidden"."t"',
    ):
        assert cure in error.cure, cure
        rig.run(cure + (" WITH (publish_via_partition_root = true)" if cure.startswith("CREATE") else ""))
    source.check()


def test_who_may_read_columns_alone_may_not_lock_the_table(rig: PostgresRig) -> None:
    source = as_role(rig, tables=("public.a",))
    role = f"{rig.database}_role"
    rig.run("CREATE PUBLICATION millstream_rig FOR TABLE public.a", f"GRANT SELECT (id, v) ON public.a TO {role}")
    rig.run("INSERT INTO a VALUES (1, 'x')")
    error = refused(source)
    assert error.code == "privilege"
    rig.run(error.cure)
    source.check()
    next(source.stream(None))
    chunk = source.chunk("public.a", None, 10)
    assert chunk is not None
    assert chunk.rows.num_rows == 1


def test_a_publication_that_may_not_be_changed(rig: PostgresRig) -> None:
    rig.run("CREATE PUBLICATION shared FOR TABLE public.a")
    source = as_role(rig, "REPLICATION", *OWNER, publication="shared")
    error = refused(source)
    assert error.code == "publication"
    assert 'ALTER PUBLICATION "shared" ADD TABLE "public"."b"' in error.cure
    rig.run('ALTER PUBLICATION "shared" ADD TABLE "public"."b"')
    source.check()


def test_a_publication_of_ours_gets_the_tables_it_lacks(rig: PostgresRig) -> None:
    rig.checked(tables=("public.a",))
    source = rig.checked()
    rig.run("INSERT INTO public.b VALUES (1, 'x')")
    assert [e["table"] for e in read_to_head(source, source.stream(None)).events] == ["public.b"]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("FOR TABLE public.a, public.b WITH (publish = 'insert, update')", "leaves out delete, truncate"),
        ("FOR TABLE public.a WHERE (id > 5), public.b", "leaves out rows or columns of public.a"),
        ("FOR TABLE public.a (id, v), public.b", "leaves out rows or columns of public.a"),
    ],
)
def test_a_publication_that_hides_changes(rig: PostgresRig, made: str, said: str) -> None:
    rig.run(f"CREATE PUBLICATION millstream_rig {made}")
    error = refused(rig.source())
    assert error.code == "publication"
    assert said in error.message


def test_a_publication_of_all_tables_serves(rig: PostgresRig) -> None:
    rig.run("CREATE PUBLICATION everything FOR ALL TABLES")
    rig.checked(publication="everything")


def test_partitions_need_their_own_replica_identity(rig: PostgresRig) -> None:
    rig.run("CREATE TABLE p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id)", "ALTER TABLE p REPLICA IDENTITY FULL")
    rig.run("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)", "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
    source = rig.source(tables=("p",))
    error = refused(source)
    assert error.code == "replica_identity"
    assert "p1 REPLICA IDENTITY FULL" in error.cure
    assert "p2 REPLICA IDENTITY FULL" in error.cure
    rig.run(*error.cure.split("; "))
    source.check()
    rig.run("INSERT INTO p VALUES (1, 'x'), (11, 'y')", "UPDATE p SET id = 12 WHERE id = 1", "DELETE FROM p WHERE id = 11")
    stream = source.stream(None)
    seen = read_to_head(source, stream)
    assert {e["table"] for e in seen.events} == {"p"}
    # A row that moves to another partition is a delete and an insert, by the server's own doing.
    assert [e["op"] for e in seen.events] == ["c", "c", "d", "c", "d"]
    chunk = source.chunk("p", None, 10)
    assert chunk is not None
    assert chunk.rows.to_pylist() == [{"id": 12, "v": "x"}]


def test_row_security_is_not_passed_over(rig: PostgresRig) -> None:
    rig.run("ALTER TABLE public.a ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON public.a USING (id < 5)")
    source = as_role(rig, "REPLICATION", *OWNER[1:], "GRANT SELECT ON public.a TO {role}")
    rig.run("CREATE PUBLICATION millstream_rig FOR TABLE public.a, public.b")
    error = refused(source)
    assert error.code == "row_security"
    assert "BYPASSRLS" in error.cure


def test_a_slot_of_another_plugin_or_database(rig: PostgresRig) -> None:
    rig.rows("SELECT pg_create_physical_replication_slot('a_physical_one')")
    try:
        error = refused(rig.source(slot="a_physical_one"))
    finally:
        rig.rows("SELECT pg_drop_replication_slot('a_physical_one')")
    assert error.code == "slot_foreign"
    rig.server.execute("SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')")
    try:
        error = refused(rig.source(slot="elsewhere"))
    finally:
        rig.server.execute("SELECT pg_drop_replication_slot('elsewhere')")
    assert "in database postgres" in error.message


def test_wal_level_and_then_slots_and_senders(own_rig: MakeRig) -> None:
    rig = own_rig(wal_level="replica", max_wal_senders="1", max_replication_slots="1")
    source = rig.source()
    error = refused(source)
    assert error.code == "wal_level"
    assert "ALTER SYSTEM SET wal_level = logical" in error.cure
    rig.server.restart({"wal_level": "logical"})
    rig.rows("SELECT pg_create_physical_replication_slot('taken')")
    error = refused(source)
    assert error.code == "slots"
    assert "max_replication_slots = 6" in error.cure
    rig.rows("SELECT pg_drop_replication_slot('taken')")
    source.check()
    stream = source.stream(None)
    next(stream)
    source.check()  # the sender that is taken is its own
    error = refused(rig.source(slot="other"))
    assert "2 things are missing" in error.message
    assert "max_wal_senders = 6" in error.cure
    assert "max_replication_slots = 6" in error.cure


def test_a_server_that_is_too_old(rig: PostgresRig, monkeypatch: pytest.MonkeyPatch) -> None:
    source = rig.source()
    monkeypatch.setattr(type(source._session), "server_version", property(lambda _: 140012))  # type: ignore[attr-defined]
    error = refused(source)
    assert (error.code, error.message) == ("server_version", "the server is PostgreSQL 14")


def test_a_slot_that_waits_for_an_old_transaction_says_so(rig: PostgresRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "CREATED_WITHIN_S", 0.3)
    source = rig.source()
    with rig.server.connect(rig.database) as old:
        old.execute(b"BEGIN")
        old.execute(b"INSERT INTO public.a VALUES (1, 'x')")
        with pytest.raises(Retryable) as waits:
            source.check()
        assert waits.value.code == "slot_waits"
        old.execute(b"COMMIT")
    source.check()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://u:s3cret@[", "url"),
        ("host=x bad=1 password=s3cret", "url"),
        ("{base}/no_such_database", "database"),
    ],
)
def test_urls_that_lead_nowhere(rig: PostgresRig, url: str, code: str) -> None:
    base = rig.server.url("").rstrip("/")
    with pytest.raises(Refused) as error:
        rig.source(url=url.format(base=base)).check()
    assert error.value.code == code
    assert "s3cret" not in f"{error.value}{error.value.__cause__}"


def test_a_server_that_is_not_there_is_retryable(rig: PostgresRig) -> None:
    with pytest.raises(Retryable) as error:
        rig.source(url="postgresql://u:s3cret@127.0.0.1:1/d").check()
    assert error.value.code == "connection"
    assert "s3cret" not in str(error.value)


def test_an_unknown_role_is_refused(rig: PostgresRig) -> None:
    with pytest.raises(Refused) as error:
        rig.source(url=rig.server.url(rig.database, "nobody_of_that_name")).check()
    assert error.value.code == "login"
