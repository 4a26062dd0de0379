"""A change of a topic's schema as a person says it, before it is made: ALTER TABLE, an Avro schema, or what `schemas diff` gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from millstream.errors import Refused
from millstream.events.types import UNKNOWN, Constant, Field, Fill, RowSchema, Type, list_of
from millstream.pipelines.typetext import parse
from millstream.schemas.given import given_schema
from millstream.sources.postgres.altertable import altered

_FILE_NAME_MAX = 1_000


def asked(change: str, topic: str, now: RowSchema, history: Sequence[RowSchema], folder: Path) -> RowSchema:
    """What `now` becomes. `change` may name a file, which is looked for in the project's `folder`, then where the person is.

    Raises Refused: "bad_alter", "schema_file" or "bad_diff".
    """
    text, where = _text(change, folder)
    if not text.lstrip().startswith(("{", "[")):
        return altered(text, now, topic.partition(".")[2], history)
    try:
        document = json.loads(text)
    except ValueError:
        document = None  # which `given_schema` says better
    if isinstance(document, dict) and isinstance(document.get("operations"), list):
        return _after(document["operations"], now, history, where)
    return given_schema(text, now, where)


def _text(change: str, folder: Path) -> tuple[str, str]:
    if len(change) < _FILE_NAME_MAX and "\n" not in change:
        for path in (folder / change, Path(change)):
            if path.is_file():
                return path.read_text(encoding="utf-8"), str(path)
    return change, ""


# ---- what `schemas diff --json` gave ----------------------------------------------------------------------------------------
_Path = tuple[str, ...]


def _after(operations: Sequence[Any], now: RowSchema, history: Sequence[RowSchema], where: str) -> RowSchema:
    """Columns are found by their names: the ids in the document may be another mesh's."""
    renamed: dict[_Path, str] = {}  # paths are told by the old names
    fields, key = now.fields, list(now.key)
    free = max((f.id for s in [now, *history] for f in s.fields), default=0) + 1
    try:
        for operation in operations:
            kind, path, said = operation["kind"], tuple(operation["path"]), operation["now"]
            if kind == "rekey":
                key = list(said)
                continue
            fields = _changed(fields, (), path, kind, said, renamed, free)
            if kind == "rename":
                renamed[path] = said["name"]
                key = [said["name"] if path == (k,) else k for k in key]
        left = {f.name for f in fields}
        return RowSchema(fields, tuple(k for k in key if k in left))
    except (LookupError, TypeError, ValueError) as e:
        cure = "give the document that `millstream schemas diff TOPIC --json` gives, of a topic that has these columns"
        raise Refused(f"not a difference that {', '.join(now.names)} could have: {e}", code="bad_diff", where=where, cure=cure) from e


def _changed(
    fields: tuple[Field, ...], above: _Path, path: _Path, kind: str, said: Any, renamed: Mapping[_Path, str], free: int
) -> tuple[Field, ...]:
    """The fields after one operation on the member at `path`, through lists; `above` is where they stand."""
    if not path:
        by_name = {f.name: f for f in fields}
        if kind != "reorder" or sorted(said) != sorted(by_name):
            raise ValueError(f"{kind} of {said}")
        return tuple(by_name[name] for name in said)
    here = (*above, path[0])
    name = renamed.get(here, path[0])
    if kind == "add" and len(path) == 1:
        if any(f.name == name for f in fields):
            raise ValueError(f"there is a column {name} already")
        return (*fields, _field(said, max([free, *(f.id + 1 for f in fields)])))
    at = next((i for i, f in enumerate(fields) if f.name == name), None)
    if at is None:
        raise ValueError(f"there is no column {name}")
    before, was, after = fields[:at], fields[at], fields[at + 1 :]
    if len(path) > 1 or kind == "reorder":
        return (*before, replace(was, type=_inside(was.type, here, path[1:], kind, said, renamed)), *after)
    return (*before, *after) if kind == "drop" else (*before, _field(said, was.id, was.type), *after)


def _inside(type_: Type, above: _Path, path: _Path, kind: str, said: Any, renamed: Mapping[_Path, str]) -> Type:
    if type_.element is not None:
        return list_of(_inside(type_.element, above, path, kind, said, renamed))
    return replace(type_, fields=_changed(type_.fields, above, path, kind, said, renamed, 1))


def _field(said: Mapping[str, Any], id_: int, was: Type | None = None) -> Field:
    type_ = was if was is not None and str(was) == said["type"] else parse(said["type"])  # which keeps the ids of its members
    if type_ is None:
        raise ValueError(f"{said['type']} is no type")
    return Field(said["name"], type_, id_, said["nullable"], _fill(said["fill"]), said["doc"], tuple(said["tags"]))


def _fill(said: Any) -> Fill | None:
    if said is None:
        return None
    return UNKNOWN if said == UNKNOWN.value else Constant(said["constant"])
