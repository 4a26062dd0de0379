"""Who may know whom under src/millstream, read from the text of every module; nothing is imported.

A typing-only import counts as an arrow: knowing a type is knowing its room. Every rule is also shown a made-up tree
that breaks it, and one beside it that does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LINES_MAX = 450

# Imports run from a later row to an earlier one, and never within a row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors", "faultpoints"),
    ("avro",),
    ("events", "components", "control"),
    ("schemas", "queries", "notices"),
    ("topics", "sources", "sinks"),
    ("capture", "pipelines"),
    ("engine",),
    ("catalogue",),
    ("cli",),
    ("wiring", "reading"),
)
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

# What pipelines may know of sources and sinks: what they promise and how they are set up, never one of them.
LIGHT = ("contract", "kinds", "options")
# What testing may know of the rooms above the schemas.
PROMISES = ("contract", "plan")

Tree = Mapping[str, str]
"""Path below src, as "millstream/topics/contract.py", to the module's text."""


def real_tree() -> dict[str, str]:
    return {p.relative_to(SRC).as_posix(): p.read_text() for p in sorted(SRC.rglob("*.py"))}


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def parsed(text: str) -> ast.Module:
    """Each module once: every rule reads all of them."""
    return ast.parse(text)


def room_of(module: str) -> str:
    """The room of a module: "" is the package itself."""
    return module.partition(".")[2].partition(".")[0]


def imports(path: str, text: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands, relative ones resolved."""
    package = module_of(path) if path.endswith("__init__.py") else module_of(path).rpartition(".")[0]
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{start}.{alias.name}"
                yield node.lineno, inside if inside in modules else start


def arrow_fault(here: str, there: str) -> str | None:
    """Why module `here` may not know module `there`, or None."""
    a, b = room_of(here), room_of(there)
    last = there.rpartition(".")[2]
    if here.endswith(".kinds") and last not in ("components", "options"):
        return "kinds lists options, so that a driver loads only when it is used"
    if a == b or b == "":
        return None
    if b == "testing":
        return "nothing under src knows testing"
    if a == "testing":
        return None if ROW_OF[b] <= ROW_OF["schemas"] or last in PROMISES else "testing knows contracts, not those who keep them"
    if a == "":
        return None if b == "reading" else "the package itself knows no room, but hands `read` on"
    if ROW_OF[b] >= ROW_OF[a]:
        return f"{a} may not know {b}"
    if a == "pipelines" and b in ("sources", "sinks") and last not in LIGHT:
        return "pipelines knows contracts and lists, never a concrete component"
    return None


def arrow_faults(tree: Tree) -> Iterator[str]:
    modules = {module_of(p) for p in tree}
    for path, text in tree.items():
        here = module_of(path)
        if room_of(here) not in (*ROW_OF, "testing", ""):
            yield f"{path}: a room that the table does not have"
            continue
        for line, there in imports(path, text, modules):
            if there.split(".")[0] != "millstream":
                continue
            why = arrow_fault(here, there)
            if why:
                yield f"{path}:{line}: imports {there}: {why}"


def import_by_name_faults(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        if path == "millstream/components.py":
            continue
        for node in ast.walk(parsed(text)):
            named = {
                ast.Name: lambda n: n.id,
                ast.Attribute: lambda n: n.attr,
                ast.alias: lambda n: n.name,
            }.get(type(node), lambda n: "")(node)
            if named in ("import_module", "__import__"):
                yield f"{path}:{getattr(node, 'lineno', 0)}: only components.py imports by name"


def init_faults(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        if not path.endswith("__init__.py"):
            continue
        for node in parsed(text).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            names = isinstance(node, ast.Assign) and all(
                isinstance(t, ast.Name) and t.id in ("__all__", "__version__") for t in node.targets
            )
            if not (docstring or names or isinstance(node, ast.Import | ast.ImportFrom)):
                yield f"{path}:{node.lineno}: __init__ hands names on and does nothing else"


def shape_faults(tree: Tree) -> Iterator[str]:
    for path, text in tree.items():
        lines = text.count("\n")
        if lines > LINES_MAX:
            yield f"{path}: {lines} lines; past {LINES_MAX} a file holds two ideas"
        if text.strip() and not ast.get_docstring(parsed(text)):
            yield f"{path}: no docstring: say what the module is for and what it leaves to others"


RULES = (arrow_faults, import_by_name_faults, init_faults, shape_faults)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_holds(rule) -> None:
    tree = real_tree()
    assert len(tree) > 20
    assert list(rule(tree)) == []


def with_text(path: str, text: str) -> dict[str, str]:
    """A small sound tree with one module put in."""
    names = ("errors", "events/batch", "topics/contract", "topics/local", "sources/contract", "sources/kinds", "sources/postgres/source",
             "sources/postgres/options", "sinks/contract", "pipelines/plan", "engine/run", "testing/clock", "components")  # fmt: skip
    return {f"millstream/{n}.py": '"""Sound."""\n' for n in names} | {path: f'"""Changed."""\n{text}\n'}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("millstream/errors.py", "from millstream.events.batch import Batch"),
        ("millstream/events/batch.py", "from millstream.topics.contract import Topic"),
        ("millstream/events/batch.py", "from ..topics import contract"),
        ("millstream/events/batch.py", "def f():\n    import millstream.components"),
        ("millstream/topics/contract.py", "from millstream.sources import contract"),
        ("millstream/sinks/contract.py", "from millstream.topics.contract import Topic"),
        ("millstream/sinks/contract.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from millstream.engine.run import Run"),
        ("millstream/pipelines/plan.py", "from millstream.sources.postgres.source import Source"),
        ("millstream/pipelines/plan.py", "import millstream.sources"),
        ("millstream/sources/kinds.py", "from millstream.sources.postgres.source import Source"),
        ("millstream/engine/run.py", "from millstream.testing.clock import Clock"),
        ("millstream/testing/clock.py", "from millstream.topics.local import Local"),
        ("millstream/helpers/text.py", "X = 1"),
        ("millstream/__init__.py", "from millstream.engine.run import Run"),
    ],
)
def test_a_forbidden_arrow_is_found(path: str, text: str) -> None:
    found = list(arrow_faults(with_text(path, text)))
    assert len(found) == 1
    assert found[0].startswith(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("millstream/events/batch.py", "from millstream.errors import Refused\nfrom . import types\nimport pyarrow"),
        (
            "millstream/sources/postgres/source.py",
            "from millstream.sources.contract import Chunk\nfrom millstream.events.batch import Batch",
        ),
        ("millstream/sources/kinds.py", "from millstream.components import Component\nfrom millstream.sources.postgres import options"),
        ("millstream/pipelines/plan.py", "from millstream.sources.kinds import KINDS\nfrom millstream.sinks import contract"),
        ("millstream/engine/run.py", "from millstream import __version__\nfrom millstream.pipelines.plan import Plan"),
        ("millstream/testing/clock.py", "from millstream.topics import contract\nfrom millstream.events.batch import Batch"),
    ],
)
def test_an_allowed_arrow_is_not(path: str, text: str) -> None:
    assert list(arrow_faults(with_text(path, text))) == []


def test_importing_by_name_is_found_outside_components() -> None:
    text = "import importlib\nimportlib.import_module('x')"
    assert len(list(import_by_name_faults(with_text("millstream/engine/run.py", text)))) == 1
    assert len(list(import_by_name_faults(with_text("millstream/engine/run.py", "x = __import__('x')")))) == 1
    assert list(import_by_name_faults(with_text("millstream/components.py", text))) == []


def test_work_in_an_init_is_found() -> None:
    assert list(init_faults(with_text("millstream/engine/__init__.py", "from millstream.engine.run import Run\n__all__ = ['Run']"))) == []
    assert len(list(init_faults(with_text("millstream/engine/__init__.py", "KINDS = {}")))) == 1
    assert len(list(init_faults(with_text("millstream/engine/__init__.py", "def f(): ...")))) == 1


def test_a_long_or_silent_file_is_found() -> None:
    assert list(shape_faults(with_text("millstream/engine/run.py", "\n" * (LINES_MAX - 2)))) == []
    assert len(list(shape_faults(with_text("millstream/engine/run.py", "\n" * LINES_MAX)))) == 1
    assert len(list(shape_faults({"millstream/engine/run.py": "x = 1\n"}))) == 1
    assert list(shape_faults({"millstream/engine/__init__.py": ""})) == []
