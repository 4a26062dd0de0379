"""How often each thing happens in the recordings that are decoded: what a reader of changefeeds has to reckon with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from recordings import FILES, Feed, Message, feeds


@dataclass
class Counts:
    """Row messages of one or more feeds. `messages` is the sum of all others but `stale`, which are among `repeats`.

    A repeat has a key and an `updated` that came before on its feed; a stale one comes after a newer version of its key.
    """

    messages: int = 0
    repeats: int = 0
    stale: int = 0
    scan: int = 0
    schema: int = 0
    nothing: int = 0
    changes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def countable(feed: Feed) -> bool:
    """Its messages say which row they are of, when it changed and what it was."""
    return feed.wrapped and feed.has("updated") and feed.has("diff") and not feed.has("split_column_families") and "FAMILY" not in feed.sql


def counted(messages: Iterable[Message]) -> Counts:
    """Simple admission: by key and `updated`, in the feed's order."""
    counts = Counts()
    seen: dict[Any, dict[tuple[int, ...], None]] = {}
    for message in messages:
        said = message.said
        assert message.key is not None
        key = (message.topic, json.dumps(_by_value(json.loads(message.key, parse_float=Decimal))))
        at = _time(said["updated"])
        versions = seen.setdefault(key, {})
        counts.messages += 1
        if at in versions:
            counts.repeats += 1
            counts.stale += at < max(versions)
            continue
        versions[at] = None
        if said["after"] is None and said["before"] is None:
            counts.nothing += 1
        elif said["after"] is not None and _time(said.get("mvcc_timestamp", said["updated"])) < at:
            if said["before"] is None:
                counts.scan += 1
            else:
                counts.schema += 1
        else:
            counts.changes += 1
    return counts


def _by_value(key: list[Any]) -> list[Any]:
    return [f"{k.normalize():f}" if isinstance(k, Decimal) else k for k in key]


def _time(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def of_file(path: Path) -> Counts:
    return sum((counted(f.rows) for f in feeds(path) if countable(f)), Counts())


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# What recorded changefeeds hold",
        "",
        "Two CockroachDB servers' sinkless feeds with `updated` and `diff`, as they are kept in `tests/golden/cockroach`: what",
        "came, and what of it was new. A *repeat* has a key and an `updated` that the same feed gave before; a *stale* one comes",
        "after a newer version of its key, so that the last message of a key is not its row. *Scan* rows are those of an initial",
        "scan, *schema* rows are told again because the table was changed; both are known by an `mvcc_timestamp` before",
        "`updated`, for which `06` and `08` did not ask: there they count as changes. So do the rows that 22.1 tells again by a",
        "fresh write whose before is its after (`04`). A *delete of nothing* has neither an image before nor after. All but the",
        "stale ones, which are among the repeats, add up to the messages.",
        "",
        "| recording | messages | repeats | stale | scan | schema | deletes of nothing | changes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    total = Counts()
    for path in FILES:
        counts = of_file(path)
        total += counts
        if counts.messages:
            lines.append(_line(f"{path.parent.name.removesuffix('-alpha').removeprefix('v')} `{path.stem}`", counts))
    return "\n".join([*lines, _line("all", total), ""])


def _line(name: str, counts: Counts) -> str:
    return f"| {name} | {' | '.join(str(getattr(counts, f.name)) for f in fields(counts))} |"
