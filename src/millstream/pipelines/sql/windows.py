"""Top-N per partition: QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n. No other window is here.

Which rows of a partition are in depends on the partition's rows alone, so a partition is recomputed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.block import Block
from millstream.pipelines.sql.groups import By, ordered, untold
from millstream.pipelines.sql.mistakes import offset_of
from millstream.pipelines.sql.places import places_in
from millstream.pipelines.sql.typed import UNKNOWN, Typed

_RANKS = ("rank", "dense_rank", "percent_rank", "cume_dist", "ntile")


@dataclass(frozen=True)
class Top:
    """`window` as written, and its text; `condition` is the text of QUALIFY."""

    window: exp.Window
    by: tuple[By, ...]
    sql: str
    condition: str

    def typed(self, node: exp.Window, block: Block) -> Typed:
        """The number of a row in its partition, as an item of the SELECT list."""
        if node == self.window:
            return Typed(self.sql, t.INT64)
        block.statement.mistakes.refuse(node, "window")
        return UNKNOWN


def top(select: exp.Select, block: Block) -> Top | None:
    """What QUALIFY keeps; None and a mistake where it is another form."""
    mistakes, condition = block.statement.mistakes, select.args["qualify"].this
    while isinstance(condition, exp.Paren):
        condition = condition.this
    symbol = {exp.LTE: "<=", exp.LT: "<", exp.EQ: "="}.get(type(condition))
    window = _window(condition.this, select) if symbol else None
    limit = condition.expression if symbol else None
    count = int(str(limit.this)) if isinstance(limit, exp.Literal) and not limit.is_string and str(limit.this).isdigit() else None
    if window is None or count is None or (symbol == "=" and count != 1):
        mistakes.refuse(condition, "qualify_form")
        return None
    call = window.this
    name = str(call.this).casefold() if isinstance(call, exp.Anonymous) else type(call).__name__
    if name != "row_number":
        mistakes.refuse(window, "rank" if name in _RANKS else "qualify_form", **({"name": name} if name in _RANKS else {}))
        return None
    if window.args.get("alias") or window.args.get("spec"):
        mistakes.refuse(window, "named_window")
        return None
    return _over(window, f"{symbol} {count}", block)


def _window(node: exp.Expression, select: exp.Select) -> exp.Window | None:
    """The window that is meant: written out, or by the name that the SELECT list gives it."""
    if isinstance(node, exp.Column) and len(node.parts) == 1:
        for item in select.expressions:
            if isinstance(item, exp.Alias) and item.alias.casefold() == node.name.casefold():
                node = item.this
    return node if isinstance(node, exp.Window) else None


def _over(window: exp.Window, condition: str, block: Block) -> Top | None:
    mistakes = block.statement.mistakes
    partition = window.args.get("partition_by") or []
    if not partition:
        mistakes.refuse(window, "no_partition")
        return None
    block.infer.aggregates = "aggregate_in_where"
    by = []
    for node in partition:
        value = block.infer.typed(node)
        if value.type is None:
            continue
        if value.column is None and not places_in(value.sql):
            mistakes.refuse(node, "group_by_constant")
        by.append(By(node, value, offset_of(node)))
    items = window.args["order"].expressions if window.args.get("order") else []
    ordering = [(block.infer.typed(o.this), o) for o in items]
    block.infer.aggregates = "aggregate_without_group"
    if len(by) < len(partition) or any(v.type is None for v, _ in ordering) or mistakes:
        return None
    missing = untold(block, {b.column for b in by if b.column}, [v for v, _ in ordering], None)
    if missing:
        mistakes.refuse(window, "order_missing" if not ordering else "order_not_total", name="row_number", columns=", ".join(missing))
        return None
    over = f"PARTITION BY {', '.join(b.value.sql for b in by)} ORDER BY {', '.join(ordered(v, o) for v, o in ordering)}"
    sql = f"row_number() OVER ({over})"
    return Top(window, tuple(by), sql, f"({sql} {condition})")
