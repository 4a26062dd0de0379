"""Where a chunk goes on: the texts of the last key, and the order in which it is the last one.

A table may be given another order while it is read: by a type or a collation of its key, by ALTER PRIMARY KEY. Rows that come later in
the old order may come earlier in the new one. Then it is read from its first row again: repeats are harmless, gaps are not.
"""

from __future__ import annotations

from typing import Any


def place(key: list[Any] | None, order: str) -> list[Any] | None:
    """As it is kept, plain JSON."""
    return None if key is None else [*key, {"order": order}]


def key_of(after: list[Any] | None, order: str) -> list[Any] | None:
    """The texts of the key beyond which rows are read in this order; None: from the first row on. A place that was kept without an order
    is taken as it is."""
    if not after or not isinstance(after[-1], dict):
        return after
    return after[:-1] if after[-1] == {"order": order} else None
