"""Which column of a Relation is which column of the catalogue, when the two are of different times."""

from __future__ import annotations

from itertools import combinations

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
        pytest.param(("id", "x", "y"), ["id", "y", "x"], {}, [1, 2, 3], id="names exchanged since"),
        pytest.param(("id", "b"), ["id", "a", "b"], {}, [1, FRESH_ID_FROM + 1, 2], id="nothing fits"),
        pytest.param(("id", "b"), ["id", "a", "b"], {"a": FRESH_ID_FROM + 1}, [1, FRESH_ID_FROM + 1, 2], id="as it was before"),
        pytest.param(("id", None, "a"), ["id", "a", "c"], {"c": 3}, [1, 2, 3], id="a number taken since"),
        pytest.param(("id", None, "b", "a"), ["id", "a", "b"], {}, [1, 2, 3], id="made again under its name since"),
        pytest.param(("id", None, "b", "a"), ["id", "b", "a"], {}, [1, 3, 4], id="made again under its name before"),
        pytest.param(("id", "b", None, "c", "a"), ["id", "b", "a"], {}, [1, 2, 3], id="made again since, after another"),
        pytest.param(("id", "b", "a"), ["id", "a"], {}, [1, 2], id="renamed, and its name given to another since"),
        pytest.param(("id", None, "a"), ["id", "a"], {"a": 2}, [1, 3], id="made again: one form before and after"),
    ],
)
def test_ids(catalogue: tuple[str | None, ...], relation: list[str], before: dict[str, int], ids: list[int]) -> None:
    assert ids_of(relation, attributes(*catalogue), before) == ids


@given(st.data())
def test_ids_of_any_time_of_a_table(data: st.DataObject) -> None:
    """Over the catalogue of the end; what was dropped or lost its name since is found by its place, where only one is there."""
    letters = st.sampled_from("abcd")
    columns: list[str | None] = ["id"]
    times: list[list[tuple[str, int]]] = []
    for _ in range(data.draw(st.integers(1, 8))):
        times.append([(name, n) for n, name in enumerate(columns, 1) if name])
        name, at = data.draw(letters), data.draw(st.integers(0, len(columns) - 1))
        kind = data.draw(st.sampled_from(["add", "drop", "rename"]))
        if kind == "add" and name not in columns:
            columns.append(name)
        elif kind == "drop" and at:
            columns[at] = None
        elif kind == "rename" and columns[at] is not None and name not in columns:
            columns[at] = name
    known, then = attributes(*columns), data.draw(st.sampled_from(times))
    names, truth = [name for name, _ in then], [n for _, n in then]
    found = ids_of(names, known, {})
    assert found == sorted(set(found)) and found[-1] <= len(columns)
    assert set(kept_up_to(columns, found[-1])) <= set(found), "a column that is there now was there since the first of a higher number"
    assert ids_of(names, known, dict(zip(names, found, strict=True))) == found
    possible = [c for c in combinations(range(1, len(columns) + 1), len(names)) if set(kept_up_to(columns, c[-1])) <= set(c)]
    assert tuple(truth) in possible and tuple(found) in possible
    if len(possible) == 1:
        assert found == truth


def kept_up_to(columns: list[str | None], last: int) -> list[int]:
    return [n for n, name in enumerate(columns, 1) if name and n <= last]
