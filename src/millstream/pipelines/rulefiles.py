"""Where rules of the user's own come from: `rules/*.py` in the project, and what is installed under the entry point `millstream.rules`.

The files are the user's code and are run when a project is read. What is wrong with one is a mistake of the project, as in YAML.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from millstream.errors import without_secrets
from millstream.pipelines.diagnostics import Diagnostic
from millstream.schemas.rules import Rule

FOLDER = "rules"
GROUP = "millstream.rules"


def load_rules(root: Path) -> tuple[tuple[Rule, ...], list[Diagnostic]]:
    """The rules of the project in `root` and those installed, each once, in the order of files and names; and every mistake."""
    rules: list[Rule] = []
    mistakes: list[Diagnostic] = []
    for path in sorted((root / FOLDER).glob("*.py")):
        found = _of_file(root, path)
        if isinstance(found, Diagnostic):
            mistakes.append(found)
        else:
            rules += found
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        found = _of_point(point)
        if isinstance(found, Diagnostic):
            mistakes.append(found)
        else:
            rules += found
    return tuple(dict.fromkeys(rules)), mistakes


def _of_file(root: Path, path: Path) -> list[Rule] | Diagnostic:
    file = path.relative_to(root).as_posix()
    module = ModuleType(f"millstream_rules.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and the like look for the module of a class
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own code, in the user's own process
    except (Exception, SystemExit) as e:
        return Diagnostic(file, *_place(e, path), FOLDER, "rule_unusable", _said(e), "mend the file: until then no change is judged")
    found = [replace(r, place=r.place.replace(str(path), file)) for r in _in(vars(module).values())]
    if not found:
        cure = "put @rule(scope=…) before a function; `from millstream.schemas.rules import rule`"
        return Diagnostic(file, 1, 1, FOLDER, "no_rule", "there is no rule in the file", cure)
    return found


def _of_point(point: EntryPoint) -> list[Rule] | Diagnostic:
    """An entry point names a rule, a list of them, or a module that has some."""
    place = f"{GROUP}:{point.name}"
    try:
        given = point.load()
        found = _in(vars(given).values() if isinstance(given, ModuleType) else [given] if isinstance(given, Rule) else given)
    except (Exception, SystemExit) as e:
        cure = f"mend or uninstall the package that has the entry point {point.name} = {point.value}"
        return Diagnostic(place, 1, 1, FOLDER, "rule_unusable", _said(e), cure)
    if not found:
        return Diagnostic(
            place, 1, 1, FOLDER, "no_rule", f"{point.value} has no rule", "name a rule, a list of rules or a module with some"
        )
    return found


def _in(values: Iterable[object]) -> list[Rule]:
    return [v for v in values if isinstance(v, Rule)]


def _place(error: BaseException, path: Path) -> tuple[int, int]:
    """Line and column of what went wrong in the file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1, error.offset or 1
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return (frames[-1].lineno or 1, (frames[-1].colno or 0) + 1) if frames else (1, 1)


def _said(error: BaseException) -> str:
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return without_secrets(f"{type(error).__name__}: {said}")
