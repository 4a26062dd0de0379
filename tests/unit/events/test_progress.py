"""A position, as it is kept."""

from __future__ import annotations

import json

from millstream.events.progress import Position


def kept(position: Position) -> Position:
    return Position.of(json.loads(json.dumps(position.json())))


def test_the_places_of_its_tables_are_kept_and_compare_as_nothing() -> None:
    position = Position(5, 1, {"server": "x"}, {"a": (5, 1), "b": (7, 2**31)})
    again = kept(position)
    assert (again, again.detail, again.tables) == (position, position.detail, position.tables)
    assert position == Position(5, 1)


def test_one_without_tables_is_written_as_it_always_was() -> None:
    assert Position(5, 1).json() == {"major": 5, "minor": 1, "detail": {}}
    assert kept(Position(5, 1)).tables == {}
