"""What each recorded message means, by `json.loads` and plain Python: nothing of the decoder's, message by message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
from recordings import Feed, Made, Message, Number, Table, tables

Hole = tuple[str, str, str]
_NUMBERS = ("INT", "FLOAT", "DECIMAL")


def value(sql_type: str, said: Any) -> tuple[Any, str | None]:
    """The value that the column has, and why it has none though the database has one."""
    if said is None:
        return None, None
    if sql_type.endswith("[]"):
        parts = [value(sql_type[:-2], each) for each in said]
        why = next((w for _, w in parts if w), None)
        return (None, why) if why else ([v for v, _ in parts], None)
    if sql_type.startswith("INT") and sql_type != "INTERVAL":
        return int(said), None
    if sql_type == "FLOAT4":
        return float(np.float32(said)), None
    if sql_type == "FLOAT8":
        return float(said), None
    if sql_type.startswith("DECIMAL("):
        return (Decimal(said), None) if isinstance(said, Number) else (None, said.strip("-").lower())
    if sql_type == "BYTES":
        return bytes.fromhex(said.removeprefix("\\x")), None
    if sql_type in ("JSONB", "GEOMETRY", "GEOGRAPHY"):
        return ("null" if said == {"__crdb_json_null__": True} else written(said)), None
    if said in ("infinity", "-infinity") and sql_type.startswith(("DATE", "TIMESTAMP")):
        return None, said
    try:
        if sql_type == "DATE":
            return date.fromisoformat(said), None
        if sql_type == "TIME":
            return time.fromisoformat(_whole_micros(said)), None
        if sql_type.startswith("TIMESTAMP"):
            return datetime.fromisoformat(_whole_micros(said)), None
    except ValueError:
        return None, "out_of_range"
    return (said if isinstance(said, bool) else str(said)), None


def _whole_micros(text: str) -> str:
    """Python before 3.11 aside, its parser takes three or six digits after the point."""
    return re.sub(r"\.(\d{1,6})", lambda m: "." + m[1].ljust(6, "0"), text)


def written(said: Any) -> str:
    """JSON as CockroachDB writes it."""
    if isinstance(said, Number):
        return str(said)
    if isinstance(said, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {written(v)}" for k, v in said.items()) + "}"
    if isinstance(said, list):
        return "[" + ", ".join(map(written, said)) + "]"
    return json.dumps(said, ensure_ascii=False)


@dataclass(frozen=True)
class Meant:
    """A message: its table as each image shows it, its time, and whether it is told again."""

    message: Message
    after: dict[str, Any] | None
    before: dict[str, Any] | None
    shown: Table
    shown_before: Table
    time: tuple[int, int]
    written_at: tuple[int, int] | None

    @property
    def again(self) -> bool:
        return self.written_at is not None and self.written_at < self.time and self.after is not None

    @property
    def covered(self) -> bool:
        """Told again for columns of which every reader knows what older rows have in them."""
        if not self.again or self.before is None:
            return False
        had = {c.id for c in self.shown_before.columns}
        return not any(c.told and c.id not in had and not c.virtual for c in self.shown.columns)


class Recorded:
    """One feed's table states and what its messages mean."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._tables = tables(feed.path)
        self._virtual = feed.has("virtual_columns='null'")
        self.messages = [self._meant(m) for m in feed.rows]

    def columns(self, table: Table) -> dict[str, Made]:
        shown = table.shown(self._virtual)
        return {n: shown[n] for n in self.feed.selected if n in shown} if self.feed.selected else shown

    def states(self, topic: str) -> list[Table]:
        return self._tables[topic.split(".")[-1] if topic.count(".") == 2 else topic]

    def _meant(self, message: Message) -> Meant:
        said = message.said
        after, before = said["after"], said.get("before")
        assert message.topic is not None and message.key is not None
        width = len(json.loads(message.key))
        image = after if after is not None else before
        shown = self._state(message.topic, image, width) if image is not None else self.states(message.topic)[0]
        earlier = shown if before is None or after is None else self._state(message.topic, before, None, shown)
        return Meant(message, after, before, shown, earlier, _time(said.get("updated")) or (1, 0), _time(said.get("mvcc_timestamp")))

    def _state(self, topic: str, image: Mapping[str, Any], width: int | None, first: Table | None = None) -> Table:
        """The latest of the table's states that this image can be of."""
        for state in [*([first] if first else []), *reversed(self.states(topic))]:
            columns = self.columns(state)
            if self.feed.selected is not None and set(columns) != set(self.feed.selected):
                continue
            names = set(columns) == set(image) or (self.feed.selected is not None and set(columns) <= set(image))
            if names and width in (None, state.key_width) and all(_can_be(c.sql_type, image[n]) for n, c in columns.items()):
                return state
        raise AssertionError(f"no state of {topic} has {list(image)}, a key of {width}")


def _time(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    wall, logical = text.split(".")
    return int(wall), int(logical)


def _can_be(sql_type: str, said: Any) -> bool:
    if said is None or sql_type in ("JSONB", "GEOMETRY", "GEOGRAPHY"):
        return True
    if sql_type.endswith("[]"):
        return isinstance(said, list)
    if sql_type.startswith(_NUMBERS) and sql_type != "INTERVAL":
        return isinstance(said, Number) or said in ("NaN", "Infinity", "-Infinity")
    return isinstance(said, bool) if sql_type == "BOOL" else type(said) is str
