"""The house's papers say what is so: commands exist, dependencies have reasons, and no file speaks of one machine.

Each check is also shown a made-up text that breaks it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Spelled in pieces, so that this file passes its own check.
REGISTRY_HOSTS = tuple(".".join(pieces) for pieces in (
    ("pypi", "org"), ("pythonhosted", "org"), ("repo1", "maven"), ("repo", "maven"), ("npmjs", "org"), ("npmjs", "com"),
    ("registry", "yarnpkg"), ("crates", "io"), ("conda", "anaconda"), ("index", "docker"), ("proxy", "golang"),
))  # fmt: skip
ONE_MACHINE = re.compile(r"(?<![\w.~}-])/(?:home|Users|root|work)/\w")


def targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def make_commands(text: str) -> set[str]:
    """Every target named after `make` in code: a fenced block's line, or inline code."""
    code = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`[^`\n]+`", text)
    return {t for c in code for t in re.findall(r"\bmake ([a-z][a-z-]*)", c)}


def dependency_names(pyproject: str) -> set[str]:
    project = tomllib.loads(pyproject)
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return {re.split(r"[\[<>=!~ ;]", w)[0].lower() for w in wanted}


def reasons(architecture: str) -> dict[str, str]:
    """Table rows `| name | reason |`, several names joined by commas: name → reason."""
    rows = re.findall(r"^\| ([\w, `.\[\]-]+?) \| (.+?) \|$", architecture, re.MULTILINE)
    return {name.strip(" `").lower(): reason for names, reason in rows for name in names.split(",")}


def tracked() -> list[Path]:
    """Every text file that git keeps."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [p for n in names if n and (p := ROOT / n).is_file() and b"\0" not in p.read_bytes()[:4096]]


def outside_names(files: Iterable[tuple[str, str]]) -> Iterator[str]:
    """file:line of every registry host and every path of one person's machine."""
    for name, text in files:
        for number, line in enumerate(text.splitlines(), 1):
            if any(host in line for host in REGISTRY_HOSTS):
                yield f"{name}:{number}: names a package registry's host; the client's own setting decides"
            if ONE_MACHINE.search(line):
                yield f"{name}:{number}: names a path of one machine"


def dead_links(files: Iterable[tuple[Path, str]]) -> Iterator[str]:
    for path, text in files:
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in link and not (path.parent / link).exists():
                yield f"{path}: {link} is not there"


def papers() -> list[tuple[Path, str]]:
    return [(p, p.read_text()) for p in tracked() if p.suffix == ".md"]


def test_every_make_command_in_the_papers_exists() -> None:
    known = targets((ROOT / "Makefile").read_text())
    assert {"demo", "test", "test-all", "check", "faults", "bench"} <= known
    assert {(p.name, t) for p, text in papers() for t in make_commands(text) - known} == set()
    assert {"demo", "test"} <= make_commands((ROOT / "README.md").read_text())


def test_a_made_up_command_is_found() -> None:
    assert make_commands("Say `make dmeo`, then\n```sh\nmake -s\nmake test\n```\nor make believe") == {"dmeo", "test"}


def test_every_dependency_has_a_reason() -> None:
    given = reasons((ROOT / "ARCHITECTURE.md").read_text())
    wanted = dependency_names((ROOT / "pyproject.toml").read_text())
    assert {"pyarrow", "pytest"} <= wanted
    assert sorted(wanted - {name for name, reason in given.items() if len(reason.split()) >= 3}) == []


def test_a_dependency_without_a_reason_is_found() -> None:
    made_up = '[project]\ndependencies = ["one[extra]>=2", "two"]\n[dependency-groups]\ndev = ["three==1"]'
    assert dependency_names(made_up) - set(reasons("| one, three | because of this |")) == {"two"}


def test_nothing_names_a_registry_or_a_machine() -> None:
    files = tracked()
    assert len(files) > 30
    assert list(outside_names((p.relative_to(ROOT).as_posix(), p.read_text()) for p in files)) == []


def test_a_registry_or_a_machine_is_found() -> None:
    assert len(list(outside_names([("a", f"see https://{REGISTRY_HOSTS[0]}/x\n\ncd /{'home'}/me/x")]))) == 2
    assert list(outside_names([("a", "the home/ folder, ~/home/x, ${PLACE}/work/x")])) == []


def test_every_link_leads_somewhere() -> None:
    assert list(dead_links(papers())) == []


def test_a_dead_link_is_found() -> None:
    assert len(list(dead_links([(ROOT / "README.md", "[a](nowhere.md) [b](Makefile) [c](https://example.com)")]))) == 1


def test_the_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_decision_is_dated_and_named() -> None:
    decisions = [p for p, _ in papers() if p.parent.name == "decisions"]
    assert decisions
    assert [p.name for p in decisions if not re.fullmatch(r"\d{8}-[a-z0-9-]+\.md", p.name)] == []
