"""Makes `golden_reader` importable here, as it is for the script that records."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
