"""The list of sinks: light to read, and every mistake in the options is one of pydantic's."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from millstream.components import find
from millstream.sinks.kinds import KINDS


def test_reading_the_list_loads_no_driver() -> None:
    code = "import sys, millstream.sinks.kinds; print(*{'pyarrow', 'pyiceberg', 'tantivy', 'duckdb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jsonl", {}),
        ("jsonl", {"file": ""}),
        ("jsonl", {"file": "x", "flie": "y"}),
        ("iceberg", {"table": "no_namespace"}),
        ("iceberg", {"table": "a.b", "mode": "mirror"}),
        ("search", {"index": "../up"}),
        ("search", {"index": ""}),
        ("search", {"index": "a", "heap_mb": 1}),
        ("search", {"index": "a", "fields": {"title": "words"}}),
    ],
)
def test_mistaken_options_are_refused(kind: str, options: dict) -> None:
    with pytest.raises(ValidationError):
        find(KINDS, kind).options(**options)
