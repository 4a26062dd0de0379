"""Where values lie in JSON texts side by side."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.sources.cockroach.members import BadText, Shape, Text, Values, elements
from millstream.sources.octets import PADDING, Octets

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
Places = npt.NDArray[np.int64]


def side_by_side(texts: list[str]) -> tuple[Text, Places, Places]:
    """The texts, where each begins, and where it ends."""
    parts = [t.encode() for t in texts]
    ends = np.cumsum([len(p) for p in parts])
    return Text(Octets(b"".join(parts) + PADDING)), np.concatenate([[0], ends[:-1]]), ends


def shown(text: Text, values: Values) -> list[object]:
    spans = zip(values.at.tolist(), values.length.tolist(), strict=True)
    return [json.loads(text.octets.data[at : at + length]) for at, length in spans]


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, min_size=1, max_size=4, unique=True), st.data())
def test_members_are_found_whatever_their_values_are(names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, VALUES)), min_size=1, max_size=5))
    ascii_ = data.draw(st.booleans())
    text, starts, ends = side_by_side([json.dumps(r, ensure_ascii=ascii_, sort_keys=True) for r in rows])
    shape = Shape.of(tuple(name for name, _ in text.spelled(0)))
    assert shape.names == tuple(sorted(names))
    walked = text.members(starts, np.searchsorted(text.quotes, starts), shape, ends - 1)
    assert walked.fits.all()
    assert walked.at.tolist() == ends.tolist()
    for i, name in enumerate(sorted(names)):
        assert shown(text, walked.values[i]) == [row[name] for row in rows]


def test_a_text_of_another_shape_does_not_fit() -> None:
    texts = ['{"a": 1, "b": 2}', '{"a": 1}', '{"a": 1, "c": 2}', '{"a": 1, "b": 2, "c": 3}', "{}", '{"a":1, "b": 2}']
    text, starts, ends = side_by_side(texts)
    walked = text.members(starts, np.searchsorted(text.quotes, starts), Shape.of((b"a", b"b")), ends - 1)
    assert walked.fits.tolist() == [True, False, False, False, False, False]


def test_an_object_without_members() -> None:
    text, starts, ends = side_by_side(["{}", '{"a": 1}'])
    assert text.spelled(0) == []
    assert text.members(starts, np.zeros(2, np.int64), Shape.of(()), ends - 1).fits.tolist() == [True, False]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(VALUES, max_size=4), min_size=1, max_size=5))
def test_the_elements_of_arrays(rows: list[list[object]]) -> None:
    text, starts, ends = side_by_side([json.dumps(r) for r in rows])
    inner, found, count = elements(text, Values(starts, ends - starts, np.full(len(rows), ord("["), np.uint8)))
    assert count.tolist() == [len(r) for r in rows]
    assert shown(inner, found) == [v for r in rows for v in r]


@pytest.mark.parametrize("text", ['{"a": "b}', '{"a": {}', '{"a": 1}}', "[", '{"a": "b'])
def test_what_has_no_end_is_no_text(text: str) -> None:
    made, _, _ = side_by_side([text])
    with pytest.raises(BadText, match="no end"):
        assert made.brackets
