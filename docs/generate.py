"""The pages of docs/reference that the code already says: commands, SQL, schema changes… `make docs` writes them; a test compares them.

`python docs/generate.py` writes them; with --check it only names those that are out of date, and ends with 1 if there are any.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from millstream.cli.app import EXIT_CODES, build
from millstream.cli.exits import MEANING
from millstream.cli.output import Secrets
from millstream.components import Component
from millstream.events.types import Kind, list_of, record_of
from millstream.events.types import Type as SqlType
from millstream.notices.kinds import NOTIFY
from millstream.pipelines.sql import flink
from millstream.pipelines.sql import types as t
from millstream.pipelines.sql.aggregates import text as aggregate_text
from millstream.pipelines.sql.functions import UNITS
from millstream.pipelines.sql.refusals import REFUSED
from millstream.pipelines.sql.shape import Aggregate, Call, Function, Operator, Sample, Text
from millstream.pipelines.sql.subset import (
    AGGREGATE_AS,
    AGGREGATE_NAMES,
    AGGREGATES,
    BY_AGGREGATE,
    FUNCTIONS,
    OPERATORS,
    SAME_AS,
    VOLATILE,
)
from millstream.queries.check import WRITTEN
from millstream.queries.grammar import FORMS, KEYWORDS
from millstream.queries.values import FAMILIES
from millstream.schemas.kinds import REGISTRY
from millstream.schemas.rest.endpoints import ROUTES
from millstream.schemas.rest.faults import CODES, status
from millstream.schemas.rest.server import ANSWERED_WITHIN_S, AT_ONCE, BODY_BYTES_MAX, BODY_WITHIN_S, CONTENT_TYPE, HEAD_WITHIN_S
from millstream.schemas.rest.settings import LEVELS, MODES
from millstream.schemas.rules import TABLE as VERDICTS
from millstream.sinks.kinds import KINDS as SINKS
from millstream.sources.kinds import KINDS as SOURCES
from millstream.wiring import Wiring

REFERENCE = Path(__file__).parent / "reference"
RECORDINGS = Path(__file__).parents[1] / "tests" / "golden" / "cockroach"
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it again. -->\n\n"


def pages() -> dict[str, str]:
    made = {"commands.md": commands, "options.md": options, "sql.md": sql, "refusals.md": refusals, "search.md": search}
    made["schema-changes.md"] = schema_changes
    made["registry.md"] = registry
    made["changefeed-recordings.md"] = changefeed_recordings
    return {page: NOTE + text() for page, text in made.items()}


def changefeed_recordings() -> str:
    sys.path.insert(0, str(RECORDINGS))
    from counts import page

    return page()


def commands() -> str:
    app = build([], Wiring(os.environ), Secrets())
    text = app.generate_docs(output_format="markdown").replace(EXIT_CODES, "").rstrip()
    codes = table(("exit code", "meaning"), [(f"`{code}`", meaning) for code, meaning in MEANING.items()])
    return f"{text}\n\n## Exit codes\n\n{codes}"


def options() -> str:
    text = "# Options of sources and sinks\n\nWhat stands beside the keys that every [definition](files.md) has.\n"
    for title, kinds in (("Sources", SOURCES), ("Sinks", SINKS)):
        text += f"\n## {title}\n"
        for kind in kinds:
            text += f"\n### {kind.name}\n\n{_summary(kind)}{table(('option', 'type', 'default', 'meaning'), list(_fields(kind.options)))}"
    text += f"\n## Notices\n\nUnder `notify:` in mesh.yaml. {_summary(NOTIFY)}"
    text += "A notice says the mesh, the part, its owner, that it is paused or resumed, why, the cure and when.\n\n"
    text += table(("option", "type", "default", "meaning"), list(_fields(NOTIFY.options)))
    text += f"\n## The schema registry\n\nUnder `registry:` in mesh.yaml. {_summary(REGISTRY)}"
    return text + table(("option", "type", "default", "meaning"), list(_fields(REGISTRY.options)))


def registry() -> str:
    routes = [(f"`{r.method}`", f"`{r.path}`", r.says, "yes" if r.guarded else "") for r in ROUTES]
    codes = [(f"`{code}`", f"{status(code)}", meaning) for code, meaning in CODES.items()]
    return f"""# The schema registry's API

The REST API of the Confluent Schema Registry, over the project's own registry: [from a client](../how-to/use-the-registry.md). Requests and
answers are JSON; answers have the content type `{CONTENT_TYPE.decode()}`. `millstream run` serves it where mesh.yaml has
`registry: {{listen: …}}`, `millstream registry serve` alone.

## Paths

What stands in `?…` follows the semicolon. Lists take `offset` and `limit`. A subject may hold any character that can be printed; a slash is
written `%2F`.

{table(("method", "path", "gives", "takes the token"), routes)}
The token, where mesh.yaml sets one, is sent as `Authorization: Bearer TOKEN`, or as the password of basic authentication, with any user.

A schema is sent as `{{"schema": text, "schemaType": "AVRO", "references": [{{"name": …, "subject": …, "version": …}}]}}`;
`id` and `version` are for the mode IMPORT.

## What holds

- A schema has one id under every subject, however its JSON is ordered and spaced, and whether names are full or not. Its
  documentation, defaults, aliases and unknown attributes count; a text that spells out what another refers to is the same as that one
  under the same subject.
- An id means the same for ever. A version that was deleted for good is not found by its id; events that were written with it are
  read all the same, and the same schema gets the same id when it comes again.
- Versions count from 1 in their subject. What is deleted and registered again is a new version with the old id.
- A registration is on disk when it is answered, whole or not at all, whatever is killed.
- Subjects of Millstream's own topics (`TOPIC-value`, `TOPIC-key`) are shown, and can be checked against; only Millstream registers
  there, whatever the level and the mode, and nobody deletes them.
- Levels: {", ".join(f"`{level}`" for level in LEVELS)}.
  The registry's is `BACKWARD` until it is set.
- Modes: {", ".join(f"`{mode}`" for mode in MODES)}. In `IMPORT` every registration says its id,
  no level is asked, and an id that means something else is refused.

Not kept: schemas of JSON and PROTOBUF, contexts, metadata and rule sets, tags, aliases of subjects, exporters.

## Codes

A refusal is `{{"error_code": …, "message": …}}`.

{table(("code", "HTTP", "meaning"), codes)}
## Limits

| | |
| --- | --- |
| a request's body | {BODY_BYTES_MAX >> 20} MiB |
| a request's head has come within | {HEAD_WITHIN_S:.0f} s |
| its body has come within | {BODY_WITHIN_S:.0f} s |
| a request is answered within | {ANSWERED_WITHIN_S:.0f} s |
| connections at once | {AT_ONCE} |
"""


def _summary(kind: Component) -> str:
    doc = kind.options.__dict__.get("__doc__")
    return " ".join(doc.split()) + "\n\n" if doc else ""


def _fields(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", _type(f.annotation), _default(f), f.description or "") for name, f in model.model_fields.items()]


def _type(annotation: Any) -> str:
    text = str(annotation) if hasattr(annotation, "__origin__") or "|" in str(annotation) else annotation.__name__
    text = re.sub(r"\bmillstream(\.\w+)*\.", "", text)
    return "`" + text.replace("typing.", "").replace("pydantic.types.", "").replace("SecretStr", "str, secret").replace("|", "or") + "`"


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == {} else f"`{value}`"


def sql() -> str:
    return f"""# Millstream SQL

A step's `sql` is one query. It is a subset of SQL with a meaning of its own: what is not on this page is refused, with file, line and a
way to mend it; [what is refused](refusals.md) lists all of it.

```sql
SELECT o.id, o.amount * 2 AS twice, c.name AS customer
FROM shop.public.orders o
LEFT JOIN crm.public.customers c ON c.id = o.customer_id
WHERE o.amount > 10
```

- FROM and JOIN name a topic (`source.schema.table`, `pipeline.step`) or an earlier step of the same pipeline.
- The key is inferred, and proven to be one; `key:` says it in another order or with more columns. Its columns are in the SELECT list
  and never null.
- `JOIN` and `LEFT JOIN … ON` need an equality of columns. A table joined on its whole key adds no rows, and the key stays that of the
  first table; one that adds rows brings its own key into the key.
- `FULL JOIN … USING (id)`, the key of both sides: the key is the column of USING.
- `WHERE [NOT] EXISTS (SELECT 1 FROM … WHERE b.a_id = a.id)`, in one another and under AND, OR and CASE; `x IN (SELECT y …)` as a
  condition of WHERE is the same as EXISTS with `y = x`.
- `GROUP BY` columns or expressions of one table, with HAVING: these are the key, so they must not be null (`coalesce(x, '?')`). A column
  that the others identify may be grouped by too, and stays out of the key.
- A nested aggregate, `(SELECT list({{name: p.name}} ORDER BY c.position, c.id) FROM credit c JOIN … WHERE c.movie_id = m.id)`, at any
  depth: `count` of no rows is 0, a `list` of none is empty, all others are null. The order must be total: it ends in the keys
  of the tables.
- `QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n` keeps the first n rows of each partition. The key is the partition and the
  keys of the tables.
- `WITH name AS (SELECT …)` and `FROM (SELECT …) AS name` are steps inside the step, each with a key of its own. One that is used
  twice is kept once.
- `UNION ALL`: each branch begins with a literal of its own, `'film' AS kind`, which is part of the key.
- `{{name: x, other: y}}` is a record, `r.name` its member, `[x, y]` a list.

## Types

{table(("type", "DuckDB", "Flink", "CAST makes it"), [_type_row(kind) for kind in _TYPES])}
A cast that cannot be made fails; TRY_CAST gives null. A float becomes the decimal number that it is written as; halves round away from
zero. A text with a time zone other than Z or +00, and the words nan and inf, are
read by DuckDB alone.

## Operators

{table(("operator", "meaning", "fails", "examples"), [_operator(o) for o in OPERATORS])}
## Functions

Null if any argument is null, unless it says otherwise. A failure at run time stops the pipeline and names the record.

{table(("function", "gives", "meaning", "fails", "examples"), [_function(f) for f in FUNCTIONS])}
Units: {", ".join(f"`'{unit}'`" for unit in UNITS)}.

Other spellings: {", ".join(f"`{other}` is `{name}`" for other, name in sorted(SAME_AS.items()))}.

## Aggregates

What passes over nulls, and what depends on the order of rows, says so. Where it depends on it, the order must be total: it ends in the key
of the rows.

{table(("aggregate", "gives", "meaning", "over no row", "fails", "examples"), [_aggregate(a) for a in AGGREGATES])}
Other spellings: {", ".join(f"`{other}` is `{name}`" for other, name in sorted(AGGREGATE_AS.items()))}.

## Refused by name

Because their answer changes by itself: {", ".join(f"`{name}`" for name in sorted(VOLATILE))}.

Because this subset has them not: {", ".join(f"`{name}`" for name in sorted(AGGREGATE_NAMES - set(BY_AGGREGATE) - set(AGGREGATE_AS)))}.

## What the engines are given

Every text below gives the same value and type on both engines, but where the last column says otherwise. A row without a Flink text is
for pipelines that run locally. A Flink session has UTC as its time zone; a `time` is a BIGINT of microseconds there.

{table(("", "DuckDB", "Flink", "Flink differs in"), [_texts(row) for row in (*OPERATORS, *FUNCTIONS, *AGGREGATES)])}"""


def refusals() -> str:
    text = """# What Millstream SQL refuses

Each with its message, the way out and an example; ¦ is before the place that is named, with file, line and column. Names and types that
do not fit are refused too, in the same way.
"""
    for title, rows in REFUSED:
        cells = []
        for refusal in rows.values():
            message, cure = refusal.said
            example = refusal.example if len(refusal.example) < 400 else refusal.example[:40] + "…"
            cells.append((message, cure, f"`{example}`", f"`{refusal.code}`"))
        text += f"\n## {title}\n\n{table(('message', 'cure', 'example', 'code'), cells)}"
    return text


def schema_changes() -> str:
    rows = [
        (f"`{r.kind}`", r.meaning, r.adds or "nothing", r.destroys or "nothing", f"`{r.example}`" if r.example else "") for r in VERDICTS
    ]
    verdicts = [(f"`{r.kind}`", *(f"**{d}**" if d == "pause" else d for d in (r.unused, r.pinned, r.named, r.star))) for r in VERDICTS]
    return f"""# Schema changes and their verdicts

What differs between two versions of a topic's schema is a list of operations. Columns are known by their ids, so a rename is no drop.

{table(("operation", "meaning", "adds", "destroys", "`ALTER TABLE movie …`"), rows)}
A type *holds* another where every value of that is one of its own: `int32` in `int64`, `float64`, `decimal(10,0)` and `numeric`;
`float32` in `float64`; `decimal(6,2)` in `decimal(8,2)`, `decimal(8,4)` and `numeric`. Text holds no other type: `12` and `'12'` sort and
compare differently. A change of one member of a record is its operation at `column.member`; a list is as its elements are.

## Verdicts

Every consumer (a step, a sink, a product) judges a new version before the first event that carries it, by what it uses itself.
*ignore*: it goes on with its own schema, and reads the new events as that. *propagate*: it takes the new version over, and its output has
its own next version, which its own readers judge in turn. *pause*: it stops there, with its place kept, and its owner is told;
everybody else runs on. A change with several operations has the gravest of their verdicts.

`evolve: pinned`, which is the default, keeps the schema that a consumer was applied with; `evolve: follow` goes along where it can.
A step may say so for itself: what it reads is then judged by that, and a pinned step sees the columns that it has accepted while a
sibling follows.

{table(("operation", "not used", "used, pinned", "follow: named", "follow: only `*` reads it"), verdicts)}
Of a key's column every change of type pauses: keys would be other bytes. A table's topic ends there, and goes on as its
[next incarnation](../how-to/changed-key.md): a pipeline that follows and keeps state by keys of its own moves over by itself.
A member of a record has its column's users; where they follow, a
new or renamed member is taken along with the column. Above this table stand [rules of your own](../how-to/write-a-rule.md), and
`compatibility:` in [mesh.yaml, a source, a pipeline or a product](files.md): whatever one of them forbids pauses.
"""


def search() -> str:
    kinds = {kind: "uuid" if kind == "uuid" else family for kind, family in FAMILIES.items()}
    written = [(", ".join(f"`{k}`" for k, f in kinds.items() if f == family), text) for family, text in WRITTEN.items()]
    keywords = ", ".join(f"`{k}`" for k in sorted(KEYWORDS))
    return f"""# The search language

What `millstream search` takes as a query. A query is one or more conditions; each is true or false of a document, and the documents of
which the whole is true are found, those that fit its words best first.

{table(("form", "true where", "example"), FORMS)}
Keywords ({keywords}) are written in capitals; in small letters they are words like any other.

## Words

A word is a run of letters and digits; case does not count, nor do the marks of Latin, Greek and Cyrillic letters: `amelie` finds *Amélie*.
A Chinese or Japanese character is a word of its own. A word that is written with signs in it (`ford-han`) is looked for as its parts, next
to each other. Words look in text and json columns, in members of records and lists too. `=` and its like compare the whole text, to the
letter.

## Fields

A field is a column, or `column.member` of a nested one, at any depth; in a json column, `column.name.name`. A name with signs in it stands
in backticks. Where lists lie on the way a field has many values, and a condition is true where it is true of one of them;
so `cast.name = 'Ford' AND cast.role = 'Han'` may be true of two different people. `ANY cast (name = 'Ford' AND role = 'Han')` is true of
one. Inside ANY, fields begin at the element; the element of a list of plain values is called `value`.

## Values

{table(("of a", "write"), written)}
In a json column a quoted value compares with texts, a number with numbers, true and false with truths. Numbers compare exactly, however
long. Texts sort by their characters' code points.

## Nothing

A comparison with nothing (null, a field that is not there, an empty list) is false, and `NOT` turns it: `NOT year = 1979` finds documents
without a year, `year != 1979` does not.

## How exact it is

Always: what is found is what the query says. Most conditions are answered by the index alone. ANY over several conditions at once, ranges
inside json columns, and values longer than the index keeps whole (texts beyond 256 bytes, numbers beyond 400 digits) are narrowed by
the index and then decided by looking at the documents, which takes longer the more of them there are.
"""


_NULLS = {
    "any": "",
    "skipped": " Nulls are passed over.",
    "never": " Nulls are passed over; it is never null.",
    "own": "",
}
_TYPES: dict[Kind, SqlType] = {
    "boolean": t.BOOLEAN,
    "int32": t.INT32,
    "int64": t.INT64,
    "decimal": t.decimal(10, 2),
    "float32": t.FLOAT32,
    "float64": t.FLOAT64,
    "text": t.TEXT,
    "bytes": t.BYTES,
    "date": t.DATE,
    "time": t.TIME,
    "timestamp": t.TIMESTAMP,
    "timestamptz": t.TIMESTAMPTZ,
    "uuid": t.UUID_TEXT,
    "json": SqlType("json"),
    "numeric": SqlType("numeric"),
    "list": list_of(t.INT32),
    "record": record_of(("name", t.TEXT)),
}
_FIRST: tuple[Kind, ...] = ("text", "int32", "decimal", "timestamp", "list", "json", "bytes", "boolean")


def _type_row(kind: Kind) -> tuple[str, ...]:
    type_ = _TYPES[kind]
    return f"`{type_}`", _code(t.duckdb_name(type_)), _code(flink.name(type_)), ", ".join(t.cast_targets(type_))


def _operator(o: Operator) -> tuple[str, ...]:
    return f"`{o.symbol}`", o.doc, o.fails if o.fails != "never" else "", _examples(o.examples)


def _function(f: Function) -> tuple[str, ...]:
    gives = dict.fromkeys(str(_call(f, kind).result) for kind in sorted(f.arguments[0].kinds) if _result(f, kind))
    shown = ", ".join(gives) if len(gives) < 4 else "as given"
    return f"`{f.signature}`", shown, f.doc + _NULLS[f.nulls], f.fails if f.fails != "never" else "", _examples(f.examples)


def _aggregate(a: Aggregate) -> tuple[str, ...]:
    gives = dict.fromkeys(str(a.result([_TYPES[kind]])) for kind in sorted(a.arguments[0].kinds))
    shown = ", ".join(gives) if len(gives) < 4 else "list" if a.name == "list" else "as given"
    return f"`{a.signature}`", shown, a.doc, a.over_none, a.fails if a.fails != "never" else "", "<br>".join(map(_sample, a.examples))


def _sample(s: Sample) -> str:
    rows = ", ".join(f"({', '.join(r)})" for r in s.rows) or "no row"
    order = f" ORDER BY {s.order}" if s.order else ""
    return f"({'DISTINCT ' if s.distinct else ''}{', '.join(s.arguments) or '*'}{order}) over {rows} is `{s.wanted}`"


def _result(f: Function, kind: Kind) -> SqlType | None:
    types = _arguments(f, kind)
    return f.result(types, [None] * len(types))


def _arguments(f: Function, kind: Kind) -> list[SqlType]:
    """Types that fit the function, the first of that kind."""
    kinds = [kind, *(next(k for k in (kind, *_FIRST, *sorted(a.kinds)) if k in a.kinds) for a in f.arguments[1:])]
    types = [a.to or _TYPES[k] for a, k in zip(f.arguments, kinds, strict=True)]
    return [types[0], t.INT32] if f.name == "list_contains" else types


def _call(f: Function, kind: Kind) -> Call:
    types, names = _arguments(f, kind), tuple(a.name for a in f.arguments)
    words = tuple(_WORDS.get(a.form) for a in f.arguments)
    constants = tuple(2 if a.form == "constant" else None for a in f.arguments)
    result = f.result(types, constants)
    assert result is not None, f.name
    return Call(tuple(types), names, words, constants, result)


_ORDER = "the order, which the publisher puts right"
_WORDS = {"unit": "month", "path": "$.a", "format": "%Y-%m"}


def _texts(row: Operator | Function | Aggregate) -> tuple[str, ...]:
    if isinstance(row, Aggregate):
        names = [a.name for a in row.arguments]
        types = [_TYPES[next(k for k in ("decimal", *_FIRST, *sorted(a.kinds)) if k in a.kinds)] for a in row.arguments]
        result = row.result(types)
        order = "…" if row.ordered else ""
        duckdb = aggregate_text(row.duckdb, names, types, t.duckdb_name, result, order=order)
        there = aggregate_text(row.flink, names, types, flink.name, result, order=order) if row.flink else None
        return (
            f"`{row.name}`",
            _code(duckdb),
            _code(there),
            _ORDER if row.name == "list" else "",
        )
    if isinstance(row, Operator):
        left = next(k for k in ("int32", "text") if row.rule(_TYPES[k], _TYPES[k]))  # type: ignore[index]
        signature = row.rule(_TYPES[left], _TYPES[left])  # type: ignore[index]
        assert signature is not None
        call = Call(signature.arguments, ("a", "b"), (None, None), (None, None), signature.result)
        return f"`{row.symbol}`", _code(_text(row.duckdb, call, t.duckdb_name)), _code(_text(row.flink, call, flink.name)), row.differs
    call = _call(row, next(k for k in (*_FIRST, *sorted(row.arguments[0].kinds)) if k in row.arguments[0].kinds))
    differs = "; ".join(x for x in (row.differs, "the last digits of a float" if row.near else "") if x)
    return f"`{row.name}`", _code(_text(row.duckdb, call, t.duckdb_name)), _code(_text(row.flink, call, flink.name)), differs


def _text(form: Text | None, call: Call, names: Callable[[SqlType], str]) -> str | None:
    if form is None or not isinstance(form, str):
        return form and form(call)
    return form.format(*call.texts, all=", ".join(call.texts), type=names(call.result))


def _code(sql: str | None) -> str:
    fence = "``" if sql and "`" in sql else "`"
    return f"{fence}{sql}{fence}" if sql else ""


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    return "<br>".join(f"`{text}` is `{result}`" for text, result in examples)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n"

    return line(titles) + line(["---"] * len(titles)) + "".join(map(line, rows))


def main(check: bool) -> int:
    old = {page: text for page, text in pages().items() if not (REFERENCE / page).exists() or (REFERENCE / page).read_text() != text}
    for page, text in old.items():
        if check:
            print(f"docs/reference/{page} is not what the code says: run `make docs`")
        else:
            (REFERENCE / page).write_text(text)
    return 1 if check and old else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
