"""The generations of products: what runs of each, and the switch of searches from one to another, which no crash leaves half done.

A switch is decided by one row of the catalogue, carried out on every index of the product, and done with a second write to that row.
What was decided is finished at the next start; until then searches go where they went.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from millstream.catalogue.known import Known
from millstream.catalogue.store import AppliedPipeline, AppliedProduct, Catalogue
from millstream.errors import Refused
from millstream.faultpoints import reached
from millstream.pipelines import rollout
from millstream.pipelines.compile import compile_all, readable, reading
from millstream.pipelines.definitions import ProductDefinition, Project
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.generations import compile_product, wanted
from millstream.pipelines.plan import Input, Plan
from millstream.pipelines.productsinks import indexes
from millstream.pipelines.rollout import Actual, Product, generation_name
from millstream.topics.contract import Topics

SwitchIndex = Callable[[str, str], None]
"""switch(index, folder): from now on who asks for the index is led to this folder; one step, durable on return."""


def as_applied(product: AppliedProduct) -> Product:
    """A switch that was decided counts as done."""
    live = product.switching or product.live
    return Product(product.generations, live, product.next if product.next != live else 0, product.applied)


def compiled(
    project: Project,
    known: Known,
    pipelines: Mapping[str, AppliedPipeline],
    actual: Actual,
    accepted: Mapping[str, Mapping[str, Input]] | None = None,
) -> tuple[tuple[Plan, ...], dict[str, Product]]:
    """The plans of all pipelines and of every generation that is to run, and what each product is to be. `accepted`: of a pipeline or
    generation, the topics that it reads in another version than `known` has.

    Raises InvalidProject with every mistake.
    """
    said = {p.name: p.description for p in project.products}
    kept = {
        (name, g): replace(project.reread(text, f"generation {g} of product {name}"), description=said[name])
        for name, product in actual.products.items()
        if name in said
        for g, text in product.generations.items()
    }
    # What an older generation reads of pipelines is published as long as it runs.
    plans = compile_all(replace(project, products=(*project.products, *kept.values())), known.inputs, known.past, accepted)
    weaving = _Weaving(project, known, readable(project, plans, known.inputs), pipelines, actual, kept, accepted)
    products = weaving.products()
    return (*plans, *weaving.plans), products


class _Weaving:
    """One compilation of all products. `topics` is what they may read."""

    def __init__(
        self,
        project: Project,
        known: Known,
        topics: Mapping[str, Input],
        pipelines: Mapping[str, AppliedPipeline],
        actual: Actual,
        kept: Mapping[tuple[str, int], ProductDefinition],
        accepted: Mapping[str, Mapping[str, Input]] | None,
    ) -> None:
        self._project, self._known, self._topics, self._pipelines = project, known, topics, pipelines
        self._accepted = accepted
        self._actual, self._kept = actual, kept
        self._names = [p.name for p in project.products]
        self.plans: list[Plan] = []

    def products(self) -> dict[str, Product]:
        found: dict[str, Product] = {}
        diagnostics: list[Diagnostic] = []
        for definition in self._project.products:
            try:
                found[definition.name] = self._product(definition)
            except InvalidProject as e:
                diagnostics.extend(e.diagnostics)
        if diagnostics:
            raise InvalidProject(diagnostics)
        return found

    def _product(self, definition: ProductDefinition) -> Product:
        now = self._actual.products.get(definition.name)
        taken = [*self._known.topics, *self._pipelines]
        product = wanted(definition, now, self._actual.pipelines, lambda g: rollout.wanted_pipeline(self._plan(definition, g)), taken)
        for generation in sorted(product.generations):
            if generation == product.applied:
                self.plans.append(self._plan(definition, generation))
            else:
                self.plans.append(self._as_it_was(self._kept[definition.name, generation], generation))
        return product

    def _plan(self, definition: ProductDefinition, generation: int) -> Plan:
        topics = reading(self._topics, self._accepted, generation_name(definition.name, generation))
        return compile_product(definition, generation, topics, self._known.past, self._names)

    def _as_it_was(self, definition: ProductDefinition, generation: int) -> Plan:
        """An older generation goes on as it was applied; over newer schemas of what it reads only where it makes the same of them."""
        applied = self._pipelines.get(generation_name(definition.name, generation))
        if applied is None:
            return self._plan(definition, generation)
        with suppress(InvalidProject):  # it need not make anything of them
            plan = self._plan(definition, generation)
            if rollout.wanted_pipeline(plan).fingerprint == applied.fingerprint:
                return plan
        return compile_product(definition, generation, self._known.accepted(applied.inputs), self._known.past, self._names)


# ---- what a person or the runner does with them


def drop(catalogue: Catalogue, topics: Topics, name: str) -> None:
    """The generation of this name is no longer kept; its pipeline goes with it, and topics keep nothing for it. Its own topic stays;
    state and index go at the next run."""
    leave(catalogue, topics, name)
    product, _, number = name.partition("@")
    row = catalogue.products().get(product)
    if row is not None:
        left = {g: text for g, text in row.generations.items() if g != int(number)}
        catalogue.put_product(replace(row, generations=left, next=row.next if row.next in left else 0))
    reached("products.generation_dropped")
    catalogue.forget_pipeline(name)


def sweep(
    catalogue: Catalogue,
    topics: Topics,
    reread: Callable[[str, str], ProductDefinition],
    state: Path,
    folders: Callable[[str], list[str]],
    remove: Callable[[str, str], None],
) -> list[str]:
    """Remove the state files and index folders of generations that were dropped, and their readers, which a process that still ran
    them may have left; gives what was removed. Nothing may run.

    `state` is the folder of the pipelines' states; `folders` gives those of an index, `remove` deletes one.
    """
    gone: list[str] = []
    products = catalogue.products()
    for reader in topics.readers():
        of = rollout.generation_of(reader.partition(".")[2])
        if of and of[0] in products and of[1] not in products[of[0]].generations:
            topics.leave(reader)
    for product in products.values():
        for path in sorted(state.glob(f"{product.name}@*")):
            number = path.name.partition("@")[2].partition(".")[0]
            if number.isdigit() and int(number) not in product.generations:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                gone.append(path.name)
        named = {index for g, text in product.generations.items() for index, _ in indexes(reread(text, product.name), g)}
        for index in sorted(named):
            for folder in folders(index):
                number = folder.partition("@")[2]
                if number and int(number) not in product.generations:
                    remove(index, folder)
                    gone.append(folder)
    return gone


def leave(catalogue: Catalogue, topics: Topics, pipeline: str) -> None:
    """Topics keep nothing for the pipeline and its sinks any longer."""
    applied = catalogue.pipelines().get(pipeline)
    for reader in (f"pipeline.{pipeline}", *(f"sink.{name}" for name in (applied.sinks if applied else ()))):
        topics.leave(reader)


class Switches:
    """Switches searches from one generation of a product to another. `reread` reads a kept definition."""

    def __init__(self, catalogue: Catalogue, reread: Callable[[str, str], ProductDefinition], switch: SwitchIndex) -> None:
        self._catalogue, self._reread, self._switch = catalogue, reread, switch

    def to(self, name: str, generation: int) -> bool:
        """Let searches find this generation. False where the catalogue has moved on in the meantime: nothing is done then."""
        product = self._catalogue.products().get(name)
        if product is None or generation not in product.generations:
            return False
        reached("products.before_decision")
        if not self._catalogue.decide_switch(name, generation, product.live):
            return False
        reached("products.decided")
        self._finish(replace(product, switching=generation))
        return True

    def settle(self) -> list[str]:
        """Finish what was decided before a crash. Gives the generations that are live by it. A second call does nothing."""
        begun = [p for p in self._catalogue.products().values() if p.switching]
        for product in begun:
            self._finish(product)
        return [generation_name(p.name, p.switching) for p in begun]

    def _finish(self, product: AppliedProduct) -> None:
        generation = product.switching
        text = product.generations.get(generation)
        if text is None:
            raise Refused(
                f"generation {generation} of product {product.name} was dropped while searches were being switched to it",
                code="generation_lost",
                where=f"product {product.name}",
                cure=f"`millstream products rollback {product.name}` leads searches to what is there",
            )
        for index, folder in indexes(self._reread(text, f"generation {generation} of product {product.name}"), generation):
            self._switch(index, folder)
            reached("products.index_switched")
        self._catalogue.finish_switch(product.name, generation)
        reached("products.switched")
