"""User SQL over Arrow columns: one in-memory DuckDB a pipeline, walled off from files, network and settings.

A value that the SQL cannot compute is a BadRecord that names the record: the rows are halved until it is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import duckdb
import pyarrow as pa

from millstream.errors import BadRecord, Irrecoverable

ROW_ERRORS = (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Sql:
    """Runs SELECTs over relations given with each call."""

    def __init__(self, memory_mib: int = 64) -> None:
        self._con = duckdb.connect(":memory:")
        for setting in (
            f"memory_limit = '{memory_mib}MiB'",
            "threads = 1",
            "preserve_insertion_order = true",
            "TimeZone = 'UTC'",
            "enable_external_access = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "lock_configuration = true",
        ):
            self._con.execute(f"SET {setting}")

    def select(self, sql: str, relations: Mapping[str, pa.Table]) -> pa.Table:
        """The result of `sql`, in which each relation is a table named by its (quoted) name. Raises duckdb.Error."""
        for name, table in relations.items():
            self._con.register(name, table)
        try:
            return self._con.sql(sql).to_arrow_table()
        finally:
            for name in relations:
                self._con.unregister(name)

    def select_rows(
        self, sql: str, relation: str, rows: pa.Table, named: Callable[[int], str], *, kept_out: str = "a WHERE that keeps such rows out"
    ) -> pa.Table:
        """`select` over one relation; where a row's value fails, BadRecord with `named(row)` as the place. `kept_out`: what spares the
        SQL such rows."""
        try:
            return self.select(sql, {relation: rows})
        except ROW_ERRORS as e:
            row = self._first_bad(sql, relation, rows)
            raise BadRecord(
                f"the SQL fails on this record: {first_line(e)}",
                code="sql_failed",
                where=named(row),
                cure=f"mend the row at the source, or use TRY_CAST or {kept_out}, and apply again",
            ) from e
        except duckdb.Error as e:
            raise Irrecoverable(f"the SQL failed: {first_line(e)}", code="sql_failed", cure="look at the step's SQL") from e

    def _first_bad(self, sql: str, relation: str, rows: pa.Table) -> int:
        low, high = 0, rows.num_rows  # the first bad row is in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                self.select(sql, {relation: rows.slice(low, middle - low)})
                low = middle
            except ROW_ERRORS:
                high = middle
        return low

    def close(self) -> None:
        self._con.close()


def first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
