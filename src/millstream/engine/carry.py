"""From one plan of a definition to the next, when a schema under it has moved on: what is kept of what was computed, and what is not.

Three ways, from the cheapest: nothing is kept that would have to change (*as it is*); copies and last outputs get their new columns, old
rows what the fills say, and every unit is evaluated again from the copies, slice by slice (*in place*, no topic is read again); all is
made anew from the topics and the difference published (*rebuild*).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from millstream.events.types import UNKNOWN, Constant, Field, RowSchema
from millstream.pipelines import reads
from millstream.pipelines.plan import Plan, Stateful, Stateless, Union
from millstream.pipelines.renames import places
from millstream.pipelines.sql.places import names_in
from millstream.schemas.operations import operations

Way = Literal["as it is", "in place", "rebuild"]
_NESTED = ("list", "record")


@dataclass(frozen=True)
class Carry:
    """`why` is for people: what makes it so, and what old rows have."""

    way: Way
    why: str

    def __str__(self) -> str:
        return f"{self.way}: {self.why}"


def carry(was: Plan, now: Plan, passed: Collection[str] = ()) -> Carry:
    """How the state and output of `was` become those of `now`; both are of one definition over other versions of its inputs.

    `passed`: topics of which events of versions later than that of `was` were read, and mapped to it: what such events held in a
    column that `was` has not is nowhere here."""
    if reads.fingerprint(was) == reads.fingerprint(now):
        return Carry("as it is", "nothing that it computes has changed")
    against = next(_against(was, now), None) or next(_had_already(was, now), None)
    if against is not None:
        return Carry("rebuild", against)
    news = dict(_gained(was, now))
    if unseen := sorted(topic for topic in news.values() if topic in passed):
        return Carry("rebuild", f"rows of {unseen[0]} that had the new columns were read without them")
    gained = "; ".join(news) or "its columns are called otherwise"
    return Carry("in place" if now.stateful else "as it is", gained)


def _against(was: Plan, now: Plan) -> Iterator[str]:
    """Why what was computed cannot be carried over."""
    if [n.name for n in was.nodes] != [n.name for n in now.nodes]:
        yield "it has other steps"
        return
    for old, new in zip(was.nodes, now.nodes, strict=True):
        if type(old) is not type(new) or old.schema.key != new.schema.key:
            yield f"step {new.name} has another key"
        elif isinstance(old, Stateless) and isinstance(new, Stateless):
            yield from _stateless(was, now, old, new)
        elif isinstance(old, Stateful) and isinstance(new, Stateful):
            yield from _stateful(was, now, old, new)
        elif isinstance(old, Union) and old.inputs != getattr(new, "inputs", ()):
            yield f"step {new.name} has other branches"


def _stateless(was: Plan, now: Plan, old: Stateless, new: Stateless) -> Iterator[str]:
    if (old.input, old.where, old.whole) != (new.input, new.where, new.whole):
        yield f"the condition of step {new.name} means something else now"
    before, after = {p.name: p.sql for p in old.projections}, {p.name: p.sql for p in new.projections}
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            yield f"column {name} of step {new.name} is computed otherwise"
    if new.input in {i.topic for i in now.inputs}:
        kept = [*(before[n] for n in before.keys() & after.keys()), old.where or ""]
        here, there = _schema(was, new.input), _schema(now, new.input)
        for column in {n for sql in kept for n in names_in(sql)}:
            if here[column].id != there[column].id:
                yield f"{column} of {new.input} is another column now"
    if now.stateful:  # a step behind it may keep its rows
        yield from _lost(f"step {new.name}", old.schema, new.schema)
    elif new.name in {o.node for o in now.outputs}:  # what was told need not fit, and is null where the topic begins anew: told again
        yield from (f"step {new.name} has {o}" for o in operations(old.schema, new.schema) if o.uncovered)


def _stateful(was: Plan, now: Plan, old: Stateful, new: Stateful) -> Iterator[str]:
    for part in ("roots", "unit", "occurrences", "edges", "computed", "keeps", "read", "stamp"):
        if getattr(old, part) != getattr(new, part):
            yield f"step {new.name} finds its rows otherwise"
            return
    if new.keeps == "rows":
        yield from _lost(f"step {new.name}", old.schema, new.schema)
    if new.read == "source":
        return
    before, after = reads.copied(old), reads.copied(new)
    for name, columns in before.items():
        here, there = _schema(was, name), _schema(now, name)
        yield from _lost(f"the copy of {name}", _only(here, columns), there)
        topic = name in {i.topic for i in now.inputs}
        if topic:
            moved = [c for c in columns if c in there.names and here[c].id != there[c].id]
            yield from (f"{c} of {name} is another column now" for c in moved)
        for column in after[name] & set(there.names):
            field = there[column]
            if column not in columns and topic and column in here.names and here[column].id == field.id:
                yield f"the copy of {name} has no {column}, which old rows have"  # not new in the topic: only its use is
            elif column not in columns and isinstance(field.fill, Constant) and field.type.kind in _NESTED:
                yield f"what old rows have in {column} is a {field.type.kind}"


def _had_already(was: Plan, now: Plan) -> Iterator[str]:
    """Columns that a filter or projection passes on as new ones of its topic, while the rows that are there have values in them."""
    for node in (n for o in now.outputs for n in now.nodes if n.name == o.node and isinstance(n, Stateless)):
        old, before = places(was, node.name), _schema(was, node.name)
        had = {(i.topic, f.id) for i in was.inputs for f in i.schema.fields}
        for name, place in places(now, node.name).items():
            under = next((n for n, p in old.items() if p == place), None)
            if place in had and (under is None or before[under].id != node.schema[name].id):
                yield f"{name} of step {node.name} is new there, and old rows have it"


def _lost(what: str, old: RowSchema, new: RowSchema) -> Iterator[str]:
    for f in old.fields:
        if f.name not in new.names:
            yield f"{what} loses {f.name}"
        elif new[f.name].type != f.type:
            yield f"{f.name} in {what} is {new[f.name].type}, was {f.type}"


def _gained(was: Plan, now: Plan) -> Iterator[tuple[str, str]]:
    """Of each new column of an input that is used, what old rows have in it; and the input."""
    before = {i.topic: i.schema for i in was.inputs}
    used = reads.of_plan(now)
    for given in now.inputs:
        ids = {f.id for f in before[given.topic].fields} if given.topic in before else set()
        for f in given.schema.fields:
            if f.id not in ids and f.name in used[given.topic]:
                yield f"{given.topic}.{f.name} is new, and old rows have {in_old_rows(f)}", given.topic


def in_old_rows(field: Field) -> str:
    if isinstance(field.fill, Constant):
        return f"'{field.fill.text}'"
    return "null until they are said again" if field.fill is UNKNOWN else "null"


def _schema(plan: Plan, name: str) -> RowSchema:
    topics = {i.topic: i.schema for i in plan.inputs}
    return topics[name] if name in topics else next(n.schema for n in plan.nodes if n.name == name)


def _only(schema: RowSchema, columns: set[str]) -> RowSchema:
    return RowSchema(tuple(f for f in schema.fields if f.name in columns or f.name in schema.key), schema.key)
