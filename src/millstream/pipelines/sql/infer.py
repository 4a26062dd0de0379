"""Expression → its type, whether it can be null, and its text for DuckDB and for Flink.

Every value is cast to what `subset.py` asks for before DuckDB sees it, so DuckDB's own conversions never decide a
meaning. A mistake is noted once; what is built on it is unknown and complains no further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sqlglot import exp

from millstream.events.types import Type, list_of
from millstream.pipelines.sql import flink, foreign, subset
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.calls import called, negative
from millstream.pipelines.sql.casts import cast, cast_target, read
from millstream.pipelines.sql.mistakes import Mistakes, suggestion
from millstream.pipelines.sql.records import record
from millstream.pipelines.sql.relations import member
from millstream.pipelines.sql.shape import Argument, Function, Operator
from millstream.pipelines.sql.subset import BY_NODE, UNITS
from millstream.pipelines.sql.typed import NULL, UNKNOWN, Typed, made, number
from millstream.pipelines.sql.written import badly_written

_WRITTEN_CURE = "write a date as 2024-01-31, a time as 13:45:00, a timestamp as 2024-01-31 13:45:00"
DEPTH_MAX = 100  # of an expression; what it is compiled to is a few times deeper, and DuckDB takes 1,000
_NOT_HERE: Mapping[type, str] = {
    exp.Subquery: "subquery_here", exp.Exists: "subquery_here", exp.Select: "subquery_here", exp.Any: "any_all", exp.All: "any_all",
    exp.Window: "window", exp.WithinGroup: "within_group", exp.IgnoreNulls: "ignore_nulls", exp.RespectNulls: "ignore_nulls",
    exp.Filter: "filter_here", exp.Interval: "interval", exp.Tuple: "tuple", exp.Placeholder: "parameter", exp.Parameter: "parameter",
    exp.JSONExtract: "json", exp.JSONExtractScalar: "json", exp.Pow: "power", exp.AtTimeZone: "time_zone", exp.Escape: "escape",
    exp.Star: "star", exp.Bracket: "bracket", exp.Lambda: "lambda",
}  # fmt: skip


class Scope(Protocol):
    def column(self, node: exp.Column, mistakes: Mistakes) -> Typed:
        """The column that is meant, or UNKNOWN and a mistake."""


class Inference:
    """Types expressions of one query. `scope` knows its columns; what is wrong goes to `mistakes`. `forms`: kinds of expressions
    that stand here beside plain ones. `aggregates` names the refusal of an aggregate here.
    """

    def __init__(self, scope: Scope, mistakes: Mistakes, forms: Mapping[type, Callable[[Any], Typed]] | None = None) -> None:
        self._scope, self._mistakes = scope, mistakes
        self._depth = 0
        self.aggregates = "aggregate_without_group"
        self._forms: dict[type, Callable[[Any], Typed]] = {
            exp.Column: lambda n: scope.column(n, mistakes),
            exp.Paren: lambda n: self.typed(n.this),
            exp.Literal: self._literal,
            exp.Boolean: lambda n: made("TRUE" if n.this else "FALSE", (), t.BOOLEAN),
            exp.Null: lambda n: NULL,
            exp.Neg: self._negative,
            exp.And: lambda n: self._logic(n, "AND"),
            exp.Or: lambda n: self._logic(n, "OR"),
            exp.Not: self._not,
            exp.Is: self._is,
            exp.In: self.membership,
            exp.Between: self._between,
            exp.Array: self._list,
            exp.Case: self._case,
            exp.Cast: lambda n: self._cast(n, attempt=False),
            exp.TryCast: lambda n: self._cast(n, attempt=True),
            exp.Extract: self._extract,
            exp.Anonymous: self._call,
            exp.Struct: lambda n: record(n, self.typed, mistakes),
            exp.Dot: lambda n: member(self.typed(n.this), n.expression, n, mistakes),
            **(forms or {}),
        }

    def admit(self, kind: type, form: Callable[[Any], Typed]) -> None:
        """From now on such expressions stand here."""
        self._forms[kind] = form

    def typed(self, node: exp.Expression) -> Typed:
        """The expression's type and text. Never raises for a mistake in it."""
        if self._depth >= DEPTH_MAX:
            if not any(m.code == "sql_too_deep" for m in self._mistakes.found):
                self._mistakes.refuse(node, "too_deep")
            return UNKNOWN
        self._depth += 1
        try:
            form = self._forms.get(type(node))
            if form is not None:
                return form(node)
            operator = BY_NODE.get(type(node).__name__)
            return self._binary(node, operator) if operator else self._refuse(node)
        finally:
            self._depth -= 1

    def condition(self, node: exp.Expression, where: str) -> Typed:
        """An expression that must be boolean."""
        value = self.typed(node)
        if value.null or (value.type and value.type.kind != "boolean"):
            shown = "NULL" if value.null else str(value.type)
            self._clash(node, f"{where} needs a boolean, this is {shown}", "compare it with something: x = …, x IS NOT NULL")
            return UNKNOWN
        return value

    # ---- leaves -------------------------------------------------------------------------------------------------
    def _literal(self, node: exp.Literal) -> Typed:
        text = str(node.this)
        if node.is_string:
            return Typed("'" + text.replace("'", "''") + "'", t.TEXT, literal=text, flink=flink.text(text))
        return number(node, text, self._mistakes)

    def _negative(self, node: exp.Neg) -> Typed:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return number(node, str(node.this.this), self._mistakes, "-")
        value = self.typed(node.this)
        if value.null or (value.type and value.type.kind not in t.NUMBERS):
            return self._clash(node, f"- needs a number, this is {_shown(value)}", "CAST it to a number")
        if value.type is None:
            return UNKNOWN
        # DuckDB widens the negative of a constant least integer: the type must not depend on what a value happens to be.
        template = f"CAST((-{{0}}) AS {t.duckdb_name(value.type)})"
        return made(template, [value], value.type, value.nullable, on_flink=negative(value.type))

    # ---- logic ----------------------------------------------------------------------------------------------------
    def _logic(self, node: exp.Binary, word: str) -> Typed:
        # AND and OR chains lean left as deep as they are long: taken in a loop, not by recursion.
        parts = list(node.flatten()) if word in ("AND", "OR") else [node.left, node.right]
        values = [self.condition(part, word) for part in parts]
        if any(v.type is None for v in values):
            return UNKNOWN
        template = "(" + f" {word} ".join(f"{{{i}}}" for i in range(len(values))) + ")"
        return made(template, values, t.BOOLEAN, any(v.nullable for v in values))

    def _not(self, node: exp.Not) -> Typed:
        inner = node.this
        if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
            return made("({0} IS NOT NULL)", [self.typed(inner.this)], t.BOOLEAN)
        if isinstance(inner, exp.In) and inner.args.get("query"):
            self._mistakes.refuse(node, "not_in")
            return UNKNOWN
        value = self.condition(inner, "NOT")
        return UNKNOWN if value.type is None else made("(NOT {0})", [value], t.BOOLEAN, value.nullable)

    def _is(self, node: exp.Is) -> Typed:
        if isinstance(node.expression, exp.Null):
            return made("({0} IS NULL)", [self.typed(node.this)], t.BOOLEAN)
        if isinstance(node.expression, exp.Boolean):
            value = self.condition(node.this, "IS TRUE and IS FALSE")
            template = "({0} IS TRUE)" if node.expression.this else "({0} IS FALSE)"
            return UNKNOWN if value.type is None else made(template, [value], t.BOOLEAN)
        return self._refuse(node)

    # ---- comparisons ------------------------------------------------------------------------------------------------
    def _binary(self, node: exp.Expression, operator: Operator) -> Typed:
        result = self._apply(node, operator, self.typed(node.this), self.typed(node.expression))
        return _negated(result) if node.args.get("negate") else result

    def _apply(self, node: exp.Expression, operator: Operator, left: Typed, right: Typed) -> Typed:
        if left.null or right.null:
            return self._null_operand(node, operator)
        left, right = self._as_literal(left, right), self._as_literal(right, left)
        if left.type is None or right.type is None:
            return UNKNOWN
        signature = operator.rule(left.type, right.type)
        if signature is None:
            for value, beside in ((left, right), (right, left)):
                if value.literal is not None and beside.type and beside.type.kind in t.WRITTEN:
                    return self._clash(node, f"{value.literal!r} is no {beside.type}", _WRITTEN_CURE)
            return self._clash(node, f"{operator.symbol} between {left.type} and {right.type}", _cure(operator, left.type, right.type))
        args = [cast(v, to) for v, to in zip((left, right), signature.arguments, strict=True)]
        nullable = operator.nulls != "own" and (left.nullable or right.nullable)
        template = operator.duckdb
        if signature.result.kind == "decimal":
            template = f"CAST({template} AS {t.duckdb_name(signature.result)})"
        return called(template, operator.flink, args, signature.result, nullable)

    def _null_operand(self, node: exp.Expression, operator: Operator) -> Typed:
        self._mistakes.add(node, "null_literal", f"{operator.symbol} with NULL is never true, it is null", "use IS NULL or IS NOT NULL")
        return UNKNOWN

    def _as_literal(self, value: Typed, beside: Typed) -> Typed:
        """A quoted literal beside a date, time, timestamp or uuid is one, if it can be read so."""
        if value.literal is None or beside.type is None or beside.literal is not None:
            return value
        return read(value, beside.type) or value

    def membership(self, node: exp.In) -> Typed:
        """x IN (values)."""
        if node.args.get("query") or node.args.get("field") or node.args.get("unnest"):
            return self._refuse(node)
        value = self.typed(node.this)
        parts = [self._apply(item, BY_NODE["EQ"], value, self.typed(item)) for item in node.expressions]
        if value.type is None or not parts or any(p.type is None for p in parts):
            return UNKNOWN
        items = [self._as_literal(self.typed(item), value) for item in node.expressions]
        shared = t.common_of([value.type, *(i.type for i in items if i.type)])
        if shared is None:
            return self._clash(node, "the values of IN have no type in common", "CAST them to one type")
        template = "({0} IN (" + ", ".join(f"{{{i}}}" for i in range(1, len(items) + 1)) + "))"
        result = made(template, [cast(v, shared) for v in (value, *items)], t.BOOLEAN, any(p.nullable for p in parts))
        return _negated(result) if node.args.get("negate") else result

    def _between(self, node: exp.Between) -> Typed:
        if node.args.get("symmetric"):
            return self._refuse(node)
        value = self.typed(node.this)
        low = self._apply(node.args["low"], BY_NODE["GTE"], value, self.typed(node.args["low"]))
        high = self._apply(node.args["high"], BY_NODE["LTE"], value, self.typed(node.args["high"]))
        if low.type is None or high.type is None:
            return UNKNOWN
        result = made("({0} AND {1})", [low, high], t.BOOLEAN, low.nullable or high.nullable)
        return _negated(result) if node.args.get("negate") else result

    # ---- choices, casts, functions ------------------------------------------------------------------------------
    def _case(self, node: exp.Case) -> Typed:
        operand = self.typed(node.this) if node.this else None
        conditions = []
        for branch in node.args["ifs"]:
            if operand is None:
                conditions.append(self.condition(branch.this, "CASE WHEN"))
            else:
                conditions.append(self._apply(branch.this, BY_NODE["EQ"], operand, self.typed(branch.this)))
        default = node.args.get("default")
        nodes = [branch.args["true"] for branch in node.args["ifs"]] + ([default] if default is not None else [])
        values = self._together(node, nodes, "the branches of CASE")
        if values is None or any(c.type is None for c in conditions):
            return UNKNOWN
        count = len(conditions)
        whens = " ".join(f"WHEN {{{i}}} THEN {{{count + i}}}" for i in range(count))
        end = f" ELSE {{{2 * count}}}" if default is not None else ""
        nullable = default is None or any(v.nullable for v in values)
        return made(f"(CASE {whens}{end} END)", [*conditions, *values], values[0].type, nullable)

    def _list(self, node: exp.Array) -> Typed:
        if not node.expressions:
            return self._clash(node, "an empty list has no type", "a list over no rows is empty by itself; else leave it out")
        values = self._together(node, node.expressions, "the values of a list")
        if values is None or values[0].type is None:
            return UNKNOWN
        return made("[{all}]", values, list_of(values[0].type), on_flink="ARRAY[{all}]")

    def _together(self, node: exp.Expression, nodes: Sequence[exp.Expression], what: str) -> list[Typed] | None:
        """The values cast to the type they share; None and a mistake where they share none."""
        values = [self.typed(n) for n in nodes]
        if any(v.type is None and not v.null for v in values):
            return None
        model = next((v for v in values if v.type and v.literal is None), None)
        if model is not None:
            values = [self._as_literal(v, model) for v in values]
        types = [v.type for v in values if v.type]
        if not types:
            self._mistakes.add(node, "null_literal", f"{what} are all NULL, which has no type", "give one a type: CAST(NULL AS TEXT)")
            return None
        shared = t.common_of(types)
        if shared is None:
            names = " and ".join(dict.fromkeys(str(x) for x in types))
            self._clash(node, f"{what} have different types: {names}", "CAST them to one type")
            return None
        return [replace(cast(v, shared), null=False) for v in values]

    def _cast(self, node: exp.Cast, attempt: bool) -> Typed:
        value, target = self.typed(node.this), cast_target(node, self._mistakes)
        if target is None or (value.type is None and not value.null):
            return UNKNOWN
        if value.type is None:
            return replace(cast(value, target), null=False)
        if value.literal is not None and not attempt and target.kind in t.WRITTEN:
            written = read(value, target)
            return self._clash(node, f"{value.literal!r} is no {target}", _WRITTEN_CURE) if written is None else written
        if not t.castable(value.type, target):
            way = ", ".join(t.cast_targets(value.type)) or "nothing"
            return self._clash(node, f"a {value.type} cannot be cast to {target}", f"{value.type} can become: {way}")
        return replace(cast(value, target, attempt), literal=None, constant=None, column=None)

    def _extract(self, node: exp.Extract) -> Typed:
        name = str(node.this.name).lower()
        found = subset.function(name) if name in UNITS else None
        if found is None:
            self._mistakes.add(node, "unknown_function", f"EXTRACT has no part {name}", suggestion(name, UNITS, "parts"))
            return UNKNOWN
        return self._function(node, found, [node.expression])

    def _call(self, node: exp.Anonymous) -> Typed:
        name = str(node.this).casefold()
        found = subset.function(name)
        if found is not None:
            return self._function(node, found, list(node.expressions))
        if name in ("if", "iff") and len(node.expressions) == 3:
            condition, yes, no = node.expressions
            return self._case(exp.Case(ifs=[exp.If(this=condition.copy(), true=yes.copy())], default=no.copy()))
        if name in subset.VOLATILE:
            self._mistakes.refuse(node, "volatile", name=f"{name}()")
        elif subset.aggregate(name) is not None:
            self._mistakes.refuse(node, self.aggregates, name=name)
        elif name in subset.AGGREGATE_NAMES:
            self._mistakes.refuse(node, "unknown_aggregate", name=name, known=", ".join(subset.BY_AGGREGATE))
        else:
            return self._foreign(node, name)
        return UNKNOWN

    def _foreign(self, node: exp.Anonymous, name: str) -> Typed:
        values = [] if self._mistakes.portable else [self.typed(a) for a in node.expressions]
        called = None if self._mistakes.portable else foreign.call(node, values, self._mistakes)
        if called is None:
            self._mistakes.add(node, "unknown_function", f"there is no function {name}", suggestion(name, _names(), "functions"))
        return called or UNKNOWN

    def _function(self, node: exp.Expression, found: Function, args: list[exp.Expression]) -> Typed:
        least, most = len(found.arguments) - found.optional, None if found.variadic else len(found.arguments)
        if len(args) < least or (most is not None and len(args) > most):
            self._clash(node, f"{found.name} has {len(args)} arguments", f"it is {found.signature}")
            return UNKNOWN
        values = self._together(node, args, f"the arguments of {found.name}") if found.common else [self.typed(a) for a in args]
        if values is None:
            return UNKNOWN
        expected = [found.arguments[min(i, len(found.arguments) - 1)] for i in range(len(args))]
        fitted = [self._argument(found, a, v, e) for a, v, e in zip(args, values, expected, strict=True)]
        if any(v.type is None for v in fitted):
            return UNKNOWN
        result = found.result([v.type for v in fitted if v.type], [v.constant for v in values])
        if result is None:
            shown = " and ".join(_shown(v) for v in fitted)
            return self._clash(node, f"{found.name} does not take {shown} together", f"CAST one to fit; the function is {found.signature}")
        return called(found.duckdb, found.flink, fitted, result, _nullable(found, fitted))

    def _argument(self, found: Function, node: exp.Expression, value: Typed, expected: Argument) -> Typed:
        if value.null:
            self._mistakes.add(node, "null_literal", f"{found.name} of NULL is null", "leave it out, or CAST(NULL AS …) where it is meant")
            return UNKNOWN
        if value.type is None:
            return UNKNOWN
        wrong = badly_written(expected, value)
        if wrong:
            return self._clash(node, f"{found.name}: {expected.name} must be {wrong[0]}", wrong[1])
        if value.type.kind not in expected.kinds:
            kinds = "any type" if expected.kinds == t.EVERY else " or ".join(sorted(expected.kinds))
            return self._clash(
                node, f"{found.name}: {expected.name} is {value.type}, it must be {kinds}", f"CAST it; the function is {found.signature}"
            )
        if expected.to is None:
            return value
        return cast(value, expected.to)

    # ---- refusals -------------------------------------------------------------------------------------------------
    def _clash(self, node: exp.Expression, message: str, cure: str) -> Typed:
        self._mistakes.add(node, "type_clash", message, cure)
        return UNKNOWN

    def _refuse(self, node: exp.Expression) -> Typed:
        name = type(node).__name__
        if name.startswith(("Current", "Localtime", "Session")):
            self._mistakes.refuse(node, "volatile", name=node.sql("duckdb"))
            return UNKNOWN
        key = _NOT_HERE.get(type(node), "expression")
        self._mistakes.refuse(node, key, **({"name": name} if key == "expression" else {}))
        return UNKNOWN


def _names() -> list[str]:
    return [f.name for f in subset.FUNCTIONS] + list(subset.SAME_AS)


def _shown(value: Typed) -> str:
    return "NULL" if value.null else str(value.type)


def _negated(value: Typed) -> Typed:
    return value if value.type is None else made("(NOT {0})", [value], t.BOOLEAN, value.nullable)


def _nullable(found: Function, values: Sequence[Typed]) -> bool:
    if found.nulls == "own":
        return True
    if found.nulls == "never":
        return False
    if found.nulls == "skipped":
        return all(v.nullable for v in values)
    return any(v.nullable for v in values)


def _cure(operator: Operator, left: Type, right: Type) -> str:
    kinds = {left.kind, right.kind}
    if "numeric" in kinds:
        return "a numeric without bounds travels as text: CAST it AS DECIMAL(38,10) or DOUBLE first"
    if "json" in kinds:
        return "CAST it AS TEXT to work with its text"
    return operator.cure
