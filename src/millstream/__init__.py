"""Millstream moves and processes data between systems. Start at ARCHITECTURE.md."""

from millstream.reading import read

__all__ = ["read"]
__version__ = "0.1.0"
