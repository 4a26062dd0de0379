"""Names of tables and columns as definitions write them, and how they are written into SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r'(?:"((?:[^"]|"")+)"|([^".\s]+))'
_NAME = re.compile(rf"^(?:{_PART}\.)?{_PART}$")


@dataclass(frozen=True)
class TableName:
    """`written` as in the definition: table, schema.table, or with quotes where a name holds a dot or a blank.

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


def quoted(identifier: str) -> str:
    """An identifier as SQL takes it, whatever letters it holds."""
    return '"' + identifier.replace('"', '""') + '"'
