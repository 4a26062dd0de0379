"""The pages of docs/reference that the code already says: commands, options, SQL. `make docs` writes them; a test compares them.

`python docs/generate.py` writes them; with --check it only names those that are out of date, and ends with 1 if there are any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from millstream.cli.app import EXIT_CODES, build
from millstream.cli.exits import MEANING
from millstream.cli.output import Secrets
from millstream.components import Component
from millstream.pipelines.sql.functions import UNITS
from millstream.pipelines.sql.shape import Function, Operator
from millstream.pipelines.sql.subset import AGGREGATE_NAMES, FUNCTIONS, OPERATORS, SAME_AS, VOLATILE
from millstream.sinks.kinds import KINDS as SINKS
from millstream.sources.kinds import KINDS as SOURCES
from millstream.wiring import Wiring

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code; `make docs` writes it again. -->\n\n"


def pages() -> dict[str, str]:
    return {"commands.md": NOTE + commands(), "options.md": NOTE + options(), "sql.md": NOTE + sql()}


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
    return text


def _summary(kind: Component) -> str:
    doc = kind.options.__dict__.get("__doc__")
    return " ".join(doc.split()) + "\n\n" if doc else ""


def _fields(model: type[BaseModel]) -> list[tuple[str, ...]]:
    return [(f"`{name}`", _type(f.annotation), _default(f), f.description or "") for name, f in model.model_fields.items()]


def _type(annotation: Any) -> str:
    text = str(annotation) if hasattr(annotation, "__origin__") or "|" in str(annotation) else annotation.__name__
    return "`" + text.replace("typing.", "").replace("SecretStr", "str, secret").replace("|", "or") + "`"


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value == {} else f"`{value}`"


def sql() -> str:
    return f"""# Millstream SQL

A step's `sql` is one SELECT. It is a subset of SQL with a meaning of its own: what is not on this page is refused, with file, line and a
way to mend it.

```sql
SELECT o.id, o.amount * 2 AS twice, c.name AS customer
FROM shop.public.orders o
LEFT JOIN crm.public.customers c ON c.id = o.customer_id
WHERE o.amount > 10
```

- FROM and JOIN name a topic (`source.schema.table`, `pipeline.step`) or an earlier step of the same pipeline.
- Joins are INNER and LEFT, on equalities with the joined table's whole key, so that a row of the result is a row of the first table.
- A query over one table keeps that table's key; a joined one says its key in `key:`.
- Aggregates, GROUP BY, ORDER BY, LIMIT, UNION, windows and subqueries are refused in this version.

## Operators

{table(("operator", "meaning", "fails", "examples"), [_operator(o) for o in OPERATORS])}
## Functions

Null if any argument is null, unless it says otherwise. A failure at run time stops the pipeline and names the record.

{table(("function", "meaning", "fails", "examples"), [_function(f) for f in FUNCTIONS])}
Units: {", ".join(f"`'{unit}'`" for unit in UNITS)}.

Other spellings: {", ".join(f"`{other}` is `{name}`" for other, name in sorted(SAME_AS.items()))}.

## Refused by name

Because their answer changes by itself: {", ".join(f"`{name}`" for name in sorted(VOLATILE))}.

Because this version has no groups: {", ".join(f"`{name}`" for name in sorted(AGGREGATE_NAMES))}.
"""


_NULLS = {"any": "", "skipped": " Nulls are passed over.", "own": ""}


def _operator(o: Operator) -> tuple[str, ...]:
    return f"`{o.symbol}`", o.doc, o.fails if o.fails != "never" else "", _examples(o.examples)


def _function(f: Function) -> tuple[str, ...]:
    return f"`{f.signature}`", f.doc + _NULLS[f.nulls], f.fails if f.fails != "never" else "", _examples(f.examples)


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
