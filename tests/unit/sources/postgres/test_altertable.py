"""ALTER TABLE before it is run: what it makes of a row schema, and what is not understood."""

from __future__ import annotations

import pytest

from millstream.errors import Refused
from millstream.events.types import UNKNOWN, Constant, Field, RowSchema, Type
from millstream.schemas.operations import operations
from millstream.sources.postgres.altertable import altered

NOW = RowSchema((Field("id", Type("int64"), 1, nullable=False), Field("title", Type("text"), 2), Field("year", Type("int32"), 4)), ("id",))
BEFORE = RowSchema((*NOW.fields, Field("gone", Type("text"), 7)), ("id",))


def said(sql: str) -> list[str]:
    return [str(o) for o in operations(NOW, altered(sql, NOW, "public.movie"))]


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("ALTER TABLE movie DROP COLUMN year", ["dropped year"]),
        ("alter table PUBLIC.Movie rename Year to made", ["renamed year (now made)"]),
        ("ALTER TABLE movie ALTER year TYPE bigint", ["widened year (int32 is now int64)"]),
        ("ALTER TABLE movie ALTER year TYPE smallint", []),
        ("ALTER TABLE movie ALTER year TYPE text", ["retyped year (int32 is now text)"]),
        ("ALTER TABLE movie ADD a text DEFAULT 'it''s'", ["added a (text, old rows have 'it's')"]),
        ("ALTER TABLE movie ADD a int DEFAULT 3; ALTER TABLE movie DROP year", ["dropped year", "added a (int32, old rows have '3')"]),
        (
            "ALTER TABLE movie DROP CONSTRAINT movie_pkey, ADD PRIMARY KEY (id, year)",
            ["year is never null now", "rekeyed id (now id, year)"],
        ),
        ("ALTER TABLE movie ALTER year SET DEFAULT 1, ADD CONSTRAINT sane CHECK (year > 0)", []),
    ],
)
def test_it_is_said_in_operations(sql: str, found: list[str]) -> None:
    assert said(sql) == found


def test_a_column_gets_an_id_that_none_had() -> None:
    made = altered("ALTER TABLE movie ADD a int, ADD b int", NOW, "public.movie", [BEFORE])
    assert [f.id for f in made.fields] == [1, 2, 4, 8, 9]
    dropped = altered("ALTER TABLE movie DROP title, ADD title text", NOW, "public.movie")
    assert dropped["title"].id not in {f.id for f in NOW.fields}, "made again it is another column"


def test_what_old_rows_have() -> None:
    made = altered(
        "ALTER TABLE movie ADD a int DEFAULT -5, ADD b bool DEFAULT false, ADD c timestamp DEFAULT now(), ADD d date", NOW, "movie"
    )
    assert [f.fill for f in made.fields[3:]] == [Constant("-5"), Constant("f"), UNKNOWN, None]
    retyped = altered("ALTER TABLE movie ALTER a TYPE text, ALTER b TYPE int USING 1", made, "movie")
    assert [f.fill for f in retyped.fields[3:5]] == [Constant("-5"), UNKNOWN]


@pytest.mark.parametrize(
    ("sql", "message", "cure"),
    [
        ("DROP TABLE movie", "not understood", "ALTER TABLE"),
        ("ALTER TABLE movie OWNER TO me", "not understood", "ALTER TABLE"),
        ("ALTER TABLE movie DROP COLUMN year, SET SCHEMA other", "not understood", ""),
        ("ALTER TABLE movie ALTER COLUMN", "cannot be read|not understood", ""),
        ("", "no SQL", ""),
        ("ALTER TABLE film DROP COLUMN year", "alters film, not public.movie", "ALTER TABLE public.movie"),
        ('ALTER TABLE "Movie" DROP COLUMN year', "alters Movie", ""),
        ("ALTER TABLE movie DROP COLUMN jahr", "no column jahr", "it has id, title, year"),
        ("ALTER TABLE movie ADD COLUMN year text", "already", ""),
        ("ALTER TABLE movie RENAME title TO year", "already", ""),
        ("ALTER TABLE movie RENAME TO film", "another topic", "tables:"),
        ("ALTER TABLE movie ADD mood mood", "mood is made from", "text for an enum"),
        ("ALTER TABLE movie ADD PRIMARY KEY (year)", "primary key already: id", "DROP CONSTRAINT"),
        ("ALTER TABLE movie DROP CONSTRAINT sane", "whether the constraint sane is the primary key", "leave it out"),
    ],
)
def test_what_is_not_understood_is_refused(sql: str, message: str, cure: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refused, match=message) as told:
        altered(sql, NOW, "public.movie")
    assert told.value.code == "bad_alter"
    assert cure in told.value.cure
    assert not caplog.records, "the parser's own warnings would say it twice"
