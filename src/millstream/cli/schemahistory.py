"""`millstream schemas history`: the versions of a topic's schema, each with its time, its cause, what changed, and what was ruled of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def history(topic: str, /, *, session: Here) -> int:
    """Show how a topic's schema came to be: every version with its time, its cause and its operations.

    The cause of a version is what a source met in its database's log, with the place and the commit's time there; or `millstream apply`.

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
    out.document({"topic": subject.topic, "versions": documents})
    return OK


def _versions(mesh: Mesh, subject: Subject) -> list[dict[str, Any]]:
    """Oldest first."""
    met = _met(mesh, subject.topic)
    found = []
    before: RowSchema | None = None
    for version in subject.versions:
        schema = subject.rows(version)
        said = [] if before is None else [str(o) for o in operations(before, schema)]
        cause = _cause(mesh, subject.topic, version, before, schema, met.get(version.id, ()))
        found.append({"version": version.version, "id": version.id, "registered_at": when(version.at), "cause": cause, "operations": said})
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
        return {"kind": "described", "text": "what the files say of its columns"}
    if met:
        places = [{"position": c["position"], "at": when(c["ts_us"] / 1e6)} for c in met]
        text = "; ".join(f"met in the source's log at {p['position']}, committed {p['at']}" for p in places)
        return {"kind": "source", "places": places, "text": text}
    if before is None:
        return {"kind": "apply", "text": "the topic was made"}
    return {"kind": "apply", "text": "millstream apply"}
