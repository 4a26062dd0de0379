"""`portable: false`: DuckDB's functions beyond the table, with the types that DuckDB says, but none whose answer changes by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import pytest

from millstream.pipelines.compile import compile_all
from millstream.pipelines.diagnostics import InvalidProject
from millstream.pipelines.explain import explain
from millstream.pipelines.plan import Input, Plan, Stateless
from millstream.pipelines.project import load

from .conftest import SINKS, SOURCES

Write = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def compiled(project: Write, known: Mapping[str, Input]) -> Callable[[str, str], Plan]:
    def make(items: str, portable: str = "portable: false\n") -> Plan:
        sql = json.dumps(f"SELECT id, {items} FROM studio.public.movie")
        folder = project({"pipelines/p.yaml": f"pipeline: p\nowner: team\n{portable}steps:\n- name: out\n  sql: {sql}\n"})
        (plan,) = compile_all(load(folder, {}, SOURCES, SINKS), known)
        return plan

    return make


def test_any_function_of_duckdb_may_be_called_and_has_the_type_that_duckdb_says(compiled: Callable[..., Plan]) -> None:
    plan = compiled("unicode(title) AS a, string_split(title, ' ') AS words, gcd(year, 12) AS g")
    (node,) = plan.nodes
    assert isinstance(node, Stateless)
    assert [(f.name, str(f.type)) for f in node.schema.fields[1:]] == [("a", "int32"), ("words", "list(text)"), ("g", "int64")]
    assert not plan.portable
    assert "runs locally only" in explain(plan)
    con = duckdb.connect()
    con.execute("CREATE TABLE m AS SELECT 1::BIGINT id, 'éa b' title, 18 AS year")
    described = con.execute("DESCRIBE SELECT unicode(title), string_split(title, ' '), gcd(year, 12) FROM m").fetchall()
    assert [row[1] for row in described] == ["INTEGER", "VARCHAR[]", "BIGINT"]


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ("current_localtimestamp()", "volatile"),
        ("age(TIMESTAMP '2024-01-01')", "volatile"),
        ("uuid()", "volatile"),
        ("setseed(0.5e0)", "volatile"),
        ("nextval('s')", "volatile"),
        ("no_such_thing(1)", "unknown_function"),
        ("read_text('/etc/hostname')", "unknown_function"),
        ("unicode(year, year)", "type_clash"),
        ("to_days(3)", "bad_type"),
    ],
)
def test_what_changes_by_itself_or_has_no_type_is_refused_still(item: str, code: str, compiled: Callable[..., Plan]) -> None:
    with pytest.raises(InvalidProject) as refused:
        compiled(f"{item} AS x")
    assert [d.code for d in refused.value.diagnostics] == [code]
    assert refused.value.diagnostics[0].cure


@pytest.mark.parametrize("portable", ["", "portable: true\n"])
def test_a_portable_pipeline_has_the_functions_of_the_table_only(portable: str, compiled: Callable[..., Plan]) -> None:
    with pytest.raises(InvalidProject) as refused:
        compiled("unicode(title) AS x", portable)
    assert [d.code for d in refused.value.diagnostics] == ["unknown_function"]
    assert compiled("upper(title) AS x", portable).portable


def test_portable_is_a_boolean(compiled: Callable[..., Plan]) -> None:
    with pytest.raises(InvalidProject) as refused:
        compiled("title", "portable: sometimes\n")
    assert [(d.code, d.path) for d in refused.value.diagnostics] == [("bad_value", "pipelines.p.portable")]
