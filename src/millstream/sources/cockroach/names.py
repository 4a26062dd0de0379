"""Names of tables and columns, how they are written into SQL, and the topic by which a feed names a table."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r'(?:"((?:[^"]|"")+)"|([^".\s]+))'
_NAME = re.compile(rf"^(?:{_PART}\.)?{_PART}$")
_BARE = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class TableName:
    """`written` as in the definition: table, schema.table, or with quotes where a name holds a dot or a blank. The database is the URL's.

    Upper and lower case count, with and without quotes. Without a schema it is `public`.
    """

    written: str
    schema: str
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Raises ValueError on what names no table."""
        found = _NAME.match(text)
        if found is None:
            raise ValueError(
                f'{text!r} is not the name of a table; write schema.table, with "quotes" around a part that holds a dot or a blank'
            )
        quoted_schema, schema, quoted_table, table = found.groups()
        return cls(text, (quoted_schema or schema or "public").replace('""', '"'), (quoted_table or table).replace('""', '"'))

    @property
    def quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    def topics(self, database: str) -> tuple[str, ...]:
        """How a feed with `full_table_name` may name this table: as it is, or quoted where it must be, as some versions do."""
        parts = (database, self.schema, self.table)
        quoted_where_needed = ".".join(p if _BARE.fullmatch(p) else quoted(p) for p in parts)
        return tuple(dict.fromkeys((".".join(parts), quoted_where_needed)))


def quoted(identifier: str) -> str:
    """An identifier as SQL takes it, whatever letters it holds."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string as SQL takes it. Backslashes mean themselves."""
    return "'" + text.replace("'", "''") + "'"
