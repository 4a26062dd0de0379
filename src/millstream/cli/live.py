"""What a person sees while the mesh runs: a table that moves in a terminal, lines elsewhere, JSON lines for programs.

All that it knows are the states it is shown, a few times a second; it decides nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from millstream.cli.output import Output, cell, plain_table
from millstream.engine.runner import PartStatus

LINES_EVERY_S = 5.0
RATE_OVER_S = 3.0


class View(Protocol):
    """`shown` wraps the run; `watch` is called with every part's present status."""

    def shown(self) -> AbstractContextManager[object]: ...

    def watch(self, parts: Sequence[PartStatus]) -> None: ...


def view(output: Output, clock: Callable[[], float] = time.monotonic) -> View:
    """The view that fits where the output goes."""
    if output.as_json:
        return Lines(output, clock, _json_lines)
    if output.out.is_terminal:
        return Moving(output, clock)
    return Lines(output, clock, _text_lines)


class Rates:
    """Events a second of each part, over the last few seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def of(self, part: PartStatus) -> float:
        """Notes the count and gives the rate; 0 until there are two looks."""
        now = self._clock()
        seen = self._seen.setdefault(part.name, deque(maxlen=256))
        seen.append((now, part.events))
        while len(seen) > 2 and now - seen[0][0] > RATE_OVER_S:
            seen.popleft()
        (since, before), (at, count) = seen[0], seen[-1]
        return (count - before) / (at - since) if at > since else 0.0


class Moving:
    """A table in a terminal, drawn over itself."""

    def __init__(self, output: Output, clock: Callable[[], float]) -> None:
        self._output, self._rates = output, Rates(clock)
        self._live = Live(console=output.out, auto_refresh=False, transient=False)

    def shown(self) -> AbstractContextManager[object]:
        return self._live

    def watch(self, parts: Sequence[PartStatus]) -> None:
        self._live.update(Group(self._table(parts), *self._reasons(parts)), refresh=True)

    def _table(self, parts: Sequence[PartStatus]) -> Table:
        table = plain_table(("part", "state", "events", "/s", "lag", "doing"))
        for p in parts:
            table.add_row(p.name, cell(p.state), cell(p.events), cell(round(self._rates.of(p))), cell(p.lag), _doing(p))
        return table

    def _reasons(self, parts: Sequence[PartStatus]) -> list[Text]:
        blot = self._output.secrets.blot
        reasons = [Text(f"{p.name}: {blot(p.reason)}", "red" if p.state == "failed" else "yellow") for p in parts if p.reason]
        cures = [Text(f"  cure: {blot(p.cure)}", "green") for p in parts if p.cure]
        return reasons + cures


def _doing(part: PartStatus) -> Table | Text:
    """What takes long, with a bar where its end is known."""
    if not part.doing:
        return Text()
    row = Table.grid(padding=(0, 1))
    words = Text(f"{part.doing} {part.done:,}" + (f" of about {part.total:,}" if part.total else ""))
    if part.total:
        row.add_row(ProgressBar(part.total, min(part.done, part.total), width=24), words)
    else:
        row.add_row(words)
    return row


Render = Callable[[Output, Sequence[PartStatus], Rates], None]


class Lines:
    """Lines: at once where a state changes, and every few seconds while anything moves."""

    def __init__(self, output: Output, clock: Callable[[], float], render: Render) -> None:
        self._output, self._clock, self._render, self._rates = output, clock, render, Rates(clock)
        self._states: dict[str, tuple[str, str]] = {}
        self._counts: tuple[tuple[int, int, int], ...] = ()
        self._said_at = clock()

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def watch(self, parts: Sequence[PartStatus]) -> None:
        changed = [p for p in parts if self._states.get(p.name) != (p.state, p.reason)]
        self._states = {p.name: (p.state, p.reason) for p in parts}
        counts = tuple((p.events, p.lag, p.done) for p in parts)
        if self._clock() - self._said_at >= LINES_EVERY_S and counts != self._counts:
            self._said_at, self._counts, changed = self._clock(), counts, list(parts)
        if changed:
            self._render(self._output, changed, self._rates)


def _text_lines(output: Output, parts: Sequence[PartStatus], rates: Rates) -> None:
    for p in parts:
        rate = rates.of(p)
        words = [f"{p.name}: {p.state}", f"{p.events:,} events" if p.events else "", f"{rate:,.0f}/s" if rate else ""]
        words += [f"lag {p.lag:,}" if p.lag else "", f"{p.doing} {p.done:,} of about {p.total:,}" if p.doing else "", p.reason]
        output.say(", ".join(w for w in words if w))
        if p.cure:
            output.say(f"  cure: {p.cure}")
    output.out.file.flush()


def _json_lines(output: Output, parts: Sequence[PartStatus], rates: Rates) -> None:
    for p in parts:
        output.line(document(p, output) | {"rate": round(rates.of(p), 1)})


def document(part: PartStatus, output: Output) -> dict[str, Any]:
    blot = output.secrets.blot
    return {**vars(part), "reason": blot(part.reason), "cure": blot(part.cure)}
