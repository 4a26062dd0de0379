"""The stand-in held to real servers: each recording's SQL is run again, and its feeds must tell what the real ones told, byte for byte.

Times and row ids are compared by their ranks within a feed, repeats are dropped. What is not modelled stands in a table here, and an
entry that is no longer true fails.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
from recording_replay import FOLDERS, GOLDEN, Replay, first_sightings, ranked, replay

CSV, ENRICHED = "format=csv", "the enriched envelope"
USERS = {"no-privilege": "plain", "with-select": "plain", "with-changefeed-privilege": "plain"}

FEEDS_NOT_MODELLED = {
    ("26.1", "02_more_types", "csv"): CSV,
    ("26.1", "07_envelopes_and_options", "format=csv"): CSV,
    ("26.1", "08_cdc_queries", "csv only"): CSV,
    ("26.1", "07_envelopes_and_options", "envelope=enriched"): ENRICHED,
    ("26.1", "07_envelopes_and_options", "envelope=enriched,all"): ENRICHED,
    ("26.1", "07_envelopes_and_options", "envelope=enriched,source"): ENRICHED,
    ("26.1", "08_cdc_queries", "envelope=enriched"): ENRICHED,
    ("26.1", "14_sinkless_server_shutdown", "to-be-cut"): "a server that drains: no SQL made it so; faults.py does, and its tests show it",
    ("26.1", "14_sinkless_server_shutdown", "to-be-cut-2"): "a server that is killed: as above",
    ("22.1", "03_initial_scan_and_cursor", "resume-1"): "the recorder left before the last message came; here every message comes",
}
SQL_NOT_MODELLED = {
    ("26.1", "10_errors", "CANCEL QUERIES"): "server.py ends feeds, by faults",
    ("22.1", "10_errors", "CANCEL QUERIES"): "server.py ends feeds, by faults",
    ("26.1", "17_misc", "CREATE CHANGEFEED FOR DATABASE"): "changefeeds into sinks",
    ("26.1", "17_misc", "CREATE CHANGEFEED FOR TABLE hw INTO"): "changefeeds into sinks",
    ("26.1", "17_misc", "SELECT job_id"): "jobs",
    ("26.1", "17_misc", "SELECT status"): "jobs",
    ("26.1", "17_misc", "CANCEL JOB"): "jobs",
}
FILES = [(version, path.stem) for version, folder in FOLDERS.items() for path in sorted((GOLDEN / folder).glob("*.jsonl"))]


@cache
def replayed(version: str, name: str) -> Replay:
    return replay(version, name, USERS)


def alike(version: str, name: str, place: int) -> bool:
    _, theirs, ours = replayed(version, name).feeds[place]
    return ranked(theirs) == ranked(ours)


@pytest.mark.parametrize(("version", "name"), FILES)
def test_every_feed_tells_what_the_real_one_told(version: str, name: str) -> None:
    for feed, theirs, ours in replayed(version, name).feeds:
        if (version, name, feed) not in FEEDS_NOT_MODELLED:
            assert ranked(ours) == ranked(theirs), f"{feed}: {theirs.statement}"


@pytest.mark.parametrize(("version", "name"), FILES)
def test_each_key_is_told_in_the_real_order(version: str, name: str) -> None:
    for feed, theirs, ours in replayed(version, name).feeds:
        if (version, name, feed) not in FEEDS_NOT_MODELLED:
            assert first_sightings(ours) == first_sightings(theirs), feed


@pytest.mark.parametrize(("version", "name"), FILES)
def test_every_statement_answers_as_the_real_server_did(version: str, name: str) -> None:
    for text, theirs, ours in replayed(version, name).answers:
        if any((version, name) == (v, n) and text.startswith(start) for v, n, start in SQL_NOT_MODELLED):
            continue
        assert _comparable(ours) == _comparable(theirs), text


def _comparable(answer: tuple | None) -> object:
    """Without ids of tables, which depend on what else there was: in a message, and in the keys at which a table is split."""
    if answer is None or answer[0] == "error":
        return answer and (answer[1], re.sub(r"\(\d+\)", "(id)", answer[2]))
    return [row[1:] if row[-1] == "2262-04-11 23:47:16.854776" else row for row in answer[1]]


def test_what_is_not_modelled_is_still_not() -> None:
    for version, name, feed in FEEDS_NOT_MODELLED:
        told = replayed(version, name).feeds
        assert not any(alike(version, name, n) for n, (f, _, _) in enumerate(told) if f == feed), (version, name, feed)
    for version, name, start in SQL_NOT_MODELLED:
        found = [(t, o) for q, t, o in replayed(version, name).answers if q.startswith(start)]
        assert found and all(_comparable(theirs) != _comparable(ours) for theirs, ours in found), (version, name, start)


def test_the_recordings_are_there_and_say_enough() -> None:
    assert len(FILES) == 22
    assert sum(len(theirs.messages) for v, n in FILES for _, theirs, _ in replayed(v, n).feeds) > 1200
