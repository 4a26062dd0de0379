"""The named moments at which a process can be killed, read from the text of src: a new one cannot be forgotten."""

from __future__ import annotations

import ast
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "millstream"


def points() -> list[str]:
    """Every name given to `reached`, sorted. Raises ValueError where one is not written out."""
    found: set[str] = set()
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _called(node.func) == "reached":
                if not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)):
                    raise ValueError(f"{path}:{node.lineno}: write the moment's name out, so that it can be found")
                found.add(node.args[0].value)
    return sorted(found)


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
