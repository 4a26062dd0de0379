"""A table that was dropped while nobody read its source is set aside at the next opening, and at each after that; the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from capture_rig import Captured
from cockroach_rig import CockroachRig

from millstream.errors import Refused

pytestmark = pytest.mark.servers

A, B = "public.a", "public.b"


def test_the_others_go_on_at_every_opening(roach: CockroachRig, tmp_path: Path) -> None:
    roach.run(f"INSERT INTO {A} VALUES (1, 'one')", f"INSERT INTO {B} VALUES (1, 'one')")
    captured = Captured(roach, tmp_path, {})
    try:
        captured.catch_up()
        assert captured.connector is not None
        captured.connector.close()
        roach.run(f"DROP TABLE {B}")
        for number in (2, 3):
            roach.run(f"INSERT INTO {A} VALUES ({number}, 'more')")
            connector = captured.open()
            captured.catch_up()
            assert set(connector.aside) == {B} and connector.aside[B]["code"] == "table_dropped"
            assert set(captured.rows(A)) == set(range(1, number + 1))
        assert captured.rows(B) == {1: {"id": 1, "v": "one"}}
        connector.close()
        with pytest.raises(Refused, match=r"no table public\.b"):  # to who begins it is not there
            roach.source().tables()
        roach.run(f"ALTER TABLE {A} RENAME TO c")
        with pytest.raises(Refused, match=r"no table public\.a"):  # a topic keeps its table's name
            captured.open()
    finally:
        captured.close()
