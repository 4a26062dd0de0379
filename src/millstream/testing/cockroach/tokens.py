"""SQL text → tokens, as CockroachDB's scanner reads it: its string, byte and bit literals differ from every dialect's."""

from __future__ import annotations

import re
from typing import NamedTuple

from millstream.testing.cockroach.errors import SqlError


class Token(NamedTuple):
    """kind: word (lower case), name (was quoted), string, bytes, bits, number, param, op, end. `at` is its place in the text."""

    kind: str
    text: str
    at: int
    raw: bytes = b""


_TOKEN = re.compile(
    r"""\s+|--[^\n]*|/\*.*?\*/
    |(?P<string>'(?:[^']|'')*')
    |(?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    |(?P<bytes>b'(?:[^'\\]|\\.|'')*')
    |(?P<bits>B'[01]*')
    |(?P<hex>[xX]'[0-9a-fA-F]*')
    |(?P<name>"(?:[^"]|"")*")
    |(?P<word>[^\W\d][\w$]*)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<param>\$\d+)
    |(?P<op>:::|::|->>|->|\#>>|\#>|\|\||<=|>=|<>|!=|//|@>|<@|&&|!~|[-+*/%^<>=(),.;\[\]:&|~{}@?])
    |(?P<wrong>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "b": b"\b", "f": b"\f", "a": b"\a", "v": b"\v", "\\": b"\\", "'": b"'", '"': b'"'}
_ESCAPE = re.compile(r"''|\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


def _unescaped(text: str) -> bytes:
    out, at = bytearray(), 0
    for found in _ESCAPE.finditer(text):
        out += text[at : found.start()].encode()
        at, code = found.end(), found[1]
        if code is None:
            out += b"'"
        elif code[0] == "x":
            out.append(int(code[1:], 16))
        elif code[0] in "uU" and len(code) > 1:
            out += chr(int(code[1:], 16)).encode()
        elif code.isdigit() and len(code) == 3:
            out.append(int(code, 8))
        else:
            out += _ESCAPES.get(code, code.encode())
    return bytes(out + text[at:].encode())


def tokens(sql: str) -> list[Token]:
    """All tokens, an end token last. Raises SqlError 42601."""
    out = []
    for found in _TOKEN.finditer(sql):
        kind = found.lastgroup
        if kind is None:
            continue
        text, at = found[0], found.start()
        if kind == "word":
            out.append(Token("word", text.lower(), at))
        elif kind in ("op", "number", "param"):
            out.append(Token(kind, text, at))
        elif kind == "string":
            out.append(Token("string", text[1:-1].replace("''", "'"), at))
        elif kind == "name":
            out.append(Token("name", text[1:-1].replace('""', '"'), at))
        elif kind == "escaped":
            out.append(Token("string", _unescaped(text[2:-1]).decode(errors="replace"), at))
        elif kind == "bytes":
            out.append(Token("bytes", "", at, _unescaped(text[2:-1])))
        elif kind == "bits":
            out.append(Token("bits", text[2:-1], at))
        elif kind == "hex":
            out.append(Token("bytes", "", at, bytes.fromhex(text[2:-1])))
        else:
            raise syntax_error(sql, at, text)
    out.append(Token("end", "EOF", len(sql)))
    return out


def syntax_error(sql: str, at: int, near: str, because: str = "", hint: str = "") -> SqlError:
    """42601 in the server's form: the line, and a caret under the place."""
    start, end = sql.rfind("\n", 0, at) + 1, sql.find("\n", at)
    shown = sql[: end if end >= 0 else len(sql)]
    why = f": {because}" if because else ""
    place = f"{shown}\n{' ' * (at - start)}^" + (f"\nHINT:  {hint}" if hint else "")
    return SqlError("42601", f'at or near "{near}": syntax error{why}\nDETAIL:  source SQL:\n{place}')


def split(sql: str) -> list[str]:
    """The statements of a text joined by `;`, without it, in order; empty ones are left out. Raises SqlError 42601."""
    out, start = [], 0
    for token in tokens(sql):
        if token.kind == "end" or (token.kind == "op" and token.text == ";"):
            text = sql[start : token.at].strip()
            if tokens(text)[0].kind != "end":
                out.append(text)
            start = token.at + 1
    return out
