"""Text → tree. Tokens first, then a descent by hand; every mistake has its place and a cure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from millstream.errors import Refused
from millstream.queries.mistakes import mistake
from millstream.queries.tree import And, Between, Compare, Contains, Everything, Exists, In, Look, Node, Not, Op, Or, Path, Some, Value

QUERY_CHARS_MAX = 20_000
DEPTH_MAX = 50

FORMS: tuple[tuple[str, str, str], ...] = (
    ("`word`", "the word is in one of the texts", "`alien`"),
    ('`"some words"`', "the words stand next to each other in one text", '`"star wars"`'),
    ("`begin*`", "a word that begins so is in one of the texts", "`resurr*`"),
    ("`*`", "every document", "`*`"),
    (
        "`field: words`",
        "each of them (words, phrases, beginnings) is in this field; a value, where the field is no text",
        "`title: star wars`",
    ),
    ("`field = value`", "the field is exactly this; also `!=` `<` `<=` `>` `>=`", "`year >= 1990`"),
    ("`field IN (value, …)`", "the field is one of these", "`dest IN (ATL, JFK)`"),
    ("`field BETWEEN low AND high`", "from low to high, both included", "`year BETWEEN 1990 AND 1999`"),
    ("`EXISTS field`", "the field holds something: not null, not an empty list", "`EXISTS score`"),
    ("`field IS NULL`", "the field holds nothing; also `IS NOT NULL`", "`score IS NULL`"),
    ("`ANY list (condition)`", "one element of the list fulfils the whole condition", "`ANY cast (name = 'Ford' AND role = 'Han')`"),
    ("`a AND b`, `a b`", "both", "`alien year > 1990`"),
    ("`a OR b`", "one of them, or both; AND binds closer", "`year = 1979 OR year = 1997`"),
    ("`NOT a`", "not; binds closest", "`alien NOT resurrection`"),
    ("`(a)`", "together", "`alien AND (year = 1979 OR year = 1997)`"),
)
"""What can be written: form, meaning, example. The reference's table is made of it, and a test parses every example."""

KEYWORDS = frozenset(("AND", "OR", "NOT", "ANY", "EXISTS", "IN", "BETWEEN", "IS", "NULL"))
_OPS: dict[str, Op] = {"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>"(?:""|[^"])*" | '(?:''|[^'])*')
    | (?P<moment>-?\d{4,6}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)? | \d\d:\d\d(?::\d\d(?:\.\d+)?)?)
    | (?P<op><>|==|!=|<=|>=|=|<|>)
    | (?P<mark>[(),:])
    | (?P<word>(?:`(?:``|[^`])*`|[^\s()"',:=<>!`]|!(?!=))(?:`(?:``|[^`])*`|[^\s()",:=<>!`]|!(?!=))*)
    """,
    re.VERBOSE,
)
_PART = re.compile(r"(?:`(?:``|[^`])*`|[^.`])+|(?<=\.)(?=\.|$)|^(?=\.)")


@dataclass(frozen=True)
class _Token:
    kind: Literal["word", "string", "op", "mark", "end"]
    text: str
    at: int

    @property
    def keyword(self) -> str:
        return self.text if self.kind == "word" and self.text in KEYWORDS else ""


def parse(query: str) -> Node:
    """The tree of a query. Raises Refused("bad_query") with the place of the first mistake."""
    if len(query) > QUERY_CHARS_MAX:
        raise mistake(f"the query is longer than {QUERY_CHARS_MAX} characters", query, QUERY_CHARS_MAX, cure="ask for less at once")
    return _Parser(query).whole()


def path(name: str) -> Path:
    """A field's name that stands alone. Raises Refused("bad_query")."""
    return _Parser(name).only_path()


def _tokens(query: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(query):
        match = _TOKEN.match(query, at)
        if match is None:
            raise _unreadable(query, at)
        kind, text = match.lastgroup, match[0]
        if kind == "op" and text in ("<>", "=="):
            raise mistake(f"there is no {text}", query, at, cure=f"write {'!=' if text == '<>' else '='}")
        if kind != "space":
            found.append(_Token("word" if kind == "moment" else kind, text, at))  # type: ignore[arg-type]
        at = match.end()
    return [*found, _Token("end", "", len(query))]


def _unreadable(query: str, at: int) -> Refused:
    if query[at] in "\"'`":
        return mistake("this quote is never closed", query, at, cure=f"write another {query[at]} where the text ends")
    return mistake(f"{query[at]!r} means nothing here", query, at, cure="put quotes round text with signs in it")


class _Parser:
    """One query's tokens and how far they are read."""

    def __init__(self, query: str) -> None:
        self._query, self._tokens, self._at, self._depth = query, _tokens(query), 0, 0

    def whole(self) -> Node:
        if len(self._tokens) == 1:
            raise self._mistake("the query is empty", "give words to look for, or * for every document")
        node = self._or()
        if self._at < len(self._tokens) - 1:
            raise self._mistake(
                f"{self._next.text!r} stands here without its other half", "take it out, or put quotes round the text it is in"
            )
        return node

    def only_path(self) -> Path:
        found = self._path()
        if self._at < len(self._tokens) - 1:
            raise self._mistake("a field's name alone is due here", "put a name with signs in it in backticks")
        return found

    # ---- how conditions are put together

    def _or(self) -> Node:
        parts = [self._and()]
        while self._next.keyword == "OR":
            self._take()
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _and(self) -> Node:
        parts = [self._not()]
        while True:
            while self._next.text == "," and self._next.kind == "mark":  # Paris, Texas
                self._take()
            if self._next.keyword == "AND":
                self._take()
            elif self._next.kind == "end" or self._next.keyword == "OR" or self._next.text == ")":
                return parts[0] if len(parts) == 1 else And(tuple(parts))
            parts.append(self._not())

    def _not(self) -> Node:
        if self._next.keyword != "NOT":
            return self._one()
        self._take()
        self._deeper()
        part = self._not()
        self._depth -= 1
        return Not(part)

    def _one(self) -> Node:
        token = self._next
        match token.keyword:
            case "EXISTS":
                self._take()
                return Exists(self._path(), token.at)
            case "ANY":
                self._take()
                path = self._path()
                return Some(path, self._bracketed(f"a condition in brackets belongs after ANY {path}"), token.at)
            case "":
                pass
            case word:
                raise self._mistake(
                    f"{word} stands where a condition is due", f'write the condition, or "{word.lower()}" to look for the word'
                )
        if token.kind == "mark" and token.text == "(":
            return self._bracketed("")
        if self._is_field():
            return self._condition()
        if token.text == "*":
            self._take()
            return Everything(token.at)
        return Contains(None, (self._look(),), token.at)

    def _bracketed(self, without: str) -> Node:
        if self._next.text != "(" or self._next.kind != "mark":
            raise self._mistake(without, "like ANY cast (name = 'Ford' AND role = 'Han')")
        opened = self._take()
        self._deeper()
        node = self._or()
        if self._next.text != ")" or self._next.kind != "mark":
            raise mistake("this bracket is never closed", self._query, opened.at, cure="write ) where it ends")
        self._take()
        self._depth -= 1
        return node

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._mistake(f"conditions lie more than {DEPTH_MAX} deep in each other", "ask for less at once")

    # ---- one condition

    def _is_field(self) -> bool:
        """Whether what comes is a field's name: what follows says so."""
        if self._next.kind not in ("word", "string"):
            return False
        after, then = self._tokens[self._at + 1], self._tokens[min(self._at + 2, len(self._tokens) - 1)]
        return (
            after.kind == "op"
            or (after.kind == "mark" and after.text == ":")
            or after.keyword in ("IN", "BETWEEN", "IS")
            or (after.keyword == "NOT" and then.keyword in ("IN", "BETWEEN"))
        )

    def _condition(self) -> Node:
        path = self._path()
        token = self._take()
        if token.kind == "op":
            return Compare(path, _OPS[token.text], self._value(), path.at)
        match token.text:
            case ":":
                return Contains(path, self._looks(path), path.at)
            case "IN":
                return In(path, self._values(), path.at)
            case "BETWEEN":
                return self._between(path)
            case "IS":
                return self._is_null(path)
        inner = self._take()
        return Not(In(path, self._values(), path.at) if inner.text == "IN" else self._between(path))

    def _is_null(self, path: Path) -> Node:
        negated = self._next.keyword == "NOT"
        if negated:
            self._take()
        if self._next.keyword != "NULL":
            raise self._mistake("only NULL or NOT NULL follows IS", f"write {path} IS NULL, or {path} = value")
        self._take()
        return Exists(path, path.at) if negated else Not(Exists(path, path.at))

    def _between(self, path: Path) -> Node:
        low = self._value()
        if self._next.keyword != "AND":
            raise self._mistake("BETWEEN wants two values with AND between them", f"like {path} BETWEEN {low.text} AND …")
        self._take()
        return Between(path, low, self._value(), path.at)

    def _values(self) -> tuple[Value, ...]:
        if self._next.text != "(" or self._next.kind != "mark":
            raise self._mistake("IN wants its values in brackets", "like IN (1, 2, 3)")
        self._take()
        values = [self._value()]
        while self._next.text == "," and self._next.kind == "mark":
            self._take()
            values.append(self._value())
        if self._next.text != ")" or self._next.kind != "mark":
            raise self._mistake("a comma or ) is due here", "put commas between the values of IN, and quotes round those of several words")
        self._take()
        return tuple(values)

    def _value(self) -> Value:
        token = self._next
        if token.kind not in ("word", "string") or token.keyword:
            raise self._mistake("a value is due here", f"put quotes round it: '{token.text}'" if token.keyword else "write a value")
        if token.kind == "word" and "*" in token.text:
            raise self._mistake("a value has no *", "look for beginnings of words with field: word*")
        self._take()
        return Value(_unquoted(token), token.kind == "string", token.at)

    def _looks(self, path: Path) -> tuple[Look, ...]:
        looks = [self._look(path)]
        while self._next.kind in ("word", "string") and not self._next.keyword and not self._is_field() and self._next.text != "*":
            looks.append(self._look(path))
        return tuple(looks)

    def _look(self, path: Path | None = None) -> Look:
        token = self._next
        if path is not None and token.text == "*":
            raise self._mistake("* means every document, not every value", f"write EXISTS {path}")
        if path is not None and token.text == "(":
            raise self._mistake("words of a field stand without brackets", f"write {path}: one two, or {path}: one OR {path}: two")
        if token.kind not in ("word", "string") or token.keyword:
            what = f"{token.text!r} stands" if token.text else "the query ends"
            raise self._mistake(f"{what} where a word is due", "write a word, or put quotes round what is meant as text")
        self._take()
        if token.kind == "string":
            if self._next.text.startswith("*") and self._next.at == token.at + len(token.text):
                raise self._mistake("only one word can be a beginning", "write the last word without quotes: word*")
            return Look(_unquoted(token), "phrase", token.at)
        if "*" not in token.text:
            return Look(token.text, "word", token.at)
        if token.text.count("*") > 1 or not token.text.endswith("*"):
            raise mistake("* stands only at the end of a word", self._query, token.at, cure='write begin*, or put quotes round it: "a*b"')
        return Look(token.text[:-1], "prefix", token.at)

    def _path(self) -> Path:
        token = self._next
        if token.kind == "string":
            raise self._mistake("a field's name is not put in these quotes", f"write `{_unquoted(token)}` in backticks if it needs quotes")
        if token.kind != "word" or token.keyword:
            raise self._mistake("a field's name is due here", "name a field")
        self._take()
        parts = [m[0] for m in _PART.finditer(token.text)]
        named = tuple(re.sub(r"`((?:``|[^`])*)`", lambda m: m[1].replace("``", "`"), part) for part in parts)
        if not all(named):
            raise mistake("a field's name is empty before or after a dot", self._query, token.at, cure="write names like cast.name")
        return Path(named, token.at)

    # ---- reading

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _mistake(self, message: str, cure: str) -> Refused:
        return mistake(message, self._query, self._next.at, cure=cure)


def _unquoted(token: _Token) -> str:
    if token.kind != "string":
        return token.text
    mark = token.text[0]
    return token.text[1:-1].replace(mark * 2, mark)
