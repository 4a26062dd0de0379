"""What the stand-in refuses: the database's own SQLSTATE and text, as a client would get them."""

from __future__ import annotations


class SqlError(Exception):
    """A statement was refused. `sqlstate` has five characters, `message` is the server's text; hint and detail stand in it."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate
        self.message = message


def not_modelled(what: str) -> SqlError:
    """0A000: CockroachDB may know it, the stand-in does not. Never a wrong result instead."""
    return SqlError("0A000", f"the stand-in does not model {what}")
