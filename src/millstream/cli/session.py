"""What every command is handed: the project's folder, the voice, and the way to open the mesh."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import Parameter

from millstream.cli.mesh import Mesh
from millstream.cli.output import Output
from millstream.errors import Refused
from millstream.pipelines.definitions import Project


class Wiring(Protocol):
    """What the commands need of the place that knows all."""

    def load(self, folder: Path) -> Project:
        """The project's files, with values from the environment. Raises InvalidProject with every mistake."""

    def open(self, project: Project) -> AbstractContextManager[Mesh]:
        """Its topics, registry and catalogue, made where they are not there; no source and no sink."""


@dataclass
class Session:
    """One call of the command. Everything is opened when it is first asked for."""

    folder: Path
    output: Output
    wiring: Wiring

    @cached_property
    def project(self) -> Project:
        """The project's files. Raises InvalidProject with every mistake; knows the secrets from then on."""
        project = self.wiring.load(self.folder)
        self.output.secrets.add(project.secrets)
        return project

    def mesh(self) -> AbstractContextManager[Mesh]:
        return self.wiring.open(self.project)


def not_applied(message: str) -> Refused:
    return Refused(message, code="not_applied", cure="`millstream plan` shows what would be done, `millstream apply` does it")


Here = Annotated[Session, Parameter(parse=False)]
