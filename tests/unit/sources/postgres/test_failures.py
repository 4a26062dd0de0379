"""Which kind of failure a complaint is, and that no secret leaves with it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from millstream.errors import Irrecoverable, MillstreamError, Refused, Retryable
from millstream.sources.postgres.failures import failure

SAID = [
    (psycopg.OperationalError('FATAL:  password authentication failed for user "u"'), Refused, "password"),
    (psycopg.OperationalError("fe_sendauth: no password supplied"), Refused, "password"),
    (psycopg.OperationalError('FATAL:  no pg_hba.conf entry for host "10.0.0.1"'), Refused, "login"),
    (psycopg.OperationalError('FATAL:  role "u" does not exist'), Refused, "login"),
    (psycopg.OperationalError('FATAL:  database "d" does not exist'), Refused, "database"),
    (psycopg.OperationalError("FATAL:  permission denied to start WAL sender"), Refused, "privilege"),
    (psycopg.OperationalError("connection refused"), Retryable, "connection"),
    (psycopg.InterfaceError("the connection is closed"), Retryable, "connection"),
    (errors.InsufficientPrivilege("permission denied for table t"), Refused, "privilege"),
    (errors.ObjectInUse("replication slot is active for PID 7"), Retryable, "slot_in_use"),
    (errors.AdminShutdown("terminating connection"), Retryable, "connection"),
    (errors.TooManyConnections("sorry, too many clients already"), Retryable, "connection"),
    (errors.SerializationFailure("could not serialize"), Retryable, "connection"),
    (errors.UndefinedObject('publication "p" does not exist'), Irrecoverable, "publication_gone"),
    (errors.ObjectNotInPrerequisiteState("can no longer get changes from replication slot"), Irrecoverable, "slot_gone"),
    (errors.SyntaxError("syntax error"), Irrecoverable, "statement_refused"),
]


@pytest.mark.parametrize(("error", "kind", "code"), SAID, ids=[f"{code}-{i}" for i, (_, _, code) in enumerate(SAID)])
def test_what_a_complaint_means(error: psycopg.Error, kind: type[MillstreamError], code: str) -> None:
    found = failure(error, where="source s", doing="trying")
    assert (type(found), found.code, found.where) == (kind, code, "source s")
    assert found.message == f"trying: {error}"
    assert found.cure


@pytest.mark.parametrize(
    "text",
    [
        "connection to postgresql://u:hunter2@h/d failed",
        'invalid dsn: "host=h password=hunter2"',
        "something else entirely about hunter2",
    ],
)
def test_no_secret_leaves(text: str) -> None:
    assert "hunter2" not in str(failure(psycopg.OperationalError(text), where="s", doing="trying", secrets=("hunter2",)))
