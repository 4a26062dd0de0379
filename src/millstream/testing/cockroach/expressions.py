"""Expressions: tree → a function of a row. Types are known before a row is seen; what does not fit is refused then.

A compiled expression is called with the row (a tuple) and the `Env` of the statement. NULL is None, and goes through as SQL has it.
Reference: CockroachDB 26.1, "Scalar Expressions", "Functions and Operators".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from millstream.testing.cockroach import arithmetic, casts, functions, types, values
from millstream.testing.cockroach.errors import SqlError, not_modelled
from millstream.testing.cockroach.hlc import ZERO, Hlc
from millstream.testing.cockroach.syntax import (
    AnyOf,
    Array,
    Binary,
    Call,
    Case,
    Cast,
    Collate,
    Expression,
    In,
    IsNull,
    Literal,
    Name,
    NamedCast,
    Parameter,
    Reference,
    Star,
    Subscript,
    Tuple,
    Unary,
)  # fmt: skip
from millstream.testing.cockroach.types import BOOL, BYTES, DECIMAL, INT8, STRING, UNKNOWN, SqlType


@dataclass
class Env:
    """What a statement runs in. `params` are texts or None; `read` is the time of what it sees, `now` in microseconds its beginning."""

    version: str
    params: tuple[str | None, ...] = ()
    read: Hlc = ZERO
    now: int = 0
    user: str = "root"
    database: str = "defaultdb"
    unique: Callable[[], int] = lambda: 0
    random: Callable[[], float] = lambda: 0.0
    held: dict[Any, Any] = field(default_factory=dict)


Run = Callable[[Any, Env], Any]


@dataclass(frozen=True, slots=True)
class Compiled:
    type: SqlType
    run: Run


Resolve = Callable[[str | None, str], Compiled]
"""(table or None, column) → how to read it from the row. Raises SqlError 42703."""


def no_columns(table: str | None, name: str) -> Compiled:
    raise SqlError("42703", f'column "{name}" does not exist')


@dataclass(frozen=True)
class Compiler:
    """`named` finds a type that only the database knows."""

    resolve: Resolve
    version: str
    named: Callable[[Name], SqlType]

    def compile(self, of: Expression, want: SqlType | None = None) -> Compiled:
        """`want`: the type that a constant here would take. What is no constant keeps its own; `into` and casts convert."""
        return _BY_CLASS[type(of)](self, of, want)

    def into(self, of: Expression, to: SqlType, column: str) -> Run:
        """A value for a column of type `to`."""
        found = self.compile(of, to)
        if found.type == to:
            return found.run
        convert, run = casts.assign(found.type, to, column, self.version), found.run

        def assigned(row: Any, env: Env) -> Any:
            value = run(row, env)
            return None if value is None else convert(value)

        return assigned

    def condition(self, of: Expression) -> Run:
        """A WHERE or CHECK. Raises 42804 where it is no bool."""
        found = self.compile(of, BOOL)
        if found.type.kind not in ("bool", "unknown"):
            raise SqlError("42804", f"argument of WHERE must be type bool, not type {found.type.text.lower()}")
        return found.run

    # ---- each kind of expression

    def literal(self, of: Literal, want: SqlType | None) -> Compiled:
        kind, value = of.kind, of.value
        if kind == "null":
            return Compiled(want or UNKNOWN, lambda row, env: None)
        if kind == "string":
            held = value if want is None else values.parse(value, want)
            return constant(want or UNKNOWN, held)
        if kind == "number":
            return self.number(value, want)
        return constant({"bytes": BYTES, "bool": BOOL, "bits": types.SqlType("varbit")}[kind], value)

    def number(self, text: str, want: SqlType | None) -> Compiled:
        if want is not None and want.kind in ("decimal", "float"):
            return constant(SqlType(want.kind, 8 if want.kind == "float" else None), values.parse(text, SqlType(want.kind)))
        if text.isdigit() and (held := int(text)) < 1 << 63:
            return constant(INT8, held)
        return constant(DECIMAL, Decimal(text))

    def parameter(self, of: Parameter, want: SqlType | None) -> Compiled:
        place = of.number - 1
        to = want or STRING

        def run(row: Any, env: Env) -> Any:
            at = (place, to)
            if at not in env.held:
                if place >= len(env.params):
                    raise SqlError("08P01", f"no value for ${place + 1}")
                text = env.params[place]
                env.held[at] = None if text is None else values.parse(text, to)
            return env.held[at]

        return Compiled(want or UNKNOWN, run)

    def reference(self, of: Reference, want: SqlType | None) -> Compiled:
        return self.resolve(of.table, of.name)

    def unary(self, of: Unary, want: SqlType | None) -> Compiled:
        if of.op == "not":
            inner = self.compile(of.of, BOOL).run

            def negated(row: Any, env: Env) -> Any:
                value = inner(row, env)
                return None if value is None else not value

            return Compiled(BOOL, negated)
        if isinstance(of.of, Literal) and of.of.kind == "number":
            if of.of.value == "9223372036854775808" and (want is None or want.kind == "int"):
                return constant(INT8, -(1 << 63))
            found = self.compile(of.of, want)
            return constant(found.type, -found.run(None, Env(self.version)))
        found = self.compile(of.of, want)
        if found.type.kind not in (*casts.NUMBERS, "interval"):
            raise SqlError("42883", f"unsupported unary operator: -<{found.type.text.lower()}>")
        return strict(found.type, arithmetic.negative(found.type), found.run)

    def binary(self, of: Binary, want: SqlType | None) -> Compiled:
        op = of.op
        if op in ("and", "or"):
            return Compiled(BOOL, _both(op, self.condition(of.left), self.condition(of.right)))
        if op in ("->", "->>"):
            left, right = self.compile(of.left), self.compile(of.right)
        else:
            left, right = self.pair(of.left, of.right, None if op in _COMPARISONS else want)
        if op in _COMPARISONS or op == "is":
            return self.comparison(op, left, right)
        if op in ("like", "ilike"):
            return strict(BOOL, _like(op == "ilike"), left.run, right.run)
        result, apply = arithmetic.operation(op, left.type, right.type)
        return strict(result, apply, left.run, right.run)

    def pair(self, a: Expression, b: Expression, want: SqlType | None) -> tuple[Compiled, Compiled]:
        """Both operands; a constant takes the other's type."""
        left, right = self.compile(a), self.compile(b)
        if _open(a) and not _open(b):
            left = self.compile(a, arithmetic.beside(right.type, _is_text(a)))
        elif _open(b) and not _open(a):
            right = self.compile(b, arithmetic.beside(left.type, _is_text(b)))
        elif want is not None and _open(a) and _open(b) and want.kind in casts.NUMBERS:
            left, right = self.compile(a, None if _is_text(a) else want), self.compile(b, None if _is_text(b) else want)
        return left, right

    def comparison(self, op: str, left: Compiled, right: Compiled) -> Compiled:
        arithmetic.check_comparable(op, left.type, right.type)
        a, b = left.run, right.run
        if op == "is":
            same = arithmetic.comparer("=", left.type, right.type)

            def identical(row: Any, env: Env) -> bool:
                x, y = a(row, env), b(row, env)
                return x is y if x is None or y is None else bool(same(x, y))

            return Compiled(BOOL, identical)
        return strict(BOOL, arithmetic.comparer(op, left.type, right.type), a, b)

    def cast(self, of: Cast, want: SqlType | None) -> Compiled:
        return self.to(of.of, of.to)

    def named_cast(self, of: NamedCast, want: SqlType | None) -> Compiled:
        to = self.named(of.to)
        return self.to(of.of, types.array_of(to) if of.array else to)

    def to(self, of: Expression, to: SqlType) -> Compiled:
        found = self.compile(of, to if _open(of) or isinstance(of, Array) else None)
        if found.type.kind == "unknown":
            return Compiled(to, found.run)
        if found.type == to and to.width is None:
            return found
        return strict(to, casts.cast(found.type, to, self.version), found.run)

    def collate(self, of: Collate, want: SqlType | None) -> Compiled:
        found = self.compile(of.of, STRING)
        if found.type.kind != "string":
            raise SqlError("42804", "COLLATE needs a string")
        return Compiled(SqlType("string", name=of.locale, spelling="STRING"), found.run)

    def call(self, of: Call, want: SqlType | None) -> Compiled:
        if of.name in functions.AGGREGATES:
            raise SqlError("42803", f"{of.name}(): aggregate functions are not allowed here")
        if of.name == "coalesce":
            return self.coalesce(of.arguments, want)
        if any(isinstance(a, Star) for a in of.arguments):
            raise SqlError("42883", f"{of.name}(*) is no function")
        found = functions.find(of.name)
        if found.alike:
            kind, same = self.same(of.arguments, want)
            runs = [Compiled(kind, run) for run in same]
        else:
            runs = [self.compile(a, found.want(n)) for n, a in enumerate(of.arguments)]
        for n, one in enumerate(runs):
            if one.type.kind == "unknown" and found.want(n) is None:
                runs[n] = Compiled(STRING, one.run)
        result, apply = found.bind([r.type for r in runs], self.version)
        if found.lazy:
            return Compiled(result, lambda row, env: apply(env, *[r.run(row, env) for r in runs]))
        return strict(result, apply, *[r.run for r in runs])

    def coalesce(self, of: tuple[Expression, ...], want: SqlType | None) -> Compiled:
        kind, runs = self.same(of, want)

        def first(row: Any, env: Env) -> Any:
            for run in runs:
                value = run(row, env)
                if value is not None:
                    return value
            return None

        return Compiled(kind, first)

    def same(self, of: tuple[Expression, ...], want: SqlType | None) -> tuple[SqlType, list[Run]]:
        """Expressions of one type: that of those which are no constants."""
        fixed = [self.compile(e) for e in of if not _open(e)]
        kind = next((c.type for c in fixed if c.type.kind != "unknown"), None) or want
        found = [self.compile(e, kind) for e in of]
        nothing = all(isinstance(e, Literal) and e.kind == "null" for e in of)
        kind = kind or next((c.type for c in found if c.type.kind != "unknown"), UNKNOWN if nothing else STRING)
        out = []
        for one in found:
            if one.type.kind not in (kind.kind, "unknown"):
                if {one.type.kind, kind.kind} - {"int", "decimal", "float"}:
                    raise SqlError("42804", f"incompatible types {kind.text.lower()} and {one.type.text.lower()}")
                kind = DECIMAL if "float" not in (one.type.kind, kind.kind) else types.FLOAT8
        for one in found:
            same = one.type.kind in (kind.kind, "unknown")
            out.append(one.run if same else strict(kind, casts.cast(one.type, kind, self.version), one.run).run)
        return kind, out

    def case(self, of: Case, want: SqlType | None) -> Compiled:
        whens = [self.condition(when if of.of is None else Binary("=", of.of, when)) for when, _ in of.branches]
        otherwise = of.otherwise or Literal("null", None)
        kind, thens = self.same((*(then for _, then in of.branches), otherwise), want)

        def run(row: Any, env: Env) -> Any:
            for when, then in zip(whens, thens, strict=False):
                if when(row, env):
                    return then(row, env)
            return thens[-1](row, env)

        return Compiled(kind, run)

    def among(self, of: In, want: SqlType | None) -> Compiled:
        tests = [self.compile(Binary("=", of.of, other)).run for other in of.among]
        return Compiled(BOOL, _any(tests))

    def any_of(self, of: AnyOf, want: SqlType | None) -> Compiled:
        left = self.compile(of.of)
        array = self.compile(of.array, types.array_of(left.type))
        if array.type.kind != "array" or array.type.element is None:
            raise SqlError("42809", "ANY needs an array")
        test = arithmetic.comparer(of.op, left.type, array.type.element)

        def run(row: Any, env: Env) -> Any:
            one, many = left.run(row, env), array.run(row, env)
            if one is None or many is None:
                return None
            return any(test(one, v) for v in many if v is not None) or (None if None in many else False)

        return Compiled(BOOL, run)

    def is_null(self, of: IsNull, want: SqlType | None) -> Compiled:
        run = self.compile(of.of).run
        return Compiled(BOOL, lambda row, env: run(row, env) is None)

    def array(self, of: Array, want: SqlType | None) -> Compiled:
        element = want.element if want is not None and want.kind == "array" else None
        if not of.items:
            if element is None:
                raise SqlError("42P18", "cannot determine type of empty array. Consider casting to the desired type")
            return Compiled(types.array_of(element), lambda row, env: ())
        kind, runs = self.same(of.items, element)
        return Compiled(types.array_of(kind), lambda row, env: tuple([run(row, env) for run in runs]))

    def tuple(self, of: Tuple, want: SqlType | None) -> Compiled:
        raise not_modelled("a tuple here")

    def subscript(self, of: Subscript, want: SqlType | None) -> Compiled:
        array, at = self.compile(of.of), self.compile(of.at, INT8)
        if array.type.kind != "array" or array.type.element is None:
            raise not_modelled("a subscript of what is no array")
        return strict(array.type.element, lambda a, n: a[n - 1] if 0 < n <= len(a) else None, array.run, at.run)


def constant(kind: SqlType, value: Any) -> Compiled:
    return Compiled(kind, lambda row, env: value)


def strict(kind: SqlType, apply: Callable[..., Any], *runs: Run) -> Compiled:
    """NULL where any argument is."""
    if len(runs) == 1:
        only = runs[0]
        return Compiled(kind, lambda row, env: None if (v := only(row, env)) is None else apply(v))
    if len(runs) == 2:
        first, second = runs
        return Compiled(kind, lambda row, env: None if (a := first(row, env)) is None or (b := second(row, env)) is None else apply(a, b))

    def run(row: Any, env: Env) -> Any:
        given = [r(row, env) for r in runs]
        return None if any(v is None for v in given) else apply(*given)

    return Compiled(kind, run)


def _both(op: str, left: Run, right: Run) -> Run:
    decides = op == "or"

    def run(row: Any, env: Env) -> Any:
        a = left(row, env)
        if a is not None and bool(a) is decides:
            return decides
        b = right(row, env)
        if b is not None and bool(b) is decides:
            return decides
        return None if a is None or b is None else not decides

    return run


def _any(tests: list[Run]) -> Run:
    def run(row: Any, env: Env) -> Any:
        unknown = False
        for test in tests:
            found = test(row, env)
            if found:
                return True
            unknown = unknown or found is None
        return None if unknown else False

    return run


_COMPARISONS = frozenset(arithmetic.COMPARERS)


def _open(of: Expression) -> bool:
    """A constant or parameter, whose type its neighbour decides."""
    if isinstance(of, Unary):
        return of.op == "-" and _open(of.of)
    return isinstance(of, Parameter) or (isinstance(of, Literal) and of.kind in ("string", "number", "null"))


def _is_text(of: Expression) -> bool:
    return isinstance(of, Parameter) or (isinstance(of, Literal) and of.kind != "number")


@lru_cache(maxsize=1000)
def _pattern(like: str, fold: bool) -> re.Pattern[str]:
    parts = re.findall(r"\\.|%|_|[^\\%_]+", like, re.DOTALL)
    body = "".join({"%": ".*", "_": "."}.get(p) or re.escape(p[1:] if p[0] == "\\" else p) for p in parts)
    return re.compile(body, re.DOTALL | (re.IGNORECASE if fold else 0))


def _like(fold: bool) -> Callable[[str, str], bool]:
    return lambda value, like: _pattern(like, fold).fullmatch(value) is not None


def _row_comparison(self: Compiler, of: Binary, want: SqlType | None) -> Compiled:
    """(a, b) > (x, y): by the first members that differ; NULL among those looked at makes it NULL."""
    if not (isinstance(of.left, Tuple) and isinstance(of.right, Tuple)):
        return self.binary(of, want)
    if of.op not in _COMPARISONS or len(of.left.items) != len(of.right.items):
        raise SqlError("42804", f"tuples {of.op} of different lengths")
    pairs = [self.pair(a, b, None) for a, b in zip(of.left.items, of.right.items, strict=True)]
    for a, b in pairs:
        arithmetic.check_comparable(of.op, a.type, b.type)
    same = [arithmetic.comparer("=", a.type, b.type) for a, b in pairs]
    last = [arithmetic.comparer(of.op, a.type, b.type) for a, b in pairs]
    strictly = [arithmetic.comparer(of.op.rstrip("=") or "=", a.type, b.type) for a, b in pairs]
    equality = of.op in ("=", "<>")

    def run(row: Any, env: Env) -> Any:
        for n, (a, b) in enumerate(pairs):
            x, y = a.run(row, env), b.run(row, env)
            if x is None or y is None:
                return None
            if not same[n](x, y):
                return of.op == "<>" if equality else strictly[n](x, y)
        return last[-1](x, y)

    return Compiled(BOOL, run)


def _json_member(self: Compiler, of: Star, want: SqlType | None) -> Compiled:
    raise SqlError("42601", "* is no value here")


_BY_CLASS: dict[type, Callable[[Compiler, Any, SqlType | None], Compiled]] = {
    Literal: Compiler.literal, Parameter: Compiler.parameter, Reference: Compiler.reference, Unary: Compiler.unary,
    Binary: _row_comparison, Cast: Compiler.cast, NamedCast: Compiler.named_cast, Collate: Compiler.collate, Call: Compiler.call,
    Case: Compiler.case, In: Compiler.among, AnyOf: Compiler.any_of, IsNull: Compiler.is_null, Array: Compiler.array,
    Tuple: Compiler.tuple, Subscript: Compiler.subscript, Star: _json_member,
}  # fmt: skip
