"""What a changefeed statement means on a store: its tables at its time, who may, and the refusals of the real servers; then the feed.

Reference: the recordings 03, 06 and 10 of both versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from millstream.testing.cockroach.changefeeds import Changefeed, Target, wrong_value
from millstream.testing.cockroach.descriptors import Descriptor
from millstream.testing.cockroach.envelopes import Envelopes
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.faults import Faults, Timing
from millstream.testing.cockroach.feeds import Feed, Watched
from millstream.testing.cockroach.hlc import Hlc
from millstream.testing.cockroach.store import Store
from millstream.testing.cockroach.syntax import Name
from millstream.testing.cockroach.types import SqlType

_SETTING = {
    "26.1": "https://www.cockroachlabs.com/docs/dev/create-and-configure-changefeeds.html#enable-rangefeeds",
    "22.1": "https://www.cockroachlabs.com/docs/v22.1/change-data-capture.html#enable-rangefeeds-to-reduce-latency",
}
_UNITS = {"us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


def open_feed(
    store: Store, asked: Changefeed, user: str, database: str, faults: Faults, timing: Timing, named: Callable[[Name], SqlType]
) -> Feed:
    """Raises SqlError in the order in which a server checks."""
    if store.settings.get("kv.rangefeed.enabled") != "true":
        raise SqlError("XXUUU", f"rangefeeds require the kv.rangefeed.enabled setting. See {_SETTING[store.version]}")
    now = store.now()
    start = time_of(asked.cursor, now, store.version) if asked.cursor is not None else now
    if start > now:
        raise _in_the_future(asked.cursor or "", start, now, store.version)
    found = [_descriptor(store, target, database, start, has_cursor=asked.cursor is not None) for target in asked.targets]
    for descriptor in found:
        _may(store, user, descriptor, faults)
    store.readable(start)
    end = time_of(asked.end_time, now, store.version) if asked.end_time is not None else None
    envelopes = Envelopes(asked, store.version, start, named)
    watched: dict[int, Watched] = {}
    for target, descriptor in zip(asked.targets, found, strict=True):
        envelopes.check(descriptor)
        one = watched.setdefault(descriptor.id, Watched(descriptor.id, descriptor.name, _topic(asked, descriptor, store.version), ()))
        one.families += _families(asked, target, descriptor, store.version)
    return Feed(store, asked, list(watched.values()), start, end, faults, timing, envelopes)


def time_of(text: str, now: Hlc, version: str) -> Hlc:
    """What AS OF SYSTEM TIME makes of a text: an HLC, nanoseconds, a timestamp, or an interval before now."""
    text = text.strip()
    if re.fullmatch(r"\d{1,20}(\.\d{1,10})?\??", text):
        return Hlc.parse(text)
    parts = re.findall(r"([\d.]+)\s*([a-z]+)", text)
    if text.startswith("-") and parts and all(unit in _UNITS for _, unit in parts):
        return Hlc(now.wall - sum(int(float(number) * _UNITS[unit]) for number, unit in parts))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise SqlError("XXUUU", "AS OF SYSTEM TIME: value is neither timestamp, decimal, nor interval") from None
    since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return Hlc((since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds) * 1_000)


def _in_the_future(text: str, at: Hlc, now: Hlc, version: str) -> SqlError:
    if version == "22.1":
        told = f"cannot specify timestamp in the future ({_seconds(at)} > {_seconds(now)})"
    else:
        told = f"timestamp '{text}' is in the future"
    return SqlError(wrong_value(version), f"AS OF SYSTEM TIME: {told}")


def _seconds(at: Hlc) -> str:
    return f"{at.wall // 10**9}.{at.wall % 10**9:09},{at.logical}"


def _descriptor(store: Store, target: Target, database: str, at: Hlc, *, has_cursor: bool) -> Descriptor:
    path = store.full_name(target.name, database)
    shown = ".".join(target.name)
    if path[0] == "system":
        raise SqlError("XXUUU", "CHANGEFEEDs are not supported on system tables")
    found = store.table(".".join('"' + part.replace('"', '""') + '"' for part in path), at)
    if found is None:
        unresolved = "failed to resolve targets in the CHANGEFEED stmt: "
        hint = f"\nHINT:  do the targets exist at the specified cursor time {_seconds(at)}?" if has_cursor else ""
        if path[0] not in store.databases or at < _began(store):
            raise SqlError("3D000", f'{unresolved}database "{path[0]}" does not exist{hint}')
        more = "" if store.version == "22.1" else ": supplied backups do not cover requested time"
        raise SqlError("XXUUU", f'{unresolved}table "{shown}" does not exist{more}{hint}')
    if found.kind != "table":
        raise SqlError("XXUUU", f"CHANGEFEED cannot target {found.kind}s: {found.name}")
    return found


def _began(store: Store) -> Hlc:
    """Before its first table a store is taken not to have been there."""
    return min((t.descriptors[0].since for t in store.tables.values()), default=Hlc(0))


def _may(store: Store, user: str, descriptor: Descriptor, faults: Faults) -> None:
    if user not in faults.refused:
        if store.version == "22.1":
            if store.roles_of(user) & {"root", "admin", "controlchangefeed"}:
                return
        elif store.may(user, descriptor.id, "select") or store.may(user, descriptor.id, "changefeed"):
            return
    if store.version == "22.1":
        raise SqlError("42501", "current user must have a role WITH CONTROLCHANGEFEED")
    raise SqlError("42501", f"user {user} requires the SELECT privilege on all target tables to be able to run a core changefeed")


def _topic(asked: Changefeed, descriptor: Descriptor, version: str) -> str | None:
    """A feed of 26.1 keeps the name that a table had when it began; one of 22.1 follows a new name."""
    if "full_table_name" in asked.options:
        return descriptor.full_name
    return None if version == "22.1" else descriptor.name


def _families(asked: Changefeed, target: Target, descriptor: Descriptor, version: str) -> tuple[str | None, ...]:
    names = [f.name for f in descriptor.families]
    if target.family is not None:
        if target.family not in names:
            raise SqlError("XXUUU", f"CHANGEFEED targeting nonexistent or removed column family {target.family} of table {descriptor.name}")
        return (target.family,)
    if len(names) <= 1:
        return (None,)
    if "split_column_families" in asked.options:
        return tuple(names)
    if version == "22.1":
        raise SqlError(
            "XXUUU", f"CHANGEFEEDs are currently supported on tables with exactly 1 column family: {descriptor.name} has {len(names)}"
        )
    if asked.query is not None:
        raise not_modelled("a CDC query on a table with several column families")
    raise SqlError(
        "XXUUU",
        f"CHANGEFEED targeting a table ({descriptor.name}) with multiple column families requires WITH split_column_families "
        "and will emit multiple events per row.",
    )
