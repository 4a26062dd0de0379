"""What the server's and the driver's complaints mean here: which of the four kinds of failure, and the cure.

No text that leaves here holds the password (invariant 10).
Reference: PostgreSQL 18, "PostgreSQL Error Codes".
"""

from __future__ import annotations

import re

import psycopg

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable, without_secrets

_PASSWORD = (Refused, "password", "put the right user and password into the source's url")
_LOGIN = (Refused, "login", "let this role log in from here: its LOGIN attribute, CONNECT on the database, a line in pg_hba.conf")
_DATABASE = (Refused, "database", "put the right database name into the source's url")
_PRIVILEGE = (Refused, "privilege", "run `millstream validate` for what the role lacks, and grant it")
_SLOT = (Irrecoverable, "slot_gone", "see the server's log for why it went; start the source afresh, or back-fill what was lost")

STATEMENT = "statement_refused"
"""The server will not do what was asked, or cannot with the values that it met."""

_Means = tuple[type[MillstreamError], str, str]

_BY_STATE: dict[str, _Means] = {
    "28P01": _PASSWORD,
    "28000": _LOGIN,
    "3D000": _DATABASE,
    "42501": _PRIVILEGE,
    "55006": (Retryable, "slot_in_use", "stop the other reader of this slot; the server may take a moment to notice that one is gone"),
    "57014": (Retryable, "cancelled", "raise the server's statement_timeout for this role, if it is not a person who cancels"),
    # A slot that lost its WAL, or whose publication did not exist yet where the stream must begin.
    "58P01": _SLOT,
    "55000": _SLOT,
    "42704": (Irrecoverable, "publication_gone", "make the publication again and start this source afresh: new slot, new initial load"),
}

# A connection that is refused comes without a state: only the text says why.
_BY_TEXT: tuple[tuple[str, _Means], ...] = (
    (r"password authentication failed|no password supplied|SASL|SCRAM", _PASSWORD),
    (r"no pg_hba\.conf entry|not permitted to log in|role .* does not exist|permission denied for database", _LOGIN),
    (r"database .* does not exist", _DATABASE),
    (r"permission denied to start WAL sender|must be superuser or replication role", _PRIVILEGE),
)


def failure(error: psycopg.Error, *, where: str, doing: str, secrets: tuple[str, ...] = ()) -> MillstreamError:
    """`error` as one of ours. What is not known is Retryable where the connection is at fault, else Irrecoverable."""
    text = without_secrets(str(error).strip().replace("\n", "; "), secrets)
    message = f"{doing}: {text}"
    state = error.sqlstate
    kind, code, cure = _meaning(state, text, isinstance(error, psycopg.OperationalError | psycopg.InterfaceError))
    return kind(message, code=code, where=where, cure=cure)


def _meaning(state: str | None, text: str, connection: bool) -> _Means:
    if state is not None and state in _BY_STATE:
        return _BY_STATE[state]
    if state is None:
        for pattern, meaning in _BY_TEXT:
            if re.search(pattern, text):
                return meaning
    if connection or state is None or state[:2] in ("08", "53", "57", "40"):
        return Retryable, "connection", "check that the server runs and can be reached"
    if state[:2] in ("21", "22", "3F", "42", "P0"):
        return Irrecoverable, STATEMENT, "see the server's log"
    return Irrecoverable, "server_error", "see the server's log"
