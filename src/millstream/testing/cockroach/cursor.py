"""Walking the tokens of one statement: words, operators, names, lists, types. grammar.py makes trees of them.

Reference: CockroachDB 26.1, "SQL Grammar".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from millstream.testing.cockroach import types
from millstream.testing.cockroach.errors import SqlError
from millstream.testing.cockroach.syntax import Name
from millstream.testing.cockroach.tokens import Token, syntax_error, tokens

T = TypeVar("T")

_RESERVED_WORDS = """
    all and any array as asc both case cast check collate column constraint create default desc distinct do else end except
    false fetch for foreign from grant group having in initially intersect into is lateral leading limit not null offset on only
    or order primary references returning select some table then to trailing true union unique user using variadic when where
    window with nothing set values upsert insert update delete family index
"""
RESERVED = frozenset(_RESERVED_WORDS.split())
_MAY_BE_CALLED = frozenset(("family", "index", "values", "set"))


class Cursor:
    """Walks the tokens of one statement. Every method reads one thing and stands behind it, or raises SqlError 42601."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokens(sql)
        self.place = 0

    # ---- tokens

    @property
    def here(self) -> Token:
        return self.tokens[self.place]

    def fail(self, because: str = "", hint: str = "") -> SqlError:
        token = self.here
        near = token.text if token.kind == "end" else self.sql[token.at : self.tokens[self.place + 1].at].strip().lower() or token.text
        return syntax_error(self.sql, token.at, near, because, hint)

    def is_word(self, *words: str) -> bool:
        """Do these words come next?"""
        place = self.place
        for word in words:
            # The end token is no word, so the walk stops at it.
            token = self.tokens[place]
            if token.text != word or token.kind != "word":
                return False
            place += 1
        return True

    def is_op(self, text: str) -> bool:
        token = self.tokens[self.place]
        return token.kind == "op" and token.text == text

    def word(self, *words: str) -> bool:
        if self.is_word(*words):
            self.place += len(words)
            return True
        return False

    def op(self, text: str) -> bool:
        if self.is_op(text):
            self.place += 1
            return True
        return False

    def need(self, *words: str) -> bool:
        """These words, or an error: never False."""
        for word in words:
            if not self.word(word):
                raise self.fail()
        return True

    def need_op(self, text: str) -> bool:
        if not self.op(text):
            raise self.fail()
        return True

    def end(self) -> None:
        self.op(";")
        if self.here.kind != "end":
            raise self.fail()

    def name(self) -> str:
        token = self.here
        if token.kind == "name" or (token.kind == "word" and (token.text not in RESERVED or token.text in _MAY_BE_CALLED)):
            self.place += 1
            return token.text
        raise self.fail()

    def string(self) -> str:
        token = self.here
        if token.kind != "string":
            raise self.fail()
        self.place += 1
        return token.text

    def integer(self) -> int:
        token = self.here
        if token.kind != "number" or not token.text.isdigit():
            raise self.fail()
        self.place += 1
        return int(token.text)

    def path(self) -> Name:
        parts = [self.name()]
        while self.op("."):
            parts.append(self.name())
        if len(parts) > 3:
            raise self.fail()
        return tuple(parts)

    def listed(self, one: Callable[[], T]) -> tuple[T, ...]:
        out = [one()]
        while self.op(","):
            out.append(one())
        return tuple(out)

    def in_parens(self, one: Callable[[], T]) -> tuple[T, ...]:
        self.need_op("(")
        out = self.listed(one)
        self.need_op(")")
        return out

    def text_of(self, read: Callable[[], object]) -> str:
        """The source text of what `read` reads."""
        start = self.here.at
        read()
        return self.sql[start : self.here.at].strip()

    # ---- types

    def type_name(self) -> tuple[types.SqlType | Name, bool]:
        """(type, or the name of one that only the database knows; is it an array of that?)."""
        found = self._built_in()
        named: types.SqlType | Name = found if found is not None else self.path()
        if isinstance(named, types.SqlType) and named.kind == "string" and self.word("collate"):
            named = types.SqlType("string", named.width, name=self.locale(), spelling=named.spelling)
        array = False
        if self.op("["):
            self.need_op("]")
            array = True
        elif self.word("array"):
            array = True
        return (types.array_of(named), False) if array and isinstance(named, types.SqlType) else (named, array)

    def _built_in(self) -> types.SqlType | None:
        if self.here.kind == "string" or (self.here.kind == "name" and self.here.text != "char"):
            return None
        self.word("pg_catalog") and self.need_op(".")
        if self.is_word("serial") or self.is_word("serial8") or self.is_word("bigserial"):
            return None
        for count in (2, 1):
            words = " ".join(t.text for t in self.tokens[self.place : self.place + count])
            if not types.is_type_word(words):
                continue
            start, self.place = self.place, self.place + count
            lengths = self.in_parens(self.integer) if self.is_op("(") else ()
            if words in ("time", "timestamp") and self.is_word("with") and self.word("with", "time", "zone"):
                words += "tz"
            elif words in ("time", "timestamp"):
                self.word("without", "time", "zone")
            found = types.named(words, lengths)
            if found is None:
                self.place = start
                raise self.fail()
            return found
        return None

    def locale(self) -> str:
        return self.string() if self.here.kind == "string" else self.name()
