"""A column that is renamed where `*` reads it is renamed in what a step makes of it: it keeps its id there, and is no other column."""

from __future__ import annotations

from dataclasses import replace

from millstream.events.types import RowSchema
from millstream.pipelines.plan import Plan, Stateless
from millstream.pipelines.sql.relations import quoted

Place = tuple[str, int]
"""A topic and the id of a column of it."""


def with_ids_kept(was: Plan, now: Plan) -> Plan:
    """`now`, with the ids that the columns of its topics have in `was` where they are the same column of an input under another name.

    Ids go by name when a plan is compiled: once the topic's next version is registered, that finds them so.
    """
    moved = {o.node: _renamed(was, now, o.node) for o in now.outputs}
    nodes = []
    for node in now.nodes:
        ids = moved.get(node.name)
        if ids and isinstance(node, Stateless):
            fields = tuple(replace(f, id=ids.get(f.name, f.id)) for f in node.schema.fields)
            node = replace(node, schema=RowSchema(fields, node.schema.key))
        nodes.append(node)
    return replace(now, nodes=tuple(nodes))


def _renamed(was: Plan, now: Plan, node: str) -> dict[str, int]:
    """New column of the node → the id of the one that it was, which is there no longer."""
    old, new = places(was, node), places(now, node)
    gone = {place: name for name, place in old.items() if name not in new}
    ids = {f.name: f.id for n in was.nodes if n.name == node for f in n.schema.fields}
    return {name: ids[gone[place]] for name, place in new.items() if name not in old and place in gone}


def places(plan: Plan, name: str) -> dict[str, Place]:
    """The columns of a topic or node that are columns of an input as they are."""
    topic = next((i for i in plan.inputs if i.topic == name), None)
    if topic is not None:
        return {f.name: (topic.topic, f.id) for f in topic.schema.fields}
    node = next((n for n in plan.nodes if n.name == name), None)
    if not isinstance(node, Stateless):  # a join's rows are not one table's
        return {}
    read = places(plan, node.input)
    of = {quoted(column): place for column, place in read.items()}
    return {p.name: of[p.sql] for p in node.projections if p.sql in of}
