"""`millstream validate`: every mistake of a project at once. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from cyclopts import Parameter

from millstream.catalogue.known import Known
from millstream.cli import diagnostics, discover
from millstream.cli.exits import OK, REFUSED, exit_code
from millstream.cli.mesh import Mesh
from millstream.cli.output import counted
from millstream.cli.session import Here, Session
from millstream.errors import MillstreamError
from millstream.events.types import RowSchema
from millstream.pipelines import examples
from millstream.pipelines.compile import compile_all
from millstream.pipelines.definitions import PipelineDefinition, Project
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject
from millstream.pipelines.generations import product_plans
from millstream.pipelines.nodes import INNER
from millstream.pipelines.products import reads


@dataclass(frozen=True)
class Findings:
    """Mistakes, sources that do not answer, what could not be checked (pipeline → why), the columns inferred (of what → them), and the
    pipelines that run locally only."""

    mistakes: tuple[Diagnostic, ...] = ()
    faults: tuple[MillstreamError, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)
    schemas: Mapping[str, RowSchema] = field(default_factory=dict)
    local: Sequence[str] = ()


def validate(*, offline: Annotated[bool, Parameter(negative="", show_default=False)] = False, session: Here) -> int:
    """Check the project's files: every mistake, its place and how to mend it; columns and keys of steps and products. Nothing is changed.

    Columns are those of the registered schemas; tables that are not topics yet are looked up in their databases.

    Example: `millstream validate`

    Example: `millstream validate --offline` asks no database, and says what could not be checked without

    Parameters
    ----------
    offline
        Ask no database.
    """
    findings = _findings(session, offline)
    out = session.output
    diagnostics.show(findings.mistakes, session.folder, out) if not out.as_json else None
    for fault in findings.faults:
        out.error(fault) if not out.as_json else None
    for name, why in findings.unchecked.items():
        out.say(f"not checked: {'product' if name in {p.name for p in session.project.products} else 'pipeline'} {name}: {why}", "yellow")
    for name in findings.local:
        out.say(f"pipeline {name} runs locally only (portable: false)")
    for step, schema in findings.schemas.items():
        out.say(f"{step}: {', '.join(f'{f.name} {f.type}' for f in schema.fields)}; key {', '.join(schema.key)}")
    out.say(_verdict(findings, session))
    out.document(_document(findings, session))
    if findings.mistakes:
        return REFUSED
    return exit_code(findings.faults[0]) if findings.faults else OK


def _findings(session: Session, offline: bool) -> Findings:
    try:
        project = session.project
    except InvalidProject as error:
        return Findings(error.diagnostics)
    with session.mesh() as mesh:
        there, faults = _known(mesh, offline)
    return replace(checked(project, there), faults=tuple(faults))


def _known(mesh: Mesh, offline: bool) -> tuple[Known, list[MillstreamError]]:
    return (discover.registered(mesh), []) if offline else discover.discovered_as_far_as_possible(mesh)


def checked(project: Project, there: Known) -> Findings:
    """Compile what can be compiled. A pipeline that reads a table whose columns are not known, or one that could not be
    checked, is not checked; its readers neither."""
    there = there.of(project)
    left, unchecked = compilable(project, there)
    try:
        plans = compile_all(left, there.inputs, there.past)
    except InvalidProject as error:
        return Findings(tuple(sorted({*error.diagnostics, *product_plans(left, there.inputs, [])[1]})), unchecked=unchecked)
    products, wrong = product_plans(left, there.inputs, plans)
    if wrong:
        return Findings(tuple(wrong), unchecked=unchecked)
    book = examples.book(project)
    _, mistakes = examples.read_all(book, [*plans, *products])
    schemas = {f"{p.pipeline}.{n.name}": n.schema for p in plans for n in p.nodes if INNER not in n.name}
    schemas |= {p.pipeline: p.nodes[-1].schema for p in products}
    local = tuple(p.pipeline for p in plans if not p.portable)
    return Findings(tuple(sorted({*book.mistakes, *mistakes})), unchecked=unchecked, schemas=schemas, local=local)


def compilable(project: Project, there: Known) -> tuple[Project, dict[str, str]]:
    """The project without the pipelines and products whose inputs are not known, and why each of those is left out."""
    unknown = [t for s in project.sources for t in there.missing(s)]
    unchecked: dict[str, str] = {}
    while True:
        pipelines = tuple(p for p in project.pipelines if p.name not in unchecked)
        left = replace(project, pipelines=pipelines, products=tuple(p for p in project.products if p.name not in unchecked))
        texts = {p.name: _texts(p) for p in left.pipelines} | {p.name: [t for t, _ in reads(p)] for p in left.products}
        held_up = {name: t for name, said in texts.items() if (t := _read_of(said, unknown))}
        if not held_up:
            return left, unchecked
        unchecked |= {name: f"it reads {topic}, whose columns are not known" for name, topic in held_up.items()}
        unknown = [*unknown, *(f"{name}." for name in held_up)]


def _texts(pipeline: PipelineDefinition) -> list[str]:
    texts = [*(step.sql.replace('"', "") for step in pipeline.steps), *(sink.input for sink in pipeline.sinks)]
    return [*texts, *(other.topic for other in pipeline.instead.values())]


def _read_of(texts: Sequence[str], topics: Iterable[str]) -> str | None:
    """The first of the topics (or beginnings of topics) that the texts name."""
    return next((topic for topic in topics if any(_names(text, topic) for text in texts)), None)


def _names(text: str, topic: str) -> bool:
    end = "" if topic.endswith(".") else r"(?!\w)"
    return re.search(rf"(?<![\w.]){re.escape(topic)}{end}", text) is not None


def _verdict(findings: Findings, session: Session) -> str:
    if findings.mistakes:
        return counted(len(findings.mistakes), "mistake")
    if findings.faults:
        return "no mistake found, but not everything could be asked"
    project = session.project
    counts = f"{counted(len(project.sources), 'source')}, {counted(len(project.pipelines), 'pipeline')}"
    if project.products:
        counts += f", {counted(len(project.products), 'product')}"
    return f"{counts}: no mistake found" + (f", {len(findings.unchecked)} not checked" if findings.unchecked else "")


def _document(findings: Findings, session: Session) -> dict[str, Any]:
    out = session.output
    return {
        "valid": not findings.mistakes and not findings.faults,
        "mistakes": [diagnostics.document(d, out) for d in findings.mistakes],
        "faults": [out.error_document(f) for f in findings.faults],
        "unchecked": dict(findings.unchecked),
        "local_only": list(findings.local),
        "steps": {
            step: {"columns": {f.name: str(f.type) for f in schema.fields}, "key": list(schema.key)}
            for step, schema in findings.schemas.items()
        },
    }
