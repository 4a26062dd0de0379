"""`millstream test`: the examples of pipelines and products, run on the engine. Changes nothing, asks no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from millstream.catalogue.known import Known
from millstream.cli import discover
from millstream.cli.exits import FAILED, OK
from millstream.cli.output import Output, counted
from millstream.cli.session import Here
from millstream.cli.validate import compilable
from millstream.engine import examples as engine
from millstream.errors import Refused
from millstream.events.types import RowSchema
from millstream.pipelines import examples
from millstream.pipelines.compile import compile_all
from millstream.pipelines.definitions import Project
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.generations import product_plans
from millstream.pipelines.plan import Input, Plan
from millstream.pipelines.sql.mistakes import suggestion


def test(pipeline: str | None = None, /, *, session: Here) -> int:
    """Run the examples of pipelines and products: rows and events in, rows and events out.

    Examples are in a pipeline's own document (`examples:`) or, of products too, in tests/*.yaml. They run on the engine itself, in this
    process, over nothing but what they give: no topic is read or written, no database asked. Columns are those of the registered
    schemas; for a topic that is not applied yet an example declares them (`inputs:`). Ends with 1 if one fails.

    Example: `millstream test`

    Example: `millstream test large_orders --json`

    Parameters
    ----------
    pipeline
        Only the examples of this pipeline or product.
    """
    project = session.project
    book = examples.book(project)
    if pipeline is not None and pipeline not in (names := [*(p.name for p in project.pipelines), *(p.name for p in project.products)]):
        cure = suggestion(pipeline, names, "pipelines and products")
        raise Refused(f"there is no pipeline or product {pipeline}", code="pipeline_unknown", cure=cure)
    if book.mistakes:
        raise InvalidProject(book.mistakes)
    wanted = [w for w in book.written if pipeline in (None, w.subject)]
    with session.mesh() as mesh:
        there = _with_declared(discover.registered(mesh).of(project), book.declared)
    plans = _plans(project, there, {w.subject for w in wanted}, book.mistakes)
    found, mistakes = examples.read_all(replace(book, written=wanted), plans)
    if mistakes or book.mistakes:
        raise InvalidProject([*mistakes, *book.mistakes])
    by_name = {p.pipeline: p for p in plans}
    results = []
    for example in found:
        results.append(engine.run(example, by_name[example.pipeline]))
        _show(results[-1], session.output)
    failed = sum(not r.passed for r in results)
    session.output.say(_verdict(len(results), failed, pipeline), "red" if failed else "")
    documents = [_document(r, session.output) for r in results]
    session.output.document({"passed": len(results) - failed, "failed": failed, "examples": documents})
    return FAILED if failed else OK


def _with_declared(there: Known, declared: Mapping[str, RowSchema]) -> Known:
    """What is registered, and what only the examples know of: with whole before images, which they give."""
    return replace(there, inputs={t: Input(t, s, 0, "whole") for t, s in declared.items()} | there.by_names)


def _plans(project: Project, there: Known, subjects: set[str], mistakes: list[Diagnostic]) -> list[Plan]:
    """The plans of the pipelines and products that can be compiled. Of `subjects` that cannot, the reason is noted."""
    project, there = _as_written(project, there)
    left, unchecked = compilable(project, there)
    places = {p.name: (f"pipelines.{p.name}", p.places) for p in project.pipelines}
    places |= {p.name: (p.path, p.places) for p in project.products}
    for name, (path, place) in places.items():
        if name in subjects and name in unchecked:
            cure = "declare them beside the example (inputs: {topic: {key: [id], columns: {id: int64}}}), or `millstream apply` the source"
            at = place[path]
            mistakes.append(Diagnostic(at.file, at.line, at.column, path, "columns_unknown", unchecked[name], cure))
    plans = compile_all(left, there.inputs, there.past)
    products, wrong = product_plans(left, there.inputs, plans)
    mistakes += wrong
    return [*plans, *products]


def _as_written(project: Project, there: Known) -> tuple[Project, Known]:
    """Examples give rows of the tables that steps name, also where what is read is derived from them (`push_down`)."""
    instead = {table: other.topic for p in project.pipelines for table, other in p.instead.items()}
    more = {t: replace(there.inputs[o], topic=t) for t, o in instead.items() if t not in there.inputs and o in there.inputs}
    pipelines = tuple(replace(p, instead={}) for p in project.pipelines)
    return replace(project, pipelines=pipelines), replace(there, inputs={**there.inputs, **more})


def _show(result: engine.Result, output: Output) -> None:
    example = result.example
    output.say(f"{'ok    ' if result.passed else 'FAILED'}  {example.pipeline}: {example.name}", "green" if result.passed else "bold red")
    if not result.passed:
        output.say(f"  at {example.place}")
    for difference in result.differences:
        output.say(f"  {difference}")
    if result.error is not None:
        output.say(f"  {result.error}")


def _verdict(count: int, failed: int, pipeline: str | None) -> str:
    if not count:
        return f"{pipeline or 'the project'} has no example: write one under examples:"
    return f"{counted(count, 'example')}: {count - failed} passed" + (f", {failed} failed" if failed else "")


def _document(result: engine.Result, output: Output) -> dict[str, Any]:
    example = result.example
    return {
        "pipeline": example.pipeline,
        "name": example.name,
        **vars(example.place),
        "passed": result.passed,
        "differences": [{**vars(d), "place": vars(d.place)} for d in result.differences],
        "error": output.error_document(result.error) if result.error is not None else None,
    }
