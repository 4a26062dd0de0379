"""How many rows of a backfill may stand before a live change: so few that it waits hardly longer than it would without them. Pure.

A live change waits for what its readers are doing when it comes, and is then written together with the rows beside it. What a reader takes
for its usual work is seen in its moves, and what a row costs it in those moves that a chunk was in. How many records were in a move says
nothing of that: the longer one takes, the more there is for the next. Of these costs, one after the other down to a sink, a chunk may add
a share to what the way takes anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

SHARE = 0.15
"""Of what the readers on a way take for their usual work, which one chunk may add. A change waits for that work twice at worst, for what is
done when it comes and for its own, and meets one chunk."""
USUAL_MIN_S = 0.2
"""Below this nobody feels a share."""
ROWS_MIN, ROWS_FIRST, ROWS_MAX = 200, 500, 5_000
"""Of a chunk while anybody reads along. Smaller ones cost the database and every reader more rounds than they save anybody."""
ROWS_READ = 1_000
"""So many may be read at once whatever that takes: it is mostly the round trip."""
THROTTLED_EVERY_S = 0.25
KNOCK_ON_MAX = 10.0
MOVES_KEPT, MOVES_MIN = 16, 4


class Move(NamedTuple):
    """So many records a reader went on, the seconds that it took since the move before or since there was anything to read, and how many
    rows of a chunk were in it."""

    records: int
    took_s: float
    rows: int = 0


class Stage(NamedTuple):
    """A reader on the way: seconds of a usual move, and seconds by which each row more makes it later."""

    usual_s: float
    row_s: float


def stage(moves: Sequence[Move]) -> Stage | None:
    """None: too few moves to say. Where a chunk is in every move, smaller ones stand beside larger ones."""
    without, beside = [m for m in moves if not m.rows], sorted((m for m in moves if m.rows), key=lambda m: m.rows)
    if len(without) < MOVES_MIN:
        without, beside = beside[: len(beside) // 2], beside[len(beside) // 2 :]
    if min(len(without), len(beside)) < MOVES_MIN:
        return None
    usual_s = median(m.took_s for m in without)
    more = median(m.rows for m in beside) - median(m.rows for m in without)
    row_s = max(0.0, median(m.took_s for m in beside) - usual_s) / more if more > 0 else 0.0
    # While it takes longer, more comes in, which takes longer: the nearer it is to all that it can do, the more so.
    busy = row_s * sum(m.records for m in without) / max(sum(m.took_s for m in without), 1e-3)
    return Stage(usual_s, row_s / max(1 - busy, 1 / KNOCK_ON_MAX))


def rows(now: int, way: Sequence[Stage | None], reads: Sequence[Move] = ()) -> int:
    """Of the next chunks, where the last ones had `now`: what the way bears, in steps, as a measurement may be wrong; as many while one
    of them is not known. `reads`: chunks as the connector read them, which reads nothing else meanwhile, nor while it commits them."""
    known = [s for s in way if s is not None]
    if len(known) < len(way):
        return now
    share_s = SHARE * max(USUAL_MIN_S, sum(s.usual_s for s in known))
    row_s, read_s = sum(s.row_s for s in known), 2 * median([m.took_s / m.records for m in reads] or [0.0])
    bears = min(share_s / row_s if row_s else math.inf, max(ROWS_READ, share_s / read_s) if read_s else math.inf)
    return round(min(max(bears, now / 2, ROWS_MIN), now * 1.5, ROWS_MAX))


def throttled(rows_per_s: float) -> int:
    """Of a chunk, where a person has said how fast: a few chunks a second, none so small that it is all round trip."""
    return max(math.ceil(rows_per_s * THROTTLED_EVERY_S), min(ROWS_MIN, math.ceil(rows_per_s)))
