"""Makes `search_oracle`, which lies with the tests of the search index, importable here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "sinks"))
