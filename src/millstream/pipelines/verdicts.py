"""What a change of a schema means to those who read it: ignore, propagate or pause. Pure: the gate decides by it, `impact` predicts by it.

A consumer is a step or a sink that reads a topic. What it uses is asked of the compiler, not of the text: a column is *named* where the
definition does not compile without it, and read by `*` alone where it does; `*` is there where a column that is new would be read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines import reads
from millstream.pipelines.definitions import Evolve
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.lineage import alike
from millstream.pipelines.plan import Input, Plan, Stateful, Stateless, outputs_of
from millstream.pipelines.sql.places import names_in
from millstream.schemas.operations import Operation, operations
from millstream.schemas.rules import Decision, Violation, default_verdict, gravest

Compiles = Callable[[Mapping[str, Input], Mapping[str, RowSchema]], Plan]
"""compiles(inputs, outputs): a pipeline's plan over its input topics in these versions. `outputs` are the topics that it writes, in the
versions that are in force, whose columns keep their ids. Raises InvalidProject with every mistake."""

_NEW = "new_column"


@dataclass(frozen=True)
class Use:
    """What a consumer uses of a topic. `part` is a step's name, or "sink " and a sink's. `columns_used` are those that it names,
    and those of joins and keys; `star`: all others too, by `*` alone. `key` is the topic's."""

    pipeline: str
    owner: str
    part: str
    topic: str
    columns_used: frozenset[str]
    star: bool
    key: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    kind: Decision
    reasons: tuple[Violation, ...] = ()


Rule = Callable[[Use, RowSchema, RowSchema], Iterable[Violation]]
"""rule(use, accepted, new): what stops this consumer beside the table of verdicts."""


def judge(use: Use, accepted: RowSchema, new: RowSchema, evolve: Evolve, rules: Sequence[Rule] = ()) -> Verdict:
    """What becomes of a consumer that reads in `accepted` when `new` comes. Every reason of a pause is given."""
    decisions = {o: _decision(use, o, evolve) for o in operations(accepted, new)}
    reasons = [_violation(use, o, evolve) for o, decision in decisions.items() if decision == "pause"]
    for rule in rules:
        reasons += rule(use, accepted, new)
    return Verdict("pause" if reasons else gravest(decisions.values()), tuple(dict.fromkeys(reasons)))


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """What becomes of a pipeline, which reads a topic in one version: what its strictest consumer needs."""
    verdicts = list(verdicts)
    return Verdict(gravest(v.kind for v in verdicts), tuple(dict.fromkeys(r for v in verdicts for r in v.reasons)))


def _decision(use: Use, operation: Operation, evolve: Evolve) -> Decision:
    named = operation.kind != "add" and operation.column in use.columns_used  # a new column may have an old one's name
    return default_verdict(operation, named or use.star, named, evolve == "follow")


def _violation(use: Use, operation: Operation, evolve: Evolve) -> Violation:
    field = ".".join(operation.path) or ", ".join(operation.names_was)
    reader = use.part if use.part.startswith("sink ") else f"step {use.part}"
    how = "uses it" if operation.column in use.columns_used or not operation.column else "reads it by *"
    if operation.kind == "rekey" or operation.in_key:
        cure = f"the topic will end there and go on as its next incarnation; when it has, `millstream resume {use.pipeline}`"
        return Violation(str(operation), f"{use.topic}.{field}", f"{reader} reads the topic by its key", cure)
    stays = ", and is pinned to what was accepted" if evolve == "pinned" and operation.kind != "retype" else ""
    cure = (
        f"edit {use.pipeline} so that it does without {field}" if operation.kind == "drop" else f"edit {use.pipeline} for the new {field}"
    )
    return Violation(str(operation), f"{use.topic}.{field}", f"{reader} {how}{stays}", f"{cure}, then `millstream resume {use.pipeline}`")


# ---- what is used


def uses(plan: Plan, compiles: Compiles) -> list[Use]:
    """What each step uses of each input topic, in the order of the steps, and what each sink does of a topic that the plan does not
    write. `compiles` is the plan's definition."""
    inputs = {i.topic: i for i in plan.inputs}
    named = {topic: _named(plan, inputs, topic, compiles) for topic in inputs}
    found: list[Use] = []
    for topic, given in inputs.items():
        starred = _steps_with_star(plan, inputs, topic, compiles)
        for step, columns in _read_by_step(plan, topic).items():
            used = frozenset((columns & named[topic]) | set(given.schema.key))
            found.append(Use(plan.pipeline, plan.owner, step, topic, used, step in starred, given.schema.key))
    return found


def of_sink(pipeline: str, owner: str, sink: str, topic: str, key: tuple[str, ...]) -> Use:
    """A sink takes whole rows."""
    return Use(pipeline, owner, f"sink {sink}", topic, frozenset(key), True, key)


def _read_by_step(plan: Plan, topic: str) -> dict[str, set[str]]:
    """Step → the topic's columns that it reads, by name or by `*`."""
    found: dict[str, set[str]] = {}
    for node in plan.nodes:
        if isinstance(node, Stateless) and node.input == topic:
            columns = set(reads.of_stateless(node))
        elif isinstance(node, Stateful) and topic in (o.input for o in node.occurrences):
            columns = reads.copied(node).get(topic, set()) | {n for c in node.computed if c.input == topic for n in names_in(c.sql)}
        else:
            continue
        found.setdefault(step_of(node.name), set()).update(columns)
    return found


def step_of(node: str) -> str:
    """The step that a node was made for."""
    return node.partition("#")[0]


def _steps_with_star(now: Plan, inputs: Mapping[str, Input], topic: str, compiles: Compiles) -> set[str]:
    """The steps that would read a column that the topic has not."""
    given = inputs[topic]
    name = next(n for n in (f"{_NEW}{i or ''}" for i in range(len(given.schema.fields) + 1)) if n not in given.schema.names)
    more = Field(name, Type("text"), max((f.id for f in given.schema.fields), default=0) + 1)
    try:
        wider = _with(given, more)
        plan = compiles({**inputs, topic: wider}, outputs_of(now))
    except InvalidProject:  # a UNION whose branches would differ: the new column would come into it
        return set(_read_by_step(compiles(inputs, outputs_of(now)), topic))
    return {step for step, columns in _read_by_step(plan, topic).items() if name in columns}


def _with(given: Input, more: Field) -> Input:
    """With a column that everybody sees."""
    held = tuple(replace(h, schema=RowSchema((*h.schema.fields, more), h.schema.key)) for h in given.held)
    return replace(given, schema=RowSchema((*given.schema.fields, more), given.schema.key), held=held)


def _named(plan: Plan, inputs: Mapping[str, Input], topic: str, compiles: Compiles) -> set[str]:
    """The topic's columns that the definition does not compile without, or not to the same."""
    given = inputs[topic]
    read = set().union(*_read_by_step(plan, topic).values())
    if not _steps_with_star(plan, inputs, topic, compiles):
        return read
    named = set(given.schema.key)
    for column in read - named:
        left = RowSchema(tuple(f for f in given.schema.fields if f.name != column), given.schema.key)
        try:
            without = compiles({**inputs, topic: replace(given, schema=left)}, outputs_of(plan))
        except InvalidProject:
            named.add(column)
            continue
        if not alike(plan, without):
            named.add(column)
    return named
