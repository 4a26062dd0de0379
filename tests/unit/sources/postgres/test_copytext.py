"""COPY's text format, against a reader that takes it letter by letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.sources.postgres import copytext

_WRITTEN = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}

VALUES = (
    st.none()
    | st.text(st.sampled_from("\\\\\\\t\n\r\b\f\vNbnrt xé✓"))
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)


def written(value: str | None) -> str:
    return "\\N" if value is None else "".join(_WRITTEN.get(c, c) for c in value)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), min_size=1, max_size=12)))
def test_what_the_server_writes_is_read(rows: list[list[str | None]]) -> None:
    lines = [("\t".join(map(written, row)) + "\n").encode() for row in rows]
    octets, cells = copytext.columns(lines, len(rows[0]))
    read = [octets.text(c).to_pylist() for c in cells]
    assert [list(row) for row in zip(*read, strict=True)] == rows


def test_no_rows() -> None:
    octets, cells = copytext.columns([], 3)
    assert [octets.text(c).to_pylist() for c in cells] == [[], [], []]


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of 2 columns have 5 fields"):
        copytext.columns([b"1\t2\n", b"1\t2\t3\n"], 2)
