"""The list of source databases: one row each. A new one costs its folder and a line here."""

from __future__ import annotations

from millstream.components import Component
from millstream.sources.cockroach.options import Options as Cockroach
from millstream.sources.postgres.options import Options as Postgres

KINDS: tuple[Component, ...] = (
    Component("cockroachdb", Cockroach, "millstream.sources.cockroach.source:open_source", derives=True),
    Component(
        "postgres", Postgres, "millstream.sources.postgres.source:open_source", lookup="millstream.sources.postgres.lookup:open_lookup"
    ),
)
