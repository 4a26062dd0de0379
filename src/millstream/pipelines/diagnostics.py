"""Mistakes in a project's files, each with its place and cure, listed together as a compiler lists them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from millstream.errors import Refused


@dataclass(frozen=True)
class Place:
    """`file` is relative to the project; lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Diagnostic:
    """`path` says where in the definition: "pipelines.rated.steps[0].sql"."""

    file: str
    line: int
    column: int
    path: str
    code: str
    message: str
    cure: str

    def __str__(self) -> str:
        path = f" {self.path}:" if self.path else ""
        return f"{self.file}:{self.line}:{self.column}:{path} {self.message} [{self.code}]\n  cure: {self.cure}"


class InvalidProject(Refused):
    """Everything that is wrong, sorted by place, each once. `str()` lists it all."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(set(diagnostics)))
        count = len(self.diagnostics)
        message = f"{count} mistake{'s' if count != 1 else ''} in the project"
        first = self.diagnostics[0]
        super().__init__(message, code="invalid_project", where=f"{first.file}:{first.line}", cure=first.cure)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.diagnostics), f"{self.message} [{self.code}]"])
