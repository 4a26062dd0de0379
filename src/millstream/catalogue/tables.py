"""How rows of our own tables are put and found on one engine, and what its faults mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from millstream.errors import Irrecoverable, MillstreamError, Retryable, without_secrets

T = TypeVar("T")

NAME, WORD, STATE = sa.String(255), sa.String(64), sa.String(16)


def table(metadata: sa.MetaData, name: str, key: str, **columns: Any) -> sa.Table:
    """A table whose rows have a name as their `key`, and columns of these types, none of them ever null."""
    needed = (sa.Column(column, kind, nullable=False) for column, kind in columns.items())
    return sa.Table(name, metadata, sa.Column(key, NAME, primary_key=True), *needed)


class Tables:
    """The tables of `metadata`, which are made where they are not there. Safe for several threads and processes.

    Every call may raise Retryable("catalogue_busy") or ("catalogue_down") where the database does not answer,
    Irrecoverable("disk_full") where it has no room; nothing is half written.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float], metadata: sa.MetaData) -> None:
        self._engine, self._clock = engine, clock
        self._explained(lambda: metadata.create_all(engine))

    def _put(self, table: sa.Table, key: str, row: Mapping[str, Any], also: Sequence[sa.Insert] = ()) -> None:
        """Change the row or add it; of two that add at once the second finds the first's and changes it. `also` in the same commit."""

        def put() -> None:
            changed = table.update().where(table.c[key] == row[key]).values(**row)
            if self._executed(changed, also):
                return
            try:
                self._executed(table.insert().values(**row), also)
            except sa.exc.IntegrityError:
                self._executed(changed, also)

        self._explained(put)

    def _changed(self, update: sa.Update, also: Sequence[sa.Insert] = ()) -> int:
        """How many rows it changed; where it changed some, `also` is done in the same commit."""
        return self._explained(lambda: self._executed(update, also))

    def _executed(self, statement: sa.Update | sa.Insert, also: Sequence[sa.Insert]) -> int:
        with self._engine.begin() as connection:
            count = int(connection.execute(statement).rowcount)
            for more in also if count else ():
                connection.execute(more)
            return count

    def _insert(self, insert: sa.Insert) -> None:
        self._explained(lambda: self._executed(insert, ()))

    def _delete(self, table: sa.Table, which: sa.ColumnElement[bool]) -> None:
        def delete() -> None:
            with self._engine.begin() as connection:
                connection.execute(table.delete().where(which))

        self._explained(delete)

    def _rows(self, query: sa.Select[Any]) -> Sequence[dict[str, Any]]:
        def rows() -> list[dict[str, Any]]:
            with self._engine.connect() as connection:
                return [dict(r) for r in connection.execute(query).mappings()]

        return self._explained(rows)

    def _explained(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            if "already exists" in str(error.orig):  # two processes made the tables at once: they are there
                return work()
            raise self._fault(error) from error

    def _fault(self, error: sa.exc.DBAPIError) -> MillstreamError:
        where = f"catalogue {self._engine.url.render_as_string(hide_password=True)}"
        what = without_secrets(str(error.orig).strip())
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return Irrecoverable(what, code="disk_full", where=where, cure="free space on that disk and try again")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Retryable(what, code="catalogue_busy", where=where, cure="another process holds the file; try again")
        return Retryable(what, code="catalogue_down", where=where, cure="check that the database is there and answers")
