"""Record literals: {name: x, …} is a value with named members."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from millstream.events.types import Type, record_of
from millstream.pipelines.sql.mistakes import Mistakes
from millstream.pipelines.sql.relations import NAME, RESERVED
from millstream.pipelines.sql.typed import UNKNOWN, Typed


def record(node: exp.Struct, typed: Callable[[exp.Expression], Typed], mistakes: Mistakes) -> Typed:
    """Each member has a name of its own, a value and so a type."""
    members: list[tuple[str, Type]] = []
    texts: list[str] = []
    for part in node.expressions:
        if not isinstance(part, exp.PropertyEQ):
            mistakes.refuse(part, "record_without_names")
            return UNKNOWN
        name, value = str(part.this.name), typed(part.expression)
        if not NAME.fullmatch(name) or name.casefold().startswith(RESERVED):
            cure = f"use letters, digits and _, not first a digit, not {RESERVED}…"
            mistakes.add(part, "bad_name", f"{name!r} cannot name a member", cure)
            return UNKNOWN
        if name.casefold() in {n.casefold() for n, _ in members}:
            mistakes.add(part, "column_twice", f"two members are called {name}", "give one another name")
            return UNKNOWN
        if value.null:
            mistakes.add(part, "null_literal", "a member that is always NULL has no type", "give it one: CAST(NULL AS TEXT)")
        if value.type is None:
            return UNKNOWN
        members.append((name, value.type))
        texts.append(f"'{name}': {value.sql}")
    return Typed(f"{{{', '.join(texts)}}}", record_of(*members))
