"""Which topics there are and what their columns are: from what is applied, and where that does not say, from the sources."""

from __future__ import annotations

from collections.abc import Iterator

from millstream.catalogue.controller import accepted, published
from millstream.catalogue.known import Known, known
from millstream.cli.mesh import Mesh
from millstream.errors import MillstreamError


def applied(mesh: Mesh) -> Known:
    """The topics as they may be run: in the schemas that were accepted."""
    return known(mesh.topics, mesh.registry, accepted(mesh.catalogue.pipelines()))


def registered(mesh: Mesh) -> Known:
    """The topics as they are: source topics in their newest schema."""
    return known(mesh.topics, mesh.registry, published(mesh.catalogue.pipelines()))


def discovered(mesh: Mesh) -> Known:
    """`registered`, and the tables that are not topics yet, as their servers have them. Raises what a source raises."""
    there = registered(mesh)
    for name in _unknown(mesh, there):
        with mesh.opened(name) as source:
            there = there.and_discovered(name, source.tables())
    return there


def discovered_as_far_as_possible(mesh: Mesh) -> tuple[Known, list[MillstreamError]]:
    """`discovered`, with the faults of the sources that do not answer in place of their tables."""
    there, faults = registered(mesh), []
    for name in _unknown(mesh, there):
        try:
            with mesh.opened(name) as source:
                there = there.and_discovered(name, source.tables())
        except MillstreamError as error:
            faults.append(error)
    return there, faults


def _unknown(mesh: Mesh, there: Known) -> Iterator[str]:
    return (s.name for s in mesh.project.sources if there.missing(s))
