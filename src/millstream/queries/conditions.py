"""A checked query: every name a route, every value in its field's family. What runs a query is made of these alone.

A condition is true or false of a document, never unknown: comparing with nothing is false, and NOT turns false into true.
Whoever compiles them to another engine's words translates these eight.
"""

from __future__ import annotations

from dataclasses import dataclass

from millstream.queries.fields import Route
from millstream.queries.values import Comparable, Family


@dataclass(frozen=True)
class Everything:
    """True of every document."""


@dataclass(frozen=True)
class Within:
    """One of the route's values lies between `low` and `high`; None is no bound, an open end does not belong to it."""

    route: Route
    family: Family
    low: Comparable | None = None
    high: Comparable | None = None
    low_open: bool = False
    high_open: bool = False


@dataclass(frozen=True)
class Found:
    """These words stand next to each other in one value of one of the routes; of a `prefix`, the last is how a word begins.

    `anywhere`: the routes are all texts of the document.
    """

    routes: tuple[Route, ...]
    words: tuple[str, ...]
    prefix: bool = False
    anywhere: bool = False


@dataclass(frozen=True)
class Present:
    """The route leads to something."""

    route: Route


@dataclass(frozen=True)
class Some:
    """One of the elements that the route leads to fulfils `part`, whose routes begin there."""

    route: Route
    part: Condition


@dataclass(frozen=True)
class AllOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class NotThat:
    part: Condition


Condition = Everything | Within | Found | Present | Some | AllOf | AnyOf | NotThat
