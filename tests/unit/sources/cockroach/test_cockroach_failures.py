"""Every error that a recorded server ended a feed with, and what it means here."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.sources.cockroach import failures

GOLDEN = Path(__file__).parents[3] / "golden" / "cockroach"

# What each text is, by a part of it; those of statements that the connector never sends are not here.
MEANS: list[tuple[str, type[MillstreamError], str]] = [
    ("do the targets exist at the specified cursor time", Retryable, failures.LOST),
    ("was truncated", Retryable, failures.TRUNCATED),
    ("descriptor is being dropped", Retryable, failures.DROPPED),
    ('"sc_drop" was dropped', Retryable, failures.DROPPED),
    ("schema change occurred at", Retryable, failures.KEY_CHANGED),
    ("multiple column families", Refused, failures.FAMILIES),
    ("exactly 1 column family", Refused, failures.FAMILIES),
    ("rangefeeds require the kv.rangefeed.enabled", Refused, "rangefeed"),
    ("requires the SELECT privilege", Refused, "privilege"),
    ("must have a role WITH CONTROLCHANGEFEED", Refused, "privilege"),
    ("CHANGEFEED cannot target views", Refused, "table_kind"),
    ("CHANGEFEED cannot target sequences", Refused, "table_kind"),
    ("not supported on system tables", Refused, "table_kind"),
    ('invalid option "', Refused, failures.UNKNOWN_OPTION),
    ("in the future", Retryable, "clock"),
    ("query execution canceled", Retryable, "cancelled"),
    ("server is shutting down", Retryable, "connection"),
    ("server closed the connection unexpectedly", Retryable, "connection"),
]


def recorded() -> list[tuple[str, str | None, str]]:
    found = {}
    for path in sorted(GOLDEN.glob("v*/*.jsonl")):
        for line in path.read_text().splitlines():
            said = json.loads(line)
            if said["kind"] == "feed_error":
                found[said["message"]] = (path.parent.name, said["sqlstate"], said["message"])
    return list(found.values())


def error_of(state: str | None, message: str) -> psycopg.Error:
    """As the driver raises it: of a class of its own by the state; a lost connection has none."""
    kind = psycopg.errors.lookup(state) if state is not None and _known(state) else psycopg.DatabaseError
    error = (psycopg.OperationalError if state is None else kind)(message)
    error.sqlstate = state
    return error


def _known(state: str) -> bool:
    try:
        psycopg.errors.lookup(state)
    except KeyError:
        return False
    return True


def test_every_recorded_error_means_what_it_says() -> None:
    seen = set()
    for _, state, message in recorded():
        for part, kind, code in MEANS:
            if part in message:
                ours = failures.failure(error_of(state, message), where="source s", doing="the changefeed ended", feed=True)
                assert (type(ours), ours.code) == (kind, code), message
                assert ours.where == "source s" and message.split("\n")[0][:40] in ours.message
                seen.add(part)
    assert seen == {part for part, _, _ in MEANS}


def test_the_garbage_collector_s_words_are_known() -> None:
    text = "batch timestamp 1795386334.952285922,0 must be after replica GC threshold 1795386434.000000000,0"
    assert failures.failure(error_of("XXUUU", text), where="", doing="x", feed=True).code == failures.LOST


@pytest.mark.parametrize(
    ("state", "text", "feed", "kind", "code"),
    [
        ("XXUUU", "something new", True, Retryable, "feed"),
        ("XXUUU", "something new", False, Irrecoverable, failures.STATEMENT),
        ("42601", "at or near: syntax error", True, Irrecoverable, failures.STATEMENT),
        ("28P01", "password authentication failed for user x", False, Refused, "password"),
        (None, "connection failed: password authentication failed for user x", False, Refused, "password"),
        (None, "connection refused", False, Retryable, "connection"),
        ("40001", "restart transaction", False, Retryable, "connection"),
        ("XXC02", "use of CHANGEFEED requires an enterprise license", True, Refused, "licence"),
    ],
)
def test_others_by_their_state(state: str | None, text: str, feed: bool, kind: type[MillstreamError], code: str) -> None:
    ours = failures.failure(error_of(state, text), where="", doing="x", feed=feed)
    assert (type(ours), ours.code) == (kind, code)


def test_no_password_is_told() -> None:
    error = error_of(None, "could not connect with postgresql://u:hunter2@h/db, really hunter2")
    ours = failures.failure(error, where="", doing="cannot connect", secrets=("hunter2",))
    assert "hunter2" not in str(ours)


@pytest.mark.parametrize(
    ("message", "table"),
    [
        ('the changefeed ended: "sc_renamed" was truncated', "sc_renamed"),
        ('the changefeed ended: "Mixed Case.tbl" was dropped', "Mixed Case.tbl"),
        ("CHANGEFEED targeting a table (fam) with multiple column families requires WITH split_column_families", "fam"),
        ("CHANGEFEEDs are currently supported on tables with exactly 1 column family: fam has 2", "fam"),
        ("descriptor is being dropped", None),
    ],
)
def test_the_table_that_an_error_is_about(message: str, table: str | None) -> None:
    assert failures.named_table(message) == table


def test_the_time_of_a_changed_key() -> None:
    assert failures.time_of_change("schema change occurred at 1795386044815429258.0000000000") == "1795386044815429258.0000000000"
    assert failures.time_of_change("something else") is None
