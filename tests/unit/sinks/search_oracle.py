"""Documents of every kind of column, queries over them, and an oracle: the tree of a query over Python's own values.

The oracle shares the parser with the code under test and nothing else: it reads rows as Arrow's to_pylist gives them, and splits words
with a regular expression of its own.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

from millstream.events.types import Field, RowSchema, Type, list_of, record_of
from millstream.queries import tree
from millstream.testing.sink_events import Row

PERSON = record_of(("name", Type("text")), ("role", Type("text")), ("pay", Type("decimal", 6, 2)), ("tags", list_of(Type("text"))))
TYPES: dict[str, Type] = {
    "id": Type("int64"),
    "title": Type("text"),
    "a.b": Type("text"),
    "big": Type("int64"),
    "year": Type("int32"),
    "score": Type("decimal", 20, 4),
    "free": Type("numeric"),
    "rate": Type("float64"),
    "rate32": Type("float32"),
    "good": Type("boolean"),
    "day": Type("date"),
    "clock": Type("time"),
    "local": Type("timestamp"),
    "at": Type("timestamptz"),
    "attrs": Type("json"),
    "raw": Type("bytes"),
    "nums": list_of(Type("int32")),
    "deep": list_of(list_of(Type("text"))),
    "cast": list_of(PERSON),
    "lead": PERSON,
}
SCHEMA = RowSchema(tuple(Field(name, t, i) for i, (name, t) in enumerate(TYPES.items(), 1)), ("id",))

Chance = random.Random

WORDS = ["ford", "Han", "solo", "Émile", "emile", "x1", "ab", "abc", "映画", "Straße"]
ODD = ["", "ford-han", "don't", "e\u0301mile", "a\x00b", "q" * 300, "q" * 301, "q" * 256, "'\"[]{}()\\", "a|b"]
NAMES = ["Ford", "Han solo"]
INTEGERS = [0, 1, 2, -1, 7]
BIGS = [2**53, 2**53 + 1, -(2**63), 2**63 - 1, 0, 5]
DECIMALS = [Decimal(t).quantize(Decimal("0.0001")) for t in ("0", "0.1", "1.5", "-1.5", "9007199254740993.0001", "10")]
NUMERICS = ["0", "1.50", "1.5", "-2", "12345678901234567890.12345", "1e30", "none", "9" * 450, "9" * 449 + "8"]
FLOATS = [0.0, -0.0, 0.1, 1.5, -1.5, math.inf, -math.inf, math.nan, 1e300]
FLOATS32 = [0.0, 0.5, -1.5, math.inf, math.nan]
DAYS = [dt.date(1969, 12, 31), dt.date(2024, 1, 1), dt.date(1, 1, 1), dt.date(2024, 1, 2)]
CLOCKS = [dt.time(0), dt.time(12, 30), dt.time(23, 59, 59, 999_999)]
MOMENTS = [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 12, 30, 0, 1), dt.datetime(1969, 12, 31, 23, 59)]
JSONS = ['{"color": "red Ford", "n": [1, 2.5]}', '{"color": ["blue"], "n": {"m": 1}}', "[1, true]", '"ford"', "null", "[null]", "no json",
         '{"n": 9007199254740993, "ok": true, "a.b": "han"}', '{"n": 1e400, "ok": false}', "[" * 120 + "]" * 120,
         '{"": {"x": "solo"}}', "{}"]  # fmt: skip
COLUMNS: dict[str, list[Any]] = {
    "big": BIGS, "year": INTEGERS, "score": DECIMALS, "free": NUMERICS, "rate": FLOATS, "rate32": FLOATS32, "good": [True, False],
    "day": DAYS,
    "clock": CLOCKS, "local": MOMENTS, "at": [m.replace(tzinfo=dt.UTC) for m in MOMENTS], "attrs": JSONS, "raw": [b"x"],
}  # fmt: skip


def rows(c: Chance) -> list[Row]:
    return [{"id": n, **row(c)} for n in range(c.choice([0, 1, 12, 12, 12]))]


def row(c: Chance) -> Row:
    made: Row = {name: None if c.random() < 0.2 else c.choice(values) for name, values in COLUMNS.items()}
    made |= {"title": text(c), "a.b": text(c), "lead": person(c)}
    made["nums"] = listed(c, lambda: None if c.random() < 0.2 else c.choice(INTEGERS))
    made["deep"] = listed(c, lambda: listed(c, lambda: text(c)))
    made["cast"] = listed(c, lambda: person(c))
    return made


def text(c: Chance) -> str | None:
    if c.random() < 0.15:
        return None
    return c.choice(ODD) if c.random() < 0.3 else " ".join(c.choices(WORDS, k=c.randrange(4)))


def person(c: Chance) -> Row | None:
    if c.random() < 0.1:
        return None
    named = {n: c.choice(NAMES) if c.random() < 0.7 else text(c) for n in ("name", "role")}
    return {**named, "pay": c.choice([None, Decimal("1.00"), Decimal("-2.50")]), "tags": listed(c, lambda: text(c))}


def listed(c: Chance, element: Callable[[], Any]) -> list[Any] | None:
    return None if c.random() < 0.1 else [element() for _ in range(c.randrange(4))]


# ---- queries


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


_NUMBERS = ["0", "1", "-1", "1.5", "2", "0.1", "1.50", "9007199254740993", "9007199254740992", "9007199254740993.0001",
            "12345678901234567890.12345", "1e30", "0.5", "9" * 450]  # fmt: skip
LITERALS: dict[str, list[str]] = {
    "boolean": ["true", "false"], "float64": ["0", "0.1", "1.5", "-1.5", "'NaN'", "'Infinity'", "1e300"], "float32": ["0", "0.5", "'NaN'"],
    "date": [d.isoformat() for d in DAYS], "time": [t.isoformat() for t in CLOCKS], "timestamp": [m.isoformat() for m in MOMENTS],
    "timestamptz": [m.isoformat() + "Z" for m in MOMENTS],
}  # fmt: skip
TOP = {"title": "text", "a.b": "text", "big": "int64", "year": "int32", "score": "decimal", "free": "numeric", "rate": "float64",
       "rate32": "float32",
       "good": "boolean", "day": "date", "clock": "time", "local": "timestamp", "at": "timestamptz", "nums": "int32", "deep": "text",
       "attrs": "json", "attrs.color": "json", "attrs.n": "json", "attrs.n.m": "json", "attrs.ok": "json",
       "attrs.`a.b`": "json"}  # fmt: skip
MEMBERS = {"name": "text", "role": "text", "pay": "decimal", "tags": "text"}
TOP |= {f"{at}.{name}": kind for at in ("cast", "lead") for name, kind in MEMBERS.items()}
LISTS = {"cast": MEMBERS, "nums": {"value": "int32"}, "deep": {"value": "text"}, "cast.tags": {"value": "text"}}
OPS = ["=", "=", "!=", "<", "<=", ">", ">="]
ITEMS = [
    "ford",
    "HAN",
    "emile",
    "strasse",
    '"han solo"',
    '"ford han"',
    "fo*",
    "e*",
    "映画",
    "ford-h*",
    '"x1 ab"',
    "q*",
    "red",
    "han solo",
    '"solo ford"',
]


def literal(c: Chance, kind: str) -> str:
    if kind == "json":
        kind = c.choice(["text", "number", "boolean"])
    if kind == "text":
        return quoted(c.choice(NAMES) if c.random() < 0.5 else text(c) or "")
    return c.choice(LITERALS.get(kind, _NUMBERS))


def comparison(c: Chance, fields: dict[str, str]) -> str:
    path, kind = c.choice(sorted(fields.items()))
    first = literal(c, kind)
    ordered = first not in ("true", "false")
    how = c.randrange(8)
    if how == 0 and ordered:
        second = first if kind == "json" else literal(c, kind)
        return f"{path} {c.choice(['', 'NOT '])}BETWEEN {first} AND {second}"
    if how == 1:
        return f"{path} IN ({first}, {literal(c, kind)})"
    return f"{path} {c.choice(OPS if ordered else OPS[:3])} {first}"


def condition(c: Chance, fields: dict[str, str] = TOP, depth: int = 3) -> str:
    """A condition over these fields; those of the document may be nested, and so may what is joined."""
    at_top = fields is TOP
    records = ["cast", "lead"] if at_top else []
    texts = [p for p, kind in fields.items() if kind in ("text", "json")] + records
    how = c.randrange(12)
    if depth and how < 3:
        joined = c.choice([" AND ", " OR ", " "]).join(condition(c, fields, depth - 1) for _ in range(2))
        return f"({joined})"
    if depth and how == 3:
        return f"NOT {condition(c, fields, depth - 1)}"
    if at_top and how < 7:
        path = c.choice(["cast", "cast", "cast", *LISTS])
        members = {"name": "text", "role": "text"} if path == "cast" and c.random() < 0.7 else LISTS[path]
        return f"ANY {path} ({condition(c, members, depth)})"
    if how == 7:
        return c.choice(["EXISTS {}", "{} IS NULL", "{} IS NOT NULL"]).format(c.choice([*fields, *records, *(["raw"] if at_top else [])]))
    if how < 10 and texts:
        return c.choice(["", f"{c.choice(texts)}: "]) + c.choice(ITEMS)
    return "*" if c.random() < 0.05 else comparison(c, fields)


# ---- the oracle


def holds(node: tree.Node, scope: Any, types: dict[str, Type]) -> bool:
    match node:
        case tree.And(parts):
            return all(holds(p, scope, types) for p in parts)
        case tree.Or(parts):
            return any(holds(p, scope, types) for p in parts)
        case tree.Not(part):
            return not holds(part, scope, types)
        case tree.Everything():
            return True
        case tree.Exists(path):
            return any(True for _ in values(path, scope, types))
        case tree.Some(path, condition):
            element = end_type(path, types)
            members = {f.name: f.type for f in element.fields} or {"value": element}
            return any(holds(condition, v if element.fields else {"value": v}, members) for v in values(path, scope, types))
        case tree.Contains(path, items):
            found = [split(t) for t in (texts_in(scope, types) if path is None else texts_at(path, scope, types))]
            return all(any(stands(item, t) for t in found) for item in items)
        case tree.Compare(path, op, value):
            return any(compares(v, op, value) for v in values(path, scope, types))
        case tree.In(path, given):
            return any(compares(v, "=", value) for v in values(path, scope, types) for value in given)
        case tree.Between(path, low, high):
            return any(compares(v, ">=", low) and compares(v, "<=", high) for v in values(path, scope, types))
    raise AssertionError(node)


def walk(path: tree.Path, types: dict[str, Type]) -> list[str]:
    """The parts with `a.b` as the one name that it is."""
    return ["a.b", *path.parts[2:]] if path.parts[:2] == ("a", "b") and "a.b" in types else list(path.parts)


def end_type(path: tree.Path, types: dict[str, Type]) -> Type:
    found = Type("record", fields=tuple(Field(n, t, 1) for n, t in types.items()))
    for part in walk(path, types):
        found = next(f.type for f in found.fields if f.name == part)
        while found.element is not None:
            found = found.element
        if found.kind == "json":
            break
    return found


def values(path: tree.Path, scope: Any, types: dict[str, Type]) -> Iterator[Any]:
    is_json = end_type(path, types).kind == "json"
    level = [scope]
    for part in walk(path, types):
        level = [v.get(part) for v in level if isinstance(v, dict)]
        level = [parsed(v) if is_json and isinstance(v, str) and part == "attrs" else v for v in level]
        level = list(flat(level))
    yield from level


def flat(level: list[Any]) -> Iterator[Any]:
    for v in level:
        if isinstance(v, list):
            yield from flat(v)
        elif v is not None:
            yield v


def parsed(json_text: str) -> Any:
    if json_text.startswith("[["):  # deeper than what is looked into
        return json_text
    try:
        return json.loads(json_text, parse_float=Decimal)
    except ValueError:
        return json_text


def compares(value: Any, op: str, literal: tree.Value) -> bool:
    other: Any = literal.text
    try:
        match value:
            case bool():
                other = {"true": True, "false": False}[other] if not literal.quoted else None
            case Decimal() | int():
                other = Decimal(other) if not literal.quoted else None
            case float():
                other = float(other)
            case dt.datetime():
                other = dt.datetime.fromisoformat(other)
            case dt.date():
                other = dt.date.fromisoformat(other)
            case dt.time():
                other = dt.time.fromisoformat(other)
            case str() if not literal.quoted:
                value, other = Decimal(value), Decimal(other)  # a numeric; in json a text compares with quoted text only
            case dict():
                return False
    except (ArithmeticError, KeyError, ValueError):
        return False
    if other is None:
        return False
    if isinstance(value, float):
        value, other = ((math.isnan(x), 0.0 if math.isnan(x) else x) for x in (value, other))
    return {"=": value == other, "!=": value != other}.get(op) if op in ("=", "!=") else eval(f"a {op} b", {"a": value, "b": other})


def texts_at(path: tree.Path, scope: Any, types: dict[str, Type]) -> list[str]:
    end = end_type(path, types)
    if end.kind == "record":
        return [t for v in values(path, scope, types) for t in texts_in(v, {f.name: f.type for f in end.fields})]
    return [v for v in values(path, scope, types) if isinstance(v, str)]


def texts_in(scope: Any, types: dict[str, Type]) -> list[str]:
    def strings(v: Any) -> Iterator[str]:
        if isinstance(v, str):
            yield v
        elif isinstance(v, dict | list):
            for m in v.values() if isinstance(v, dict) else v:
                yield from strings(m)

    found: list[str] = []
    for name, t in types.items():
        while t.element is not None:
            t = t.element
        for v in flat([scope.get(name)]):
            if t.kind == "record":
                found += texts_in(v, {f.name: f.type for f in t.fields})
            elif t.kind in ("text", "json"):
                found += strings(v if t.kind == "text" else parsed(v))
    return found


def plain(t: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", t).casefold() if not unicodedata.combining(c))


def split(t: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", plain(t))


CUT = Context(prec=400, rounding=ROUND_DOWN)


def said(value: Any) -> Any:
    """A value as a facet says it."""
    match value:
        case bool():
            return value
        case Decimal():
            cut = CUT.plus(value).normalize(CUT)
            return int(cut) if cut == int(cut) and len(cut.as_tuple().digits) <= 38 else format(cut, "f")
        case float():
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), value + 0.0)
        case dt.datetime() | dt.time():
            zone = "Z" if isinstance(value, dt.datetime) and value.tzinfo else ""
            return value.replace(tzinfo=None).isoformat(timespec="microseconds").removesuffix(".000000") + zone
        case dt.date():
            return value.isoformat()
        case str() if len(value.encode()) > 256:
            return value.encode()[:256].decode() + "…"
    return value


def sort_key(value: Any) -> Any:
    match value:
        case float():
            return (math.isnan(value), 0.0 if math.isnan(value) else value)
        case str():
            return value.encode()[:257]
        case Decimal():
            return CUT.plus(value)
    return value


def stands(item: tree.Look, found: list[str]) -> bool:
    wanted = split(item.text)
    if item.kind == "prefix":
        return any(
            found[i : i + len(wanted) - 1] == wanted[:-1] and found[i + len(wanted) - 1].startswith(wanted[-1])
            for i in range(len(found) - len(wanted) + 1)
        )
    return any(found[i : i + len(wanted)] == wanted for i in range(len(found) - len(wanted) + 1))
