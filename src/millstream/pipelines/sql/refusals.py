"""What Millstream SQL refuses, as data: each with a code, what is said, the way out and an example.

A test compiles every example and compares place, code, message and cure; the reference lists the same rows. So the list is
complete: no construct is refused that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

from millstream.pipelines.sql.refusal import Refusal
from millstream.pipelines.sql.refused_rows import JOINS, KEYS, QUERIES, UNIONS
from millstream.pipelines.sql.refused_values import EXPRESSIONS, GROUPS, SUBQUERIES, WINDOWS

REFUSED: tuple[tuple[str, Mapping[str, Refusal]], ...] = (
    ("Queries", QUERIES), ("Joins", JOINS), ("Subqueries", SUBQUERIES), ("Groups and aggregates", GROUPS), ("Windows", WINDOWS),
    ("UNION", UNIONS), ("Keys", KEYS), ("Expressions", EXPRESSIONS),
)  # fmt: skip
REFUSALS: Mapping[str, Refusal] = {name: refusal for _, rows in REFUSED for name, refusal in rows.items()}
