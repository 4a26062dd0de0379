"""How a column is found. In a file of its own, since options name it: reading them loads nothing heavy."""

from __future__ import annotations

from typing import Literal

Treatment = Literal["text", "exact", "stored"]
