"""Generations of a product: the plan of one, and what its files ask for beside the generations that there are.

A generation is a pipeline of its own, with its own topic, state and index: `movie@2` is built beside `movie@1` from the same topics.
At most two live: the one that is searched, and the next or the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.compile import compile_pipeline, readable
from millstream.pipelines.definitions import PipelineDefinition, ProductDefinition, Project
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.plan import Input, Plan, Stateful
from millstream.pipelines.productfiles import STAMP
from millstream.pipelines.products import reads, step_of
from millstream.pipelines.productsinks import of_generation
from millstream.pipelines.rollout import Pipeline, Product, generation_name, generation_of


def compile_product(
    product: ProductDefinition,
    generation: int,
    known: Mapping[str, Input],
    history: Mapping[str, Sequence[RowSchema]] | None = None,
    products: Collection[str] = (),
) -> Plan:
    """The plan of one generation; `products` are the names of all, which it may not read.

    Raises InvalidProject with every mistake, each at its place in the YAML.
    """
    step = step_of(product, {name: i.schema for name, i in known.items()}, products)
    name = generation_name(product.name, generation)
    sinks = tuple(of_generation(s, generation) for s in product.sinks)
    plan = compile_pipeline(PipelineDefinition(name, product.owner, (step,), sinks, product.places, read=product.read), known, history)
    return _documents(plan, product, (history or {}).get(f"{name}.{product.name}", ()))


def product_plans(project: Project, known: Mapping[str, Input], plans: Sequence[Plan]) -> tuple[list[Plan], list[Diagnostic]]:
    """The plan of every product as the files define it, under the product's own name, over these plans of pipelines; and every
    mistake of all, sorted. One that reads a pipeline without a plan cannot be judged.
    """
    topics, names = readable(project, plans, known), [p.name for p in project.products]
    silent = {p.name for p in project.pipelines} - {p.pipeline for p in plans}
    made: list[Plan] = []
    found: set[Diagnostic] = set()
    for product in project.products:
        if {topic.partition(".")[0] for topic, _ in reads(product)} & silent:
            continue
        try:
            made.append(replace(compile_product(product, 1, topics, products=names), pipeline=product.name))
        except InvalidProject as e:
            found.update(e.diagnostics)
    return made, sorted(found)


def _documents(plan: Plan, product: ProductDefinition, history: Sequence[RowSchema]) -> Plan:
    """Of the last document only a hash is kept, and each says what it has seen. A product of one table alone keeps nothing."""
    node = plan.nodes[-1]
    if not isinstance(node, Stateful):
        return plan
    versions = [node.schema, *history]
    taken = next((f.id for s in history for f in s.fields if f.name == STAMP), None)
    stamp = Field(STAMP, Type("json"), taken or max(f.id for s in versions for f in s.fields) + 1)
    schema = RowSchema((*node.schema.fields, stamp), node.schema.key)
    documents = replace(node, schema=schema, keeps="hash", stamp=STAMP)
    outputs = tuple(replace(o, grade="none") if o.node == node.name else o for o in plan.outputs)
    return replace(plan, nodes=(*plan.nodes[:-1], documents), outputs=outputs)


def wanted(
    product: ProductDefinition,
    now: Product | None,
    actual: Mapping[str, Pipeline],
    compiled: Callable[[int], Pipeline],
    taken: Collection[str],
) -> Product:
    """What the product is to be. Where the files say what a generation was built from, that one; else a new one beside the live.

    `actual` are the pipelines that are applied, `compiled` gives the definition's side of the comparison as that generation
    would be; `taken` are names of topics: a number that one bears is never used again.
    """
    used = [n[1] for n in map(generation_of, taken) if n and n[0] == product.name] + list(now.generations if now else ())
    new = max(used, default=0) + 1
    if now is None:
        return Product({new: product.text}, 0, new, new)
    for generation in sorted(now.generations, key=lambda g: g != now.applied):
        was = actual.get(generation_name(product.name, generation))
        if _is_built_so(product, now.generations[generation], was, lambda g=generation: compiled(g)):  # type: ignore[misc]
            if generation == now.applied:
                return now
            left = {g: t for g, t in now.generations.items() if g in (generation, now.live)}
            return Product(left, now.live, generation if generation != now.live else 0, generation)
    kept = {g: text for g, text in now.generations.items() if g == now.live}
    return Product({**kept, new: product.text}, now.live, new, new)


def _is_built_so(product: ProductDefinition, text: str, was: Pipeline | None, compiled: Callable[[], Pipeline]) -> bool:
    """Whether a generation makes what the definition asks for, and hands it to the same sinks."""
    if was is None:  # an apply that was cut off had come no further than its text
        return text == product.text
    asked = compiled()
    return was.fingerprint == asked.fingerprint and (text == product.text or was.sinks == asked.sinks)
