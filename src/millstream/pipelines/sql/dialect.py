"""SQL text → tree, with every function left as it was written.

sqlglot knows hundreds of functions and rewrites many; here a call stays a name and its arguments, so that the table
in `subset.py` alone decides what a function means.
"""

from __future__ import annotations

from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.tokens import TokenType

from millstream.pipelines.sql.mistakes import Mistakes

LENGTH_MAX = 100_000  # characters of one query
_KEPT = ("CAST", "TRY_CAST", "EXTRACT")


class MillstreamSql(DuckDB):  # type: ignore[misc]
    class Parser(DuckDB.Parser):  # type: ignore[misc]
        FUNCTIONS: ClassVar[dict[str, object]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, object]] = {k: v for k, v in DuckDB.Parser.FUNCTION_PARSERS.items() if k in _KEPT}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, object]] = {"CASE": DuckDB.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}


def parse(sql: str, mistakes: Mistakes) -> exp.Select | None:
    """The one SELECT that the text is, or None and a mistake."""
    if len(sql) > LENGTH_MAX:
        mistakes.add(0, "sql_too_long", f"the SQL has {len(sql)} characters; {LENGTH_MAX} is the limit", "split it into steps")
        return None
    try:
        tokens = MillstreamSql().tokenize(sql)
        if not tokens:
            mistakes.add(0, "sql_empty", "there is no SQL here", "write SELECT … FROM …")
            return None
        if tokens[0].token_type is not TokenType.SELECT:
            _not_select(tokens[0], mistakes)
            return None
        statements = sqlglot.parse(sql, dialect=MillstreamSql, error_level=ErrorLevel.IMMEDIATE)
    except ParseError as e:
        at = e.errors[0] if e.errors else {}
        near = (at.get("highlight") or "").strip()
        offset = _offset(sql, at.get("line") or 1, at.get("col") or 1, near)
        _unreadable(mistakes, offset, f"near {near!r}" if near else "at its end")
        return None
    except TokenError:
        _unreadable(mistakes, 0, "a quote or a comment is not closed")
        return None
    except RecursionError:
        mistakes.add(0, "sql_too_deep", "the SQL is nested too deeply", "split it into steps")
        return None
    found = [s for s in statements if s is not None and not isinstance(s, exp.Semicolon)]
    if len(found) == 1 and isinstance(found[0], exp.Select):
        return found[0]
    if isinstance(found[0], exp.SetOperation):
        _not_here(found[0].expression, "UNION, INTERSECT and EXCEPT are", "make a step of each branch", mistakes)
    else:
        _not_here(found[-1], "a second statement is", "a step's SQL is one SELECT; make another step", mistakes)
    return None


def _not_here(at: exp.Expression, what: str, cure: str, mistakes: Mistakes) -> None:
    mistakes.add(at, "not_in_subset", f"{what} not part of Millstream SQL", cure)


def _unreadable(mistakes: Mistakes, offset: int, what: str) -> None:
    mistakes.add(
        offset,
        "sql_unreadable",
        f"the SQL cannot be read: {what}",
        "mend the SQL; a name that is a word of SQL or has odd characters needs double quotes",
    )


def _not_select(token: object, mistakes: Mistakes) -> None:
    word = str(getattr(token, "text", "")).upper()
    cure = "make each WITH query a step of its own" if word == "WITH" else "a step's SQL is SELECT … FROM … [JOIN …] [WHERE …]"
    what = "WITH (common table expressions) is" if word == "WITH" else f"a query that begins with {word} is"
    mistakes.add(int(getattr(token, "start", 0)), "not_in_subset", f"{what} not part of Millstream SQL", cure)


def _offset(sql: str, line: int, column: int, near: str) -> int:
    """sqlglot gives the line and the column of the last character of a token."""
    start = sum(len(text) for text in sql.splitlines(keepends=True)[: line - 1])
    return max(0, min(start + column - max(1, len(near)), len(sql)))
