"""An index's columns beside those that its documents will have: whether they compare, and documents in another version of their row.

Fields are known by their ids, members of records too. Most changes leave the documents that are there as they are: a column that is
new is nowhere in them, one that was dropped stays until its row changes. Where a field changes its name or the form of its values,
gets the name of another, or says what old rows have in it, documents must be made anew from what the index keeps of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from millstream.events.fills import fill_value
from millstream.events.types import Constant, Field, Type
from millstream.queries.values import FAMILIES
from millstream.sinks import jsontext

# Kinds of one family whose values are written in one form.
_FORMS = (("int32", "int64"), ("text", "uuid"))


def held(columns: Mapping[str, Type], ids: Mapping[str, int], fields: Sequence[Field]) -> tuple[Field, ...]:
    """The index's columns as fields. One of which no id is known is the field of its name, if there is one."""
    unknown = {f.name: f.id for f in fields if f.id not in ids.values()}
    below = {name: -place for place, name in enumerate(columns, 1)}
    return tuple(Field(name, type_, ids.get(name, unknown.get(name, below[name]))) for name, type_ in columns.items())


def merged(old: Type, new: Type) -> Type | None:
    """What a column is whose documents were indexed as `old` and now come as `new`; None where the two do not compare.

    Members that only the old one has stay: documents still hold them.
    """
    if old.kind == new.kind == "list":
        assert old.element is not None and new.element is not None
        element = merged(old.element, new.element)
        return None if element is None else Type("list", element=element)
    if old.kind == new.kind == "record":
        was = {f.id: f for f in old.fields}
        now: list[Field] = []
        for f in new.fields:
            type_ = merged(was[f.id].type, f.type) if f.id in was else f.type
            if type_ is None:
                return None
            now.append(replace(f, type=type_))
        taken, ids = {f.name for f in now}, {f.id for f in now}
        return Type("record", fields=(*now, *(f for f in old.fields if f.id not in ids and f.name not in taken)))
    same = old.kind == new.kind or FAMILIES.get(old.kind, "") == FAMILIES.get(new.kind)
    return new if same else None


def outdates(old: Type, new: Type) -> bool:
    """Whether documents of `old` must be made anew to be asked as `new`. The two compare."""
    if old.element is not None and new.element is not None:
        return outdates(old.element, new.element)
    if new.kind != "record":
        same = old.kind == new.kind and old.scale == new.scale
        return not same and not any(old.kind in form and new.kind in form for form in _FORMS)
    was, names = {f.id: f for f in old.fields}, {f.name for f in old.fields}
    return any(
        (f.name in names or isinstance(f.fill, Constant))
        if (had := was.get(f.id)) is None
        else had.name != f.name or outdates(had.type, f.type)
        for f in new.fields
    )


def reshaped(value: Any, old: Type, new: Type) -> Any:
    """A document's value, or the whole of it, in the new version: members by id, one that it had not by its fill."""
    if value is None:
        return None
    if old.element is not None and new.element is not None:
        return [reshaped(item, old.element, new.element) for item in value]
    if new.kind == "record":
        was = {f.id: f for f in old.fields}
        return {f.name: reshaped(value.get(was[f.id].name), was[f.id].type, f.type) if f.id in was else _fill(f) for f in new.fields}
    return value


def _fill(f: Field) -> Any:
    if not isinstance(f.fill, Constant):
        return None
    value = pa.array([fill_value(f.type, f.fill.text)], f.type.arrow)
    return json.loads(jsontext.values(value, f.type)[0].as_py())
