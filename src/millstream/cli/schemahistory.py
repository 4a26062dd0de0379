"""`millstream schemas history`: the versions of a topic's schema, each with its time, its cause, what changed, and what was ruled of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millstream.catalogue.verdicts import Kept
from millstream.cli.exits import OK
from millstream.cli.mesh import Mesh
from millstream.cli.session import Here
from millstream.cli.status import when
from millstream.cli.subjects import Subject, found
from millstream.errors import Refused
from millstream.events.origin import DERIVED
from millstream.events.types import RowSchema
from millstream.pipelines.descriptions import undescribed
from millstream.schemas.operations import operations
from millstream.schemas.registry import SchemaVersion

_SAID_WITHIN_S = 10.0


def history(topic: str, /, *, session: Here) -> int:
    """Show how a topic's schema came to be: every version with its time, its cause, what changed, and what was ruled of it.

    The cause of a version is what a source met in its database's log, with the place and the commit's time there; the version of
    another topic that its pipeline followed; or `millstream apply`. Below it stand the verdicts of its readers, and who resumed.

    Example: `millstream schemas history shop.public.orders`

    Parameters
    ----------
    topic
        As `millstream topics list` names it.
    """
    with session.mesh() as mesh:
        subject = found(mesh, topic)
        if not subject.topic:
            raise Refused(f"{subject.name} is not the schema of a topic's rows", code="not_rows", cure="name a topic, or its -value")
        documents = _versions(mesh, subject)
    out = session.output
    for d in documents:
        out.say(f"version {d['version']}, id {d['id']}, {d['registered_at'] or 'no time is kept'}: {d['cause']['text']}", "bold")
        for operation in d["operations"]:
            out.say(f"  {operation}")
        for verdict in d["verdicts"]:
            out.say(f"    {_sentence(verdict)}", "yellow" if verdict["verdict"] == "pause" else "")
    out.document({"topic": subject.topic, "versions": documents})
    return OK


def _versions(mesh: Mesh, subject: Subject) -> list[dict[str, Any]]:
    """Oldest first."""
    met, ruled = _met(mesh, subject.topic), mesh.catalogue.verdicts.on(subject.topic)
    found: list[dict[str, Any]] = []
    before: RowSchema | None = None
    for version in subject.versions:
        schema = subject.rows(version)
        said = [] if before is None else [str(o) for o in operations(before, schema)]
        cause = _cause(mesh, subject.topic, version, before, schema, met.get(version.id, ()))
        verdicts = [_verdict(k) for k in ruled if k.schema_id == version.id]
        told = {"version": version.version, "id": version.id, "registered_at": when(version.at)}
        found.append({**told, "cause": cause, "operations": said, "verdicts": verdicts})
        before = schema
    return found


def _met(mesh: Mesh, topic: str) -> dict[int, list[dict[str, Any]]]:
    """Version id → where its source met it in its log; a version that came back more than once."""
    there = mesh.topics.topic(topic)
    if there is None or there.origin.connector == DERIVED:
        return {}
    record = mesh.topics.producer_record(f"source.{there.origin.name}")
    found: dict[int, list[dict[str, Any]]] = {}
    for change in (record.state if record else {}).get("schema_changes", {}).get(topic, ()):
        found.setdefault(change["version_id"], []).append(change)
    return found


def _cause(
    mesh: Mesh, topic: str, version: SchemaVersion, before: RowSchema | None, schema: RowSchema, met: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What made this version: for people in `text`, for programs in `kind` and what belongs to it."""
    if before is not None and undescribed(before) == undescribed(schema):
        return {"kind": "described", "text": "what is said of its columns"}
    if met:
        places = [{"position": c["position"], "at": when(c["ts_us"] / 1e6)} for c in met]
        text = "; ".join(f"met in the source's log at {p['position']}, committed {p['at']}" for p in places)
        return {"kind": "source", "places": places, "text": text}
    if before is None:
        return {"kind": "apply", "text": "the topic was made"}
    if followed := _followed(mesh, topic, version):
        named = f"{followed.topic}, version {followed.version}"
        return {"kind": "followed", "topic": followed.topic, "version": followed.version, "text": f"its pipeline followed {named}"}
    return {"kind": "apply", "text": "millstream apply"}


def _followed(mesh: Mesh, topic: str, version: SchemaVersion) -> Kept | None:
    """The verdict by which the topic's pipeline made this version: it registers its outputs, and then says so."""
    there = mesh.topics.topic(topic)
    if there is None or there.origin.connector != DERIVED or version.at is None:
        return None
    ruled = mesh.catalogue.verdicts.of(f"pipeline.{there.origin.name}")
    return next((k for k in ruled if k.verdict == "propagate" and version.at <= k.at <= version.at + _SAID_WITHIN_S), None)


def _verdict(kept: Kept) -> dict[str, Any]:
    reasons = [vars(r) for r in kept.reasons]
    return {"consumer": kept.consumer, "verdict": kept.verdict, "reasons": reasons, "how": kept.how, "by": kept.by, "at": when(kept.at)}


def _sentence(verdict: dict[str, Any]) -> str:
    said = {"accept": f"accepted by `{verdict['by']}`"}.get(verdict["verdict"], verdict["verdict"])
    reasons = "; ".join(f"{r['what']} ({r['where']})" for r in verdict["reasons"])
    more = ": ".join(part for part in (reasons, verdict["how"]) if part)
    return f"{verdict['at']} {verdict['consumer']}: {said}{f': {more}' if more else ''}"
