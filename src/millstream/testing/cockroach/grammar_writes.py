"""CockroachDB's SQL text → trees: writes, transactions, settings and privileges.

Reference: CockroachDB 26.1, "SQL Statements".
"""

from __future__ import annotations

from millstream.testing.cockroach.errors import not_modelled
from millstream.testing.cockroach.grammar import Parser
from millstream.testing.cockroach.syntax import (
    Conflict,
    Control,
    Delete,
    Expression,
    Grant,
    Insert,
    Item,
    Name,
    Select,
    Set,
    Show,
    Update,
    Use,
    Values,
)  # fmt: skip


class WriteParser(Parser):
    """Adds what changes rows, sessions and users to the expressions and queries."""

    # ---- writes

    def _values(self) -> Values:
        self.need("values")
        return Values(self.listed(lambda: self.in_parens(self._value)))

    def _value(self) -> Expression | None:
        return None if self.word("default") else self.expression()

    def _insert(self) -> Insert:
        upsert = self.word("upsert")
        upsert or self.need("insert")
        self.need("into")
        table = self.path()
        alias = self.name() if self.word("as") else None
        columns = self.in_parens(self.name) if self.is_op("(") else ()
        rows: Select | Values | None = None
        if not self.word("default", "values"):
            rows = self.select() if self.is_word("select") else self._values()
        conflict = self._conflict() if self.word("on", "conflict") else None
        return Insert(table, alias, columns, rows, upsert, conflict, self._returning())

    def _conflict(self) -> Conflict:
        columns = self.in_parens(self.name) if self.is_op("(") else ()
        self.need("do")
        if self.word("nothing"):
            return Conflict(columns, ())
        self.need("update", "set")
        sets = self._sets()
        return Conflict(columns, sets, self.expression() if self.word("where") else None)

    def _sets(self) -> tuple[tuple[str, Expression | None], ...]:
        out: list[tuple[str, Expression | None]] = []
        for some in self.listed(self._assigned):
            out += some
        return tuple(out)

    def _assigned(self) -> list[tuple[str, Expression | None]]:
        if not self.is_op("("):
            column = self.name()
            self.need_op("=")
            return [(column, self._value())]
        columns = self.in_parens(self.name)
        self.need_op("=")
        self.word("row")
        values = self.in_parens(self._value)
        if len(values) != len(columns):
            raise self.fail()
        return list(zip(columns, values, strict=True))

    def _returning(self) -> tuple[Item, ...]:
        if not self.word("returning"):
            return ()
        return () if self.word("nothing") else self.listed(self.item)

    def _update(self) -> Update:
        self.need("update")
        table, alias = self.path(), self.alias() if not self.is_word("set") else None
        self.need("set")
        sets = self._sets()
        if self.is_word("from"):
            raise not_modelled("UPDATE … FROM")
        where = self.expression() if self.word("where") else None
        order, (limit, _) = self.order(), self.limits()
        return Update(table, alias, sets, where, order, limit, self._returning())

    def _delete(self) -> Delete:
        self.need("delete", "from")
        table, alias = self.path(), self.alias()
        if self.is_word("using"):
            raise not_modelled("DELETE … USING")
        where = self.expression() if self.word("where") else None
        order, (limit, _) = self.order(), self.limits()
        return Delete(table, alias, where, order, limit, self._returning())

    # ---- transactions, settings, privileges

    def _begin(self) -> Control:
        self.word("begin") or self.need("start", "transaction")
        self.word("transaction")
        as_of = None
        while self.here.kind == "word":
            if self.word("isolation", "level"):
                self.word("serializable") or self.word("snapshot") or self.word("repeatable", "read") or self.need("read", "committed")
            elif self.word("read"):
                self.word("only") or self.need("write")
            elif self.word("priority"):
                self.word("low") or self.word("normal") or self.need("high")
            else:
                as_of = self.as_of()
                if as_of is None:
                    raise self.fail()
            self.op(",")
        return Control("begin", as_of)

    def _ended(self) -> Control:
        what = "commit" if self.here.text in ("commit", "end") else "rollback"
        self.place += 1
        self.word("transaction")
        if what == "rollback" and self.word("to"):
            self.word("savepoint")
            return Control("rollback to", name=self.name())
        return Control(what)

    def _savepoint(self) -> Control:
        what = self.here.text
        self.place += 1
        if what == "release":
            self.word("savepoint")
        return Control(what, name=self.name())

    def _set(self) -> Set:
        self.need("set")
        what = "cluster" if self.word("cluster", "setting") else "session"
        if what == "session":
            self.word("session") or self.word("local")
        name = self.name()
        while self.op("."):
            name += "." + self.name()
        if name == "time" and self.word("zone"):
            name = "timezone"
        else:
            self.op("=") or self.need("to")
        return Set(what, name, self._setting())

    def _setting(self) -> str:
        parts = []
        while self.here.kind != "end" and not self.is_op(";"):
            parts.append(self.here.text)
            self.place += 1
        if not parts:
            raise self.fail()
        return "".join(parts)

    def _reset(self) -> Set:
        self.need("reset")
        what = "cluster" if self.word("cluster", "setting") else "session"
        name = self.name()
        while self.op("."):
            name += "." + self.name()
        return Set(what, name, "")

    def _show(self) -> Show:
        self.need("show")
        if self.word("create"):
            self.word("table")
            return Show("create", "", self.path())
        what = "cluster" if self.word("cluster", "setting") else "session"
        name = self.name()
        while self.op("."):
            name += "." + self.name()
        return Show(what, name)

    def _grant(self) -> Grant:
        revoke = self.word("revoke")
        revoke or self.need("grant")
        privileges = self.listed(self._privilege)
        what, at = "role", self.here.at
        tables: tuple[Name, ...] = ()
        if self.word("on"):
            what = next((w for w in ("database", "schema", "type", "sequence") if self.word(w)), "table")
            self.word("table")
            tables = self.listed(self.path)
        self.need("from" if revoke else "to")
        users = self.listed(self.name)
        self.word("with", "grant", "option")
        return Grant(privileges, tables, users, revoke, what, self.sql, at)

    def _privilege(self) -> str:
        token = self.here
        if token.kind not in ("word", "name"):
            raise self.fail()
        self.place += 1
        if token.text == "all":
            self.word("privileges")
        return token.text

    def _use(self) -> Use:
        self.need("use")
        return Use(self.name())
