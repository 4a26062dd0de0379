"""Which type each SQL type has here, in all the ways that a server writes it."""

from __future__ import annotations

import pytest

from millstream.sources.cockroach.types import is_shard, type_of


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("boolean", ("BOOL", "boolean")),
        ("int32", ("INT2", "INT4", "smallint", "integer")),
        ("int64", ("INT8", "bigint")),
        ("float32", ("FLOAT4", "real")),
        ("float64", ("FLOAT8", "double precision")),
        (
            "text",
            ("STRING", "text", "VARCHAR(5)", "character varying(5)", "CHAR(5)", "character(5)", '"char"', "NAME", "STRING COLLATE en"),
        ),
        (
            "text",
            ("CITEXT", "INET", "INTERVAL", "interval", "INTERVAL DAY TO SECOND", "BIT(4)", "VARBIT", "bit varying", "mood", "public.mood"),
        ),
        (
            "text",
            ("TIMETZ", "time with time zone", "time(3) with time zone", "BOX2D", "TSVECTOR", "TSQUERY", "VECTOR(3)", "PG_LSN", "LTREE"),
        ),
        ("text", ("OID", "REGCLASS", "numeric_range", "DATERANGE")),
        ("bytes", ("BYTES", "bytea")),
        ("date", ("DATE",)),
        ("time", ("TIME", "TIME(3)", "time without time zone", "time(3) without time zone")),
        ("timestamp", ("TIMESTAMP", "TIMESTAMP(0)", "timestamp without time zone", "timestamp(0) without time zone")),
        ("timestamptz", ("TIMESTAMPTZ", "TIMESTAMPTZ(3)", "timestamp with time zone", "timestamp(3) with time zone")),
        ("uuid", ("UUID",)),
        ("json", ("JSONB", "GEOMETRY", "GEOMETRY(POINT,4326)", "geometry(point,4326)", "GEOGRAPHY")),
        ("numeric", ("DECIMAL", "numeric", "DECIMAL(39,2)", "numeric(39,2)")),
        ("decimal(10,2)", ("DECIMAL(10,2)", "numeric(10,2)", "DECIMAL(10, 2)")),
        ("decimal(38,0)", ("DECIMAL(38)",)),
        ("list(int64)", ("INT8[]", "bigint[]", "_int8")),
        ("list(decimal(10,2))", ("DECIMAL(10,2)[]", "numeric(10,2)[]")),
        ("list(text)", ("STRING[]", "STRING[] COLLATE en", "VARCHAR(10)[] COLLATE de_u_co_phonebk", "_text")),
        ("list(text)", ("STRING[]", "character varying(5)[]", "_mood")),
        ("list(timestamptz)", ("TIMESTAMPTZ[]", "timestamp with time zone[]")),
    ],
)
def test_a_type_as_servers_write_it(kind: str, written: tuple[str, ...]) -> None:
    assert {w: str(type_of(w)) for w in written} == dict.fromkeys(written, kind)


def test_the_column_of_a_hash_sharded_index() -> None:
    assert is_shard("crdb_internal_id_shard_4")
    assert is_shard("crdb_internal_a_b_shard_16")
    assert not is_shard("shard_4")
    assert not is_shard("crdb_internal_id_shard_x")
