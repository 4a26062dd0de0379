"""The paths of the REST API, one row each, and what each answers: a request's parts to a JSON value. Sockets are `server.py`'s.

Reference: Confluent Schema Registry 8, API reference. Contexts, metadata, rule sets and other types than AVRO are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from millstream.schemas.registry import Reference, SchemaVersion
from millstream.schemas.rest.faults import fault
from millstream.schemas.rest.settings import GLOBAL, Setting, Settings
from millstream.schemas.rest.subjects import AT_ONCE, LATEST, VERSION_MAX, Asked, Subjects

_NOT_KEPT = ("metadata", "ruleSet", "schemaTagsToAdd", "schemaTagsToRemove")


@dataclass(frozen=True)
class Call:
    """One request: the parts of its path that stand for something, its query, and its body as JSON."""

    api: Api
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def subject(self) -> str:
        return self.parts["subject"]

    @property
    def version(self) -> int:
        given = self.parts["version"]
        number = LATEST if given in ("latest", "-1") else int(given) if given.isdecimal() and len(given) < 11 else 0
        if number != LATEST and not 1 <= number <= VERSION_MAX:
            what = f"The specified version '{given[:30]}' is not a valid version id."
            raise fault("42202", what, f'it is a number from 1 to {VERSION_MAX}, or "latest"')
        return number

    @property
    def id(self) -> int:
        given = self.parts["id"]
        if not given.isdecimal() or int(given[:20]) > VERSION_MAX:
            raise fault("404", f"{given[:30]} is no schema id")
        return int(given)

    def says(self, name: str) -> bool:
        return self.query.get(name, "").lower() == "true"

    @property
    def window(self) -> tuple[int, int | None]:
        """`offset` and `limit`; a limit below 1 is none."""
        numbers = [self.query.get(name) or "0" for name in ("offset", "limit")]
        try:
            offset, limit = (min(int(number), VERSION_MAX) for number in numbers)
        except ValueError:
            raise fault("400", "offset and limit are numbers") from None
        return max(0, offset), limit if limit > 0 else None

    def page(self, values: Sequence[Any]) -> list[Any]:
        """The part of a list that `offset` and `limit` ask for."""
        offset, limit = self.window
        return list(values[offset:] if limit is None else values[offset : offset + limit])

    @property
    def document(self) -> Mapping[str, Any]:
        if not isinstance(self.body, dict):
            raise fault("400", "the body is no JSON object")
        return self.body

    @property
    def asked(self) -> Asked:
        body = self.document
        kind = body.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise fault("42201", f"Invalid schema type {str(kind)[:30]}", "this registry keeps AVRO")
        for name in _NOT_KEPT:
            if body.get(name):
                raise fault("42201", f"this registry does not keep {name}")
        text = body.get("schema")
        if not isinstance(text, str) or not text.strip():
            raise fault("42201", "Empty schema")
        number = _whole(body, "id"), _whole(body, "version")
        return Asked(text, _references(body.get("references") or []), *number, normalize=self.says("normalize"))


@dataclass(frozen=True)
class Route:
    """`path` as in `/subjects/{subject}`. `guarded`: takes the token where one is set. `says`: what it does, for the reference."""

    method: str
    path: str
    answer: Callable[[Call], Any]
    says: str
    guarded: bool = False

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        wanted = self.path.strip("/").split("/")
        if len(wanted) != len(segments):
            return None
        pairs = list(zip(wanted, segments, strict=True))
        fits = all(w == s or (w.startswith("{") and s) for w, s in pairs)
        return {w[1:-1]: unquote(s) for w, s in pairs if w.startswith("{")} if fits else None


@dataclass(frozen=True)
class Api:
    """Answers requests. Safe for several threads."""

    subjects: Subjects
    settings: Settings

    def answer(self, method: str, path: str, query: str, body: bytes, *, trusted: bool) -> Any:
        """A JSON value. `path` as it came: a subject may hold an encoded slash. Raises Refused with one of `faults.CODES`.

        `trusted`: whoever asks has shown the token, or none is set.
        """
        segments = path.strip("/").split("/")
        found = [(route, parts) for route in ROUTES if (parts := route.match(segments)) is not None]
        if not found:
            raise fault("404", "HTTP 404 Not Found")
        # A path of words stands before one where a subject could be so called: rows are in that order.
        here = next(((route, parts) for route, parts in found if route.method == method), None)
        if here is None:
            raise fault("405", f"HTTP 405 Method Not Allowed: {', '.join(route.method for route, _ in found)}")
        route, parts = here
        if route.guarded and not trusted:
            raise fault("40101", "Unauthorized", "send the registry's token: Authorization: Bearer …, or as a password")
        return route.answer(Call(self, parts, dict(parse_qsl(query)), _json(body) if method in ("POST", "PUT") else None))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise fault("400", "the body is no JSON") from None


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    """A number that may be left out; 0 and below say nothing, as Confluent's clients send them."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value > VERSION_MAX:
        raise fault("42202" if name == "version" else "42201", f"{name} is a number")
    return value if value > 0 else None


def _references(given: Any) -> tuple[Reference, ...]:
    try:
        found = tuple(Reference(r["name"], r["subject"], r["version"]) for r in given)
    except (TypeError, KeyError):
        raise fault("42201", "a reference has a name, a subject and a version") from None
    if not all(isinstance(r.name, str) and isinstance(r.subject, str) and type(r.version) is int for r in found):
        raise fault("42201", "a reference's name and subject are text, its version is a number")
    return found


# ---- what is answered -------------------------------------------------------------------------------------------------


def _schema(version: SchemaVersion) -> dict[str, Any]:
    made: dict[str, Any] = {"schema": version.text}
    if version.references:
        made["references"] = [{"name": r.name, "subject": r.subject, "version": r.version} for r in version.references]
    return made


def _version(version: SchemaVersion) -> dict[str, Any]:
    return {"subject": version.subject, "version": version.version, "id": version.id, **_schema(version)}


def _register(call: Call) -> Any:
    made = call.api.subjects.register(call.subject, call.asked)
    return {"id": made.id, "version": made.version}


def _compatible(call: Call, number: int | None) -> Any:
    why = call.api.subjects.incompatibilities(call.subject, call.asked, number)
    return {"is_compatible": not why, **({"messages": why} if call.says("verbose") else {})}


def _by_id(call: Call) -> Any:
    more = {"maxId": call.api.subjects.last_id()} if call.says("fetchMaxId") else {}
    return {**_schema(call.api.subjects.by_id(call.id)), **more}


def _subject_names(call: Call) -> Any:
    names = call.api.subjects.names(_prefix(call, "subjectPrefix"), deleted=call.says("deleted"), deleted_only=call.says("deletedOnly"))
    return call.page(names)


def _prefix(call: Call, name: str) -> str:
    """Of subjects; the words for every context (`:*:`) mean the only one there is."""
    return call.query.get(name, "").removeprefix(":*:")


def _every(call: Call) -> Any:
    offset, limit = call.window
    how = {"deleted": call.says("deleted"), "latest_only": call.says("latestOnly")}
    found = call.api.subjects.every(_prefix(call, "subjectPrefix"), **how, offset=offset, limit=min(limit or AT_ONCE, AT_ONCE))
    return [_version(v) for v in found]


def _users(call: Call) -> list[SchemaVersion]:
    wanted = call.query.get("subject")
    return [v for v in call.api.subjects.users(call.id, deleted=call.says("deleted")) if wanted in (None, v.subject)]


def _level(call: Call, subject: str) -> Any:
    return {"compatibilityLevel": call.api.settings.get("level", subject, or_global=call.says("defaultToGlobal"))}


def _set_level(call: Call, subject: str) -> Any:
    body = call.document
    for name in body:
        if name != "compatibility" and body[name]:
            raise fault("42203", f"this registry does not have the setting {name[:40]}")
    return {"compatibility": call.api.settings.set("level", subject, body.get("compatibility"))}


def _mode(call: Call, subject: str) -> Any:
    return {"mode": call.api.settings.get("mode", subject, or_global=call.says("defaultToGlobal"))}


def _set_mode(call: Call, subject: str) -> Any:
    return {"mode": call.api.settings.set("mode", subject, call.document.get("mode"), force=call.says("force"))}


def _forget(call: Call, setting: Setting, answer: str, subject: str) -> Any:
    return {answer: call.api.settings.delete(setting, subject)}


def _delete_subject(call: Call) -> Any:
    return call.api.subjects.delete(call.subject, permanent=call.says("permanent"))


def _delete_version(call: Call) -> Any:
    return call.api.subjects.delete_version(call.subject, call.version, permanent=call.says("permanent"))


def _get_version(call: Call) -> SchemaVersion:
    return call.api.subjects.version(call.subject, call.version, deleted=call.says("deleted"))


_S, _V = "/subjects/{subject}", "/subjects/{subject}/versions"
_C = "/compatibility/subjects/{subject}/versions"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/", lambda c: {}, "`{}`: it is there"),
    Route("GET", "/subjects", _subject_names, "the subjects' names; `subjectPrefix`, `deleted`, `deletedOnly`"),
    Route(
        "POST",
        _S,
        lambda c: _version(c.api.subjects.lookup(c.subject, c.asked, deleted=c.says("deleted"))),
        "the version that has this schema; `normalize`, `deleted`",
    ),
    Route("DELETE", _S, _delete_subject, "hide the subject; `permanent` removes a hidden one", guarded=True),
    Route(
        "GET",
        _V,
        lambda c: c.page(c.api.subjects.versions(c.subject, deleted=c.says("deleted"), deleted_only=c.says("deletedOnly"))),
        "its versions' numbers; `deleted`, `deletedOnly`",
    ),
    Route("POST", _V, _register, "register a schema: its id and version; `normalize`"),
    Route("GET", _V + "/{version}", lambda c: _version(_get_version(c)), "a version, by number, `latest` or `-1`; `deleted`"),
    Route("DELETE", _V + "/{version}", _delete_version, "hide the version; `permanent` removes a hidden one", guarded=True),
    Route("GET", _V + "/{version}/schema", lambda c: json.loads(_get_version(c).text), "the schema alone; `deleted`"),
    Route(
        "GET",
        _V + "/{version}/referencedby",
        lambda c: c.page(c.api.subjects.referenced_by(c.subject, c.version)),
        "the ids of schemas that refer to that version",
    ),
    Route("GET", "/schemas", _every, f"every version, {AT_ONCE} at most at once; `subjectPrefix`, `deleted`, `latestOnly`"),
    Route("GET", "/schemas/types", lambda c: ["AVRO"], '`["AVRO"]`'),
    Route("GET", "/schemas/ids/{id}", _by_id, "the schema with that id; `fetchMaxId`"),
    Route("GET", "/schemas/ids/{id}/schema", lambda c: json.loads(c.api.subjects.by_id(c.id).text), "the schema alone"),
    Route(
        "GET",
        "/schemas/ids/{id}/subjects",
        lambda c: c.page(sorted({v.subject for v in _users(c)})),
        "the subjects that have it; `subject`, `deleted`",
    ),
    Route(
        "GET",
        "/schemas/ids/{id}/versions",
        lambda c: c.page([{"subject": v.subject, "version": v.version} for v in _users(c)]),
        "the versions that have it; `subject`, `deleted`",
    ),
    Route("POST", _C, lambda c: _compatible(c, None), "whether the subject's level lets a schema be its next; `verbose`"),
    Route("POST", _C + "/{version}", lambda c: _compatible(c, c.version), "whether its level lets a schema follow that version; `verbose`"),
    Route("GET", "/config", lambda c: _level(c, GLOBAL), "the level of the registry"),
    Route("PUT", "/config", lambda c: _set_level(c, GLOBAL), "set it", guarded=True),
    Route("DELETE", "/config", lambda c: _forget(c, "level", "compatibilityLevel", GLOBAL), "back to BACKWARD", guarded=True),
    Route("GET", "/config/{subject}", lambda c: _level(c, c.subject), "the subject's own level; `defaultToGlobal`"),
    Route("PUT", "/config/{subject}", lambda c: _set_level(c, c.subject), "set it", guarded=True),
    Route(
        "DELETE",
        "/config/{subject}",
        lambda c: _forget(c, "level", "compatibilityLevel", c.subject),
        "back to the registry's level",
        guarded=True,
    ),
    Route("GET", "/mode", lambda c: _mode(c, GLOBAL), "the mode of the registry"),
    Route("PUT", "/mode", lambda c: _set_mode(c, GLOBAL), "set it; `force`", guarded=True),
    Route("GET", "/mode/{subject}", lambda c: _mode(c, c.subject), "the subject's own mode; `defaultToGlobal`"),
    Route("PUT", "/mode/{subject}", lambda c: _set_mode(c, c.subject), "set it; `force`", guarded=True),
    Route("DELETE", "/mode/{subject}", lambda c: _forget(c, "mode", "mode", c.subject), "back to the registry's mode", guarded=True),
    Route("GET", "/contexts", lambda c: ["."], '`["."]`: there is one context'),
)
