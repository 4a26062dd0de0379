"""Makes `topics_mesh` importable here as it is in the processes that the tests start, and opens a mesh per test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from topics_mesh import IMPLEMENTATIONS, Mesh, opened


@pytest.fixture(scope="session", params=sorted(IMPLEMENTATIONS))
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def mesh(implementation: str, tmp_path: Path) -> Iterator[Mesh]:
    with opened(implementation, tmp_path) as made:
        yield made
