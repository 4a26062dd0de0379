"""Millstream moves and processes data between systems. Start at ARCHITECTURE.md."""

__version__ = "0.1.0"
