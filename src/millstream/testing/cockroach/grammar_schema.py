"""CockroachDB's SQL text → trees: schema changes. `parse` takes any statement.

Reference: CockroachDB 26.1, "SQL Statements".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from millstream.testing.cockroach import types
from millstream.testing.cockroach.errors import not_modelled
from millstream.testing.cockroach.grammar import Parser
from millstream.testing.cockroach.grammar_writes import WriteParser
from millstream.testing.cockroach.syntax import (
    Alter,
    AlterType,
    ColumnDefinition,
    Comment,
    Create,
    CreateIndex,
    CreateTable,
    Drop,
    Expression,
    IndexDefinition,
    KeyDefinition,
    Name,
    Statement,
    Truncate,
)  # fmt: skip


def parse(sql: str) -> Statement:
    """One statement. Raises SqlError 42601 where it is none, 0A000 where the stand-in does not model it."""
    parser = SchemaParser(sql)
    statement = parser.statement()
    parser.end()
    return statement


class SchemaParser(WriteParser):
    """Adds what changes the schema, and knows every statement by its first word."""

    def statement(self) -> Statement:
        word = self.here.text if self.here.kind == "word" else ""
        read = _BY_WORD.get(word)
        if read is None:
            raise self.fail() if word not in ("explain", "cancel", "import", "copy", "with") else not_modelled(word.upper())
        return read(self)

    # ---- making

    def _create(self) -> Statement:
        self.need("create")
        unique = self.word("unique")
        if unique or self.is_word("index"):
            return self._create_index(unique)
        if self.word("table"):
            return self._create_table()
        what = next((w for w in ("database", "schema", "type", "view", "sequence", "user", "role") if self.word(w)), None)
        if what is None:
            raise not_modelled("CREATE " + self.here.text.upper())
        exists = self.word("if", "not", "exists")
        name = self.path()
        extra: tuple[str, ...] = ()
        if what == "type":
            self.need("as", "enum")
            extra = self.in_parens(self.string)
        elif what == "view":
            self.need("as")
            self.select()
        elif what in ("user", "role"):
            self._user_options()
        return Create("user" if what == "role" else what, name, exists, extra)

    def _user_options(self) -> None:
        while self.here.kind != "end" and not self.is_op(";"):
            self.place += 1

    def _create_index(self, unique: bool) -> CreateIndex:
        self.need("index")
        exists = self.word("if", "not", "exists")
        name = None if self.is_word("on") else self.name()
        self.need("on")
        table = self.path()
        return CreateIndex(table, replace(self._index_columns(unique), name=name), exists)

    def _index_columns(self, unique: bool) -> IndexDefinition:
        columns = tuple(name for name, _ in self.in_parens(self._key_part))
        if self.word("storing"):
            self.in_parens(self.name)
        if self.is_word("where") or self.is_word("using"):
            raise not_modelled(f"an index {self.here.text.upper()}")
        return IndexDefinition(columns, None, unique)

    def _key_part(self) -> tuple[str, bool]:
        name = self.name()
        if self.word("desc"):
            return name, True
        self.word("asc")
        return name, False

    def _create_table(self) -> CreateTable:
        exists = self.word("if", "not", "exists")
        name = self.path()
        if self.is_word("as"):
            raise not_modelled("CREATE TABLE AS")
        columns: list[ColumnDefinition] = []
        families: list[tuple[str | None, tuple[str, ...]]] = []
        indexes: list[IndexDefinition] = []
        checks: list[tuple[str | None, str]] = []
        keys: list[KeyDefinition] = []
        self.need_op("(")
        while not self.is_op(")"):
            self._table_part(columns, families, indexes, checks, keys)
            if not self.op(","):
                break
        self.need_op(")")
        if self.here.kind == "word":
            raise not_modelled(f"CREATE TABLE … {self.here.text.upper()}")
        return CreateTable(name, exists, tuple(columns), keys[0] if keys else None, tuple(families), tuple(indexes), tuple(checks))

    def _table_part(self, columns: list[ColumnDefinition], families: list[Any], indexes: list[IndexDefinition], checks: list[Any],
                    keys: list[KeyDefinition]) -> None:  # fmt: skip
        named = self.name() if self.word("constraint") else None
        if self.word("primary", "key"):
            keys.append(replace(self._key(), name=named))
        elif self.word("check"):
            checks.append((named, self._in_parens_text()))
        elif self.word("unique"):
            self.word("index")
            called = self.name() if not self.is_op("(") else named
            indexes.append(replace(self._index_columns(True), name=called))
        elif named is None and self.is_word("family"):
            self.place += 1
            called = None if self.is_op("(") else self.name()
            families.append((called, self.in_parens(self.name)))
        elif named is None and self.word("index"):
            called = None if self.is_op("(") else self.name()
            indexes.append(replace(self._index_columns(False), name=called))
        elif self.is_word("foreign"):
            raise not_modelled("foreign keys")
        elif named is not None:
            raise self.fail()
        else:
            columns.append(self.column())

    def _key(self) -> KeyDefinition:
        columns = self.in_parens(self._key_part)
        return KeyDefinition(columns, None, self._hashed())

    def _hashed(self) -> int | None:
        if not self.word("using", "hash"):
            return None
        buckets = 16
        if self.word("with"):
            self.need_op("(")
            self.need("bucket_count")
            self.need_op("=")
            buckets = self.integer()
            self.need_op(")")
        return buckets

    def _in_parens_text(self) -> str:
        self.need_op("(")
        text = self.text_of(self.expression)
        self.need_op(")")
        return text

    def column(self) -> ColumnDefinition:
        """A column's name, type and what is said of it, in any order."""
        name = self.name()
        serial = next((w for w in ("serial", "serial8", "bigserial") if self.word(w)), None)
        of, array = (types.INT8, False) if serial else self.type_name()
        found: dict[str, Any] = {"nullable": False, "default": "unique_rowid()"} if serial else {}
        while self._column_part(found):
            continue
        return ColumnDefinition(name, of, array, **found)

    def _column_part(self, found: dict[str, Any]) -> bool:
        if self.word("constraint"):
            self.name()
        if self.word("not", "null"):
            found["nullable"] = False
        elif self.word("null"):
            found["nullable"] = True
        elif self.word("not", "visible"):
            found["hidden"] = True
        elif self.word("primary", "key"):
            found |= {"key": True, "buckets": self._hashed()}
        elif self.word("unique"):
            found["unique"] = True
        elif self.word("default"):
            found["default"] = self.text_of(lambda: self._level(0))
        elif self.word("as") or self.word("generated", "always", "as"):
            found["computed"] = self._in_parens_text()
            found["virtual"] = self.word("virtual")
            found["virtual"] or self.need("stored")
        elif self.word("check"):
            found["check"] = self._in_parens_text()
        elif self.word("create", "family") or self.word("family"):
            self.word("if", "not", "exists")
            found["family"] = self.name()
        elif self.is_word("references") or self.is_word("on"):
            raise not_modelled(self.here.text.upper())
        else:
            return False
        return True

    # ---- changing and taking away

    def _drop(self) -> Drop:
        self.need("drop")
        kinds = ("table", "view", "sequence", "database", "schema", "type", "index", "user", "role")
        what = next((w for w in kinds if self.word(w)), None)
        if what is None:
            raise not_modelled("DROP " + self.here.text.upper())
        exists = self.word("if", "exists")
        names = self.listed(self._index_path if what == "index" else self.path)
        cascade = self.word("cascade")
        cascade or self.word("restrict")
        return Drop("user" if what == "role" else what, names, exists, cascade)

    def _index_path(self) -> Name:
        path = self.path()
        return (*path, "@", self.name()) if self.op("@") else path

    def _truncate(self) -> Truncate:
        self.need("truncate")
        self.word("table")
        names = self.listed(self.path)
        self.word("cascade") or self.word("restrict")
        return Truncate(names)

    def _comment(self) -> Comment:
        self.need("comment", "on")
        what = "column" if self.word("column") else "table"
        what == "column" or self.need("table")
        path = self.path() if what == "table" else self._column_path()
        self.need("is")
        text = None if self.word("null") else self.string()
        return Comment("table", path, None, text) if what == "table" else Comment("column", path[:-1], path[-1], text)

    def _column_path(self) -> Name:
        parts = [self.name()]
        while self.op("."):
            parts.append(self.name())
        return tuple(parts)

    def _alter(self) -> Statement:
        self.need("alter")
        if self.word("type"):
            name = self.path()
            self.need("add", "value")
            return AlterType(name, self.string())
        if not self.word("table"):
            raise not_modelled("ALTER " + self.here.text.upper())
        exists = self.word("if", "exists")
        return Alter(self.path(), exists, self.listed(self._action))

    def _action(self) -> tuple[Any, ...]:
        if self.word("add"):
            return self._add()
        if self.word("drop"):
            if self.word("constraint"):
                self.word("if", "exists")
                return ("drop constraint", self.name())
            self.word("column")
            exists = self.word("if", "exists")
            return ("drop column", self.name(), exists, self.word("cascade") or (self.word("restrict") and False))
        if self.word("rename"):
            if self.word("to"):
                return ("rename table", self.name())
            self.word("column") or self.need("column")
            old = self.name()
            self.need("to")
            return ("rename column", old, self.name())
        if self.word("alter"):
            return self._alter_column()
        if self.word("split", "at"):
            return ("split", self._values())
        if self.word("set", "schema"):
            return ("set schema", self.name())
        raise not_modelled(f"ALTER TABLE … {self.here.text.upper()}")

    def _add(self) -> tuple[Any, ...]:
        named = self.name() if self.word("constraint") else None
        if self.word("check"):
            return ("add check", named, self._in_parens_text())
        if self.word("unique"):
            return ("add unique", replace(self._index_columns(True), name=named))
        if self.word("primary", "key"):
            return ("primary key", self._key())
        if named is not None or self.is_word("foreign"):
            raise not_modelled("ADD CONSTRAINT … " + self.here.text.upper())
        self.word("column")
        exists = self.word("if", "not", "exists")
        return ("add column", self.column(), exists)

    def _alter_column(self) -> tuple[Any, ...]:
        if self.word("primary", "key"):
            self.need("using", "columns")
            return ("primary key", self._key())
        self.word("column")
        column = self.name()
        if self.word("set", "default"):
            return ("set default", column, self.text_of(self.expression))
        if self.word("drop", "default"):
            return ("set default", column, None)
        if self.word("set", "not", "null"):
            return ("set nullable", column, False)
        if self.word("drop", "not", "null"):
            return ("set nullable", column, True)
        if self.word("set", "visible") or self.word("set", "not", "visible"):
            return ("set hidden", column, self.tokens[self.place - 2].text == "not")
        self.word("set", "data")
        self.need("type")
        of, array = self.type_name()
        if self.is_word("using"):
            raise not_modelled("ALTER COLUMN TYPE … USING")
        return ("alter type", column, of, array)


_BY_WORD: dict[str, Callable[[SchemaParser], Statement]] = {
    "select": SchemaParser.select, "values": SchemaParser._values, "insert": SchemaParser._insert, "upsert": SchemaParser._insert,
    "update": SchemaParser._update, "delete": SchemaParser._delete, "begin": SchemaParser._begin, "start": SchemaParser._begin,
    "commit": SchemaParser._ended, "end": SchemaParser._ended, "rollback": SchemaParser._ended, "abort": SchemaParser._ended,
    "set": SchemaParser._set, "reset": SchemaParser._reset, "show": SchemaParser._show, "create": SchemaParser._create,
    "drop": SchemaParser._drop, "truncate": SchemaParser._truncate, "alter": SchemaParser._alter, "comment": SchemaParser._comment,
    "savepoint": SchemaParser._savepoint, "release": SchemaParser._savepoint,
    "grant": SchemaParser._grant, "revoke": SchemaParser._grant, "use": SchemaParser._use,
}  # fmt: skip


def expression(sql: str) -> Expression:
    """A default's or computed column's text → its tree."""
    parser = Parser(sql)
    found = parser.expression()
    parser.end()
    return found
