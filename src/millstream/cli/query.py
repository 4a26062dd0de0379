"""`millstream query`: SQL over topics and over the tables of pipelines' states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from cyclopts import Parameter

from millstream.cli import answers
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.output import Output, counted
from millstream.cli.session import Here
from millstream.control.protocol import Answer
from millstream.errors import Refused
from millstream.pipelines import values


def query(
    sql: str = "",
    /,
    *,
    events: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    tables: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    limit: int = 1_000,
    timeout: float = 60.0,
    arrow: Path | None = None,
    session: Here,
) -> int:
    """Ask by SQL: topics are tables of their present rows, and the tables of pipelines' states are there too.

    A topic is named as `topics list` names it: shop.public.orders, large_orders.named. A state's tables are
    state.PIPELINE."TABLE"; where a process runs the mesh, it answers for them, without being held up. One SELECT in DuckDB's SQL; it
    changes nothing and reaches no file. With --json one JSON object a row.

    Example: `millstream query "SELECT note, count(*) FROM shop.public.orders GROUP BY note"`

    Example: `millstream query --events "SELECT op, after.amount FROM shop.public.orders WHERE offset >= 1000"`

    Example: `millstream query --limit 0 --arrow orders.arrow "SELECT * FROM shop.public.orders"`

    Parameters
    ----------
    sql
        The SELECT.
    events
        Topics are tables of their events: offset, op, before, after, version, committed, transaction, position, snapshot, backfill,
        cause, schema_id.
    tables
        List the tables that there are, with their columns.
    limit
        How many rows at most; 0: all.
    timeout
        How many seconds it may take.
    arrow
        Write the rows to this file, as an Arrow IPC stream.
    """
    if limit < 0 or timeout <= 0:
        raise Refused("--limit counts rows and --timeout seconds", code="usage", cure="--limit 0 gives all rows")
    if not sql and not tables:
        raise Refused("there is nothing to ask", code="usage", cure='write the SELECT: millstream query "SELECT …"')
    with session.mesh() as mesh:
        if tables:
            return _list(mesh, session.output)
        rows = answers.ask(mesh, answers.Request(sql, events, limit or None, timeout))
        try:
            columns = rows.begin()
            count = _write(rows, columns, arrow) if arrow is not None else _show(rows, columns, session.output)
            truncated = bool(rows.end().get("truncated"))
        finally:
            rows.close()
    if arrow is not None:
        session.output.say(f"{counted(count, 'row')} in {arrow}")
    if truncated:
        session.output.warn(f"there are more than {counted(count, 'row')}: --limit 0 gives all")
    return OK


def _show(rows: Answer, columns: pa.Schema, output: Output) -> int:
    if output.as_json:
        count = 0
        for row in _dicts(rows, columns):
            output.line({n: _plain(v) for n, v in row.items()})
            count += 1
        return count
    shown = [tuple(_cell(v) for v in row.values()) for row in _dicts(rows, columns)]
    output.table(columns.names, shown, "no row", [_is_number(t) for t in columns.types])
    return len(shown)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _dicts(rows: Answer, schema: pa.Schema) -> Iterator[Mapping[str, Any]]:
    """Row by row. A column's name may be there twice: the later ones get a number."""
    names: list[str] = []
    for name in schema.names:
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    for batch in rows.batches():
        columns = [c.to_pylist() for c in batch.columns]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _cell(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else values.shown(value)


def _plain(value: Any) -> Any:
    """As JSON has it; what JSON has no form for as text."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return (
        value
        if isinstance(value, str | int | bool | None) or (isinstance(value, float) and value == value and abs(value) != float("inf"))
        else values.shown(value)
    )


def _write(rows: Answer, columns: pa.Schema, path: Path) -> int:
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, columns) as writer:
        for batch in rows.batches():
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _list(mesh: Mesh, output: Output) -> int:
    listing = answers.ask(mesh, answers.Request(""))
    found: dict[str, list[dict[str, str]]] = {}
    for row in _dicts(listing, listing.begin()):
        found.setdefault(row["table"], []).append({"name": row["column"], "type": row["type"]})
    listing.close()
    cells = [(name, ", ".join(f"{c['name']} {c['type']}" for c in columns)) for name, columns in found.items()]
    output.table(("table", "columns"), cells, "there is no table yet: `millstream apply` makes topics")
    output.document([{"table": name, "columns": columns} for name, columns in found.items()])
    return OK
