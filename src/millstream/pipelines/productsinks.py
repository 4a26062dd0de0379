"""Where a product's documents go: sinks that each generation of it has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from millstream.errors import without_secrets
from millstream.pipelines.definitions import Options, ProductDefinition, SinkDefinition
from millstream.pipelines.descriptionfiles import DescriptionReading
from millstream.pipelines.reading import secret_options, written
from millstream.pipelines.yaml import Items, Node, Section

GENERATION = "{generation}"
"""Stands in the options of a product's sink for the number of the generation that fills it."""


class ProductSinks(DescriptionReading):
    def _product_sinks(self, section: Section, name: str, path: str) -> Iterator[SinkDefinition]:
        """A search index of the product's name, where nothing else is said."""
        if {"sink", "sinks"} <= set(section.entries):
            self._note(section.keys["sink"], f"{path}.sink", "sink_twice", "there are sink: and sinks:", "keep one of them")
            return
        if "sink" in section.entries:
            nodes = [(section.entries["sink"], f"{path}.sink")]
        elif "sinks" in section.entries:
            nodes = [(n, f"{path}.sinks[{i}]") for i, n in enumerate(self._items(section, "sinks", path))]
        else:
            empty = Section({}, {}, section.place)
            nodes = [(Section({"search": empty}, {"search": section.place}, section.place), f"{path}.sink")]
        for node, here in nodes:
            sink = self._product_sink(node, name, here)
            if sink is not None:
                yield sink

    def _product_sink(self, node: Node, name: str, path: str) -> SinkDefinition | None:
        if not isinstance(node, Section):
            self._note(node.place, path, "bad_value", "a sink is one kind with its options", "write sink: {search: {index: name}}")
            return None
        self._enter(node, path)
        target = self._target(node, path)
        if target is None:
            return None
        kind, options, component = target
        own = {"index": name} if kind == "search" and "index" in component.options.model_fields else {}
        own = {k: v for k, v in own.items() if k not in options.entries}
        self._options(cast(Section, _numbered(options)), component, f"{path}.{kind}", also=own)
        for option, given in options.entries.items():
            text = _text_of(given)
            if (option in secret_options(component) and "${" not in text) or without_secrets(text) != text:
                at, where = given.place, f"{path}.{kind}.{option}"
                message = f"{option} holds a secret, and a product's definition is kept in the catalogue"
                self._note(at, where, "secret_in_plain", message, "write ${NAME} in its place, and set NAME in the environment")
        if kind != "search" and GENERATION not in _text_of(options):
            message = f"{kind} would be one target for several generations of the product"
            self._note(
                options.place, f"{path}.{kind}", "target_shared", message, f"put {GENERATION} into the target's name: movie_{GENERATION}"
            )
        plain = self._options(options, None, f"{path}.{kind}")
        return SinkDefinition(name, kind, Options({**plain, **own}, {**plain.written, **own}), path)


def of_generation(sink: SinkDefinition, generation: int) -> SinkDefinition:
    """The sink as one generation has it: an index folder of its own, its number where the options ask for it."""
    put = {k: _put(v, generation) for k, v in sink.options.items()}
    shown = {k: _put(v, generation) for k, v in sink.options.written.items()}
    if sink.kind == "search":
        put, shown = ({**o, "index": f"{o['index']}@{generation}"} if "index" in o else o for o in (put, shown))
    return replace(sink, options=Options(put, shown))


def indexes(product: ProductDefinition, generation: int) -> list[tuple[str, str]]:
    """(index, folder) of every search index of the product: the name that is searched, and where this generation of it lies."""
    found = [s for s in product.sinks if s.kind == "search" and "index" in s.options]
    return [(str(s.options["index"]), str(of_generation(s, generation).options["index"])) for s in found]


def _put(value: Any, generation: int) -> Any:
    if isinstance(value, dict):
        return {k: _put(v, generation) for k, v in value.items()}
    if isinstance(value, list):
        return [_put(v, generation) for v in value]
    return value.replace(GENERATION, str(generation)) if isinstance(value, str) else value


def _numbered(node: Node) -> Node:
    """The options as the first generation would have them, for their check."""
    if isinstance(node, Section):
        return Section({k: _numbered(v) for k, v in node.entries.items()}, node.keys, node.place)
    if isinstance(node, Items):
        return Items(tuple(_numbered(v) for v in node.items), node.place)
    if isinstance(node.value, str) and GENERATION in node.value:
        put = node.value.replace(GENERATION, "1")
        return replace(node, text=put, value=put)
    return node


def _text_of(node: Node) -> str:
    return str(written(node))
