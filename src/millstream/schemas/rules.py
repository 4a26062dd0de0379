"""What a consumer does about a change of a topic's schema: the table of verdicts by operation, and rules of the user's own. Pure.

Which consumer uses what is asked of `pipelines/`; who carries a verdict out is `engine/`.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice
from typing import Literal, get_args

from millstream.errors import without_secrets
from millstream.events.envelope import value_schema
from millstream.events.types import RowSchema
from millstream.schemas.avrocompat import AvroMode, check
from millstream.schemas.operations import Kind, Operation, operations

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
    if operation.kind == "nested" and operation.leaf.kind in ("add", "rename"):
        named = False  # a column is used whole: with a new member it is another value, as a row with a new column is to `*`
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


# ---- rules of the user's own ---------------------------------------------------------------------------------------------

Mode = Literal["consumer"] | AvroMode
"""What `compatibility:` may say. consumer: the table above, and nothing beside it."""
MODES: tuple[Mode, ...] = ("consumer", *get_args(AvroMode))

_VIOLATIONS_MAX = 100
_SCOPE = re.compile(r"mesh|(domain|source|topic|step):\S+")
_TRACEBACK_LINES = 4


@dataclass(frozen=True)
class Violation:
    """Why a change stops a consumer: what is wrong, where (topic and column), why that matters, and the way out. `rule` is the name
    of the user's rule that says so; `judge_change` sets it."""

    what: str
    where: str
    why: str
    cure: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


@dataclass(frozen=True)
class Change:
    """What a rule is given: a topic's schema changes under one consumer.

    `consumer` is "pipeline.step", or "pipeline.sink …" of a sink; `source` is the source, pipeline or product that writes `topic`.
    `domain` is the consumer's and `topic_domain` the topic's, "" where the files name none. `columns_used` are those of `old` that
    the consumer uses; `star`: it reads columns that it does not name, so a new one too. `earlier`: every version before `new`,
    oldest first; none given, it is `old` alone.
    """

    consumer: str
    owner: str
    topic: str
    source: str
    old: RowSchema
    new: RowSchema
    columns_used: frozenset[str]
    star: bool = False
    domain: str = ""
    topic_domain: str = ""
    earlier: tuple[RowSchema, ...] = ()

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """What turns `old` into `new`."""
        return operations(self.old, self.new)


@dataclass(frozen=True)
class Rule:
    """A function that says what in a change must not be. It concerns the changes in `scope`; `place` is the file and line it is from."""

    scope: str
    judge: Callable[[Change], Iterable[Violation] | None]
    name: str
    place: str

    def __call__(self, change: Change) -> Iterable[Violation] | None:
        return self.judge(change)

    def concerns(self, change: Change) -> bool:
        kind, _, glob = self.scope.partition(":")
        if kind == "mesh":
            return True
        named = {"domain": (change.domain, change.topic_domain), "source": (change.source,), "topic": (change.topic,)}
        return any(name and fnmatchcase(name, glob) for name in named.get(kind, (change.consumer,)))


def rule(scope: str = "mesh") -> Callable[[Callable[[Change], Iterable[Violation] | None]], Rule]:
    """Makes a rule of a function. `scope`: mesh, domain:…, source:…, topic:… or step:PIPELINE.STEP, with * for any part of a name.

    Raises ValueError on any other scope, and where the function does not take one argument.
    """
    if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
        raise ValueError(f"{scope!r} is no scope: write mesh, domain:NAME, source:NAME, topic:NAME or step:PIPELINE.STEP, * for any part")

    def made(judge: Callable[[Change], Iterable[Violation] | None]) -> Rule:
        name = getattr(judge, "__name__", type(judge).__name__)
        try:
            inspect.signature(judge).bind(None)
        except TypeError:
            raise ValueError(f"the rule {name} must take one argument: the change") from None
        code = getattr(inspect.unwrap(judge), "__code__", None)
        return Rule(scope, judge, name, f"{code.co_filename}:{code.co_firstlineno}" if code else name)

    return made


def judge_change(change: Change, rules: Iterable[Rule], mode: Mode) -> list[Violation]:
    """What the mode and the rules that concern the change find wrong with it. The table of verdicts is asked beside this.

    A rule that raises, or gives something else than violations, is a violation itself: nothing passes for a rule that is broken.
    """
    found = [] if mode == "consumer" else _of_mode(change, mode)
    for r in rules:
        if r.concerns(change):
            found += _of_rule(change, r)
    return list(dict.fromkeys(found))


def _of_mode(change: Change, mode: AvroMode) -> list[Violation]:
    earlier = change.earlier or (change.old,)
    texts = [value_schema(change.topic, schema) for schema in earlier]
    found = []
    for breach in check(mode, value_schema(change.topic, change.new), texts):
        version = f"version {breach.earlier + 1}" if change.earlier else "the version before"
        why = f"{'the new schema cannot read' if breach.direction == 'backward' else 'the new schema cannot be read by'} {version}"
        cure = f"undo the change, or write another mode than compatibility: {mode} for {change.topic} or {change.consumer}"
        column = breach.path.removeprefix("before.").removeprefix("after.")
        found.append(Violation(f"not {mode}: {breach.message}", f"{change.topic}.{column}", why, cure))
    return found


def _of_rule(change: Change, rule: Rule) -> list[Violation]:
    try:
        given = list(islice(rule(change) or (), _VIOLATIONS_MAX))
    except (Exception, SystemExit) as e:
        lines = traceback.format_exception(e)[-_TRACEBACK_LINES:]
        return [_broken(change, rule, f"it raised {type(e).__name__}", without_secrets("".join(lines).rstrip()))]
    if strange := [v for v in given if not isinstance(v, Violation)]:
        return [_broken(change, rule, "it gave something that is no Violation", repr(strange[0])[:200])]
    return [replace(v, rule=rule.name) for v in given]


def _broken(change: Change, rule: Rule, what: str, why: str) -> Violation:
    cure = f"mend {rule.place}; until it says what it finds, nothing passes it"
    return Violation(f"the rule {rule.name} did not come to an end: {what}", f"{change.topic}, for {change.consumer}", why, cure, rule.name)
