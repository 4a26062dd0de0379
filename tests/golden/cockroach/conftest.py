"""Makes `recordings` and `counts` importable here, as they are for the script that writes the page of counts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
