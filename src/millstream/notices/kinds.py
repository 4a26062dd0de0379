"""Telling owners, as a component: its options, and what does it."""

from __future__ import annotations

from millstream.components import Component
from millstream.notices.options import Options

NOTIFY = Component("notify", Options, "millstream.notices.teller:Teller")
"""What `notify:` in mesh.yaml may say. Light: nothing that connects is loaded here."""
