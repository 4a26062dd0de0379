"""How a feed names a table, and strings as SQL takes them. No statement of a feed has parameters."""

from __future__ import annotations

import re

from millstream.sources.names import TableName, quoted

_BARE = re.compile(r"[a-z_][a-z0-9_]*")


def feed_topics(name: TableName, database: str) -> tuple[str, ...]:
    """How a feed with `full_table_name` may name this table: as it is, or quoted where it must be, as some versions do."""
    parts = (database, name.schema, name.table)
    quoted_where_needed = ".".join(p if _BARE.fullmatch(p) else quoted(p) for p in parts)
    return tuple(dict.fromkeys((".".join(parts), quoted_where_needed)))


def literal(text: str) -> str:
    """A string as SQL takes it. Backslashes mean themselves."""
    return "'" + text.replace("'", "''") + "'"
