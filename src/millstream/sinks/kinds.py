"""The sinks there are. A new one costs its folder and a line here.

An opener takes (name, options, place): the sink's unique name in the mesh, its checked options, and the mesh's data
folder; it gives a `contract.Sink`.
"""

from __future__ import annotations

from millstream.components import Component
from millstream.sinks.iceberg import options as iceberg_options
from millstream.sinks.jsonl import options as jsonl_options
from millstream.sinks.search import options as search_options

KINDS: tuple[Component, ...] = (
    Component("jsonl", jsonl_options.Options, "millstream.sinks.jsonl.sink:open_sink"),
    Component("iceberg", iceberg_options.Options, "millstream.sinks.iceberg.sink:open_sink"),
    Component("search", search_options.Options, "millstream.sinks.search.sink:open_sink"),
)
