"""`millstream backfill`: rows of a source's table are read again into its topic, as a person asks for it."""

from __future__ import annotations

import csv
import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from millstream.capture.backfill import INITIAL, KEY, LOST, SCHEMA, Method, Order, Wanted
from millstream.cli import backfillview, requests, running
from millstream.cli.backfillview import Seen
from millstream.cli.exits import FAILED, OK
from millstream.cli.mesh import Mesh
from millstream.cli.session import Here, Session, not_applied
from millstream.errors import Refused
from millstream.pipelines.sql.mistakes import suggestion
from millstream.sources.contract import Scans, Scope
from millstream.topics.incarnations import catalogued, newest

app = App(name="backfill", help="Read rows of a source's table again, beside the live changes.")

KEYS_MAX = 100_000
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


@app.command
def start(
    source: str,
    table: str,
    /,
    *,
    where: str | None = None,
    keys: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    reconcile: Flag = False,
    into: str | None = None,
    method: Method = "chunks",
    throttle: float | None = None,
    name: str | None = None,
    wait: Flag = False,
    session: Here,
) -> int:
    """Read a table again, or a part of it, while its live changes go on.

    The rows are appended to the table's topic as reads (`r`) marked with the backfill's name, chunk by chunk; none of them is older than
    what stands before it. The process that runs the mesh does it, or the next one; after a kill it goes on with the next chunk. Several
    take turns.

    Example: `millstream backfill start shop public.orders`

    Example: `millstream backfill start shop public.orders --where "status = 'open'" --throttle 500 --wait`

    Example: `millstream backfill start shop public.orders --keys 17 --keys 42`

    Example: `millstream backfill start shop public.orders --from 1000 --to 1999 --reconcile`

    Example: `millstream backfill start shop public.orders --method changefeed`

    Parameters
    ----------
    source
        A source.
    table
        One of its tables, as its definition names it. All its rows, unless a part is asked for:
    where
        The rows for which this holds: a condition in the database's own SQL over the table's columns.
    keys
        The rows with these keys; of a key of several columns the values, separated by commas. @FILE reads them from a file, one a line.
    from_
        The rows from this key on, in the database's order; of a key of several columns the first values are enough.
    to
        The rows up to this key.
    reconcile
        Compare with the topic: rows that it has as they are need no event, and those that the database does not have any more are
        deleted from it, marked.
    into
        Only this pipeline or product takes the rows; the others pass over them, as long as the topic is whole there.
    method
        How the rows are read. `changefeed`, of a CockroachDB: by its own scan, in a second changefeed; always the whole table, and after a
        restart from its beginning.
    throttle
        Read so many rows a second, where that can be, whatever it does to live changes; without it they come first, and the pace is what
        the readers bear. `backfill throttle` changes it.
    name
        What it is called, on every event too. Without it, a name is made.
    wait
        Show how far it is until it is over.
    """
    if (where is not None) + bool(keys) + (from_ is not None or to is not None) > 1:
        raise Refused("which rows?", code="usage", cure="give one of --where, --keys and --from/--to, or none for all rows")
    if reconcile and into is not None:
        raise Refused("a delete that one pipeline alone is told would be lost to all others", code="usage", cure="leave --into away")
    if method == "changefeed":
        _whole_alone(is_part=where is not None or bool(keys) or from_ is not None or to is not None, reconcile=reconcile)
    with session.mesh() as mesh:
        columns = _key_columns(mesh, source, table)
        scope = Scope(where, _keys(keys, columns, session.folder), _end(from_, columns, "--from"), _end(to, columns, "--to"))
        if wait and not running.is_held(mesh.place.running):
            raise Refused("no process runs this mesh", code="not_running", cure="start `millstream run`, or leave --wait away")
        with mesh.opened(source) as there:
            if method == "changefeed" and not isinstance(there, Scans):
                raise Refused(f"the database of {source} has no changefeeds", code="usage", cure="leave --method away: chunks are read")
            estimate = there.admits(table, scope)
        to = None if into is None else _reader_of(mesh, into, f"{source}.{table}")
        order = Order(_named(name), source, table, scope, reconcile, estimate, to, throttle=_rate(throttle), method=method)
        if order.name in backfillview.used(mesh, source):
            raise Refused(f"there was a backfill {order.name} already", code="backfill_exists", cure="give it another name")
        mesh.catalogue.backfills.ask(order)
        session.output.say(f"asked: {order.name}, about {estimate:,} rows; {requests.taken_up(mesh)}")
        if method == "changefeed":
            session.output.say(backfillview.SCANNED)
        seen = backfillview.find(mesh, order.name)
        if wait:
            seen = backfillview.follow(mesh, order.name, session.output)
    if not wait:
        session.output.document(seen.document())
    return FAILED if seen.state == "failed" else OK


@app.command(name="list")
def list_backfills(*, session: Here) -> int:
    """List the backfills of all sources: initial loads, those that a change of a table began, and what was asked for.

    Example: `millstream backfill list`
    """
    with session.mesh() as mesh:
        backfillview.show_all(backfillview.everything(mesh), session.output)
    return OK


@app.command
def show(backfill: str, /, *, follow: Flag = False, session: Here) -> int:
    """Show one backfill: what it reads, how far it is, how fast and how long it still takes.

    Example: `millstream backfill show b-1f2e3d`

    Parameters
    ----------
    backfill
        As `backfill list` names it.
    follow
        Show how it goes on, until it is over.
    """
    with session.mesh() as mesh:
        seen = _known(mesh, backfill)
        if follow:
            seen = backfillview.follow(mesh, backfill, session.output)
        else:
            backfillview.show_one(seen, session.output)
    return FAILED if seen.state == "failed" else OK


@app.command
def pause(backfill: str, /, *, session: Here) -> int:
    """Let a backfill wait, after the chunk that it is reading. Live changes go on.

    Example: `millstream backfill pause b-1f2e3d`

    Parameters
    ----------
    backfill
        As `backfill list` names it.
    """
    return _want(session, backfill, "pause", "paused")


@app.command
def resume(backfill: str, /, *, session: Here) -> int:
    """Let a backfill go on that was paused, or begin that is offered.

    Example: `millstream backfill resume b-1f2e3d`

    Parameters
    ----------
    backfill
        As `backfill list` names it.
    """
    return _want(session, backfill, "run", "goes on")


@app.command
def cancel(backfill: str, /, *, session: Here) -> int:
    """Give up a backfill that was asked for. What it has read stays in the topic.

    Example: `millstream backfill cancel b-1f2e3d`

    Parameters
    ----------
    backfill
        As `backfill list` names it.
    """
    return _want(session, backfill, "cancel", "cancelled")


@app.command
def throttle(backfill: str, rows_per_s: float, /, *, session: Here) -> int:
    """Say how many rows a second a backfill reads, while it runs too.

    Example: `millstream backfill throttle b-1f2e3d 2000`

    Parameters
    ----------
    backfill
        As `backfill list` names it.
    rows_per_s
        So many rows a second, where that can be, whatever it does to live changes; 0: as the readers bear it, live changes first.
    """
    limit = None if rows_per_s == 0 else _rate(rows_per_s)
    with session.mesh() as mesh:
        _order_of(mesh, _still(mesh, backfill))
        mesh.catalogue.backfills.throttle(backfill, limit)
    session.output.say(f"{backfill}: {'as its readers bear it' if limit is None else f'at most {limit:,g} rows a second'}")
    session.output.document({"backfill": backfill, "throttle": limit})
    return OK


def _want(session: Session, name: str, wanted: Wanted, said: str) -> int:
    with session.mesh() as mesh:
        seen = _still(mesh, name)
        if wanted == "cancel" and not seen.order.asks:
            cure = "`backfill pause` lets it wait"
            raise Refused(f"{name} is not given up: the topic would lack its rows for ever", code="backfill_needed", cure=cure)
        _order_of(mesh, seen)
        mesh.catalogue.backfills.want(name, wanted)
    session.output.say(f"{name}: {said}")
    session.output.document({"backfill": name, "wanted": wanted})
    return OK


def _known(mesh: Mesh, name: str) -> Seen:
    there = {s.name: s for s in backfillview.everything(mesh)}
    if name not in there:
        raise Refused(f"there is no backfill {name}", code="backfill_unknown", cure=suggestion(name, there, "backfills"))
    return there[name]


def _still(mesh: Mesh, name: str) -> Seen:
    seen = _known(mesh, name)
    if seen.is_over:
        raise Refused(f"{name} is over: {seen.state}", code="backfill_over", cure="`backfill start` begins another")
    return seen


def _order_of(mesh: Mesh, seen: Seen) -> None:
    """Of a backfill that nobody asked for an order is made that speaks of it. One that is offered begins only when it is told to."""
    if not seen.is_ordered:
        mesh.catalogue.backfills.ask(replace(seen.order, wanted="pause") if seen.state == "offered" else seen.order)


# ---- what was written --------------------------------------------------------------------------------------------------------


def _whole_alone(*, is_part: bool, reconcile: bool) -> None:
    cure = "leave --method away: chunks are read by the key"
    if is_part:
        raise Refused("a changefeed's scan reads the whole table: it can be asked for no part", code="usage", cure=cure)
    if reconcile:
        said = "a changefeed's scan comes in no order, and says nothing of rows that are gone: it compares nothing"
        raise Refused(said, code="usage", cure=cure)


def _key_columns(mesh: Mesh, source: str, table: str) -> tuple[str, ...]:
    sources = mesh.catalogue.sources()
    if not sources:
        raise not_applied("nothing is applied yet")
    if source not in sources:
        raise Refused(f"there is no source {source}", code="unknown_source", cure=suggestion(source, sources, "sources"))
    if table not in sources[source].tables:
        raise Refused(f"{source} has no table {table}", code="unknown_table", cure=suggestion(table, sources[source].tables, "tables"))
    topic = f"{source}.{table}"
    schema = mesh.schema(newest(t.name for t in mesh.topics.topics()).get(topic, topic))
    if schema is None:
        raise not_applied(f"{source}.{table} has no topic yet")
    return schema.key


def _reader_of(mesh: Mesh, pipeline: str, topic: str) -> str:
    """The pipeline as applied; of a product its generation. Raises Refused where it does not read the topic."""
    applied = requests.applied(mesh, pipeline, publishes=False)
    if topic not in map(catalogued, applied.inputs):
        raise Refused(f"{pipeline} does not read {topic}", code="usage", cure=f"it reads {', '.join(applied.inputs)}")
    return applied.name


def _keys(written: Sequence[str], columns: Sequence[str], folder: Path) -> tuple[tuple[str, ...], ...] | None:
    if not written:
        return None
    lines = [line for text in written for line in (_lines(text[1:], folder) if text.startswith("@") else [text])]
    found = tuple(dict.fromkeys(_cells(line, columns) for line in lines))
    for key in found:
        if len(key) != len(columns):
            raise Refused(f"--keys {','.join(key)}: the key has {len(columns)} columns", code="usage", cure=f"write {', '.join(columns)}")
    if len(found) > KEYS_MAX:
        raise Refused(f"{len(found):,} keys are too many", code="usage", cure=f"ask for {KEYS_MAX:,} at a time, or for a range")
    return found


def _lines(file: str, folder: Path) -> list[str]:
    path = next((p for p in (folder / file, Path(file)) if p.is_file()), None)
    if path is None:
        raise Refused(f"there is no file {file}", code="usage", cure="write --keys @FILE with the keys in it, one a line")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    if not lines:
        raise Refused(f"{file} has no key in it", code="usage", cure="write one key a line")
    return lines


def _cells(text: str, columns: Sequence[str]) -> tuple[str, ...]:
    """A key of one column as it stands; of several as CSV, so that "quotes" may hold a comma."""
    return (text,) if len(columns) == 1 else tuple(next(csv.reader([text]), []))


def _end(text: str | None, columns: Sequence[str], option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    cells = _cells(text, columns)
    if not 0 < len(cells) <= len(columns):
        raise Refused(
            f"{option} {text}: the key has {len(columns)} columns", code="usage", cure=f"write {', '.join(columns)}, or the first"
        )
    return cells


def _named(name: str | None) -> str:
    if name is None:
        return f"b-{uuid.uuid4().hex[:6]}"
    if not _NAME.match(name) or name == INITIAL or name.startswith((SCHEMA, LOST, KEY)):
        cure = f"use small letters, digits, - and _; `{INITIAL}`, `{SCHEMA}…`, `{LOST}…` and `{KEY}…` are taken"
        raise Refused(f"{name!r} cannot be the name of a backfill", code="usage", cure=cure)
    return name


def _rate(rows_per_s: float | None) -> float | None:
    if rows_per_s is not None and not 0 < rows_per_s < math.inf:
        cure = "give a number above 0; `backfill pause` lets it wait, and without --throttle it is as fast as its readers bear"
        raise Refused(f"{rows_per_s:g} rows a second", code="usage", cure=cure)
    return rows_per_s
