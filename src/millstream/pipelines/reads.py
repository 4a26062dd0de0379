"""What a plan really uses of its inputs, and the fingerprint that says whether its output is still what it would be.

The columns that nobody reads may come, go and change: they are no part of either.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from millstream.events.types import Constant, Field
from millstream.pipelines.plan import Plan, Stateful, Stateless, Union
from millstream.pipelines.sql.places import names_in, places_in


@lru_cache(maxsize=1024)
def of_stateless(step: Stateless) -> frozenset[str]:
    """The input's columns that the step's SQL names."""
    texts = [p.sql for p in step.projections] + ([step.where] if step.where else [])
    return frozenset(name for text in texts for name in names_in(text))


@lru_cache(maxsize=1024)
def of_stateful(step: Stateful) -> dict[str, frozenset[str]]:
    """Occurrence → the columns that any part of the step's SQL names of it: its alias is one in the whole text."""
    places = places_in(step.sql)
    return {o.alias: frozenset(c for alias, c in places if alias == o.alias) for o in step.occurrences}


def copied(step: Stateful) -> dict[str, set[str]]:
    """Input → its columns that the step's SQL names, or its walk goes by; those computed from them left out."""
    named, used = of_stateful(step), dict[str, set[str]]()
    made = {c.name for c in step.computed}
    ends = [end for e in step.edges for end in ((e.parent, e.parent_columns), (e.child, e.child_columns))]
    ends += [(r.alias, r.columns) for r in step.roots]
    for o in step.occurrences:
        leads = {c for alias, columns in ends if alias == o.alias for c in columns}
        used.setdefault(o.input, set()).update(named[o.alias] | leads - made)
    return used


def of_plan(plan: Plan) -> dict[str, frozenset[str]]:
    """Input topic → the columns that any step uses, those of its key and of joins among them."""
    used: dict[str, set[str]] = {i.topic: set(i.schema.key) for i in plan.inputs}
    for node in plan.nodes:
        if isinstance(node, Stateless):
            used.setdefault(node.input, set()).update(of_stateless(node))
            continue
        if isinstance(node, Union):
            continue
        for name, columns in copied(node).items():
            used.setdefault(name, set()).update(columns)
        for computed in node.computed:
            used.setdefault(computed.input, set()).update(names_in(computed.sql))
    return {i.topic: frozenset(used[i.topic] & set(i.schema.names)) for i in plan.inputs}


def fingerprint(plan: Plan) -> str:
    """Changes exactly when what the plan computes, keeps or publishes does: then its output is rebuilt.

    An input's column counts by its id and type too: one that was dropped and made again under its old name is another. So does
    the constant that it has in old rows; what else is said of a column changes no row.
    """
    used = of_plan(plan)
    read = [(i.topic, [_counted(f) for f in i.schema.fields if f.name in used[i.topic]]) for i in plan.inputs]
    return hashlib.sha256(repr((plan.nodes, plan.outputs, read)).encode()).hexdigest()[:32]


def _counted(field: Field) -> tuple[object, ...]:
    constant = (field.fill.text,) if isinstance(field.fill, Constant) else ()
    return (field.name, field.id, str(field.type), *constant)
