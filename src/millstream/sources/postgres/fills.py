"""What old rows have in a column that was added, and whether those of a converted column may be others now: as the catalogue tells it.

Postgres leaves old rows alone where an added column has a default that is the same for all: the catalogue keeps it for them
(`attmissingval`). Any other default is written into every row by a rewrite, which also takes away what was kept before. No word
of either is in the log. So a column says null or its kept default only where no rewrite lies between a look at the catalogue
that did not have it and one that had it, else `UNKNOWN`. A rewrite changes the table's files; a file that never was
rewritten is named after the table's oid.
Reference: PostgreSQL 18, pg_attribute, "ALTER TABLE", Notes; tablecmds.c and heap.c (RelationClearMissing).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from millstream.events.fills import fill_value
from millstream.events.types import UNKNOWN, Constant, Fill, Type
from millstream.sources.postgres.describe import Attribute, Described


@dataclass(frozen=True)
class _Look:
    """The catalogue's last word on a table: its files, its highest column number, and of the columns their fills and (not known of a
    look that was stored) their SQL types."""

    files: str
    last: int
    fills: Mapping[int, Fill | None]
    types: Mapping[int, str]


class Fills:
    """Looks at tables' columns, each held against the look before. `stored` goes with a position, and comes back at the next start."""

    def __init__(self, stored: Mapping[str, list[str | int]]) -> None:
        self._looks: dict[int, _Look] = {}
        for oid, (files, last, unknown) in stored.items():
            self._looks[int(oid)] = _Look(str(files), int(last), dict.fromkeys(_numbers(str(unknown)), UNKNOWN), {})

    def look(self, table: Described) -> dict[int, Fill | None]:
        """What a row that the stream has given without column n, or with another type of it, has in it now: by column number.

        None: null. Of a column that all rows were given with, it says nothing.
        """
        before = self._looks.get(table.oid)
        untouched = table.never_rewritten if before is None else table.files == before.files
        present = [a for a in table.attributes if not a.dropped]
        fills = {a.number: self._fill(a, before, untouched) for a in present}
        last = max((a.number for a in table.attributes), default=0)
        self._looks[table.oid] = _Look(table.files, last, fills, {a.number: a.sql_type for a in present})
        return fills

    @staticmethod
    def _fill(column: Attribute, before: _Look | None, untouched: bool) -> Fill | None:
        n = column.number
        known = before is not None and n <= before.last
        was = before.fills.get(n) if before is not None and known else None
        if known and before is not None and (was is UNKNOWN or (was is None and before.types.get(n) == column.sql_type)):
            return was
        if column.missing is None:
            return None if untouched and was is None and not column.missing_differs else UNKNOWN
        return Constant(column.missing) if not column.missing_differs and _is_value(column.type, column.missing) else UNKNOWN

    @property
    def stored(self) -> dict[str, list[str | int]]:
        """As plain JSON: table → its files, its highest column number, the columns of which nothing is known."""
        return {
            str(oid): [look.files, look.last, _ranges(n for n, fill in look.fills.items() if fill is UNKNOWN)]
            for oid, look in self._looks.items()
        }


def _is_value(type_: Type, text: str) -> bool:
    """Whether the column's type can hold it: not NaN in a decimal, nor a date without end."""
    try:
        fill_value(type_, text)
    except ValueError:
        return False
    return True


def _ranges(numbers: Iterable[int]) -> str:
    """1-4,7: a table that was rewritten before the first look has many."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _numbers(ranges: str) -> list[int]:
    ends = [run.split("-") for run in ranges.split(",") if run]
    return [n for run in ends for n in range(int(run[0]), int(run[-1]) + 1)]
