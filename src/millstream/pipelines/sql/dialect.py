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


def parse(sql: str, mistakes: Mistakes) -> exp.Query | None:
    """The one query that the text is (SELECT, or several with UNION), or None and a mistake."""
    if len(sql) > LENGTH_MAX:
        mistakes.add(0, "sql_too_long", f"the SQL has {len(sql)} characters; {LENGTH_MAX} is the limit", "split it into steps")
        return None
    try:
        tokens = MillstreamSql().tokenize(sql)
        if not tokens:
            mistakes.add(0, "sql_empty", "there is no SQL here", "write SELECT … FROM …")
            return None
        if tokens[0].token_type not in (TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN):
            mistakes.refuse(int(tokens[0].start), "not_select", word=str(tokens[0].text).upper())
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
        mistakes.refuse(0, "too_deep")
        return None
    found = [s for s in statements if s is not None and not isinstance(s, exp.Semicolon)]
    if len(found) > 1:
        mistakes.refuse(found[-1], "second_statement")
        return None
    if not isinstance(found[0], exp.Query):
        mistakes.refuse(0, "not_select", word=str(tokens[0].text).upper())
        return None
    return found[0]


def _unreadable(mistakes: Mistakes, offset: int, what: str) -> None:
    mistakes.add(
        offset,
        "sql_unreadable",
        f"the SQL cannot be read: {what}",
        "mend the SQL; a name that is a word of SQL or has odd characters needs double quotes",
    )


def _offset(sql: str, line: int, column: int, near: str) -> int:
    """sqlglot gives the line and the column of the last character of a token."""
    start = sum(len(text) for text in sql.splitlines(keepends=True)[: line - 1])
    return max(0, min(start + column - max(1, len(near)), len(sql)))
