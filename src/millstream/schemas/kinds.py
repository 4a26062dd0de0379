"""The schema registry as a component: its options, and what asks another one. Our own is `sql.py`'s, which needs the mesh's database."""

from __future__ import annotations

from millstream.components import Component
from millstream.schemas.options import Options

REGISTRY = Component("registry", Options, "millstream.schemas.rest.client:HttpRegistry")
