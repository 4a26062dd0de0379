"""Definition → plan text. Each plans/*.yaml is a pipelines file; the text beside it is what `explain` and the nodes must say.

MILLSTREAM_GOLDEN=write writes the texts anew; look at the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from millstream.components import Component
from millstream.events.types import Field, RowSchema, Type
from millstream.pipelines.compile import compile_all
from millstream.pipelines.explain import explain
from millstream.pipelines.plan import Input, Plan, Stateful
from millstream.pipelines.project import load

HERE = Path(__file__).parent / "plans"
CASES = sorted(p.stem for p in HERE.glob("*.yaml"))


class Anything(BaseModel):
    index: str = ""
    file: str = ""


SINKS = (Component("search", Anything, "nowhere:open"), Component("jsonl", Anything, "nowhere:open"))


def columns(key: str, **types: str) -> RowSchema:
    fields = [Field(n, Type("decimal", 10, 2) if k == "decimal" else Type(k), i) for i, (n, k) in enumerate(types.items(), 1)]  # type: ignore[arg-type]
    return RowSchema(tuple(fields), tuple(key.split()))


TOPICS = {
    "operations.public.flights": columns(
        "id", id="int64", time_hour="timestamptz", carrier="text", flight="int32", tailnum="text", origin="text", dest="text",
        dep_delay="int32", distance="float64", fare="decimal",
    ),
    "operations.public.weather": columns("origin time_hour", origin="text", time_hour="timestamptz", temp="float64"),
    "reference.public.airlines": columns("carrier", carrier="text", name="text"),
    "reference.public.airports": columns("faa", faa="text", name="text", lat="float64", hub="text"),
}  # fmt: skip


def shown(plan: Plan) -> str:
    """The explanation, and what the engine is given that people are not shown."""
    lines = [explain(plan), ""]
    for node in plan.nodes:
        if isinstance(node, Stateful):
            lines += [f"{node.name}: {', '.join(map(str, node.roots))} by {node.unit}", *(f"  {e}" for e in (*node.edges, *node.computed))]
        lines += [f"{node.name}: {f.id} {f.name} {f.type}" for f in node.schema.fields]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_as_written(case: str, tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text("mesh: golden\n")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "p.yaml").write_text((HERE / f"{case}.yaml").read_text())
    known = {name: Input(name, schema, i, "whole") for i, (name, schema) in enumerate(TOPICS.items(), 1)}
    plans = compile_all(load(tmp_path, {"INDEX": "never-shown"}, (), SINKS), known)
    text = "\n".join(map(shown, plans))
    golden = HERE / f"{case}.txt"
    if os.environ.get("MILLSTREAM_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
    assert "never-shown" not in text


def test_there_are_cases() -> None:
    assert len(CASES) >= 7
