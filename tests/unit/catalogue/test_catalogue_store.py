"""The catalogue keeps what it is told, over restarts and among threads, and no secret."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from millstream.catalogue.store import AppliedPipeline, AppliedSink, AppliedSource, Catalogue
from millstream.errors import MillstreamError, Retryable
from millstream.schemas.sql import sqlite_engine

SOURCE = AppliedSource("shop", "f1", "postgres", "team-shop", ("public.orders", "public.customers"))
PIPELINE = AppliedPipeline(
    name="large",
    fingerprint="f2",
    owner="team-shop",
    definition="step large",
    inputs={"shop.public.orders": 3},
    outputs={"large.large": 7},
    sinks={"large.large.search": AppliedSink("large.large", "f3")},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mesh.db"


@pytest.fixture
def open_catalogue(path):
    """Open the same file again and again; time stands at 1000."""
    engines = []

    def opened() -> Catalogue:
        engines.append(sqlite_engine(path))
        return Catalogue(engines[-1], clock=lambda: 1000.0)

    yield opened
    for engine in engines:
        engine.dispose()


def test_what_was_put_is_there_after_a_restart(open_catalogue) -> None:
    catalogue = open_catalogue()
    catalogue.put_source(SOURCE)
    catalogue.put_pipeline(PIPELINE)
    catalogue.report("source.shop", "running")
    catalogue.report("source.shop", "failed", "gone", "look")
    again = open_catalogue()
    assert again.sources() == {"shop": AppliedSource(**{**vars(SOURCE), "applied_at": 1000.0})}
    assert again.pipelines() == {"large": AppliedPipeline(**{**vars(PIPELINE), "applied_at": 1000.0})}
    (state,) = again.states().values()
    assert (state.part, state.state, state.reason, state.cure, state.at) == ("source.shop", "failed", "gone", "look", 1000.0)


def test_putting_again_replaces_and_forgetting_takes_the_states_too(open_catalogue) -> None:
    catalogue = open_catalogue()
    for fingerprint in ("f1", "f9"):
        catalogue.put_source(AppliedSource(**{**vars(SOURCE), "fingerprint": fingerprint}))
        catalogue.put_pipeline(AppliedPipeline(**{**vars(PIPELINE), "fingerprint": fingerprint}))
    assert (catalogue.sources()["shop"].fingerprint, catalogue.pipelines()["large"].fingerprint) == ("f9", "f9")
    for part in ("source.shop", "pipeline.large", "sink.large.large.search", "source.other"):
        catalogue.report(part, "running")
    catalogue.forget_pipeline("large")
    assert set(catalogue.states()) == {"source.shop", "source.other"}
    catalogue.forget_source("shop")
    catalogue.forget_source("shop")
    assert (catalogue.sources(), catalogue.pipelines(), set(catalogue.states())) == ({}, {}, {"source.other"})


def test_figures_are_the_last_that_were_told(open_catalogue) -> None:
    catalogue = open_catalogue()
    catalogue.put_pipeline(PIPELINE)
    catalogue.note_figures("pipeline.large", {"pending": 7, "pending_rate": 2.5})
    catalogue.note_figures("pipeline.large", {"pending": 0})
    catalogue.note_figures("sink.large.large.search", {"freshness_p50_ms": 12.5})
    assert open_catalogue().figures() == {"pipeline.large": {"pending": 0}, "sink.large.large.search": {"freshness_p50_ms": 12.5}}
    catalogue.forget_pipeline("large")
    assert catalogue.figures() == {}


def test_a_state_that_is_none_is_refused(open_catalogue) -> None:
    with pytest.raises(ValueError, match="'sleeping' is not a state"):
        open_catalogue().report("source.shop", "sleeping")


def test_no_secret_gets_into_the_file(open_catalogue, path) -> None:
    catalogue = open_catalogue()
    catalogue.report("source.shop", "failed", "cannot reach postgresql://ann:sesame-open@db/shop", "try password=sesame-open")
    catalogue.put_pipeline(AppliedPipeline(**{**vars(PIPELINE), "definition": "sink postgresql://ann:sesame-open@db/shop"}))
    assert catalogue.states()["source.shop"].reason == "cannot reach postgresql://ann:***@db/shop"
    assert b"sesame-open" not in b"".join(p.read_bytes() for p in path.parent.iterdir())


def test_parts_report_at_once_from_their_threads(open_catalogue) -> None:
    catalogue = open_catalogue()
    faults: list[BaseException] = []

    def part(name: str) -> None:
        try:
            for n in range(20):
                catalogue.report(name, "running", f"{name} {n}")
        except MillstreamError as error:
            faults.append(error)

    # Two parts share a name, so that two add the same row at once.
    threads = [threading.Thread(target=part, args=(f"pipeline.p{n // 2}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert {s.part: s.reason for s in catalogue.states().values()} == {f"pipeline.p{n}": f"pipeline.p{n} 19" for n in range(4)}


def test_a_file_that_another_holds_is_a_busy_catalogue(path) -> None:
    engine = sqlite_engine(path, busy_timeout_s=0.01)
    catalogue = Catalogue(engine)
    other = sqlite_engine(path)
    with other.connect() as connection:
        connection.execute(sa.text("BEGIN IMMEDIATE"))
        with pytest.raises(Retryable) as caught:
            catalogue.report("source.shop", "running")
    assert (caught.value.code, str(path) in caught.value.where) == ("catalogue_busy", True)
    catalogue.report("source.shop", "running")
    engine.dispose()
    other.dispose()
