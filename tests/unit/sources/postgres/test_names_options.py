"""What a definition may say of a Postgres source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from millstream.sources.kinds import KINDS
from millstream.sources.names import TableName, quoted
from millstream.sources.postgres.options import Options, default_name

URL = "postgresql://u:hunter2@h/d"


@pytest.mark.parametrize(
    ("text", "schema", "table"),
    [
        ("movie", "public", "movie"),
        ("studio.Movie", "studio", "Movie"),
        ('"a.b"."c d"', "a.b", "c d"),
        ('s."say ""hi"""', "s", 'say "hi"'),
    ],
)
def test_a_tables_name(text: str, schema: str, table: str) -> None:
    name = TableName.parse(text)
    assert (name.written, name.schema, name.table) == (text, schema, table)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", "a b", 'a"b', '""', '"a'])
def test_what_is_no_tables_name(text: str) -> None:
    with pytest.raises(ValueError, match="not the name of a table"):
        TableName.parse(text)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_identifier_can_be_quoted_and_read_again(identifier: str) -> None:
    name = TableName.parse(f"{quoted(identifier)}.{quoted(identifier)}")
    assert (name.schema, name.table) == (identifier, identifier)


def test_one_table_by_two_names_is_refused() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        Options(url=URL, tables=["movie", "public.movie"])


def test_the_url_never_shows() -> None:
    options = Options(url=URL, tables=["movie"])
    assert "hunter2" not in f"{options!r} {options} {options.model_dump_json()}"
    with pytest.raises(ValidationError) as refused:
        Options(url=URL, tables=[], nonsense=URL)
    assert "hunter2" not in str(refused.value)


def test_default_names_fit_a_slot_and_differ() -> None:
    sources = ["studio", "Studio", "stu-dio", "stu_dio", "x" * 80, "x" * 81]
    names = [default_name(s) for s in sources]
    assert names[0] == "millstream_studio"
    assert len(set(names)) == len(names)
    for name in names:
        assert Options(url=URL, tables=["t"], slot=name).slot_of("other") == name


def test_the_list_of_kinds_names_it() -> None:
    assert ("postgres", Options) in [(k.name, k.options) for k in KINDS]
