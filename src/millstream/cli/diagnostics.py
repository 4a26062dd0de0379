"""Mistakes in a project's files as a compiler shows them: place, message, the line itself, the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.text import Text

from millstream.cli.output import Output
from millstream.pipelines.diagnostics import Diagnostic, InvalidProject


def show(found: tuple[Diagnostic, ...], root: Path, output: Output) -> None:
    """All of them on stderr, in order, with a blank line between."""
    for diagnostic in found:
        output.err.print(_text(diagnostic, root, output), soft_wrap=True)
        output.err.print()


def report(error: InvalidProject, output: Output, root: Path) -> None:
    """The end of a command that met an invalid project."""
    if output.as_json:
        mistakes = [document(d, output) for d in error.diagnostics]
        output.err.file.write(json.dumps({"error": output.error_document(error), "mistakes": mistakes}, ensure_ascii=False) + "\n")
        return
    show(error.diagnostics, root, output)
    output.err.print(Text(error.message, "bold red"))


def document(diagnostic: Diagnostic, output: Output) -> dict[str, Any]:
    blot = output.secrets.blot
    return {**vars(diagnostic), "message": blot(diagnostic.message), "cure": blot(diagnostic.cure)}


def _text(d: Diagnostic, root: Path, output: Output) -> Text:
    blot = output.secrets.blot
    text = Text.assemble((f"{d.file}:{d.line}:{d.column}: ", "bold"), ("error", "bold red"), (f"[{d.code}]", "red"), ": ", blot(d.message))
    line = _line(root / d.file, d.line)
    if line:
        shown = blot(line)
        text.append(f"\n{d.line:6} | ", "dim").append(shown)
        if shown == line:  # where something was blotted out, columns have moved
            text.append("\n" + " " * 7 + "| " + " " * (d.column - 1)).append("^", "bold red")
    if d.cure:
        text.append("\n  cure: ", "bold green").append(blot(d.cure))
    return text


def _line(path: Path, number: int) -> str:
    """The line of the file; empty where it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return lines[number - 1].replace("\t", " ") if 0 < number <= len(lines) else ""
