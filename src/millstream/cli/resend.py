"""`millstream resend`: a pipeline says its present rows again."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from millstream.cli import requests
from millstream.cli.exits import OK
from millstream.cli.session import Here
from millstream.engine.requests import OPEN, Request
from millstream.engine.resend import condition
from millstream.errors import Refused
from millstream.pipelines.sql.mistakes import suggestion

app = App(name="resend")


@app.default
def resend(
    pipeline: str,
    step: str | None = None,
    /,
    *,
    key: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    where: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    session: Here,
) -> int:
    """Let a pipeline publish its present rows again, for a reader that has lost them: no database is read.

    The rows are appended to the pipeline's topics as reads (`r`) marked with the request's name, in slices between live changes, by
    the process that runs the mesh; none is older than what stands before it. A kill loses and repeats nothing. `resend list` shows
    how far it is.

    Example: `millstream resend large_orders --all`

    Example: `millstream resend large_orders named --where "amount > 1000"`

    Example: `millstream resend movie --key 17 --key 42`

    Parameters
    ----------
    pipeline
        A pipeline, or a product.
    step
        Only this one of its published steps.
    key
        The rows of these keys; of a key of several columns the values, separated by commas.
    where
        The rows for which this holds, in DuckDB's SQL over the step's columns.
    every
        All rows.
    """
    if sum((bool(key), where is not None, every)) != 1:
        raise Refused("which rows?", code="usage", cure="give --key, --where or --all")
    with session.mesh() as mesh:
        applied = requests.applied(mesh, pipeline)
        steps = (step,) if step is not None else ()
        schemas = [requests.output(mesh, applied, s)[1] for s in (steps or [t[len(applied.name) + 1 :] for t in applied.outputs])]
        keys = conditions = None
        for schema in schemas:  # what is asked must fit every step
            keys = requests.keys(key, schema) if key else None
            conditions = condition(where, schema) if where is not None else None
        request = Request(requests.name("resend"), applied.name, "resend", steps, keys, conditions)
        mesh.catalogue.ask(request)
        session.output.say(f"asked: {request.name}; {requests.taken_up(mesh)}")
    session.output.document(request.json())
    return OK


@app.command(name="list")
def list_requests(*, session: Here) -> int:
    """List what was asked of pipelines, oldest first: what is waiting, how far it is, and how it ended.

    Example: `millstream resend list`
    """
    with session.mesh() as mesh:
        requests.show(mesh.catalogue.requests(), session.output)
    return OK


@app.command
def cancel(name: str, /, *, session: Here) -> int:
    """Give up a request. What was published of it stays.

    Example: `millstream resend cancel resend-1f2e3d4c`

    Parameters
    ----------
    name
        As `resend list` names it.
    """
    with session.mesh() as mesh:
        asked = {a.request.name: a for a in mesh.catalogue.requests()}
        if name not in asked:
            raise Refused(f"there is no request {name}", code="request_unknown", cure=suggestion(name, asked, "requests"))
        if asked[name].state not in OPEN:
            raise Refused(f"{name} is over: {asked[name].state}", code="request_over", cure="there is nothing to cancel")
        mesh.catalogue.tell(name, "cancelled", asked[name].done, asked[name].total)
    session.output.say(f"cancelled: {name}")
    session.output.document({"cancelled": name})
    return OK
