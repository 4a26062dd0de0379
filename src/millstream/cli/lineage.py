"""`millstream lineage`: who uses a column, and what a field is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from millstream.catalogue.known import Known
from millstream.cli import discover
from millstream.cli.exits import OK
from millstream.cli.session import Here, Session
from millstream.cli.validate import compilable
from millstream.errors import Refused
from millstream.pipelines.compile import compile_all, of_sources
from millstream.pipelines.definitions import Project
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.generations import product_plans
from millstream.pipelines.lineage import Holder, Kinds, Lineage, Ref
from millstream.pipelines.lineage import lineage as lineage_of
from millstream.pipelines.plan import Plan
from millstream.pipelines.sql.mistakes import suggestion

_SAID: Mapping[str, str] = {"value": "as it is", "derived": "computed", "key": "known by it", "filter": "chosen by it"}
_SAID_BACK: Mapping[str, str] = {"value": "is it", "derived": "is computed with", "key": "tells the rows apart", "filter": "chooses"}


def lineage(
    name: str,
    /,
    *,
    upstream: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    format_: Annotated[Literal["tree", "mermaid", "dot"], Parameter(name="--format")] = "tree",
    session: Here,
) -> int:
    """Show who uses a column, field by field, to the last sink; or, with --upstream, what a field is made of.

    As the project's files say it, applied or not. Each line says how: the value as it is, computed from it, or chosen by it (a
    condition, a join, the order of a list); "rows" are which rows there are.

    Example: `millstream lineage shop.public.customer.city`

    Example: `millstream lineage shop.public.customer` says it of every column

    Example: `millstream lineage orders.large.total --upstream`

    Example: `millstream lineage customer.orders.total --upstream --format mermaid` draws what a member of a document is made of

    Parameters
    ----------
    name
        SOURCE.SCHEMA.TABLE.COLUMN, PIPELINE.STEP.FIELD, PRODUCT.FIELD (of nested ones: cast.name), or one of them without its field.
    upstream
        The other way: what it is made of.
    format_
        A tree, or a graph for Mermaid or Graphviz.
    """
    project = session.project
    with session.mesh() as mesh:
        there, faults = discover.discovered_as_far_as_possible(mesh)
    for fault in faults:
        session.output.warn(f"not asked: {fault}")
    graph = graph_of(session, project, there)
    ref = found(graph, name, project)
    answer = _Answer(graph, ref, upstream, {s.name: s.owner for s in project.sources})
    if format_ != "tree":
        print_graph = _mermaid if format_ == "mermaid" else _dot
        session.output.say("\n".join(print_graph(answer)))
    elif not ref.path and not upstream:
        _columns(answer, session)
    else:
        session.output.say("\n".join(_tree(answer)))
        _parts(answer, session)
    session.output.document(_document(answer))
    return OK


def graph_of(session: Session, project: Project, there: Known) -> Lineage:
    """The lineage of all that can be compiled; says what cannot. Raises InvalidProject with every mistake."""
    there = there.of(project)
    there = replace(there, inputs=there.by_names)
    left, unchecked = compilable(project, there)
    for name, why in unchecked.items():
        session.output.warn(f"left out: {name}: {why}")
    return lineage_of(all_plans(left, there), {t: i.schema for t, i in of_sources(project, there.inputs).items()})


def all_plans(project: Project, there: Known) -> list[Plan]:
    """The plans of pipelines and products as the files say. Raises InvalidProject with every mistake."""
    plans = compile_all(project, there.inputs, there.past)
    made, mistakes = product_plans(project, there.inputs, plans)
    if mistakes:
        raise InvalidProject(mistakes)
    return [*plans, *made]


def found(graph: Lineage, name: str, project: Project) -> Ref:
    """What a person means; PRODUCT stands for its documents, PRODUCT@2 too. Raises Refused with what comes near."""
    head, dot, rest = name.partition(".")
    product = head.partition("@")[0]
    if product in {p.name for p in project.products} and graph.find(name) is None:
        name = f"{product}.{rest}" if rest.partition(".")[0] == product else f"{product}.{product}{dot}{rest}"
    ref = graph.find(name)
    if ref is None:
        cure = suggestion(name, graph.near(name), "names")
        raise Refused(f"there is no table, topic, sink or field {name}", code="unknown_name", cure=cure)
    return ref


@dataclass(frozen=True)
class _Answer:
    """`owners`: of the sources."""

    graph: Lineage
    ref: Ref
    upstream: bool
    owners: Mapping[str, str]

    @property
    def hops(self) -> dict[Ref, Kinds]:
        return self.graph.hops(self.ref, upstream=self.upstream)

    def holder(self, ref: Ref) -> Holder:
        return self.graph.holders[ref.holder]

    def owner(self, holder: Holder) -> str:
        return holder.owner or self.owners.get(holder.name.partition(".")[0], "")


def shown(ref: Ref) -> str:
    return str(ref) if ref.path else f"{ref.holder} (rows)"


# ---- for people ---------------------------------------------------------------------------------------------------------
def _tree(answer: _Answer) -> Iterator[str]:
    hops, told = answer.hops, {answer.ref}
    yield shown(answer.ref)
    if not hops[answer.ref]:
        yield "└─ " + ("a column of a table: made of nothing" if answer.upstream else "nobody uses it")

    def branches(ref: Ref, indent: str) -> Iterator[str]:
        after = sorted(hops[ref].items(), key=lambda item: (item[0].holder, item[0].path))
        for i, (there, kind) in enumerate(after, 1):
            last = i == len(after)
            again = there in told and hops[there]
            yield f"{indent}{'└─ ' if last else '├─ '}{_line(answer, there, kind)}{' (see above)' if again else ''}"
            if there not in told:
                told.add(there)
                yield from branches(there, indent + ("   " if last else "│  "))

    yield from branches(answer.ref, "")


def _line(answer: _Answer, ref: Ref, kind: str) -> str:
    holder = answer.holder(ref)
    said = (_SAID_BACK if answer.upstream else _SAID)[kind]
    return f"{shown(ref)}: {said}{f', in {holder.target}' if holder.target else ''}"


def _columns(answer: _Answer, session: Session) -> None:
    """Of a table or topic: each field, and who uses it."""
    graph, holder = answer.graph, answer.holder(answer.ref)
    rows = [(shown(answer.ref), "", _users(graph.used_by(answer.ref)))]
    for path in holder.fields:
        key = "key" if len(path) == 1 and path[0] in holder.schema.key else ""
        rows += [(".".join(path), key, _users(graph.used_by(Ref(holder.name, path))))]
    session.output.table(("field", "key", "used by"), rows, "")
    session.output.say(f"`millstream lineage {holder.name}.FIELD` follows one to the last sink")


def _users(kinds: Kinds) -> str:
    found: dict[str, set[str]] = {}
    for ref, kind in kinds.items():
        found.setdefault(ref.holder, set()).add(_SAID[kind])
    return ", ".join(f"{name} ({', '.join(sorted(said))})" for name, said in sorted(found.items()))


def _parts(answer: _Answer, session: Session) -> None:
    """Who to speak with: the pipelines and products that are met, with their owners."""
    rows = [(p["name"], p["owner"], ", ".join(p["steps"]), ", ".join(p["topics"]), ", ".join(p["sinks"])) for p in _met(answer)]
    if rows:
        session.output.say()
        session.output.table(("pipeline or product", "owner", "steps", "topics", "sinks"), rows, "")


def _met(answer: _Answer) -> list[dict[str, Any]]:
    met: dict[str, dict[str, Any]] = {}
    for ref in answer.hops:
        holder = answer.holder(ref)
        if ref == answer.ref:
            continue
        name = holder.pipeline or holder.name.partition(".")[0]
        part = met.setdefault(name, {"name": name, "owner": answer.owner(holder), "steps": [], "topics": [], "sinks": []})
        for where, what in (("steps" if holder.what == "step" else "sinks", holder.name), ("topics", holder.topic)):
            wanted = what and not (where == "sinks" and holder.what == "table") and not (where == "topics" and holder.what == "sink")
            if wanted and what not in part[where]:
                part[where].append(what)
    return [met[name] for name in sorted(met)]


# ---- for programs -------------------------------------------------------------------------------------------------------
def _document(answer: _Answer) -> dict[str, Any]:
    hops = answer.hops
    return {
        "name": str(answer.ref),
        "direction": "upstream" if answer.upstream else "downstream",
        "fields": [_field(answer, ref) for ref in hops],
        "edges": [_edge(answer, here, there, kind) for here, kinds in hops.items() for there, kind in kinds.items()],
        "parts": _met(answer),
    }


def _field(answer: _Answer, ref: Ref) -> dict[str, Any]:
    holder = answer.holder(ref)
    return {
        "name": str(ref),
        "holder": holder.name,
        "path": list(ref.path),
        "what": holder.what,
        "pipeline": holder.pipeline,
        "owner": answer.owner(holder),
        "topic": holder.topic,
        "target": holder.target,
    }


def _edge(answer: _Answer, here: Ref, there: Ref, kind: str) -> dict[str, str]:
    source, target = (there, here) if answer.upstream else (here, there)
    return {"from": str(source), "to": str(target), "kind": kind}


# ---- for those who would rather look at it --------------------------------------------------------------------------------
def _by_holder(answer: _Answer) -> Iterator[tuple[Holder, list[tuple[str, Ref]]]]:
    refs = list(answer.hops)
    for name in dict.fromkeys(r.holder for r in refs):
        yield answer.graph.holders[name], [(f"f{i}", r) for i, r in enumerate(refs) if r.holder == name]


def _arrows(answer: _Answer) -> Iterator[tuple[str, str, str]]:
    hops = answer.hops
    ids = {r: f"f{i}" for i, r in enumerate(hops)}
    for here, kinds in hops.items():
        for there, kind in kinds.items():
            yield (ids[there], ids[here], kind) if answer.upstream else (ids[here], ids[there], kind)


def _label(ref: Ref) -> str:
    return (".".join(ref.path) or "rows").replace('"', "'")


def _title(answer: _Answer, holder: Holder) -> str:
    owner = answer.owner(holder)
    return f"{holder.name}{f' ({owner})' if owner else ''}".replace('"', "'")


def _mermaid(answer: _Answer) -> Iterator[str]:
    yield "flowchart LR"
    for i, (holder, refs) in enumerate(_by_holder(answer)):
        yield f'  subgraph h{i}["{_title(answer, holder)}"]'
        yield from (f'    {name}["{_label(ref)}"]' for name, ref in refs)
        yield "  end"
    for source, target, kind in _arrows(answer):
        yield f"  {source} {'-->' if kind in ('value', 'derived') else '-.->'}|{kind}| {target}"


def _dot(answer: _Answer) -> Iterator[str]:
    yield "digraph lineage {"
    yield "  rankdir=LR; node [shape=box];"
    for i, (holder, refs) in enumerate(_by_holder(answer)):
        yield f'  subgraph cluster_{i} {{ label="{_title(answer, holder)}";'
        yield from (f'    {name} [label="{_label(ref)}"];' for name, ref in refs)
        yield "  }"
    for source, target, kind in _arrows(answer):
        style = "" if kind in ("value", "derived") else ", style=dashed"
        yield f'  {source} -> {target} [label="{kind}"{style}];'
    yield "}"
