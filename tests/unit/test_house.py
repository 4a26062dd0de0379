"""The house's commands: what `make` teaches, and that CI runs the same thing a person does."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)


def test_make_alone_teaches_every_target() -> None:
    taught = set(re.findall(r"^  make ([a-z-]+) ", make().stdout, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    assert taught == phony - {"lint"}


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert os.access(script, os.X_OK)


def test_an_interpreter_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    found = subprocess.run(["make", "check", "PYTHON="], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert found.returncode != 0
    assert "Python 3.11 or newer is needed" in found.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_locked_package_has_a_hash() -> None:
    entries = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    assert len(entries) > 30
    assert [e.splitlines()[0] for e in entries if e.strip() and "--hash=sha256:" not in e] == []


def test_every_direct_dependency_is_locked() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *project["build-system"]["requires"]]
    assert {re.split(r"[\[<>=]", w)[0] for w in wanted} - locked == set()
