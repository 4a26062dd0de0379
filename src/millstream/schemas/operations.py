"""What turns one row schema into another: typed operations, each knowing whether it adds or destroys. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from millstream.events.types import Constant, Field, Fill, RowSchema, Type

Kind = Literal[
    "add", "drop", "rename", "widen", "narrow", "retype", "nullable", "not_null", "default", "rekey", "doc", "tags", "reorder", "nested",
]  # fmt: skip

ADDS: frozenset[Kind] = frozenset({"add", "widen", "nullable"})
DESTROYS: frozenset[Kind] = frozenset({"drop", "narrow", "retype", "rekey"})
TYPE_CHANGES: frozenset[Kind] = frozenset({"widen", "narrow", "retype"})
ATTRIBUTES: frozenset[Kind] = frozenset({"nullable", "not_null", "default", "doc", "tags"})


@dataclass(frozen=True)
class Operation:
    """One operation on a row schema.

    `path` names the column by its old name, by its new one where it is added, and on into records for `nested`, whose `inner` is
    the operation on the member (the path of that starts in the record); elements of lists have no name in it. Of the whole row
    (`rekey`, `reorder`) it is empty, and `names_was` and `names_now` are the columns of the key or of the row.
    `in_key`: the column is one of the key's.
    """

    kind: Kind
    path: tuple[str, ...] = ()
    was: Field | None = None
    now: Field | None = None
    inner: Operation | None = None
    in_key: bool = False
    names_was: tuple[str, ...] = ()
    names_now: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """The column it is about; "" for the whole row."""
        return self.path[0] if self.path else ""

    @property
    def leaf(self) -> Operation:
        """Itself, or the operation on the innermost member."""
        return self if self.inner is None else self.inner.leaf

    @property
    def adds(self) -> bool:
        """Rows may have what none had before: a column, values, null."""
        return self.leaf.kind in ADDS

    @property
    def destroys(self) -> bool:
        """What rows have may no longer be had: a column, values, a meaning, the key."""
        return self.leaf.kind in DESTROYS

    @property
    def changes_type(self) -> bool:
        """Whether the column's values are of another type now: it is wider, narrower or another, or a member came, went or changed."""
        return self.kind in TYPE_CHANGES or (self.kind == "nested" and self.leaf.kind not in ATTRIBUTES)

    @property
    def uncovered(self) -> bool:
        """Whether the new type cannot hold what was written in the old one: it is narrower or another, or that of a member is."""
        return self.leaf.kind in ("narrow", "retype")

    def __str__(self) -> str:
        return _said(self.leaf, ".".join(self.path))


def operations(old: RowSchema, new: RowSchema) -> tuple[Operation, ...]:
    """What turns `old` into `new`, matching columns by id, members of records too. Empty exactly when the two are equal."""
    return tuple(_operations(old, new))


def covers(wide: Type, narrow: Type) -> bool:
    """Whether every value of `narrow` is a value of `wide`, with its meaning.

    Text covers no other type: 12 and "12" sort, compare and read differently. A record covers one by its members' ids.
    """
    if wide.element is not None and narrow.element is not None:
        return covers(wide.element, narrow.element)
    if wide.kind == narrow.kind == "record":
        members = {f.id: f.type for f in wide.fields}
        return all(f.id in members and covers(members[f.id], f.type) for f in narrow.fields)
    if wide == narrow:
        return True
    match wide.kind:
        case "float64":
            return narrow.kind in ("int32", "float32")
        case "numeric":
            return narrow.kind in ("int32", "int64", "decimal")
        case "int32" | "int64" | "decimal":
            if narrow.kind not in _DIGITS and narrow.kind != "decimal":
                return False
            room, need = _digits(wide, as_wide=True), _digits(narrow, as_wide=False)
            return all(a >= b for a, b in zip(room, need, strict=True))
    return False


# Digits before the point: those that all its values have room in, and how many there are of those that any number of which it holds.
_DIGITS = {"int32": (10, 9), "int64": (19, 18)}


def _digits(type_: Type, *, as_wide: bool) -> tuple[int, int]:
    """How many digits before and after the point: those it always has room for, or those it may need."""
    if type_.kind == "decimal":
        assert type_.precision is not None and type_.scale is not None
        return type_.precision - type_.scale, type_.scale
    needs, holds = _DIGITS[type_.kind]
    return (holds if as_wide else needs), 0


def _operations(old: RowSchema, new: RowSchema) -> Iterator[Operation]:
    before = {f.id: f for f in old.fields}
    after = {f.id: f for f in new.fields}
    for f in old.fields:
        if f.id not in after:
            yield Operation("drop", (f.name,), was=f, in_key=f.name in old.key)
    for f in new.fields:
        was = before.get(f.id)
        if was is None:
            yield Operation("add", (f.name,), now=f, in_key=f.name in new.key)
        elif was != f:
            yield from _of_field(was, f, was.name in old.key)
    if tuple(f.id for f in old.key_fields) != tuple(f.id for f in new.key_fields):
        yield Operation("rekey", names_was=old.key, names_now=new.key)
    kept_was, kept_now = [f.id for f in old.fields if f.id in after], [f.id for f in new.fields if f.id in before]
    if kept_was != kept_now:
        yield Operation("reorder", names_was=old.names, names_now=new.names)


def _of_field(was: Field, now: Field, in_key: bool) -> Iterator[Operation]:
    def operation(kind: Kind) -> Operation:
        return Operation(kind, (was.name,), was, now, in_key=in_key)

    if was.name != now.name:
        yield operation("rename")
    if was.type != now.type:
        yield from _of_type(was, now, in_key)
    if was.nullable != now.nullable:
        yield operation("nullable" if now.nullable else "not_null")
    if was.fill != now.fill:
        yield operation("default")
    if was.doc != now.doc:
        yield operation("doc")
    if was.tags != now.tags:
        yield operation("tags")


def _of_type(was: Field, now: Field, in_key: bool) -> Iterator[Operation]:
    """Of records, and of lists of them, one operation for each that a member needs."""
    a, b = was.type, now.type
    while a.element is not None and b.element is not None:
        a, b = a.element, b.element
    if a.kind == b.kind == "record":
        for inner in operations(RowSchema(a.fields, ()), RowSchema(b.fields, ())):
            yield Operation("nested", (was.name, *inner.path), was, now, inner, in_key)
        return
    kind: Kind = "widen" if covers(b, a) else "narrow" if covers(a, b) else "retype"
    yield Operation(kind, (was.name,), was, now, in_key=in_key)


def _said(operation: Operation, path: str) -> str:
    was, now = operation.was, operation.now
    match operation.kind:
        case "add":
            assert now is not None
            return f"added {path} ({now.type}{f', old rows {_filled(now.fill)}' if now.fill is not None else ''})"
        case "drop":
            return f"dropped {path}"
        case "rename":
            return f"renamed {path} (now {now and now.name})"
        case "widen" | "narrow" | "retype":
            assert was is not None and now is not None
            verb = {"widen": "widened", "narrow": "narrowed", "retype": "retyped"}[operation.kind]
            return f"{verb} {path} ({was.type} is now {now.type})"
        case "nullable":
            return f"{path} may be null now"
        case "not_null":
            return f"{path} is never null now"
        case "default":
            return f"old rows {_filled(now.fill if now else None)} in {path}"
        case "doc":
            return f"described {path}" if now and now.doc else f"no longer described {path}"
        case "tags":
            return f"tagged {path} ({', '.join(now.tags) if now and now.tags else 'no tag now'})"
        case "rekey":
            return f"rekeyed {', '.join(operation.names_was)} (now {', '.join(operation.names_now)})"
    return f"{path or 'columns'} in another order"


def _filled(fill: Fill | None) -> str:
    if isinstance(fill, Constant):
        return f"have '{fill.text}'"
    return "have null" if fill is None else "have values not said yet"
