"""`read: source` in definitions: what it makes of a plan, and what it refuses, at its place and with the cure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.pipelines import atsource
from millstream.pipelines.compile import compile_all
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.explain import explain
from millstream.pipelines.plan import Computed, Plan, Stateful
from millstream.pipelines.project import load

from .conftest import SINKS, SOURCES

M, P = "studio.public.movie", "hr.public.person"
SOURCE_FILES = "---\n".join(
    f"source: {name}\nconnector: postgres\nurl: postgresql://x/y\nowner: team\ntables: [{tables}]\n"
    for name, tables in {"studio": "public.movie, public.credit", "hr": "public.person"}.items()
)
JOINED = f"SELECT m.id, m.title, p.name FROM {M} m LEFT JOIN {P} p ON p.id = m.director_id"


def text(sql: str = JOINED, read: str = "source", name: str = "p") -> str:
    return f"pipeline: {name}\nowner: team\nread: {read}\nsteps:\n  - name: s\n    sql: {sql}\n"


@pytest.fixture
def compiled(project, known):
    def compile_text(yaml: str, inputs=known) -> tuple[Plan, ...]:
        files = {"pipelines/p.yaml": yaml, "sources/all.yaml": SOURCE_FILES}
        return tuple(compile_all(load(project(files), {}, SOURCES, SINKS), inputs))

    return compile_text


def test_a_joined_step_asks_its_sources(compiled) -> None:
    (plan,) = compiled(text())
    (step,) = plan.nodes
    assert isinstance(step, Stateful)
    assert step.read == "source"
    assert "joins 2 tables, asked at their sources" in explain(plan)
    (copied,) = compiled(text(read="copies"))
    assert replace(step, read="copies") == copied.nodes[0], "nothing else differs"
    assert "kept as copies" in explain(copied)


def test_a_step_without_a_join_reads_its_topic_as_ever(compiled) -> None:
    assert compiled(text(f"SELECT id, title FROM {M}"))[0].nodes == compiled(text(f"SELECT id, title FROM {M}", "copies"))[0].nodes


def refused(compiled, yaml: str, **options) -> list[tuple[str, str, int, str]]:
    with pytest.raises(InvalidProject) as error:
        compiled(yaml, **options)
    return [(d.code, d.path, d.line, d.cure) for d in error.value.diagnostics]


def test_anything_else_than_copies_or_source_is_refused(compiled) -> None:
    ((code, path, line, cure),) = refused(compiled, text(read="replica"))
    assert (code, path, line) == ("bad_value", "pipelines.p.read", 3)
    assert "read: copies" in cure and "read: source" in cure


def test_before_images_that_are_not_whole_are_refused(compiled, known) -> None:
    partly = known | {P: replace(known[P], grade="key")}
    ((code, path, line, cure),) = refused(compiled, text(), inputs=partly)
    assert (code, path, line) == ("before_not_whole", "pipelines.p.read", 3)
    assert "REPLICA IDENTITY FULL" in cure and "read: copies" in cure
    assert compiled(text(read="copies"), partly), "with copies it may be"


def test_what_other_pipelines_make_is_refused(compiled) -> None:
    other = f"pipeline: q\nowner: team\nsteps:\n  - name: t\n    sql: SELECT id, name FROM {P}\n---\n"
    sql = f"SELECT m.id, m.title, p.name FROM {M} m LEFT JOIN q.t p ON p.id = m.director_id"
    ((code, path, line, cure),) = refused(compiled, other + text(sql))
    assert (code, path, line) == ("not_at_source", "pipelines.p.read", 9)
    assert "read the tables that it is made of" in cure and "read: copies" in cure


def test_what_an_earlier_step_makes_is_refused(compiled) -> None:
    yaml = text(f"SELECT id, name FROM {P}") + f"  - name: t\n    sql: SELECT m.id, p.name FROM {M} m JOIN s p ON p.id = m.director_id\n"
    ((code, _, _, cure),) = refused(compiled, yaml)
    assert code == "not_at_source" and cure == "write the tables into one query, or read: copies, which keeps them here"


def test_rows_are_not_found_by_an_expression(compiled, known) -> None:
    (step,) = compiled(text())[0].nodes
    assert isinstance(step, Stateful)
    grouped = replace(step, computed=(Computed(M, "__ms_g", 'coalesce("year", 0)', known[M].schema["year"].type),))
    asked = {name: replace(i, askable=True) for name, i in known.items()}
    ((code, message, cure),) = atsource.mistakes(grouped, asked)
    assert code == "not_at_source" and "by an expression" in message and "plain columns" in cure
