"""What is said of an ALTER TABLE before it is run, beside what the server makes of it."""

from __future__ import annotations

import pytest
from sources_rig import PostgresRig

from millstream.events.fills import fill_value
from millstream.events.types import Constant, RowSchema
from millstream.sources.postgres.altertable import altered

pytestmark = pytest.mark.servers

TABLE = 'CREATE TABLE movie (id bigint PRIMARY KEY, title text NOT NULL, year integer, price numeric(8,2), "Odd" text)'
UNDERSTOOD = [
    "ALTER TABLE movie DROP COLUMN year",
    "ALTER TABLE ONLY public.movie DROP COLUMN IF EXISTS nothing, DROP year CASCADE, ADD note text NOT NULL DEFAULT 'x'",
    'ALTER TABLE movie RENAME COLUMN "Odd" TO even',
    "ALTER TABLE movie RENAME year TO made",
    "ALTER TABLE movie ALTER COLUMN year TYPE bigint, ALTER COLUMN title DROP NOT NULL, ALTER year SET NOT NULL",
    "ALTER TABLE movie ALTER year SET DATA TYPE numeric(6,1) USING year / 10.0",
    "ALTER TABLE movie ALTER COLUMN year SET DEFAULT 2000, ALTER COLUMN year DROP DEFAULT",
    "ALTER TABLE movie DROP CONSTRAINT movie_pkey, ADD PRIMARY KEY (year, id)",
    "ALTER TABLE movie DROP COLUMN id",
    "ALTER TABLE movie DROP CONSTRAINT movie_pkey; ALTER TABLE movie ADD COLUMN code uuid PRIMARY KEY DEFAULT gen_random_uuid()",
    "ALTER TABLE movie ADD CONSTRAINT sane CHECK (year > 1800), ADD UNIQUE (title)",
    "ALTER TABLE movie ADD COLUMN IF NOT EXISTS year text, ADD COLUMN IF NOT EXISTS made date DEFAULT '2024-01-31'::date",
    "ALTER TABLE movie ADD COLUMN twice int GENERATED ALWAYS AS (year * 2) STORED, ADD COLUMN n int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE movie ADD a bool DEFAULT true, ADD b int DEFAULT -5, ADD c numeric(5,2) DEFAULT 1.5, ADD d timestamptz DEFAULT now()",
    "ALTER TABLE movie ADD a int DEFAULT NULL, ADD b float8 DEFAULT (random()), ADD c bigserial, ADD d jsonb DEFAULT '{}'",
]
TYPES = [
    "boolean", "smallint", "int2", "int4", "integer", "int8", "bigint", "oid", "real", "float4", "float8", "double precision", "float",
    "float(24)", "float(25)", "text", "varchar(20)", "character varying", "char(6)", "char", "name", "bytea", "numeric", "numeric(5)",
    "decimal(12,2)", "numeric(76,38)", "numeric(100,2)", "numeric(3,5)", "date", "time", "time(3)", "time without time zone", "timetz",
    "timestamp", "timestamp(3)", "timestamp without time zone", "timestamptz", "timestamp(3) with time zone", "uuid", "json", "jsonb",
    "int[]", "text[]", "interval", "inet", "money", "xml", "int4range", "tsvector", "bit(3)", "point",
]  # fmt: skip


def schema(rig: PostgresRig) -> RowSchema:
    (table,) = (t for t in rig.source(tables=["public.movie"]).tables() if t.name == "public.movie")
    return table.schema


@pytest.mark.parametrize("sql", UNDERSTOOD)
def test_it_says_what_the_server_does(rig: PostgresRig, sql: str) -> None:
    rig.run(TABLE, "INSERT INTO movie VALUES (1, 'a', 2000, 1, '')")
    now = schema(rig)
    said = altered(sql, now, "public.movie")
    rig.run(sql)
    rows = rig.rows("SELECT attname, attnum FROM pg_attribute WHERE attrelid = 'movie'::regclass AND attnum > 0 AND NOT attisdropped")
    if said.key:
        made = schema(rig)
        assert said.key == made.key
        assert [(f.name, f.type, f.nullable) for f in said.fields] == [(f.name, f.type, f.nullable) for f in made.fields]
    numbers = dict(rows)
    for f in said.fields:
        assert f.id == numbers[f.name] or f.id > max(g.id for g in now.fields), "the one it had, or one that no column had"
        if isinstance(f.fill, Constant):
            ((value,),) = rig.rows(f'SELECT "{f.name}"::text FROM movie')
            assert fill_value(f.type, f.fill.text) == fill_value(f.type, value)
        elif f.fill is None and f.id not in {g.id for g in now.fields}:
            assert rig.rows(f'SELECT count("{f.name}") FROM movie') == [(0,)], "old rows have null"


def test_it_has_the_types_that_the_server_has(rig: PostgresRig) -> None:
    sql = "ALTER TABLE movie " + ", ".join(f"ADD c{i} {t}" for i, t in enumerate(TYPES))
    rig.run(TABLE)
    said = altered(sql, schema(rig), "public.movie")
    rig.run(sql)
    assert [(f.name, str(f.type)) for f in said.fields] == [(f.name, str(f.type)) for f in schema(rig).fields]
