"""What a change of a topic's schema would do, hop by hop to the end: asked ahead of time of the functions that decide when it comes.

Pure. A consumer that takes the change over gives its own topics their next schemas, and what reads those is asked in turn. One
that would pause gives nothing more: what lies behind it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from millstream.events.types import RowSchema
from millstream.pipelines.compile import compile_pipeline, past
from millstream.pipelines.definitions import Evolve, Evolving, PipelineDefinition, ProductDefinition
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.generations import compile_product
from millstream.pipelines.plan import Input, Plan, SinkPlan, outputs_of
from millstream.pipelines.renames import with_ids_kept
from millstream.pipelines.rollout import generation_of
from millstream.pipelines.verdicts import Compiles, Rule, Use, Verdict, judge, of_sink, together, uses
from millstream.schemas.operations import Kind, Operation, operations
from millstream.schemas.rules import Violation
from millstream.topics.incarnations import catalogued

Definition = PipelineDefinition | ProductDefinition
History = Callable[[str], Sequence[RowSchema]]
_SEEN: frozenset[Kind] = frozenset({"add", "drop", "rename", "widen", "retype"})
"""What whoever reads a step's topic would see of a change: the rest is told by the values alone, or is no change of them."""


@dataclass(frozen=True)
class Consumer:
    """A pipeline, or a generation of a product. `plan` is in force, `compiles` its definition, `evolving` what that says; `sunk` are
    the topics of others that only its sinks read, in the schemas in which they do."""

    plan: Plan
    compiles: Compiles
    evolving: Evolving
    sunk: Mapping[str, RowSchema] = field(default_factory=dict)


@dataclass(frozen=True)
class Affected:
    """A step, or a sink, that reads a topic whose schema would change, and what would become of it. `operations` are what the change
    is to it: from the version that it reads in."""

    pipeline: str
    owner: str
    part: str
    topic: str
    operations: tuple[Operation, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Impact:
    """`topics`: what would happen to each topic's schema, the changed table's first. `affected` in the order in which the change
    travels. `waiting`: pipelines that read what a paused one would no longer write, and the paused one's name."""

    topics: Mapping[str, tuple[Operation, ...]]
    affected: tuple[Affected, ...]
    waiting: Mapping[str, str]

    @property
    def pauses(self) -> bool:
        return any(a.verdict.kind == "pause" for a in self.affected)


@dataclass(frozen=True)
class Ruling:
    """What becomes of a pipeline: each of its steps that reads the topic, all together, and the plan to take where that is propagate."""

    steps: tuple[tuple[Use, Verdict], ...]
    verdict: Verdict
    following: Plan | None = None


def impact(consumers: Sequence[Consumer], topic: str, now: RowSchema, new: RowSchema, rules: Sequence[Rule] = ()) -> Impact:
    """Of the topic's schema becoming `new`, which is `now` so far. `consumers` stand after those that they read."""
    changed: dict[str, RowSchema] = {topic: new}
    said = {topic: operations(now, new)}
    affected: list[Affected] = []
    stopped: dict[str, str] = {}  # topic → the pipeline that would no longer write it
    waiting: dict[str, str] = {}
    for consumer in consumers:
        plan, paused = consumer.plan, False
        for i in consumer.plan.inputs:
            if i.topic in stopped:
                waiting.setdefault(plan.pipeline, stopped[i.topic])
            if i.topic not in changed or i.schema == changed[i.topic]:
                continue
            ruling = rule(plan, consumer.compiles, i.topic, changed[i.topic], 0, consumer.evolving, rules)
            for u, v in _told(ruling):
                found = operations(i.seen_by(u.part), changed[i.topic])
                affected.append(Affected(plan.pipeline, plan.owner, u.part, i.topic, found, v))
            plan, paused = ruling.following or plan, paused or ruling.verdict.kind == "pause"
        if paused or plan.pipeline in waiting:
            stopped |= {o.topic: waiting.get(plan.pipeline, plan.pipeline) for o in plan.outputs}
        if not paused:
            for name, (was, schema) in _moved(consumer.plan, plan).items():
                changed[name], said[name] = schema, operations(was, schema)
        affected += _sinks(consumer, changed, rules)
    return Impact(said, tuple(affected), waiting)


def rule(
    plan: Plan, compiles: Compiles, topic: str, schema: RowSchema, schema_id: int, evolving: Evolving, rules: Sequence[Rule] = ()
) -> Ruling:
    """What becomes of a pipeline whose plan in force is `plan` when this version of one of its topics comes. The plan to take reads it
    for all steps; those that are pinned see of it what they have seen so far."""
    inputs = {i.topic: i for i in plan.inputs}
    given = inputs[topic]
    mine = [u for u in uses(plan, compiles) if u.topic == topic]
    steps = tuple((u, judge(u, given.seen_by(u.part), schema, evolving.of(u.part), rules)) for u in mine)
    verdict = together(v for _, v in steps)
    if verdict.kind != "propagate":
        return Ruling(steps, verdict)
    try:
        pinned = (given.held_at(u.part) for u in mine if evolving.of(u.part) == "pinned")
        held = tuple(h for h in pinned if not {f.id for f in schema.fields} <= {f.id for f in h.schema.fields})
        next_inputs = {**inputs, topic: replace(given, schema=schema, schema_id=schema_id, held=held)}
        following = with_ids_kept(plan, compiles(next_inputs, outputs_of(plan)))
    except InvalidProject as e:
        return Ruling(steps, Verdict("pause", tuple(_mistake(d, topic, plan.pipeline) for d in e.diagnostics)))
    if violation := next(_unpinned(plan, following, topic, mine, evolving), None):
        return Ruling(steps, Verdict("pause", (violation,)))
    for name, (was, now) in _moved(plan, following).items():
        if _key(was) != _key(now):
            why = f"the key of {name} would change, which is pinned for the life of a topic"
            cure = "give the step another name, which makes a new topic, then `millstream apply`"
            return Ruling(steps, Verdict("pause", (Violation("the key changes", name, why, cure),)))
        if lost := [o for o in operations(was, now) if o.leaf.kind == "retype"]:
            why = f"{name} has rows already, whose values the new type cannot hold"
            cure = f"CAST it to the old type in the step, or give it another name there, then `millstream resume {plan.pipeline}`"
            return Ruling(steps, Verdict("pause", (Violation(str(lost[0]), name, why, cure),)))
    return Ruling(steps, verdict, following)


def _unpinned(was: Plan, now: Plan, topic: str, mine: Sequence[Use], evolving: Evolving) -> Iterator[Violation]:
    """What would become otherwise in steps that are pinned: a column that `*` reads has another name in the version that another step
    takes."""
    nodes = {n.name: n.schema for n in was.nodes}
    for node in now.nodes:
        if node.name not in {u.part for u in mine} or evolving.of(node.name) != "pinned" or node.name not in nodes:
            continue
        for o in operations(nodes[node.name], node.schema):
            if o.leaf.kind in _SEEN:
                why = f"step {node.name} is pinned and reads {topic} by *, of which another step takes a version in which this is otherwise"
                cure = f"name the columns in step {node.name}, or write evolve: follow there, then `millstream resume {was.pipeline}`"
                yield Violation(str(o), f"{was.pipeline}.{node.name}", why, cure)


def rule_of_end(
    plan: Plan, compiles: Compiles, topic: str, following: Input, reason: str, evolving: Evolving, rules: Sequence[Rule] = ()
) -> Ruling:
    """What becomes of a pipeline when a topic of its has ended, and goes on as `following` under another key. One that follows, and keeps
    its rows by keys of its own, goes on over that, made anew. Any other pauses; the cure says whether its definition holds over it."""
    inputs = {i.topic: i for i in plan.inputs}
    bare = RowSchema(inputs[topic].schema.fields, ()), RowSchema(following.schema.fields, ())  # that the key is another is known
    mine = [u for u in uses(plan, compiles) if u.topic == topic]
    steps = tuple((u, judge(u, *bare, evolving.of(u.part), rules)) for u in mine)

    def paused(*why: Violation) -> Ruling:
        return Ruling(steps, Verdict("pause", why))

    try:
        over = {**{t: i for t, i in inputs.items() if t != topic}, following.topic: following}
        then = with_ids_kept(plan, compiles(over, outputs_of(plan)))
    except InvalidProject as e:
        mistakes = (_mistake(d, following.topic, plan.pipeline) for d in e.diagnostics)
        return paused(Violation(reason, topic, "the definition does not hold over it", ""), *mistakes)
    rekeyed = [name for name, (was, now) in _moved(plan, then).items() if _key(was) != _key(now)]
    if rekeyed:
        cure = f"give the step another name, which makes a new topic, then `millstream resume {plan.pipeline}`"
        why = f"the key of {', '.join(rekeyed)} would change, which is pinned for the life of a topic"
        return paused(Violation(reason, topic, why, cure))
    onwards = f"`millstream resume {plan.pipeline}`: over {following.topic} it is made anew, and what differs is published"
    if generation_of(plan.pipeline):
        onwards = f"`millstream apply` builds the product's next generation over {following.topic}; searches switch when it is caught up"
        return paused(Violation(reason, topic, "its rows have another key", onwards))
    gravest = together(v for _, v in steps)
    follows = plan.stateful and all(evolving.of(u.part) == "follow" for u in mine) and topic not in {s.topic for s in plan.sinks}
    retyped = any(o.leaf.kind == "retype" for was, now in _moved(plan, then).values() for o in operations(was, now))
    if follows and gravest.kind != "pause" and not retyped:
        return Ruling(steps, Verdict("propagate"), then)
    return paused(Violation(reason, topic, "its rows have another key", onwards), *(gravest.reasons if follows else ()))


def consumer(plan: Plan, definition: Definition, known: Mapping[str, Input], history: History, products: Collection[str]) -> Consumer:
    """Of the definition that `plan` was made from. `known` are the topics as sinks read them; for the rest see `compiling`."""
    sunk = {s.topic: known.get(catalogued(s.topic)) for s in plan.sinks if s.topic not in outputs_of(plan)}
    others = {topic: i for topic, i in sunk.items() if i is not None}
    compiles = compiling(definition, plan, others, history, products)
    return Consumer(plan, compiles, definition.evolving, {topic: i.schema for topic, i in others.items()})


def compiling(definition: Definition, plan: Plan, others: Mapping[str, Input], history: History, products: Collection[str]) -> Compiles:
    """Compiles the definition that `plan` was made from. `others` are the topics that only its sinks read, `products` the names of all.

    `history` gives every version of a topic's schema so far, oldest first.
    """

    def compiles(inputs: Mapping[str, Input], outputs: Mapping[str, RowSchema]) -> Plan:
        versions = {topic: past(history(topic), schema) for topic, schema in outputs.items()}
        over = {catalogued(topic): i for topic, i in {**others, **inputs}.items()}
        if isinstance(definition, PipelineDefinition):
            return compile_pipeline(definition, over, versions, {o.node for o in plan.outputs})
        of = generation_of(plan.pipeline)
        return compile_product(definition, of[1] if of else 1, over, versions, products)

    return compiles


def _moved(was: Plan, now: Plan) -> dict[str, tuple[RowSchema, RowSchema]]:
    """The topics whose schemas differ."""
    before = outputs_of(was)
    return {t: (before[t], schema) for t, schema in outputs_of(now).items() if t in before and before[t] != schema}


def _told(ruling: Ruling) -> list[tuple[Use, Verdict]]:
    """Each step's verdict; where the steps would go on and the whole does not compile, that of the whole."""
    if ruling.verdict.kind == "pause" and all(v.kind != "pause" for _, v in ruling.steps):
        return [(u, ruling.verdict if v.kind == "propagate" else v) for u, v in ruling.steps]
    return list(ruling.steps)


def _sinks(consumer: Consumer, changed: Mapping[str, RowSchema], rules: Sequence[Rule]) -> list[Affected]:
    plan, own = consumer.plan, outputs_of(consumer.plan)
    found = []
    for sink in plan.sinks:
        was = own.get(sink.topic) or consumer.sunk.get(sink.topic)
        if was is None or was == changed.get(sink.topic, was):
            continue
        now = changed[sink.topic]
        verdict = rule_of_sink(plan, sink, was, now, consumer.evolving.whole, rules)
        found.append(Affected(plan.pipeline, plan.owner, f"sink {sink.name}", sink.topic, operations(was, now), verdict))
    return found


def rule_of_sink(plan: Plan, sink: SinkPlan, was: RowSchema, now: RowSchema, evolve: Evolve, rules: Sequence[Rule] = ()) -> Verdict:
    """What becomes of a sink. That of its own pipeline's topic follows: the topic changes only as the pipeline wants it."""
    use = of_sink(plan.pipeline, plan.owner, sink.name, sink.topic, was.key)
    return judge(use, was, now, "follow" if sink.topic in outputs_of(plan) else evolve, rules)


def _key(schema: RowSchema) -> list[tuple[str, str]]:
    return [(f.name, str(f.type)) for f in schema.key_fields]


def _mistake(found: Diagnostic, topic: str, pipeline: str) -> Violation:
    """A mistake that the definition has over the new version."""
    what = f"{found.message} [{found.code}]"
    cure = f"{found.cure}, then `millstream resume {pipeline}`" if found.cure else f"edit {found.path}, then `millstream resume {pipeline}`"
    return Violation(what, f"{found.file}:{found.line}", f"{found.path} does not hold over the new {topic}", cure)
