"""Runs a recording's SQL against the stand-in, its changefeeds open as they were, and puts both sides into one comparable form.

The store's clock shows the recording's, so a cursor means the same here. A feed is read to its end in one go when the recording's ends: it
tells what happened since it was opened, and no time passes meanwhile.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.testing.cockroach import changefeeds, definitions
from millstream.testing.cockroach.answers import Running
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.faults import Faults, Timing
from millstream.testing.cockroach.feeds import Feed
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.targets import open_feed

GOLDEN = Path(__file__).parents[2] / "golden" / "cockroach"
FOLDERS = {"26.1": "v26.1-alpha", "22.1": "v22.1-alpha"}
AT_ONCE = Timing(lag_s=0.0, every_s=0.0, whole=False, pace=1e6)
_TIME = re.compile(r"\d{19}\.\d{10}")
_ROW_ID = re.compile(r"\b1[12]\d{17}\b(?!\.)")
_SECONDS = re.compile(r"\d{10}\.\d{9},\d+")

Message = tuple[str, str, str]


@dataclass
class Told:
    """One feed's telling: distinct row messages in the order of their first sighting, and how it ended."""

    statement: str
    messages: list[Message] = field(default_factory=list)
    end: tuple[str, str] | None = None
    """(SQLSTATE, text); None where it ended by itself or was cancelled by the recorder."""


@dataclass
class Replay:
    """What the real server and the stand-in gave, side by side, in the recording's order."""

    feeds: list[tuple[str, Told, Told]] = field(default_factory=list)
    answers: list[tuple[str, Any, Any]] = field(default_factory=list)


def lines(version: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / FOLDERS[version] / f"{name}.jsonl").read_text().splitlines()]


def _began(recorded: list[dict[str, Any]]) -> int:
    """The wall time of a recording's t = 0, by the first scan's time: that of its changefeed's statement."""
    asked = next(n for n, line in enumerate(recorded) if line["kind"] == "changefeed" and "CDC" not in line["sql"])
    for line in recorded[asked:]:
        if line["kind"] == "message" and (found := _TIME.search(line["value"])) and line["topic"] is None:
            return int(found[0][:19]) - int(recorded[asked]["t"] * 1e9)
    return 1_795_386_000 * 10**9


@dataclass
class _Open:
    sql: str
    recorded: Told
    ours: Told
    feed: Feed | None


class _Player:
    def __init__(self, version: str, recorded: list[dict[str, Any]], names: dict[str, str], resets: bool) -> None:
        self.resets = resets
        self.began, self.t = _began(recorded), 0.0
        self.store = Store(version, lambda: self.began + int(self.t * 1e9))  # type: ignore[arg-type]
        self.store.users.add("plain")
        self.session = self.store.session()
        self.names, self.open, self.out = names, dict[str, _Open](), Replay()
        self.faults = Faults(repeats=0.0, disorder=0.0)
        self.times: dict[str, str] = {}

    def sql(self, line: dict[str, Any], following: dict[str, Any] | None) -> None:
        text = line["sql"]
        real: Any = ("rows", _texts(following)) if following and following["kind"] == "sql_result" else None
        if following and following["kind"] == "sql_error":
            real = ("error", following["sqlstate"], following["message"])
        created = re.match(r"CREATE TABLE (\w+)", text)
        if created and self.store.find((created[1],)) is not None:
            # Recording 05 begins each case with the table anew; that it was dropped is not among its lines.
            self.session.execute(f"DROP TABLE {created[1]}")
        try:
            result = self.session.execute(text)
        except SqlError as wrong:
            self.out.answers.append((text, real, ("error", wrong.sqlstate, wrong.message)))
            return
        if "cluster_logical_timestamp" in text and following is not None:
            self.times[following["rows"][0][0]] = result.rows[0][0] or ""
        elif real is not None:
            self.out.answers.append((text, real, ("rows", [list(r) for r in result.rows])))

    def changefeed(self, line: dict[str, Any]) -> None:
        text = line["sql"]
        for theirs, ours in self.times.items():
            text = text.replace(theirs, ours)
        movies = self.store.find(("movies",))
        if self.resets and movies is not None and "rating" in movies.now.by_name:
            # Recording 08 begins each case with this row as it was; how it was put back is not among its lines.
            self.session.execute("UPDATE movies SET rating = 8.10 WHERE id = 1")
        one = self.open[line["feed"]] = _Open(line["sql"], Told(line["sql"]), Told(line["sql"]), None)
        self.out.feeds.append((line["feed"], one.recorded, one.ours))
        user = self.names.get(line["feed"], "root")
        try:
            if not changefeeds.is_changefeed(text):
                self.session.execute(text)
            asked = changefeeds.read(text, self.store.version)
            one.feed = open_feed(self.store, asked, user, "defaultdb", self.faults, AT_ONCE, self._named)
        except SqlError as wrong:
            one.ours.end = (wrong.sqlstate, wrong.message)

    def _named(self, name: Any) -> Any:
        return definitions.named_type(self.store, name, "defaultdb")

    def close(self, name: str) -> None:
        one = self.open.pop(name)
        if one.feed is None:
            return
        rounds = itertools.count()
        target = self.store.now()
        borders = 2 + 2 * sum(len(t.descriptors) for t in self.store.tables.values())
        try:
            for batch in one.feed.batches(Running(), lambda: next(rounds) > (borders if "resolved" in one.sql else 2)):
                for topic, key, value in batch:
                    if topic is not None and key is not None:
                        one.ours.messages.append((topic, key, value))
                    elif topic is None and Hlc.parse(_resolved(value)) >= target:
                        return
        except SqlError as wrong:
            one.ours.end = (wrong.sqlstate, wrong.message)
        finally:
            one.ours.messages = list(dict.fromkeys(one.ours.messages))


def _resolved(value: str) -> str:
    found = _TIME.search(value)
    assert found is not None, value
    return found[0]


def _texts(line: dict[str, Any]) -> list[list[str | None]]:
    return [[None if v is None else str(v) for v in row] for row in line["rows"]]


def replay(version: str, name: str, users: dict[str, str] | None = None) -> Replay:
    """`users`: feed → the user that opens it, where that is not root."""
    recorded = lines(version, name)
    player = _Player(version, recorded, users or {}, name.startswith("08"))
    for n, line in enumerate(recorded):
        kind, player.t = line["kind"], line["t"]
        if kind == "sql":
            player.sql(line, recorded[n + 1] if n + 1 < len(recorded) else None)
        elif kind == "changefeed":
            player.changefeed(line)
        elif kind == "message" and line["topic"] is not None:
            player.open[line["feed"]].recorded.messages.append((line["topic"], line["key"], line["value"]))
        elif kind in ("feed_end", "feed_error"):
            if kind == "feed_error" and line.get("sqlstate") != "57014":
                player.open[line["feed"]].recorded.end = (line["sqlstate"], line["message"])
            player.close(line["feed"])
        elif kind == "note" and "four sessions at once" in line["note"]:
            for text in written(recorded[n:]):
                player.session.execute(text)
    for feed in list(player.open):
        player.close(feed)
    for _, theirs, _ in player.out.feeds:
        theirs.messages = list(dict.fromkeys(theirs.messages))
    return player.out


def written(recorded: list[dict[str, Any]]) -> Iterator[str]:
    """The updates that a recording's note speaks of, by what the feed told of them: one statement for each time."""
    at: dict[str, set[int]] = {}
    for line in recorded:
        if line["kind"] == "message" and line["topic"] is not None:
            value = json.loads(line["value"])
            if value["before"] is not None:
                at.setdefault(value["updated"], set()).add(value["after"]["id"])
    for moment in sorted(at):
        yield f"UPDATE ord SET n = n + 1 WHERE id IN ({', '.join(map(str, sorted(at[moment])))})"


def ranked(told: Told) -> tuple[list[Message], tuple[str, str] | None]:
    """With times and row ids as their ranks among those of the feed's rows; sorted, for across keys there is no order."""
    shown = _ranks(told)
    end = None if told.end is None else (told.end[0], _SECONDS.sub("<time>", _TIME.sub("<time>", told.end[1])))
    return sorted((t, shown(k), shown(v)) for t, k, v in told.messages), end


def first_sightings(told: Told) -> dict[tuple[str, str], list[str]]:
    """Each key's messages in the order in which they were first seen, times and row ids as in `ranked`."""
    shown, out = _ranks(told), dict[tuple[str, str], list[str]]()
    for topic, key, value in told.messages:
        out.setdefault((topic, shown(key)), []).append(shown(value))
    return out


def _ranks(told: Told) -> Callable[[str], str]:
    texts = [part for message in told.messages for part in message]
    times = {t: f"<time {n}>" for n, t in enumerate(sorted({t for text in texts for t in _TIME.findall(text)}, key=Hlc.parse))}
    ids = {i: f"<row {n}>" for n, i in enumerate(sorted({i for text in texts for i in _ROW_ID.findall(text)}))}
    return lambda text: _ROW_ID.sub(lambda m: ids[m[0]], _TIME.sub(lambda m: times[m[0]], text))
