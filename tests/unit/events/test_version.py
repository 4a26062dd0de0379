"""Versions as text: the same order, and back."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events.version import Version, parse_texts, texts

VERSIONS = st.builds(Version, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(VERSIONS, min_size=1, max_size=20), st.integers(0, 3))
def test_columns_of_versions_to_text_and_back(versions, start):
    columns = [
        pa.array(list(part), kind) for part, kind in zip(zip(*versions, strict=True), (pa.uint32(), pa.uint64(), pa.uint32()), strict=True)
    ]
    written = texts(*columns)
    assert written.to_pylist() == [str(v) for v in versions]
    back = [Version(*(int(x) for x in row)) for row in zip(*parse_texts(written.slice(start)), strict=True)]
    assert back == versions[start:]


@given(VERSIONS, VERSIONS)
def test_text_sorts_as_versions_do(a, b):
    assert (a < b) == (str(a) < str(b))
    assert Version.parse(str(a)) == a


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 31,
        "0" * 33,
        "g" + "0" * 31,
        "A" + "0" * 31,
        "/" + "0" * 31,
        ":" + "0" * 31,
        "0x" + "0" * 30,
        "+" + "0" * 31,
        "0_" + "0" * 30,
    ],
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(ValueError, match="hex digits"):
        parse_texts(pa.array(["0" * 32, text]))
    with pytest.raises(ValueError, match="hex digits"):
        Version.parse(text)


def test_no_rows():
    assert all(len(part) == 0 for part in parse_texts(pa.array([], pa.string())))
    assert len(texts(pa.array([], pa.uint32()), pa.array([], pa.uint64()), pa.array([], pa.uint32()))) == 0
