"""The words of the oracle: an event, a change and a row, with values in one form whatever place they were read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Row = dict[str, Any]

_DECIMALS, _TIMES = {"rating"}, {"changed"}
_NUMBERS = {"id", "year", "director_id", "studio_id", "born"}


@dataclass(frozen=True)
class Event:
    """One event of a topic as a reader finds it. `cause` is null for what a database or a step said of itself."""

    offset: int
    op: str
    key: int
    version: str
    before: Row | None
    after: Row | None
    cause: str | None = None


@dataclass(frozen=True)
class Change:
    """One row's change as the audit has it; another primary key is two of them, with one `seq`."""

    seq: int
    xid: int
    op: str
    key: int
    before: Row | None
    after: Row | None


def value(name: str, found: Any) -> Any:
    """A column's value in one form. Raises on what is not of the column's type: a near miss is a miss."""
    if found is None:
        return None
    if name in _DECIMALS:
        return Decimal(found if isinstance(found, str | int) else str(found))
    if name in _TIMES:
        at = datetime.fromisoformat(found) if isinstance(found, str) else found
        assert at.tzinfo is not None, f"{name} {found!r} is no instant"
        return at.astimezone(UTC)
    if name in _NUMBERS:
        assert type(found) is int, f"{name} is {found!r}, no integer"
        return found
    return found


def row(found: Mapping[str, Any] | str | bytes | None) -> Row | None:
    """A row image from Arrow's Python values, or from JSON text."""
    if found is None:
        return None
    if isinstance(found, str | bytes):
        found = json.loads(found, parse_float=Decimal)
    return {name: value(name, v) for name, v in found.items()}


def changes(seq: int, xid: int, operation: str, was: str | None, became: str | None) -> list[Change]:
    """A row of the audit (TG_OP and JSON texts) as what a topic should say."""
    before, after = row(was), row(became)
    if before is not None and after is not None and before["id"] != after["id"]:
        return [Change(seq, xid, "d", before["id"], before, None), Change(seq, xid, "c", after["id"], None, after)]
    key = (after or before or {})["id"]
    return [Change(seq, xid, {"INSERT": "c", "UPDATE": "u", "DELETE": "d"}[operation], key, before, after)]
