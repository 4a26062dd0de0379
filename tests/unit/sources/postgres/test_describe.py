"""Which column of a Relation is which column of the catalogue, when the two are of different times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.events.types import Type
from millstream.sources.postgres.describe import FRESH_ID_FROM, Attribute, ids_of


def attributes(*names: str | None) -> tuple[Attribute, ...]:
    """The catalogue's columns; None is one that was dropped."""
    return tuple(
        Attribute(number, name or f"........pg.dropped.{number}........", name is None, False, Type("text"), "text")
        for number, name in enumerate(names, 1)
    )


@pytest.mark.parametrize(
    ("catalogue", "relation", "before", "ids"),
    [
        pytest.param(("id", "a", "b"), ["id", "a", "b"], {}, [1, 2, 3], id="of one time"),
        pytest.param(("id", None, "b"), ["id", "b"], {}, [1, 3], id="one dropped before"),
        pytest.param(("id", "new", "b"), ["id", "old", "b"], {}, [1, 2, 3], id="renamed since"),
        pytest.param(("id", None, "b"), ["id", "old", "b"], {}, [1, 2, 3], id="dropped since"),
        pytest.param(("id", "a", "b"), ["id", "a"], {}, [1, 2], id="added since"),
        pytest.param(("id", "new", "added"), ["id", "old"], {}, [1, 2], id="renamed, and another added since"),
        pytest.param(("id", "x", "y"), ["id", "y", "x"], {}, [1, 3, 2], id="names exchanged since"),
        pytest.param(("id", "b"), ["id", "a", "b"], {}, [1, FRESH_ID_FROM + 1, 2], id="nothing fits"),
        pytest.param(("id", "b"), ["id", "a", "b"], {"a": FRESH_ID_FROM + 1}, [1, FRESH_ID_FROM + 1, 2], id="as it was before"),
        pytest.param(("id", None, "a"), ["id", "a", "c"], {"c": 3}, [1, 3, FRESH_ID_FROM + 2], id="a number taken since"),
    ],
)
def test_ids(catalogue: tuple[str | None, ...], relation: list[str], before: dict[str, int], ids: list[int]) -> None:
    assert ids_of(relation, attributes(*catalogue), before) == ids


@given(st.data())
def test_ids_are_unique_and_names_that_stayed_keep_their_numbers(data: st.DataObject) -> None:
    letters = "abcdefgh"
    catalogue = data.draw(
        st.lists(st.sampled_from(letters), unique=True, max_size=6).flatmap(lambda n: st.tuples(*(st.sampled_from([x, None]) for x in n)))
    )
    relation = data.draw(st.lists(st.sampled_from(letters), unique=True, min_size=1, max_size=6))
    known = attributes(*catalogue)
    first = ids_of(relation, known, {})
    assert len(set(first)) == len(first)
    numbers = {a.name: a.number for a in known if not a.dropped}
    assert all(i == numbers[n] for n, i in zip(relation, first, strict=True) if n in numbers)
    assert ids_of(relation, known, dict(zip(relation, first, strict=True))) == first
