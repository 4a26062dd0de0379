"""The page about asking before a migration: its project, its commands and what they answer."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from .conftest import Shop

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "ask-before-you-migrate.md").read_text(encoding="utf-8")
FILES = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
CONSOLE = re.findall(r"```console\n\$ millstream (.*?)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def of_the_page(shop: Shop) -> Shop:
    for name, text in FILES:
        shop.write(name, text)
    return shop


def test_the_page_has_its_examples() -> None:
    assert (len(FILES), len(CONSOLE)) == (3, 2)


@pytest.mark.parametrize(("command", "answer"), CONSOLE)
def test_it_answers_what_the_page_says(of_the_page: Shop, command: str, answer: str) -> None:
    said = plain(of_the_page(*shlex.split(command)).out)
    wanted = plain(answer)
    assert said[: len(wanted)] == wanted


def plain(text: str) -> list[str]:
    """The lines without what lines a table up."""
    return [re.sub(r"─{9,}", "─", " ".join(line.split())) for line in text.strip().splitlines()]
