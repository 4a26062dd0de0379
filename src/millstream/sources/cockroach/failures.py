"""What the server's and the driver's complaints mean here: which of the four kinds of failure, and the cure.

Most of what a changefeed ends with has the state XXUUU, and differs from version to version in its text alone. So the text is
read first. A feed's error that is not known is Retryable, as it is to the server itself. No text that leaves here holds the
password (invariant 10).
Reference: recordings of 22.1 and 26.1 (tests/golden/cockroach); PostgreSQL 18, "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

import psycopg

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable, without_secrets

_Means = tuple[type[MillstreamError], str, str]

# What a feed ended with, as codes; the source knows what to do about each.
LOST = "gc_threshold"
"""The server has no longer what follows the cursor."""
TRUNCATED = "truncated"
DROPPED = "dropped"
KEY_CHANGED = "schema_change_occurred"
FAMILIES = "column_families"
UNKNOWN_OPTION = "unknown_option"
COLUMN_GONE = "column_gone"
"""A query's column is not there (any longer)."""
FEED = "feed"
LICENCE = "licence"
BAD_MESSAGE = "bad_message"
"""What came is not what was asked for: no error of the server's, the decoder says so."""

_PASSWORD = (Refused, "password", "put the right user and password into the source's url")
_LOGIN = (Refused, "login", "let this user log in from here: its LOGIN option, and the cluster's host-based authentication")
_DATABASE = (Refused, "database", "put the right database name into the source's url")
_PRIVILEGE = (
    Refused,
    "privilege",
    "GRANT SELECT, CHANGEFEED ON TABLE … TO the source's user; on 22.1 instead ALTER USER … WITH CONTROLCHANGEFEED, and GRANT SELECT",
)
_RANGEFEEDS = (Refused, "rangefeed", "an administrator runs: SET CLUSTER SETTING kv.rangefeed.enabled = true")
_LICENCE = (Refused, LICENCE, "an administrator runs: SET CLUSTER SETTING enterprise.license = '…'; a single-node test server needs none")
_CONNECTION = (Retryable, "connection", "check that the server runs and can be reached")
STATEMENT = "statement"
_STATEMENT = (Irrecoverable, STATEMENT, "see the server's log")

_BY_TEXT: tuple[tuple[re.Pattern[str], _Means], ...] = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"must be after replica GC threshold|do the targets exist at the specified cursor time", (Retryable, LOST, "")),
        (r"was truncated\b", (Retryable, TRUNCATED, "")),
        (r"\bwas dropped\b|descriptor is being dropped|descriptor not found", (Retryable, DROPPED, "")),
        (r"schema change occurred at", (Retryable, KEY_CHANGED, "")),
        (
            r"multiple column families|exactly 1 column family|cannot now target a table with \d+ families",
            (Refused, FAMILIES, "put all columns of the table into one family, or leave the table out: a topic per family is not built"),
        ),
        (r'invalid option "', (Refused, UNKNOWN_OPTION, "22.1 is the oldest version that is known to work")),
        (r"rangefeeds require the kv\.rangefeed\.enabled", _RANGEFEEDS),
        (r"(?i)requires an enterprise license|valid license|license (?:has )?expired|no license installed", _LICENCE),
        (r"role WITH CONTROLCHANGEFEED", _PRIVILEGE),
        (r"requires the .* privilege", _PRIVILEGE),
        (r"cannot target offline table", (Retryable, "offline", "nothing: an IMPORT or RESTORE into the table is under way")),
        (
            r"CHANGEFEED cannot target|not supported on system tables|row-level security",
            (Refused, "table_kind", "leave it out: its changes are in no feed"),
        ),
        (r"in the future", (Retryable, "clock", "check that the url still points at the cluster that this source was begun on")),
        (r"password authentication failed|no password supplied|SASL|SCRAM", _PASSWORD),
        (r"no .*hba.* entry|not permitted to log in|does not have login privilege", _LOGIN),
    )
)

_BY_STATE: dict[str, _Means] = {
    "28P01": _PASSWORD,
    "28000": _LOGIN,
    "3D000": _DATABASE,
    "42501": _PRIVILEGE,
    "XXC01": _LICENCE,  # CCLValidLicenseRequired
    "XXC02": _LICENCE,  # CCLRequired
    "57014": (Retryable, "cancelled", "nothing, if a person cancelled it"),
    "57P01": (Retryable, "connection", "nothing: the node was drained; another one, or the same later, goes on"),
    "42P01": (Refused, "table_unknown", "run `millstream validate`"),
}


_TABLE = re.compile(
    r'"((?:[^"]|"")+)" was (?:truncated|dropped)|targeting a table \(([^)]+)\)|single column family \(([^)]+)\)|column family: (\S+) has'
)


def failure(error: psycopg.Error, *, where: str, doing: str, secrets: tuple[str, ...] = (), feed: bool = False) -> MillstreamError:
    """`error` as one of ours. `feed`: it ended a changefeed that was running or to be opened."""
    diag = error.diag
    told = diag.message_primary or str(error)
    told = " ".join(part for part in (told, f"({diag.message_hint})" if diag.message_hint else "") if part)
    text = without_secrets(told.strip().replace("\n", "; "), secrets)
    kind, code, cure = _meaning(error.sqlstate, text, isinstance(error, psycopg.OperationalError | psycopg.InterfaceError), feed)
    return kind(f"{doing}: {text}", code=code, where=where, cure=cure)


def _meaning(state: str | None, text: str, connection: bool, feed: bool) -> _Means:
    for pattern, meaning in _BY_TEXT:
        if pattern.search(text):
            return meaning
    if feed and state == "42703":
        return Irrecoverable, COLUMN_GONE, ""
    if state is not None and state in _BY_STATE:
        return _BY_STATE[state]
    if state is None or state[:2] in ("08", "53", "57", "40", "58"):
        return _CONNECTION
    if feed and state[:2] not in ("42", "22"):
        return Retryable, FEED, "nothing, if it passes; else see the server's log"
    return _CONNECTION if connection and state[:2] == "XX" else _STATEMENT


def named_table(message: str) -> str | None:
    """The bare name of the table that an error of a feed is about, where it says one."""
    found = _TABLE.search(message)
    return next((g for g in found.groups() if g), None) if found else None


def time_of_change(message: str) -> str | None:
    """The time at which a change of a primary key ended a feed: all before it was told."""
    found = re.search(r"schema change occurred at ([0-9]+\.[0-9]{10})", message)
    return found[1] if found else None
