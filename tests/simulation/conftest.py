"""The simulations share their worlds: one may import from another, and from the compiler's random queries."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "pipelines" / "sql"))
sys.path.append(str(Path(__file__).parents[1] / "unit" / "sinks"))
