"""SELECT over one table, over generate_series, or over nothing: filters, groups, order and limits.

Joins, subqueries and window functions are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any

from millstream.testing.cockroach import access, arithmetic, casts, functions, types, values
from millstream.testing.cockroach.descriptors import Descriptor
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.expressions import Compiled, Compiler, Env, Run, no_columns
from millstream.testing.cockroach.syntax import (
    Call,
    Cast,
    Collate,
    Expression,
    Item,
    Literal,
    Name,
    NamedCast,
    Order,
    Reference,
    Select,
    Star,
)
from millstream.testing.cockroach.tables import Table
from millstream.testing.cockroach.transactions import Transaction
from millstream.testing.cockroach.types import DECIMAL, INT8, SqlType

Output = list[tuple[str, SqlType]]
Rows = Callable[[Transaction, Env], Iterator[Any]]


@dataclass(frozen=True)
class Query:
    """`columns` are names and types; `rows` gives tuples of values."""

    columns: Output
    rows: Rows


@dataclass(frozen=True)
class Input:
    """What FROM gives: rows as expressions see them; `order` is what they are sorted by already."""

    compiler: Compiler
    rows: Rows
    stars: tuple[str, ...]
    order: tuple[tuple[str, bool], ...] = ()


def compile_select(select: Select, find: Callable[[Name], tuple[Table, Descriptor]], version: str, named: Callable[[Name], SqlType],
                   wants: tuple[SqlType, ...] = ()) -> Query:  # fmt: skip
    """`wants`: the types that constants among the items take. Raises SqlError for what is wrong or not modelled."""
    source = _input(select, find, version, named)
    items = _expanded(select.items, source)
    rows, compiler = source.rows, source.compiler
    orders = [_ordered_by(o, items) for o in select.order]
    if select.group or any(_aggregates(i.value) for i in items):
        rows, compiler, swapped = _grouped(rows, compiler, select.group, [*(i.value for i in items), *(o.by for o in orders)])
        items = [dataclasses.replace(i, value=v) for i, v in zip(items, swapped, strict=False)]
        orders = [dataclasses.replace(o, by=v) for o, v in zip(orders, swapped[len(items) :], strict=True)]
        sorted_by: tuple[tuple[str, bool], ...] = ()
    else:
        sorted_by = source.order
    compiled = [compiler.compile(i.value, wants[n] if n < len(wants) else None) for n, i in enumerate(items)]
    runs = [c.run for c in compiled]
    if orders and not _is_sorted(orders, sorted_by):
        rows = _sorted(rows, [(compiler.compile(o.by), o) for o in orders])
    columns = [(i.alias or label(i.value), c.type if c.type.kind != "unknown" else types.STRING)
               for i, c in zip(items, compiled, strict=True)]  # fmt: skip
    return Query(columns, _limited(_distinct(_projected(rows, runs), select.distinct), select, version, named))


def _input(select: Select, find: Callable[[Name], tuple[Table, Descriptor]], version: str, named: Callable[[Name], SqlType]) -> Input:
    source = select.source
    if source is None:
        compiler = Compiler(no_columns, version, named)
        kept = compiler.condition(select.where) if select.where is not None else None
        return Input(compiler, lambda t, env: iter([()] if kept is None or kept((), env) else []), ())
    if source.arguments is not None:
        return _series(select, version, named)
    if source.rows is not None:
        return _given(select, source.rows, version, named)
    table, descriptor = find(source.name)
    scope = access.Scope(descriptor, source.alias, version, named)
    way, width = access.plan(scope, select.where), scope.width

    def rows(transaction: Transaction, env: Env) -> Iterator[Any]:
        return (access.seen(row, width, at) for _, row, at in way.rows(transaction, table, env))

    order = () if descriptor.buckets else tuple((name, name in descriptor.descending) for name in descriptor.key)
    return Input(scope.compiler, rows, tuple(c.name for c in descriptor.visible), order)


def _series(select: Select, version: str, named: Callable[[Name], SqlType]) -> Input:
    """generate_series of integers."""
    source = select.source
    assert source is not None and source.arguments is not None
    if source.name[-1] != "generate_series" or len(source.arguments) not in (2, 3):
        raise not_modelled(f"{source.name[-1]}() in FROM")
    bounds = [Compiler(no_columns, version, named).into(a, INT8, "generate_series") for a in source.arguments]
    names = {source.alias or "generate_series"}
    column = source.columns[0] if source.columns else source.alias or "generate_series"

    def resolve(table: str | None, name: str) -> Compiled:
        if name != column or (table is not None and table not in names):
            raise SqlError("42703", f'column "{name}" does not exist')
        return Compiled(INT8, lambda row, env: row[0])

    compiler = Compiler(resolve, version, named)
    kept = compiler.condition(select.where) if select.where is not None else None

    def rows(transaction: Transaction, env: Env) -> Iterator[Any]:
        start, end, *step = (b((), env) for b in bounds)
        by = step[0] if step else 1
        for n in range(start, end + (1 if by > 0 else -1), by):
            if kept is None or kept((n,), env):
                yield (n,)

    return Input(compiler, rows, (column,), ((column, False),))


def _given(select: Select, given: tuple[tuple[Expression, ...], ...], version: str, named: Callable[[Name], SqlType]) -> Input:
    """Rows of values: a column has the type of the first of them that has one."""
    source = select.source
    assert source is not None
    alias = source.alias or "values"
    cells = [[Compiler(no_columns, version, named).compile(e) for e in row] for row in given]
    if any(len(row) != len(cells[0]) for row in cells):
        raise SqlError("42601", f"VALUES lists must all be the same length, expected {len(cells[0])} columns")
    names = (*source.columns, *(f"column{n + 1}" for n in range(len(source.columns), len(cells[0]))))
    kinds = [next((row[n].type for row in cells if row[n].type.kind != "unknown"), types.STRING) for n in range(len(names))]

    def resolve(table: str | None, name: str) -> Compiled:
        if name not in names or (table is not None and table != alias):
            raise SqlError("42703", f'column "{name}" does not exist')
        place = names.index(name)
        return Compiled(kinds[place], lambda row, env: row[place])

    compiler = Compiler(resolve, version, named)
    kept = compiler.condition(select.where) if select.where is not None else None

    def rows(transaction: Transaction, env: Env) -> Iterator[Any]:
        for row in cells:
            values_ = tuple(cell.run((), env) for cell in row)
            if kept is None or kept(values_, env):
                yield values_

    return Input(compiler, rows, names, ())


def _expanded(items: Iterable[Item], source: Input) -> list[Item]:
    out: list[Item] = []
    for item in items:
        if isinstance(item.value, Star):
            if not source.stars:
                raise SqlError("42602", '"*": cannot use "*" without a FROM clause')
            out += (Item(Reference(item.value.table, name), name) for name in source.stars)
        else:
            out.append(item)
    return out


def label(of: Expression) -> str:
    """The name of an item that has none."""
    while isinstance(of, Cast | NamedCast | Collate):
        of = of.of
    if isinstance(of, Reference):
        return of.name
    return of.name if isinstance(of, Call) else "?column?"


def _ordered_by(order: Order, items: list[Item]) -> Order:
    """An item's name or its number stands for the item."""
    if isinstance(order.by, Literal) and order.by.kind == "number":
        place = int(order.by.value)
        if not 0 < place <= len(items):
            raise SqlError("42P10", f"ORDER BY position {place} is not in select list")
        return dataclasses.replace(order, by=items[place - 1].value)
    if isinstance(order.by, Reference) and order.by.table is None:
        named = next((i for i in items if i.alias == order.by.name), None)
        return order if named is None else dataclasses.replace(order, by=named.value)
    return order


def _is_sorted(orders: list[Order], by: tuple[tuple[str, bool], ...]) -> bool:
    asked = tuple((o.by.name, o.descending) if isinstance(o.by, Reference) else ("", False) for o in orders)
    return all(o.nulls_last is None for o in orders) and by[: len(asked)] == asked


def _sorted(rows: Rows, orders: list[tuple[Compiled, Order]]) -> Rows:
    def run(transaction: Transaction, env: Env) -> Iterator[Any]:
        out = list(rows(transaction, env))
        for compiled, order in reversed(orders):
            # NULL is below every value; where NULLS FIRST or LAST says otherwise, a flag before the value does.
            last = order.descending if order.nulls_last is None else order.nulls_last

            def by(row: Any, compiled: Compiled = compiled, flag: bool = last is not order.descending) -> Any:
                value = compiled.run(row, env)
                return (value is None, values.order(value, compiled.type)) if flag else (False, values.order(value, compiled.type))

            out.sort(key=by, reverse=order.descending)
        return iter(out)

    return run


def _projected(rows: Rows, runs: list[Run]) -> Rows:
    return lambda transaction, env: (tuple([run(row, env) for run in runs]) for row in rows(transaction, env))


def _distinct(rows: Rows, wanted: bool) -> Rows:
    return (lambda transaction, env: iter(dict.fromkeys(rows(transaction, env)))) if wanted else rows


def _limited(rows: Rows, select: Select, version: str, named: Callable[[Name], SqlType]) -> Rows:
    if select.limit is None and select.offset is None:
        return rows
    compiler = Compiler(no_columns, version, named)
    limit = compiler.into(select.limit, INT8, "LIMIT") if select.limit is not None else None
    offset = compiler.into(select.offset, INT8, "OFFSET") if select.offset is not None else None

    def run(transaction: Transaction, env: Env) -> Iterator[Any]:
        skip = offset((), env) or 0 if offset is not None else 0
        count = limit((), env) if limit is not None else None
        return islice(rows(transaction, env), skip, None if count is None else skip + count)

    return run


# ---- groups


def _aggregates(of: Expression) -> list[Call]:
    return [e for e in access.walk(of) if isinstance(e, Call) and e.name in functions.AGGREGATES]


def swap(of: Any, by: dict[Expression, Expression]) -> Any:
    """The tree with some of its parts replaced."""
    if isinstance(of, Expression):
        if of in by:
            return by[of]
        fields = {f.name: swap(getattr(of, f.name), by) for f in dataclasses.fields(of)}  # type: ignore[arg-type]
        return type(of)(**fields)
    return tuple(swap(o, by) for o in of) if isinstance(of, tuple) else of


def _grouped(rows: Rows, compiler: Compiler, group: tuple[Expression, ...], wanted: list[Expression]) -> tuple[Rows, Compiler, list[Any]]:
    calls = list(dict.fromkeys(c for w in wanted for c in _aggregates(w)))
    keys = [compiler.compile(g) for g in group]
    folds = [_fold(c, compiler) for c in calls]
    kinds = [k.type for k in keys] + [f[0] for f in folds]
    by: dict[Expression, Expression] = {e: Reference("#", str(n)) for n, e in enumerate((*group, *calls))}

    def resolve(table: str | None, name: str) -> Compiled:
        if table != "#":
            raise SqlError("42803", f'column "{name}" must appear in the GROUP BY clause or be used in an aggregate function')
        place = int(name)
        return Compiled(kinds[place], lambda row, env: row[place])

    def run(transaction: Transaction, env: Env) -> Iterator[Any]:
        groups: dict[Any, list[list[Any]]] = {} if group else {(): [[] for _ in folds]}
        for row in rows(transaction, env):
            held = groups.setdefault(tuple(k.run(row, env) for k in keys), [[] for _ in folds])
            for into, (_, argument, _) in zip(held, folds, strict=True):
                into.append(argument(row, env))
        for key, held in groups.items():
            yield (*key, *(finish(h) for h, (_, _, finish) in zip(held, folds, strict=True)))

    return run, Compiler(resolve, compiler.version, compiler.named), [swap(w, by) for w in wanted]


def _fold(call: Call, compiler: Compiler) -> tuple[SqlType, Run, Callable[[list[Any]], Any]]:
    """(result type, what is gathered of each row, what is made of it)."""
    if call.name in ("count", "count_rows") and (not call.arguments or isinstance(call.arguments[0], Star)):
        return INT8, lambda row, env: True, len
    argument = compiler.compile(call.arguments[0])
    kind = argument.type

    def present(found: list[Any]) -> list[Any]:
        kept = [v for v in found if v is not None]
        return list(dict.fromkeys(kept)) if call.distinct else kept

    result, finish = _finishing(call, kind)
    return result, argument.run, lambda found: finish(present(found)) if call.name != "array_agg" else finish(found)


def _finishing(call: Call, kind: SqlType) -> tuple[SqlType, Callable[[list[Any]], Any]]:
    name = call.name
    if name == "count":
        return INT8, len
    if name in ("min", "max"):
        pick = min if name == "min" else max
        return kind, lambda found: pick(found, key=lambda v: values.order(v, kind)) if found else None
    if name in ("bool_and", "every", "bool_or"):
        both = any if name == "bool_or" else all
        return types.BOOL, lambda found: both(found) if found else None
    if name == "array_agg":
        return types.array_of(kind), lambda found: tuple(found) if found else None
    if name in ("sum", "avg") and kind.kind == "float":
        return kind, lambda found: None if not found else sum(found) / (len(found) if name == "avg" else 1)
    if name in ("sum", "avg") and kind.kind in casts.NUMBERS:
        divide = arithmetic.operation("/", DECIMAL, DECIMAL)[1]

        def total(found: list[Any]) -> Any:
            held = Decimal(0)
            for value in found:
                held = values.EXACT.add(held, Decimal(value))
            return None if not found else divide(held, Decimal(len(found))) if name == "avg" else held

        return DECIMAL, total
    raise not_modelled(f"{name} of {kind.text}")
