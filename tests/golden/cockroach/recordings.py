"""Reads the recordings: feeds, their messages, and the tables as the recorded statements made them. Knows nothing of the decoder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("v*/*.jsonl"))


@dataclass(frozen=True)
class Message:
    topic: str | None
    key: str | None
    value: str

    @property
    def said(self) -> dict[str, Any]:
        """Numbers are their own text."""
        return json.loads(self.value, parse_float=Number, parse_int=Number)  # type: ignore[no-any-return]


class Number(str):
    """A JSON number as it was written."""


@dataclass
class Feed:
    """One sinkless feed. `number`: which one of that name in its file."""

    path: Path
    name: str
    number: int
    sql: str
    messages: list[Message] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{self.path.parent.name}-{self.path.stem[:2]}-{self.name}-{self.number}"

    def has(self, option: str) -> bool:
        return re.search(rf"(WITH|,) {option}(?!\w)", self.sql) is not None

    @property
    def selected(self) -> tuple[str, ...] | None:
        """The columns that a CDC query names."""
        found = re.search(r" AS SELECT ([\w, ]+) FROM ", self.sql)
        return tuple(found[1].split(", ")) if found else None

    @property
    def wrapped(self) -> bool:
        """Whether its messages are JSON in the envelope that is decoded."""
        said = re.search(r"envelope='?(\w+)", self.sql)
        if said:
            return said[1] == "wrapped"
        return "format=" not in self.sql and " AS SELECT " not in self.sql

    @property
    def rows(self) -> list[Message]:
        return [m for m in self.messages if m.topic is not None]

    @property
    def scans(self) -> bool:
        if "initial_scan" in self.sql:
            return not self.has("initial_scan='no'") and not self.has("no_initial_scan")
        return "cursor=" not in self.sql


def feeds(path: Path) -> list[Feed]:
    found: list[Feed] = []
    open_: dict[str, Feed] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        if line["kind"] == "changefeed":
            number = sum(f.name == line["feed"] for f in found)
            open_[line["feed"]] = Feed(path, line["feed"], number, line["sql"])
            found.append(open_[line["feed"]])
        elif line["kind"] == "message":
            open_[line["feed"]].messages.append(Message(line["topic"], line["key"], line["value"]))
    return found


# ---- tables, as the recorded statements made them


@dataclass(frozen=True)
class Made:
    """A column: `told` (computed) says that every row is told again when it comes; `default` what older rows have."""

    id: int
    name: str
    sql_type: str
    virtual: bool = False
    told: bool = False
    default: str | None = None


@dataclass(frozen=True)
class Table:
    columns: tuple[Made, ...]
    key: tuple[str, ...]
    key_width: int

    def shown(self, virtual: bool) -> dict[str, Made]:
        return {c.name: c for c in self.columns if virtual or not c.virtual}


def tables(path: Path) -> dict[str, list[Table]]:
    """Each table's states, oldest first, by its name without database and schema. A statement that failed made none."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    statements: list[str] = []
    for line in lines:
        if line["kind"] == "sql":
            statements.append(line["sql"])
        elif line["kind"] == "sql_error" and statements:
            statements.pop()
    made: dict[str, list[Table]] = {}
    for sql in statements:
        if found := re.fullmatch(r"CREATE TABLE (\S+|\".*?\") \((.*)\)", sql, re.DOTALL):
            # The same name again is another table.
            made.setdefault(_name(found[1]), []).append(_created(found[2]))
        elif found := re.fullmatch(r"ALTER TABLE (\S+) RENAME TO (\S+)", sql):
            made[found[2]] = made[found[1]]
        elif found := re.fullmatch(r"ALTER TABLE (\S+) (.*)", sql):
            states = made[_name(found[1])]
            states.append(_altered(states[-1], found[2]))
    return made


def _name(written: str) -> str:
    return written.strip('"') if written.startswith('"') else written.split(".")[-1]


def _created(body: str) -> Table:
    columns: list[Made] = []
    key: tuple[str, ...] = ()
    shard = 0
    for part in _parts(body):
        if found := re.fullmatch(r"PRIMARY KEY \((.*)\)", part):
            key = tuple(re.split(r" (?:ASC|DESC)", k.strip())[0] for k in found[1].split(","))
        elif not part.startswith("FAMILY"):
            columns.append(_column(part, len(columns) + 1))
            if "PRIMARY KEY" in part:
                key, shard = (columns[-1].name,), int("USING HASH" in part)
    if not key:
        columns.append(Made(len(columns) + 1, "rowid", "INT8"))
        key = ("rowid",)
    return Table(tuple(columns), key, len(key) + shard)


def _parts(body: str) -> Iterator[str]:
    """Split at the commas that are in no brackets."""
    depth, part = 0, ""
    for letter in body:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()


def _column(text: str, id_: int) -> Made:
    name, rest = text.split(" ", 1)
    sql_type = re.split(r" (?:PRIMARY KEY|NOT NULL|DEFAULT|AS \()", rest)[0]
    default = re.search(r"DEFAULT (\S+)", rest)
    return Made(id_, name, sql_type, "VIRTUAL" in rest, "STORED" in rest, default[1].strip("'") if default else None)


def _altered(table: Table, change: str) -> Table:
    id_ = max(c.id for c in table.columns) + 1
    if found := re.fullmatch(r"ADD COLUMN (.*)", change):
        return replace(table, columns=(*table.columns, _column(found[1], id_)))
    if found := re.fullmatch(r"DROP COLUMN (\w+)", change):
        return replace(table, columns=tuple(c for c in table.columns if c.name != found[1]))
    if found := re.fullmatch(r"RENAME COLUMN (\w+) TO (\w+)", change):
        return replace(table, columns=tuple(replace(c, name=found[2]) if c.name == found[1] else c for c in table.columns))
    if found := re.fullmatch(r"ALTER COLUMN (\w+) TYPE (.*)", change):
        named = {c.name: c for c in table.columns}
        # A conversion that rewrites makes another column of that name; one that does not keeps it.
        kept = "VARCHAR" in found[2]
        column = replace(named[found[1]], sql_type=found[2], id=named[found[1]].id if kept else id_)
        return replace(table, columns=tuple(column if c.name == found[1] else c for c in table.columns))
    if found := re.fullmatch(r"ALTER PRIMARY KEY USING COLUMNS \((.*)\)", change):
        key = tuple(found[1].split(", "))
        return replace(table, key=key, key_width=len(key))
    return table
