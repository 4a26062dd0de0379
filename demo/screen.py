"""What a demo shows: a title a step, a bar where it is long, a table for documents and verdicts. Plain text where no terminal is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from demo.compare import Verdict

WIDTH = 140


class Screen:
    def __init__(self) -> None:
        # Without a terminal nobody has said how wide a line may be.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH)
        self.started = time.monotonic()
        self.steps = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def step(self, title: str) -> None:
        self.steps += 1
        self.console.print()
        self.console.print(Text.assemble((f"{self.steps}. {title}", "bold cyan"), (f"  {self.seconds:.0f} s", "dim")))

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text("   " + text, style))

    def command(self, line: str) -> None:
        """A command as a user would type it, before it runs."""
        self.console.print(Text(f"   $ {line}", "green"))

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes how much is done. Without a terminal the title is printed once, at the end."""
        columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
        if not self.console.is_terminal:
            self.say(title)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A few rows, a column each field."""
        if not rows:
            self.say("(nothing)")
            return
        table = self._table(*rows[0])
        for row in rows:
            table.add_row(*(_shown(v) for v in row.values()))
        self.console.print(table)

    def document(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """One document twice, side by side; what changed stands out, in colour and by a mark."""
        table = self._table("", "field", "before", "after")
        for field in dict.fromkeys([*before, *after]):
            old, new = before.get(field), after.get(field)
            changed = old != new
            table.add_row("*" if changed else "", field, _shown(old), _shown(new), style="bold yellow" if changed else "")
        self.console.print(table)

    def verdicts(self, verdicts: Mapping[str, Verdict]) -> None:
        """What was compared → how it came out."""
        self.rows([{"in": name, "rows": f"{v.rows:,}", "that differ": f"{v.differing:,}"} for name, v in verdicts.items()])
        for name, verdict in verdicts.items():
            for example in verdict.examples:
                self.say(f"{name}: {example}", "bold red")

    def _table(self, *titles: str) -> Table:
        table = Table(box=box.SIMPLE_HEAD if self.console.is_terminal else None, padding=(0, 1), pad_edge=True)
        for title in titles:
            table.add_column(title, overflow="fold")
        return table


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)
