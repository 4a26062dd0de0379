"""Owners are told of a pause once, whatever a part does before it comes to its place again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millstream.catalogue.store import Catalogue
from millstream.catalogue.verdicts import Kept
from millstream.cli.pauses import Pauses
from millstream.schemas.sql import sqlite_engine

PART, WHY = "pipeline.titles", "paused: movie.year was dropped"
PIPELINE = SimpleNamespace(name="titles", owner="team-titles")
PROJECT = SimpleNamespace(mesh=SimpleNamespace(name="films"), pipelines=(PIPELINE,), products=())


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    engine = sqlite_engine(tmp_path / "mesh.db")
    catalogue = Catalogue(engine)
    catalogue.verdicts.note(Kept(PART, "movie", 2, 2, "pause"))
    yield SimpleNamespace(catalogue=catalogue, project=PROJECT)
    engine.dispose()


def said(mesh: Any, *states: str, why: str = WHY) -> list[str]:
    """What one process tells of a part that is in these states one after the other; it is killed in the last."""
    told: list[str] = []
    pauses = Pauses(mesh, lambda notice: told.append(f"{notice.owner} {notice.state}"))
    for state in states:
        mesh.catalogue.report(PART, state, why if state == "paused" else "", "")
        pauses.heard(PART, state, why if state == "paused" else "", "")
    return told


def test_once_wherever_a_process_is_killed(mesh: Any) -> None:
    assert said(mesh, "running", "paused") == ["team-titles paused"]
    assert said(mesh, "running") == []
    assert said(mesh, "running", "paused") == []


def test_again_where_it_is_for_another_reason(mesh: Any) -> None:
    said(mesh, "running", "paused")
    assert said(mesh, "running", "paused", why="paused: movie.title was dropped") == ["team-titles paused"]


def test_that_it_goes_on_and_pauses_anew(mesh: Any) -> None:
    said(mesh, "running", "paused")
    mesh.catalogue.verdicts.note(Kept(PART, "movie", 2, 2, "accept"))
    assert said(mesh, "running") == ["team-titles resumed"]
    assert said(mesh, "running", "paused") == ["team-titles paused"]


def test_nothing_is_known_of_a_pipeline_that_is_no_longer_applied(mesh: Any) -> None:
    said(mesh, "running", "paused")
    mesh.catalogue.forget_pipeline("titles")
    assert mesh.catalogue.told() == {}
