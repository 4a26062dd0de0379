"""CockroachDB's SQL text → trees, as far as the stand-in goes: expressions, queries and writes. grammar_schema.py has the rest.

Written by hand rather than taken from a general SQL parser: what is not understood must be refused, not passed on, and a statement
that was never seen before must not cost a millisecond.
Reference: CockroachDB 26.1, "SQL Grammar".
"""

from __future__ import annotations

from millstream.testing.cockroach import types
from millstream.testing.cockroach.cursor import RESERVED, Cursor
from millstream.testing.cockroach.errors import not_modelled
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
    Item,
    Literal,
    NamedCast,
    Order,
    Parameter,
    Reference,
    Select,
    Source,
    Star,
    Subscript,
    Tuple,
    Unary,
)  # fmt: skip

_JOINS = frozenset(("join", "left", "right", "full", "inner", "cross", "natural"))
_OWN_FORM = frozenset(("null", "true", "false", "case", "cast", "array", "row"))
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset(("||", "->", "->>", "#>", "#>>", "@>", "<@", "&&", "&", "|", "~")), frozenset("+-"), frozenset(("*", "/", "//", "%")),
    frozenset("^"),
)  # fmt: skip
_COMPARED = frozenset(("=", "<", ">", "<=", ">=", "<>", "!="))
_NILADIC = frozenset(("current_timestamp", "current_date", "current_user", "session_user", "current_database", "current_schema"))


class Parser(Cursor):
    """Reads one statement's expressions and queries; every method stands behind what it read, or raises SqlError 42601."""

    # ---- expressions, loosest first

    def expression(self) -> Expression:
        left = self._and()
        while self.word("or"):
            left = Binary("or", left, self._and())
        return left

    def _and(self) -> Expression:
        left = self._not()
        while self.word("and"):
            left = Binary("and", left, self._not())
        return left

    def _not(self) -> Expression:
        return Unary("not", self._not()) if self.word("not") else self._compared()

    def _compared(self) -> Expression:
        left = self._level(0)
        while True:
            token = self.here
            if token.kind == "op" and token.text in _COMPARED:
                self.place += 1
                op = "<>" if token.text == "!=" else token.text
                if self.word("any") or self.word("some"):
                    self.need_op("(")
                    left = AnyOf(op, left, self.expression())
                    self.need_op(")")
                else:
                    left = Binary(op, left, self._level(0))
            elif token.kind != "word":
                return left
            elif self.word("is"):
                left = self._is(left)
            else:
                turned = self.is_word("not") and self.tokens[self.place + 1].text in ("in", "between", "like", "ilike")
                self.place += turned
                found = self._worded(left)
                if found is None:
                    return left
                left = Unary("not", found) if turned else found

    def _is(self, left: Expression) -> Expression:
        turned = self.word("not")
        found: Expression
        if self.word("null"):
            found = IsNull(left)
        elif self.word("distinct", "from"):
            found = Unary("not", Binary("is", left, self._level(0)))
        elif self.is_word("true") or self.is_word("false"):
            found = Binary("is", left, self._primary())
        else:
            raise self.fail()
        return Unary("not", found) if turned else found

    def _worded(self, left: Expression) -> Expression | None:
        if self.word("in"):
            if self.tokens[self.place + 1].text == "select":
                raise not_modelled("a subquery in IN")
            return In(left, self.in_parens(self.expression))
        if self.word("between"):
            low = self._level(0)
            self.need("and")
            return Binary("and", Binary(">=", left, low), Binary("<=", left, self._level(0)))
        for op in ("like", "ilike"):
            if self.word(op):
                return Binary(op, left, self._level(0))
        return None

    def _level(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._signed()
        left = self._level(level + 1)
        while self.here.kind == "op" and self.here.text in _LEVELS[level]:
            op = self.here.text
            self.place += 1
            left = Binary(op, left, self._level(level + 1))
        return left

    def _signed(self) -> Expression:
        if self.op("-"):
            return Unary("-", self._signed())
        return self._signed() if self.op("+") else self._postfixed()

    def _postfixed(self) -> Expression:
        left = self._primary()
        while True:
            if self.op("::") or self.op(":::"):
                left = self._cast(left)
            elif self.op("["):
                left = Subscript(left, self.expression())
                self.need_op("]")
            elif self.word("collate"):
                left = Collate(left, self.locale())
            else:
                return left

    def _cast(self, left: Expression) -> Expression:
        to, array = self.type_name()
        return Cast(left, to) if isinstance(to, types.SqlType) else NamedCast(left, to, array)

    def _primary(self) -> Expression:
        token = self.here
        if token.kind in ("string", "number", "bits"):
            self.place += 1
            return Literal(token.kind, token.text)
        if token.kind == "bytes":
            self.place += 1
            return Literal("bytes", token.raw)
        if token.kind == "param":
            self.place += 1
            return Parameter(int(token.text[1:]))
        if self.op("("):
            if self.is_word("select"):
                raise not_modelled("a subquery in an expression")
            items = self.listed(self.expression)
            self.need_op(")")
            return items[0] if len(items) == 1 else Tuple(items)
        if token.kind == "word" and (token.text in _OWN_FORM or types.is_type_word(token.text)):
            found = self._word_literal()
            if found is not None:
                return found
        return self._named()

    def _word_literal(self) -> Expression | None:
        if self.word("null"):
            return Literal("null", None)
        if self.word("true"):
            return Literal("bool", True)
        if self.word("false"):
            return Literal("bool", False)
        if self.word("case"):
            return self._case()
        if self.word("cast"):
            self.need_op("(")
            of = self.expression()
            self.need("as")
            found = self._cast(of)
            self.need_op(")")
            return found
        if self.word("array"):
            self.need_op("[")
            items = () if self.is_op("]") else self.listed(self.expression)
            self.need_op("]")
            return Array(items)
        if self.is_word("row") and self.tokens[self.place + 1].text == "(":
            self.place += 1
            return Tuple(self.in_parens(self.expression))
        if self.tokens[self.place + 1].kind == "string" and types.is_type_word(self.here.text):
            to = self._built_in()
            assert to is not None
            return Cast(Literal("string", self.string()), to)
        return None

    def _case(self) -> Expression:
        of = None if self.is_word("when") else self.expression()
        branches = []
        while self.word("when"):
            when = self.expression()
            self.need("then")
            branches.append((when, self.expression()))
        otherwise = self.expression() if self.word("else") else None
        self.need("end")
        return Case(of, tuple(branches), otherwise)

    def _named(self) -> Expression:
        if self.here.kind == "word" and self.here.text in _NILADIC and self.tokens[self.place + 1].text != "(":
            self.place += 1
            return Call(self.tokens[self.place - 1].text, ())
        parts = [self.name()]
        while self.op("."):
            if self.op("*"):
                return Star(parts[-1])
            parts.append(self.name())
        if not self.is_op("("):
            return Reference(parts[-2] if len(parts) > 1 else None, parts[-1])
        if len(parts) > 1 and parts[:-1] not in (["pg_catalog"], ["crdb_internal"]):
            raise not_modelled(f"the function {'.'.join(parts)}")
        return self._call(".".join(parts[-2:] if parts[0] == "crdb_internal" else parts[-1:]))

    def _call(self, name: str) -> Expression:
        self.need_op("(")
        if self.op("*"):
            self.need_op(")")
            return Call(name, (Star(),))
        distinct = self.word("distinct")
        arguments = () if self.is_op(")") else self.listed(self.expression)
        self.need_op(")")
        if self.is_word("over") or self.is_word("filter"):
            raise not_modelled(self.here.text.upper())
        return Call(name, arguments, distinct)

    # ---- queries

    def item(self) -> Item:
        if self.op("*"):
            return Item(Star())
        value = self.expression()
        if self.word("as"):
            token = self.here
            self.place += 1
            if token.kind not in ("word", "name"):
                raise self.fail()
            return Item(value, token.text)
        return Item(value, self.name() if self._names_next() else None)

    def _names_next(self) -> bool:
        token = self.here
        return token.kind == "name" or (token.kind == "word" and token.text not in RESERVED and token.text not in _JOINS)

    def source(self) -> Source:
        if self.is_op("(") and self.tokens[self.place + 1].text == "values":
            return self._values_source()
        if self.is_op("(") or (self.is_op("[") and self.tokens[self.place + 1].text != "create"):
            raise not_modelled("a query in FROM")
        if self.op("["):
            raise self.fail(hint="try \\h <SOURCE>")
        name = self.path()
        arguments = None
        if self.is_op("("):
            arguments = self.in_parens(self.expression)
        if self.op("@"):
            self.name()
        alias = self.alias()
        columns = self.in_parens(self.name) if alias and self.is_op("(") else ()
        return Source(name, alias, columns, arguments)

    def _values_source(self) -> Source:
        """(VALUES (…), …) AS alias (column, …)"""
        self.op("(")
        self.need("values")
        rows = self.listed(lambda: self.in_parens(self.expression))
        if not self.op(")"):
            raise self.fail()
        alias = self.alias()
        columns = self.in_parens(self.name) if alias and self.is_op("(") else ()
        return Source(("values",), alias, columns, None, rows)

    def alias(self) -> str | None:
        if self.is_word("as", "of"):
            return None
        return self.name() if self.word("as") or self._names_next() else None

    def order(self) -> tuple[Order, ...]:
        if not self.word("order"):
            return ()
        self.need("by")
        return self.listed(self._order)

    def _order(self) -> Order:
        by = self.expression()
        descending = self.word("desc") or (self.word("asc") and False)
        nulls = None
        if self.word("nulls"):
            nulls = self.word("last")
            nulls or self.need("first")
        return Order(by, descending, nulls)

    def as_of(self) -> Expression | None:
        if not self.word("as", "of", "system", "time"):
            return None
        return self.expression()

    def limits(self) -> tuple[Expression | None, Expression | None]:
        limit = offset = None
        while True:
            if self.word("limit"):
                limit = None if self.word("all") else self.expression()
            elif self.word("offset"):
                offset = self.expression()
                self.word("rows")
            else:
                return limit, offset

    def select(self) -> Select:
        self.need("select")
        distinct = self.word("distinct")
        if distinct and self.is_word("on"):
            raise not_modelled("DISTINCT ON")
        items = self.listed(self.item)
        source = as_of = where = None
        group: tuple[Expression, ...] = ()
        if self.word("from"):
            source = self.source()
            if self.is_op(",") or self.here.text in _JOINS:
                raise not_modelled("a join")
        as_of = self.as_of()
        if self.word("where"):
            where = self.expression()
        if self.word("group"):
            self.need("by")
            group = self.listed(self.expression)
        if self.here.text in ("having", "window", "union", "intersect", "except") and self.here.kind == "word":
            raise not_modelled(self.here.text.upper())
        order, (limit, offset) = self.order(), self.limits()
        lock = False
        if self.word("for"):
            self.need("update") if not self.word("share") else None
            lock = True
        return Select(items, source, where, group, order, limit, offset, distinct, as_of or self.as_of(), lock)
