"""What every sink must do when its topic's schema changes, again and again: random chains of schemas with events between, and the oracle.

A chain is a pure function of its seed, so that a killed program and the one after it write the same. `follows` runs a chain against
a target; `follows_killed` runs it in processes that are killed at a named moment. They need `Target.follows` and `Target.fills`.
"""

from __future__ import annotations

import datetime as dt
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from millstream.events.batch import Batch
from millstream.events.fills import fill_value
from millstream.events.types import Constant, Field, Kind, RowSchema, Type, list_of
from millstream.testing import sink_events as given
from millstream.testing.sink_conformance import Target, nothing, run_program, up_to
from millstream.testing.sink_events import TOPIC, Event

_KEYS = 8
_NAMES = ("title", "year", "note", "cast", "a name", "Größe", "x-1")
_KINDS = ("boolean", "int32", "int64", "float32", "float64", "text", "date", "timestamptz", "decimal")
_WIDER: dict[str, Kind] = {"int32": "int64", "float32": "float64"}
_FILLS = {"int32": "7", "int64": "8", "text": "filled", "boolean": "t", "date": "2001-02-03", "decimal": "1.50", "float64": "0.5"}


@dataclass(frozen=True)
class Step:
    """A schema, and the events that come once it is accepted."""

    schema: RowSchema
    batch: Batch


@lru_cache(maxsize=8)
def chain(seed: int, steps: int = 8) -> tuple[Step, ...]:
    chance = random.Random(seed)  # noqa: S311 - a workload, not a secret
    draw, start = _Draw(chance), 0
    made: list[Step] = []
    for _ in range(steps):
        for _ in range(chance.randint(0, 3) if made else 4):
            draw.change()
        batch = given.changes(start, [_event(chance, draw.schema) for _ in range(chance.randint(1, 12))], draw.schema)
        made.append(Step(draw.schema, batch))
        start = up_to([batch])[TOPIC]
    return tuple(made)


class _Draw:
    """A schema that is changed by one random operation after another; ids are never used again, names are."""

    def __init__(self, chance: random.Random) -> None:
        self._chance, self._free = chance, 100
        self._fields: list[Field] = [Field("id", Type("int32"), 1)]

    @property
    def schema(self) -> RowSchema:
        return RowSchema(tuple(self._fields), (next(f.name for f in self._fields if f.id == 1),))

    def change(self) -> None:
        self._fields = self._changed(self._fields, 0)

    def _changed(self, fields: list[Field], depth: int) -> list[Field]:
        operations: list[Callable[[list[Field], int], list[Field]]] = [
            self._add, self._add, self._drop, self._rename, self._swap, self._widen, self._order,
        ]  # fmt: skip
        nested = [f for f in fields if _members(f.type)]
        if nested and self._chance.random() < 0.5:
            f = self._chance.choice(nested)
            inside = tuple(self._changed(list(_members(f.type)), depth + 1))
            return [replace(g, type=_with_members(g.type, inside)) if g is f else g for g in fields]
        return self._chance.choice(operations)(fields, depth)

    def _new_name(self, fields: list[Field]) -> str | None:
        free = [n for n in _NAMES if n not in [f.name for f in fields]]
        return self._chance.choice(free) if free else None

    def _add(self, fields: list[Field], depth: int) -> list[Field]:
        name = self._new_name(fields)
        if name is None:
            return fields
        type_ = self._type(depth)
        fill = Constant(_FILLS[type_.kind]) if type_.kind in _FILLS and self._chance.random() < 0.7 else None
        place = self._chance.randint(0, len(fields))
        return [*fields[:place], Field(name, type_, self._id(), fill=fill), *fields[place:]]

    def _id(self) -> int:
        self._free += 1
        return self._free

    def _type(self, depth: int) -> Type:
        kind = self._chance.choice(_KINDS)
        if depth < 2 and self._chance.random() < 0.3:
            record = Type("record", fields=tuple(self._add([*self._add([], depth + 1)], depth + 1)))
            return self._chance.choice([record, list_of(record)])
        return Type("decimal", 6, 2) if kind == "decimal" else Type(kind)  # type: ignore[arg-type]

    def _drop(self, fields: list[Field], _: int) -> list[Field]:
        loose = [f for f in fields if f.id != 1]
        gone = self._chance.choice(loose) if len(loose) > 1 else None
        return [f for f in fields if f is not gone]

    def _rename(self, fields: list[Field], _: int) -> list[Field]:
        name = self._new_name(fields)
        f = self._chance.choice(fields)
        return fields if name is None else [replace(g, name=name) if g is f else g for g in fields]

    def _swap(self, fields: list[Field], _: int) -> list[Field]:
        if len(fields) < 2:
            return fields
        a, b = self._chance.sample(fields, 2)
        names = {a.id: b.name, b.id: a.name}
        return [replace(f, name=names.get(f.id, f.name)) for f in fields]

    def _widen(self, fields: list[Field], _: int) -> list[Field]:
        f = self._chance.choice(fields)
        return [replace(g, type=_widened(g.type)) if g is f else g for g in fields]

    def _order(self, fields: list[Field], _: int) -> list[Field]:
        return self._chance.sample(fields, len(fields))


def _members(type_: Type) -> tuple[Field, ...]:
    return _members(type_.element) if type_.element is not None else type_.fields


def _with_members(type_: Type, fields: tuple[Field, ...]) -> Type:
    return list_of(_with_members(type_.element, fields)) if type_.element is not None else replace(type_, fields=fields)


def _widened(type_: Type) -> Type:
    if type_.kind == "decimal":
        return Type("decimal", min(30, (type_.precision or 0) + 3), type_.scale)
    return replace(type_, kind=_WIDER.get(type_.kind, type_.kind))


def _event(chance: random.Random, schema: RowSchema) -> tuple[str, Any, Any]:
    def row() -> Any:
        return {f.name: key if f.id == 1 else _value(chance, f.type) for f in schema.fields}

    key = chance.randrange(_KEYS)
    match chance.choice("ccuurd"):
        case "u":
            return "u", row(), row()
        case "d":
            return "d", chance.choice([row(), {schema.key[0]: key}]), None
        case op:
            return op, None, row()


def _value(chance: random.Random, type_: Type) -> Any:
    number = chance.randrange(1, 1_000)
    if chance.random() < 0.15:
        return None
    match type_:
        case Type("list", element=Type() as element):
            return [_value(chance, element) for _ in range(chance.randrange(3))]
        case Type("record"):
            return {f.name: _value(chance, f.type) for f in type_.fields}
        case Type("boolean"):
            return number % 2 == 0
        case Type("int32" | "int64"):
            return number
        case Type("float32" | "float64"):
            return number / 8
        case Type("decimal"):
            return Decimal(number).scaleb(-2)
        case Type("date"):
            return dt.date(2000, 1, 1) + dt.timedelta(days=number)
        case Type("timestamptz"):
            return dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=number)
    return f'"{number}"'


# ---- the oracle


def wanted(steps: Sequence[Step], schema: RowSchema, fills: bool, below: int | None = None) -> list[Event]:
    """All events as they show under the last schema: columns by id; of one that an event had not, its constant, or null."""
    now = Type("record", fields=schema.fields)
    seen = []
    for step in steps:
        was = Type("record", fields=step.schema.fields)
        events = [e for e in given.events(step.batch, step.schema) if below is None or e.offset < below]
        seen += [replace(e, row=_shown(e.row, was, now, fills)) for e in events]
    return seen


def _shown(value: Any, was: Type, now: Type, fills: bool) -> Any:
    if value is None:
        return None
    if was.element is not None and now.element is not None:
        return [_shown(item, was.element, now.element, fills) for item in value]
    if now.kind != "record":
        return value
    had = {f.id: f for f in was.fields}
    shown = {}
    for f in now.fields:
        if f.id in had:
            shown[f.name] = _shown(value[had[f.id].name], had[f.id].type, f.type, fills)
        else:
            shown[f.name] = fill_value(f.type, f.fill.text).as_py() if fills and isinstance(f.fill, Constant) else None
    return shown


def check(target: Target, steps: Sequence[Step], below: int | None = None) -> None:
    """The target shows the events of these steps, once each and in order; `steps[-1].schema` is accepted."""
    if not target.follows:  # every event as it was said
        for step in (s for s in steps if len(s.batch)):
            assert step.batch.offsets is not None
            start, end = int(step.batch.offsets[0]), up_to([step.batch])[TOPIC]
            _equal(target.events(step.schema, start, end), wanted([step], step.schema, False, below))
        return
    schema = steps[-1].schema
    events = wanted(steps, schema, target.fills, below)
    if target.keeps_events:
        _equal(target.events(schema), events)
    rows, oracle = target.rows(schema), given.latest(events, schema)
    assert rows.keys() == oracle.keys(), f"keys only in the target or only in the topic: {rows.keys() ^ oracle.keys()}"
    for key, row in oracle.items():
        assert rows[key] == row, f"{key}: the target has {rows[key]}, the topic {row}"


def _equal(shown: Sequence[Event], wanted: Sequence[Event]) -> None:
    assert [e.offset for e in shown] == [e.offset for e in wanted], "the offsets in the target"
    for a, b in zip(shown, wanted, strict=True):
        assert a == b, f"the target has {a}, the topic {b}"


# ---- the runs


def follows(target: Target, seed: int) -> None:
    """Each schema is taken by the running sink, or by another one that opens, now and then twice; the target is looked at after each."""
    chance = random.Random(~seed)  # noqa: S311 - moments, not secrets
    steps = chain(seed)
    sink, fence = target.sink(), 1
    sink.open(fence)
    for count, step in enumerate(steps, 1):
        if chance.random() < 0.3:
            sink.close()
            sink, fence = target.sink(), fence + 1
            sink.open(fence)
        for _ in range(chance.choice([1, 1, 2])):
            sink.accept(step.schema)
        check(target, [*steps[: count - 1], replace(step, batch=step.batch.slice(0, 0))])
        cut = chance.randint(0, len(step.batch))
        for part in (step.batch.slice(0, cut), step.batch.slice(cut)):
            if len(part):
                sink.write([part], up_to([part]))
        check(target, steps[:count])
    sink.close()


def follow_steadily(target: Target, fence: int, seed: int) -> None:
    """The killed program: takes the chain from where the target says, and says each position once its write has returned."""
    sink = target.sink()
    sink.open(fence)
    position = sink.resume_after().get(TOPIC, 0)
    for step in chain(seed):
        end = up_to([step.batch])[TOPIC]
        if position < end:
            sink.accept(step.schema)
            sink.write([step.batch], {TOPIC: end})
            print(end, flush=True)
    sink.close()


def follows_killed(target: Target, seed: int, moment: str, count: int) -> None:
    """SIGKILL at the `count`-th time of a named moment, between a change of the target and its first events too; then another goes on."""
    steps = chain(seed)
    said = run_program(target, f"1:{seed}", {"MILLSTREAM_FAULT": f"{moment}:{count}:KILL"}, nothing, -signal.SIGKILL)
    sink = target.sink()
    sink.open(2)
    position = sink.resume_after().get(TOPIC, 0)
    assert position >= said, f"position {said} was durable, the target now says {position}"
    written = [s for s in steps if up_to([s.batch])[TOPIC] <= position]
    assert not written or position == up_to([written[-1].batch])[TOPIC], "a write was done in part"
    for step in steps[len(written) :]:
        sink.accept(step.schema)
        sink.write([step.batch], up_to([step.batch]))
    sink.close()
    check(target, steps)


__all__ = ["chain", "check", "follow_steadily", "follows", "follows_killed"]
