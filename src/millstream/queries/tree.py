"""The query as a person wrote it: a tree of conditions, each with its place in the text. It knows no index and no column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Op = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Path:
    """A field's name as written: its parts, where dots (outside backticks) were. `at`: its first character, from 0."""

    parts: tuple[str, ...]
    at: int

    def __str__(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Value:
    """A value as written, without its quotes. `quoted`: it had some, so it is text."""

    text: str
    quoted: bool
    at: int


@dataclass(frozen=True)
class Look:
    """Something to look for in text: all words of `text`, next to each other; of a prefix, the last word's beginning."""

    text: str
    kind: Literal["word", "prefix", "phrase"]
    at: int


@dataclass(frozen=True)
class Everything:
    at: int


@dataclass(frozen=True)
class Contains:
    """Every item is found in the field; without a path, in any text."""

    path: Path | None
    items: tuple[Look, ...]
    at: int


@dataclass(frozen=True)
class Compare:
    path: Path
    op: Op
    value: Value
    at: int


@dataclass(frozen=True)
class In:
    path: Path
    values: tuple[Value, ...]
    at: int


@dataclass(frozen=True)
class Between:
    path: Path
    low: Value
    high: Value
    at: int


@dataclass(frozen=True)
class Exists:
    path: Path
    at: int


@dataclass(frozen=True)
class Some:
    """ANY: one element of the list fulfils the whole condition, whose paths begin at the element."""

    path: Path
    condition: Node
    at: int


@dataclass(frozen=True)
class And:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    part: Node


Node = Everything | Contains | Compare | In | Between | Exists | Some | And | Or | Not
