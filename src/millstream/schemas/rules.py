"""What a consumer does about a change of a topic's schema: the table of verdicts by operation, and rules of the user's own. Pure.

Which consumer uses what is asked of `pipelines/`; who carries a verdict out is `engine/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from millstream.schemas.operations import Kind, Operation

Decision = Literal["ignore", "propagate", "pause"]
"""ignore: go on, with the schema that was accepted. propagate: take the new one over, and give the output its next version.
pause: stop before the first event that carries it, until its owner has decided."""


@dataclass(frozen=True)
class Row:
    """The verdicts on one operation. `adds` and `destroys` say what; "" is nothing. `example` is what follows ALTER TABLE movie,
    where a database can be told so.

    `unused`: the consumer does not use the column. `pinned`: it does, and keeps its schema. Of those that follow the topic's,
    `named`: its SQL, key or options name the column; `star`: only `*` reads it.
    """

    kind: Kind
    meaning: str
    adds: str
    destroys: str
    example: str
    unused: Decision
    pinned: Decision
    named: Decision
    star: Decision


TABLE: tuple[Row, ...] = (
    Row(
        "add", "a column that was not there", "a column", "",
        "ADD COLUMN note text DEFAULT 'x'", "ignore", "ignore", "ignore", "propagate",
    ),
    Row("drop", "a column is gone", "", "the column's values", "DROP COLUMN note", "ignore", "pause", "pause", "propagate"),
    Row(
        "rename", "the same column, known by its id, has another name", "", "",
        "RENAME COLUMN note TO remark", "ignore", "ignore", "ignore", "propagate",
    ),
    Row(
        "widen", "a type that holds every value of the old one", "values", "",
        "ALTER COLUMN year TYPE bigint", "ignore", "pause", "propagate", "propagate",
    ),
    Row(
        "narrow", "a type all of whose values the old one holds", "", "room for values",
        "ALTER COLUMN price TYPE numeric(6,2)", "ignore", "ignore", "ignore", "ignore",
    ),
    Row(
        "retype", "a type that neither holds the old one's values nor is held by it", "", "what the values meant",
        "ALTER COLUMN year TYPE text", "ignore", "pause", "pause", "pause",
    ),
    Row("nullable", "may be null", "null", "", "ALTER COLUMN note DROP NOT NULL", "ignore", "ignore", "ignore", "ignore"),
    Row("not_null", "is never null", "", "", "ALTER COLUMN note SET NOT NULL", "ignore", "ignore", "ignore", "ignore"),
    Row(
        "default", "old rows have another value in a column that they were written without", "", "",
        "", "ignore", "ignore", "ignore", "ignore",
    ),
    Row(
        "rekey", "other columns are the key, or in another order", "", "the key",
        "DROP CONSTRAINT movie_pkey, ADD PRIMARY KEY (id, year)", "pause", "pause", "pause", "pause",
    ),
    Row("doc", "described otherwise", "", "", "", "ignore", "ignore", "ignore", "ignore"),
    Row("tags", "tagged otherwise", "", "", "", "ignore", "ignore", "ignore", "ignore"),
    Row("reorder", "the same columns in another order", "", "", "", "ignore", "ignore", "ignore", "ignore"),
)  # fmt: skip
_BY_KIND: Mapping[Kind, Row] = {row.kind: row for row in TABLE}


def default_verdict(operation: Operation, used: bool, named: bool, follow: bool) -> Decision:
    """The verdict of a consumer on one operation; on a schema's change, the gravest of its operations.

    `used`: it uses the column, if only by `*`; `named`: it names it. An added column is used by who reads `*`.
    """
    if operation.in_key and operation.changes_type:
        return "pause"  # keys would be other bytes
    if operation.kind == "nested":
        # A column is used whole: what its members do, it does as a row's columns do to `*`.
        named = False
    row = _BY_KIND[operation.leaf.kind]
    if not used:
        return row.unused
    if not follow:
        return row.pinned
    return row.named if named else row.star


def gravest(decisions: Iterable[Decision]) -> Decision:
    """The verdict on a change: that on its gravest operation; of none, ignore."""
    return max(decisions, key=_GRAVITY.index, default="ignore")


_GRAVITY: tuple[Decision, ...] = ("ignore", "propagate", "pause")
