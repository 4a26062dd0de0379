"""The help is the manual: its text is kept, every command teaches by an example, every exit code is said."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from cyclopts import App

from millstream.cli.app import build, call
from millstream.cli.exits import MEANING
from millstream.cli.output import Secrets

GOLDEN = Path(__file__).parent / "help.txt"


def commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command by its words, groups too, in the order of their names."""
    yield path
    for name in sorted(app.resolved_commands()):
        if not name.startswith("-"):
            yield from commands(app[name], (*path, name))


def all_commands() -> list[tuple[str, ...]]:
    return list(commands(build([], None, Secrets())))  # type: ignore[arg-type]  # nothing is opened by asking for help


@pytest.fixture(scope="module")
def helped() -> dict[tuple[str, ...], str]:
    """Words of a command → its help, 100 columns wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        return {words: help_of(words) for words in all_commands()}


def help_of(words: tuple[str, ...]) -> str:
    with redirect_stdout(io.StringIO()) as out:
        assert call([*words, "--help"], None, Secrets()) == 0  # type: ignore[arg-type]  # nothing is opened by asking for help
    return out.getvalue()


def test_the_help_is_as_it_was(helped) -> None:
    texts = "\n".join(f"$ millstream {' '.join((*words, '--help'))}\n{helped[words]}" for words in all_commands())
    said = "\n".join(line.rstrip() for line in texts.splitlines()) + "\n"
    if os.environ.get("MILLSTREAM_WRITE_GOLDEN"):
        GOLDEN.write_text(said)
    assert said == GOLDEN.read_text(), "changed on purpose? MILLSTREAM_WRITE_GOLDEN=1 writes it anew"


def test_every_command_teaches_by_an_example(helped) -> None:
    groups = ("sources", "topics", "schemas", "registry", "products", "searches", "backfill")
    words = [w for w in all_commands() if len(w) == 2 or (len(w) == 1 and w[0] not in groups)]
    assert len(words) >= 20
    assert [w for w in words if f"Example: millstream {' '.join(w)}" not in helped[w].replace("--json ", "")] == []


def test_every_exit_code_is_said(helped) -> None:
    text = " ".join(helped[()].split())
    assert [code for code, meaning in MEANING.items() if f"{code} {meaning.replace('`', '')}" not in text] == []


def test_every_command_knows_the_options_of_all(helped) -> None:
    assert [
        w for w in all_commands() if not {"--json", "--project PATH"} <= {o for o in ("--json", "--project PATH") if o in helped[w]}
    ] == []
